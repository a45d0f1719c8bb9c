"""`check_policy`: everything that ships passes, and every rule catches what it is there for."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from dfplan_policies import PerEnvironmentPolicy, PolicyCheckError, check_policy, policies
from dfplan_policies.checking import RULES
from tests.policies.shipped import ENVS, SHIPPED, maze


def test_the_table_has_every_policy_that_ships() -> None:
    # Catches a policy that is added and not checked.
    assert set(policies()) <= {name.split("-")[1] for name in SHIPPED}


@pytest.mark.parametrize("name", SHIPPED)
def test_policies_that_ship_pass(name: str, tmp_path: Path) -> None:
    # Catches a rule that a shipped policy breaks, in any kind of space, and a rule that is too strict.
    env, make = SHIPPED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if "sb3" in name:  # torch's, in stable-baselines3, of arrays that cannot be written to
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        check_policy(make(tmp_path), ENVS[env](), warn="sb3" not in name, envs=2, steps=6 if "late" in name else 4)


# ---- one broken policy per rule


class Good:
    """Push towards the goal, by what was seen at the last step; everything a rule asks for."""

    width = 2

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> Any:
        x = np.asarray(observation["observation"] if isinstance(observation, dict) else observation, dtype=np.float32)
        rows = np.atleast_2d(x)
        last = np.zeros((len(rows), 2), np.float32) if state is None else self.restarted(state.copy(), episode_start)
        actions = self.choose(rows, last)
        return (actions if x.ndim == 2 else actions[0]), rows[:, :2].copy()

    def restarted(self, last: Any, starts: Any) -> Any:
        if starts is not None:
            last[np.asarray(starts)] = 0
        return last

    def choose(self, rows: Any, last: Any) -> Any:
        return np.clip(rows[:, :2] * 0.1 + last * 0.1, -1, 1)


class NoPredict:
    pass


class OtherArguments:
    def predict(self, observation: Any, hidden: Any = None) -> Any:
        return np.zeros((len(observation), 2)), None


class OnlyActions(Good):
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        return super().predict(*args, **kwargs)[0]


class Tensors(Good):
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        action, state = super().predict(*args, **kwargs)
        return torch.as_tensor(action), state


class NoFlags(Good):
    def restarted(self, last: Any, starts: Any) -> Any:
        if starts is not None:
            raise KeyError("flags")
        return last

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> Any:
        if episode_start is not None:
            raise KeyError("flags")
        return super().predict(observation, state)


class Flat(Good):
    def choose(self, rows: Any, last: Any) -> Any:
        return super().choose(rows, last)[:, :1]


class Whole(Good):
    def choose(self, rows: Any, last: Any) -> Any:
        return np.round(super().choose(rows, last)).astype(np.int64)


class NotANumber(Good):
    def choose(self, rows: Any, last: Any) -> Any:
        return np.where(last != 0, np.nan, super().choose(rows, last))


class TooStrong(Good):
    def choose(self, rows: Any, last: Any) -> Any:
        return 30 * super().choose(rows, last)


class AlwaysBatched(Good):
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        action, state = super().predict(*args, **kwargs)
        return np.atleast_2d(action), state


class ScalesInPlace(Good):
    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        observation["observation"][...] *= 0.5
        return super().predict(observation, *args, **kwargs)


class OwnRandomNumbers(Good):
    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def choose(self, rows: Any, last: Any) -> Any:
        return self.rng.uniform(-1, 1, (len(rows), 2))


class HiddenMemory(Good):
    """Keeps the memory in self, and forgets it where a state is None: an episode that is run again is the same."""

    kept: Any = None

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> Any:
        action, self.kept = super().predict(observation, None if state is None else self.kept, episode_start)
        return action, ()


class ChangesTheState(Good):
    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> Any:
        action, new = super().predict(observation, state, episode_start)
        if state is None:
            return action, new
        state[...] = new
        return action, state


class RestartsAll(Good):
    def restarted(self, last: Any, starts: Any) -> Any:
        return last if starts is None or not np.any(starts) else 0 * last


class RestartsNone(Good):
    def restarted(self, last: Any, starts: Any) -> Any:
        return last


class StateWithGenerator(Good):
    """Its state cannot be pickled."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> Any:
        action, new = super().predict(observation, None if state is None else state[0], episode_start)
        return action, (new, lambda: None)


class WithLambda(Good):
    def __init__(self) -> None:
        self.scale = lambda x: x


class ByBytes(Good):
    """Reads the memory of the observation as it lies, and takes it for float64."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> Any:
        x = observation["observation"]
        seen = np.frombuffer(x.tobytes(), np.float64)
        seen = seen.reshape(*x.shape[:-1], -1) if seen.size == x.size else x * 0
        return super().predict({"observation": seen}, state, episode_start)


class NeedsContiguous(Good):
    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        if not observation["observation"].flags.c_contiguous:
            raise ValueError("array is not C-contiguous")
        return super().predict(observation, *args, **kwargs)


class KeepsTheArray(Good):
    """Its state is the very array that it was shown."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> Any:
        last = None if state is None else np.array(state[..., :2], np.float32)
        return super().predict(observation, last, episode_start)[0], observation["observation"]


class MeanOfTheBatch(Good):
    def choose(self, rows: Any, last: Any) -> Any:
        return super().choose(rows - rows.mean(0), last)


BROKEN = [
    (NoPredict, "signature", r"has a method predict.*got NoPredict without one; add it"),
    (OtherArguments, "signature", r"cannot be called so \(.*'state'\); name and order"),
    (OnlyActions, "result", r"predict returns \(actions, state\); got a ndarray; return the state beside"),
    (Tensors, "result", r"as a numpy array; got actions of type Tensor; use .cpu\(\)"),
    (NoFlags, "result", r"flags \(B,\) in episode_start; got KeyError: 'flags'; make this call work"),
    (Flat, "shape", r"got \(3, 1\) for 3 environments with Box.*return \(3, 2\)"),
    (Whole, "dtype", r"are floating numbers; got int64; cast them: actions.astype\(np.float32\)"),
    (NotANumber, "finite", r"actions are finite numbers; got nan"),
    (TooStrong, "bounds", r"the deterministic action .* outside -1 .. 1; clip them, or rescale"),
    (AlwaysBatched, "single", r"got the shape \(1, 2\) in place of \(2,\); take row 0"),
    (ScalesInPlace, "inputs", r"leaves its arguments as they are; got observations that the call has changed"),
    (OwnRandomNumbers, "repeatable", r"run again from its start gives the same actions.*draw from a generator"),
    (HiddenMemory, "functional", r"all memory is in the state.*keep nothing in self"),
    (ChangesTheState, "functional", r"all memory is in the state.*return a new state"),
    (RestartsAll, "restart", r"leaves the others alone; got environments \[0, 2\].*whose flag is True and no others"),
    (RestartsNone, "restart", r"acts as one that begins; got environment 1.*forget the row's memory"),
    (StateWithGenerator, "copies", r"a state can be copied by pickle"),
    (WithLambda, "copies", r"a policy can be copied by pickle.*make this call work"),
    (ByBytes, "precision", r"float32 and float64 observations of equal value give the same action"),
    (NeedsContiguous, "layout", r"need not be contiguous in memory; got ValueError: array is not C-contiguous"),
    (KeepsTheArray, "reuse", r"may be written over after the call; got .*; copy what the state keeps of it"),
    (MeanOfTheBatch, "batch", r"gets what n batches of one get; got environment 0.*no mean over the batch"),
]  # fmt: skip


def test_the_good_one_passes_without_warnings_but_one() -> None:
    # Catches broken policies below that are refused for something else.
    with pytest.warns(UserWarning, match=r"has a state but no start\(episodes\)"):
        check_policy(Good(), maze())
    check_policy(Good(), maze(), warn=False)


@pytest.mark.parametrize(("broken", "name", "message"), BROKEN, ids=[b[0].__name__ for b in BROKEN])
def test_a_broken_policy_is_caught_by_its_rule(broken: type, name: str, message: str) -> None:
    # Catches a rule that lets its bug pass, or text that does not say what was seen and what to do.
    with pytest.raises(PolicyCheckError, match=message) as caught:
        check_policy(broken(), maze(), warn=False)
    assert caught.value.name == name
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_every_rule_has_a_broken_policy() -> None:
    # Catches a new rule without a test.
    assert {name for _, name, _ in BROKEN} == set(RULES)


class Left(PerEnvironmentPolicy[int]):
    """For Discrete actions: counts."""

    def begin(self, episode: int) -> int:
        return 0

    def act(self, memory: int, observation: Any, goal: Any) -> Any:
        return np.array(memory % 2), memory + 1


class Numbered(Left):
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        actions, state = super().predict(*args, **kwargs)
        return actions.astype(np.int64), state


class Third(Numbered):
    def act(self, memory: int, observation: Any, goal: Any) -> Any:
        return np.array(memory), memory + 1


def test_discrete_actions() -> None:
    # Catches floating numbers for choices, a choice that does not exist, a space that nobody thought of.
    env = gymnasium.make("CartPole-v1")
    check_policy(Numbered(), env)
    with pytest.raises(PolicyCheckError, match=r"Discrete\(2\) are integer numbers; got float32"):
        check_policy(Left(), env)
    with pytest.raises(PolicyCheckError, match=r"action space Discrete\(2\); got the deterministic action 2"):
        check_policy(Third(), env)
    env.action_space = spaces.Text(3)
    with pytest.raises(ValueError, match=r"serves Box, Discrete.*got Text"):
        check_policy(Numbered(), env)


def test_wrong_arguments() -> None:
    # Catches a vector environment taken for a single one, and numbers that make rules empty.
    with pytest.raises(TypeError, match="env must be one Gymnasium environment, got SyncVectorEnv"):
        check_policy(Good(), gymnasium.vector.SyncVectorEnv([maze]))
    with pytest.raises(ValueError, match="envs must be at least 2 and steps at least 4, got 1 and 5"):
        check_policy(Good(), maze(), envs=1)


class Wide(Good):
    def choose(self, rows: Any, last: Any) -> Any:
        return super().choose(rows, last).astype(np.float64)


class Saves(WithLambda):
    def save(self) -> None: ...
    def load(self) -> None: ...


@pytest.mark.parametrize(
    ("policy", "text"),
    [(Saves(), "cannot be pickled"), (Wide(), "actions are float64, the action space is float32")],
)
@pytest.mark.filterwarnings("ignore:.*has a state but no start:UserWarning")
def test_warnings_are_told(policy: Any, text: str) -> None:
    # Catches warnings that never come.
    with pytest.warns(UserWarning, match=text):
        check_policy(policy, maze())
