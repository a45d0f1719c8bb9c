"""Check a policy against an environment, rule by rule."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from gymnasium import Env, spaces

from dfplan_policies.checking.case import Array, Case, PolicyCheckError, ask, each, equal, fill, make_case
from dfplan_policies.protocol import NumberedPolicy

CLOSE = 1e-5  # how far two answers may be apart that differ by rounding alone, in actions


def check_policy(
    policy: Any, env: Env[Any, Any], *, warn: bool = True, seed: int = 0, envs: int = 3, steps: int = 5
) -> None:
    """Check that an object can act in an environment, and keeps the rules of `dfplan_policies.Policy`.

    Observations come from the environment under random actions; the policy's own are not executed. The rules, in this
    order, are the keys of `dfplan_policies.checking.RULES`.

    Args:
        policy: Anything with stable-baselines3's ``predict``.
        env: A Gymnasium environment, not a vector of them; it is reset and stepped.
        warn: Whether to warn of what is allowed but costs something, for example a policy that cannot be pickled.
        seed: Seed of the resets and of the random actions.
        envs: n, environments in a batch, at least 2.
        steps: Steps of each episode, at least 4.

    Raises:
        PolicyCheckError: If a rule is broken; the text has the rule, what was seen and what to do.
        ValueError: If a number is too small or a space is not served.
        TypeError: If ``env`` is not a single Gymnasium environment.
    """
    if envs < 2 or steps < 4:
        raise ValueError(f"envs must be at least 2 and steps at least 4, got {envs} and {steps}")
    if not isinstance(env, Env):
        raise TypeError(f"env must be one Gymnasium environment, got {type(env).__name__}; pass gymnasium.make(id)")
    _signature(policy)
    case = make_case(policy, env, seed=seed, rows=envs, steps=steps)
    for name, check in RULES.items():
        if name != "signature":
            check(case)
    if warn:
        _warn(case)


def _signature(policy: Any) -> None:
    rule = "a policy has a method predict(observation, state=None, episode_start=None, deterministic=True)"
    predict = getattr(policy, "predict", None)
    if not callable(predict):
        raise PolicyCheckError("signature", rule, f"{type(policy).__name__} without one", "add it, see the docs")
    try:
        inspect.signature(predict).bind(None, state=None, episode_start=None, deterministic=True)
    except (TypeError, ValueError) as error:
        seen = f"{type(policy).__name__}.predict, which cannot be called so ({error})"
        raise PolicyCheckError("signature", rule, seen, "name and order the arguments like this") from error


def _result(case: Case) -> None:
    """Call once with a batch and once more with the state, and look at what comes back."""
    found = _answer(case, "result", "predict takes a batch of observations", lambda: case.act(0, None))
    rule = "predict returns (actions, state)"
    if not (isinstance(found, tuple) and len(found) == 2):
        seen = f"a {type(found).__name__}"
        raise PolicyCheckError("result", rule, seen, "return the state beside the actions, None if there is none")
    if not isinstance(found[0], np.ndarray | np.generic):
        seen = f"actions of type {type(found[0]).__name__}"
        raise PolicyCheckError("result", rule + " with actions as a numpy array", seen, "use .cpu().numpy(), np.stack")
    starts = np.ones(case.rows, dtype=bool)
    rule = "predict takes the state it returned, and flags (B,) in episode_start"
    _answer(case, "result", rule, lambda: case.act(1, found[1]))
    _answer(case, "result", rule, lambda: case.act(0, None, starts))


def _answer(case: Case, name: str, rule: str, call: Callable[[], Any]) -> Any:
    """Call a policy; an error of its own becomes one that says in which call it came."""
    try:
        return call()
    except Exception as error:
        seen = f"{type(error).__name__}: {error}"
        raise PolicyCheckError(name, rule, seen, "make this call work") from error


def _shape(case: Case) -> None:
    rule = "actions have the shape (B, *action_space.shape), (B,) for Discrete"
    actions, _ = case.act(0, case.begin(range(case.rows)))
    wanted = (case.rows, *(case.space.shape or ()))
    if actions.shape != wanted:
        seen = f"{actions.shape} for {case.rows} environments with {case.space}"
        raise PolicyCheckError("shape", rule, seen, f"return {wanted}, one row per environment")


def _dtype(case: Case) -> None:
    actions, _ = case.act(0, case.begin(range(case.rows)))
    kinds = "f" if isinstance(case.space, spaces.Box) and case.space.dtype.kind == "f" else "iu"
    if isinstance(case.space, spaces.MultiBinary):
        kinds = "iub"
    if actions.dtype.kind not in kinds:
        rule = f"actions for {case.space} are {'floating' if kinds == 'f' else 'integer'} numbers"
        raise PolicyCheckError("dtype", rule, str(actions.dtype), f"cast them: actions.astype(np.{case.space.dtype})")


def _finite(case: Case) -> None:
    for actions in (case.roll(case.begin(range(case.rows)))[0], case.act(0, None, deterministic=False)[0]):
        if not np.isfinite(actions).all():
            seen = f"{_first(~np.isfinite(actions), actions)}"
            raise PolicyCheckError("finite", "actions are finite numbers", seen, "find the NaN, or clip")


def _bounds(case: Case) -> None:
    rolled, _ = case.roll(case.begin(range(case.rows)))
    for actions, how in ((rolled, "deterministic"), (case.act(0, None, deterministic=False)[0][None], "exploring")):
        low, high = _limits(case.space)
        outside = (actions < low - CLOSE) | (actions > high + CLOSE)
        if outside.any():
            seen = f"the {how} action {_first(outside, actions)} outside {np.min(low):g} .. {np.max(high):g}"
            rule = f"actions lie in the action space {case.space}"
            raise PolicyCheckError(
                "bounds", rule, seen, "clip them, or rescale from [-1, 1]: low + (a + 1) / 2 * (high - low)"
            )


def _limits(space: Any) -> tuple[Any, Any]:
    """Return the least and the largest action."""
    if isinstance(space, spaces.Box):
        return space.low, space.high
    if isinstance(space, spaces.Discrete):
        return space.start, space.start + space.n - 1
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return 0, 1


def _single(case: Case) -> None:
    rule = "a single observation, without the batch axis, gets a single action, that of a batch of one"
    action, state = _answer(case, "single", rule, lambda: case.act(0, None, None, 0))
    wanted = case.space.shape or ()
    if np.shape(action) != wanted:
        remedy = "take row 0 off where the observation had no batch axis"
        raise PolicyCheckError("single", rule, f"the shape {np.shape(action)} in place of {wanted}", remedy)
    batch, _ = case.act(0, None, None, slice(0, 1))
    if not _close(batch[0], action):
        raise PolicyCheckError("single", rule, f"{action} and {batch[0]}", "treat it as a batch of one")
    _answer(
        case,
        "single",
        "a state from a single observation goes with the next single one",
        lambda: case.act(1, state, None, 0),
    )


def _inputs(case: Case) -> None:
    kept = [each(o, np.copy) for o in case.observations]
    case.roll(None)
    for before, after in zip(kept, case.observations, strict=True):
        if not equal(before, after):
            seen = "observations that the call has changed in place"
            raise PolicyCheckError(
                "inputs", "predict leaves its arguments as they are", seen, "copy before you scale or clip"
            )


def _functional(case: Case) -> None:
    """Go on from one state twice, with another branch in between; the answers must agree."""
    rule = "all memory is in the state: the same call gives the same answer again, and leaves its state as it was"
    remedy = (
        "return a new state (copy arrays and generators), keep nothing in self, "
        "and draw from a generator that is seeded from the state"
    )
    half = case.steps // 2
    for first in (0, half):
        state = case.roll(case.begin(range(case.rows)), 0, first)[1] if first else case.begin(range(case.rows))
        one, _ = case.roll(state, first, first + half)
        case.roll(None, 0, half)
        case.roll(state, case.steps - half)
        two, _ = case.roll(state, first, first + half)
        if not np.array_equal(one, two):
            raise PolicyCheckError("functional", rule, _apart(one, two), remedy)


def _repeatable(case: Case) -> None:
    one, two = (case.roll(case.begin(range(case.rows)))[0] for _ in range(2))
    if not np.array_equal(one, two):
        rule = "an episode that is run again from its start gives the same actions: all draws follow from a seed"
        raise PolicyCheckError("repeatable", rule, _apart(one, two), "draw from a generator seeded at the start")


def _restart(case: Case) -> None:
    """Restart one environment in the middle: it must act as at its beginning, and the others as without the restart."""
    half, chosen = case.steps // 2, 1
    _, state = case.roll(case.begin(range(case.rows)), 0, half)
    starts = np.arange(case.rows) == chosen
    action, after = case.act(half, state, starts)
    with_restart = np.concatenate([action[None], case.roll(after, half + 1)[0]])
    without, _ = case.roll(state, half)
    others = ~starts
    if not _close(with_restart[:, others], without[:, others]):
        rule = "episode_start restarts one environment and leaves the others alone"
        seen = f"environments {np.flatnonzero(others).tolist()}: {_apart(with_restart[:, others], without[:, others])}"
        raise PolicyCheckError("restart", rule, seen, "reset the rows whose flag is True and no others")
    fresh, _ = case.roll(case.begin([chosen + 1]), half, None, slice(chosen, chosen + 1))
    if not _close(with_restart[:, chosen], fresh[:, 0]):
        rule = "an environment with episode_start True acts as one that begins"
        seen = f"environment {chosen}: {_apart(with_restart[:, chosen], fresh[:, 0])}"
        raise PolicyCheckError(
            "restart", rule, seen, "forget the row's memory; a policy with start() counts its episode on by 1"
        )


def _copies(case: Case) -> None:
    """Continue from copies of the state, and run copies of the policy."""
    half = case.steps // 2
    _, state = case.roll(case.begin(range(case.rows)), 0, half)
    wanted, _ = case.roll(state, half)
    for name, way in (("pickle", _pickled), ("deepcopy", copy.deepcopy)):
        rule = f"a state can be copied by {name}, and the copy is as good"
        twin = _answer(case, "copies", rule, partial(way, state))
        found = _answer(case, "copies", rule, partial(case.roll, twin, half))[0]
        if not np.array_equal(found, wanted):
            raise PolicyCheckError("copies", rule, _apart(found, wanted), "keep plain arrays in the state")
    for name, way in (("pickle", _pickled), ("deepcopy", copy.deepcopy)):
        if _saves_itself(case.policy):
            continue
        rule = f"a policy can be copied by {name}, and the copy acts the same"
        other = _answer(case, "copies", rule, partial(way, case.policy))
        twin_case = Case(other, case.space, case.observations)
        found = twin_case.roll(twin_case.begin(range(case.rows)))[0]
        if not np.array_equal(found, case.roll(case.begin(range(case.rows)))[0]):
            seen = "a copy with other actions"
            raise PolicyCheckError("copies", rule, seen, "keep open files, lambdas and threads out of the policy")


def _whole(case: Case) -> Array:
    """Return the actions of whole episodes."""
    return case.roll(case.begin(range(case.rows)))[0]


def _pickled(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


def _saves_itself(policy: Any) -> bool:
    """Tell whether a policy has a way of its own to be stored, as stable-baselines3's algorithms do."""
    return callable(getattr(policy, "save", None)) and callable(getattr(policy, "load", None))


def _precision(case: Case) -> None:
    single = case.mapped(lambda v: v.astype(np.float32) if v.dtype.kind == "f" else v)
    double = single.mapped(lambda v: v.astype(np.float64) if v.dtype.kind == "f" else v)
    rule = "float32 and float64 observations of equal value give the same action"
    one, two = (_answer(c, "precision", rule, partial(_whole, c)) for c in (single, double))
    if not _close(one, two):
        raise PolicyCheckError(
            "precision", rule, _apart(one, two), "cast the observation first, np.asarray(o, dtype=...)"
        )


def _memory_layout(case: Case) -> None:
    rule = "an observation need not be contiguous in memory"
    wanted, _ = case.roll(case.begin(range(case.rows)))
    odd = case.mapped(_apart_in_memory)
    found = _answer(odd, "layout", rule, partial(_whole, odd))
    if not _close(wanted, found):
        raise PolicyCheckError(
            "layout", rule, _apart(found, wanted), "use np.ascontiguousarray before you view its memory"
        )


def _apart_in_memory(values: Array) -> Array:
    """Return equal values, every second element of a longer array in Fortran's order, and not to be written to."""
    wide = np.zeros((*values.shape[:-1], 2 * values.shape[-1]), dtype=values.dtype, order="F")
    wide[..., ::2] = values
    wide.flags.writeable = False
    return wide[..., ::2]


def _reused(case: Case) -> None:
    """Show all observations in the same arrays, as vector environments with ``copy=False`` do."""
    wanted, _ = case.roll(case.begin(range(case.rows)))
    shown, state, found = each(case.observations[0], np.copy), case.begin(range(case.rows)), []
    for observation in case.observations:
        fill(shown, observation)
        action, state = ask(case.policy, shown, state, None)
        found.append(np.array(action))
    if not _close(wanted, np.stack(found)):
        rule = "an observation may be written over after the call"
        raise PolicyCheckError(
            "reuse", rule, _apart(np.stack(found), wanted), "copy what the state keeps of it: np.array(observation)"
        )


def _batch(case: Case) -> None:
    rule = "a batch of n environments gets what n batches of one get"
    together, _ = case.roll(case.begin(range(case.rows)))
    for row in range(case.rows):
        alone, _ = case.roll(case.begin([row]), rows=slice(row, row + 1))
        if not _close(alone[:, 0], together[:, row]):
            seen = f"environment {row}: {_apart(alone[:, 0], together[:, row])}"
            remedy = "use one random stream per environment, no mean over the batch, and no batch norm in training mode"
            raise PolicyCheckError("batch", rule, seen, remedy)


def _close(one: Any, other: Any) -> bool:
    """Tell whether actions agree up to rounding; whole numbers must be equal."""
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape:
        return False
    return (
        bool(np.allclose(one, other, rtol=CLOSE, atol=CLOSE)) if one.dtype.kind == "f" else np.array_equal(one, other)
    )


def _apart(one: Array, other: Array) -> str:
    """Say where two series of actions first differ."""
    if one.shape != other.shape:
        return f"actions of shape {one.shape} and {other.shape}"
    different = np.abs(one.astype(np.float64) - other.astype(np.float64)).reshape(len(one), -1).max(1) > 0
    step = int(different.argmax())
    return f"{one[step].tolist()} and {other[step].tolist()}"


def _first(wrong: Array, actions: Array) -> Any:
    """Return the first action that is wrong."""
    return actions[tuple(np.argwhere(wrong)[0])]


def _warn(case: Case) -> None:
    actions, state = case.act(0, None)
    if actions.dtype != case.space.dtype and actions.dtype.kind == "f":
        warnings.warn(
            f"actions are {actions.dtype}, the action space is {case.space.dtype}: they are cast at every step",
            UserWarning, stacklevel=3,
        )  # fmt: skip
    if not isinstance(case.policy, NumberedPolicy) and state is not None:
        warnings.warn(
            f"{type(case.policy).__name__} has a state but no start(episodes): its draws, if it has any, cannot be "
            "matched by the number of the episode",
            UserWarning, stacklevel=3,
        )  # fmt: skip
    if _saves_itself(case.policy):
        try:
            pickle.dumps(case.policy)
        except Exception as error:  # noqa: BLE001  (anything may be in there; it is told)
            warnings.warn(
                f"{type(case.policy).__name__} cannot be pickled ({error}): evaluate it with workers=1",
                UserWarning, stacklevel=3,
            )  # fmt: skip


RULES: dict[str, Callable[[Any], None]] = {
    "signature": _signature,
    "result": _result,
    "shape": _shape,
    "dtype": _dtype,
    "finite": _finite,
    "bounds": _bounds,
    "inputs": _inputs,
    "repeatable": _repeatable,
    "functional": _functional,
    "single": _single,
    "batch": _batch,
    "restart": _restart,
    "copies": _copies,
    "precision": _precision,
    "layout": _memory_layout,
    "reuse": _reused,
}
"""The rules by name, in the order in which they are checked."""

__all__ = ["CLOSE", "RULES", "check_policy"]
