"""Properties of the policies on tiny networks and real spaces: batches, restarts, copies, seeds, kinds of arrays."""

from __future__ import annotations

import copy
import pickle
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfplan_policies import FunctionalPolicy
from dfplan_policies.checking.case import Case, make_case
from tests.policies.shipped import ENVS, SHIPPED

MEMORY = (
    "maze-df-path", "maze-df-diffused_actions", "maze-df-interleaved", "maze-df-later", "maze-act", "maze-mpc",
    "maze-waypoint", "maze-mppi", "maze-random", "maze-functional", "pendulum-df-late", "pendulum-act", "cartpole-df",
    "lake-df", "reach-mpc", "hidden-df",
)  # fmt: skip
"""Policies that remember something, in every kind of space."""
DRAWS = tuple(name for name in MEMORY if name.split("-")[1] not in ("waypoint", "functional"))
ROWS, STEPS = 3, 5
few = settings(max_examples=2)
seeds = st.integers(0, 2**16)


@cache
def observations(env: str, seed: int) -> Case:
    """Collect observations that float32 holds exactly."""
    case = make_case(None, ENVS[env](), seed=seed, rows=ROWS, steps=STEPS)
    return case.mapped(lambda v: v.astype(np.float32).astype(v.dtype) if v.dtype.kind == "f" else v)


def case_of(name: str, seed: int = 0, draws: int = 0) -> Case:
    """Put a policy with its own seed of draws before the observations of a seed."""
    env, make = SHIPPED[name]
    with tempfile.TemporaryDirectory() as folder:
        policy = make(Path(folder))
    if hasattr(policy, "seed"):
        policy.seed = draws
    seen = observations(env, seed)
    return Case(policy, seen.space, seen.observations)


def close(one: Any, other: Any) -> None:
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", MEMORY)
@few
@given(seeds)
def test_a_batch_of_n_equals_n_single_ones(name: str, seed: int) -> None:
    # Catches: draws, a mean or a goal shared in the batch.
    case = case_of(name, seed)
    numbers = np.random.default_rng(seed).integers(0, 99, ROWS).tolist()
    together, _ = case.roll(case.begin(numbers))
    for row in range(ROWS):
        alone, _ = case.roll(case.begin([numbers[row]]), rows=slice(row, row + 1))
        close(alone[:, 0], together[:, row])


@pytest.mark.parametrize("name", MEMORY)
@few
@given(seeds, st.integers(0, ROWS - 1), st.integers(1, STEPS - 1))
def test_a_restart_of_one_environment_does_not_touch_the_others(name: str, seed: int, chosen: int, at: int) -> None:
    # Catches: a restart that clears the batch, one that clears nothing, one that repeats the old episode's draws.
    case, flags = case_of(name, seed), np.arange(ROWS) == chosen
    _, state = case.roll(case.begin([0] * ROWS), 0, at)
    without, _ = case.roll(state, at)
    action, after = case.act(at, state, flags)
    found = [action[None]]
    if at + 1 < STEPS:
        rest, after = case.roll(after, at + 1)
        found.append(rest)
    acted = np.concatenate(found)
    np.testing.assert_array_equal(acted[:, ~flags], without[:, ~flags])
    fresh, _ = case.roll(case.begin([1]), at, rows=slice(chosen, chosen + 1))
    close(acted[:, chosen], fresh[:, 0])
    assert after.episodes == tuple(int(f) for f in flags)


@pytest.mark.parametrize("name", MEMORY)
@few
@given(seeds)
def test_copies_of_the_state_are_as_good(name: str, seed: int) -> None:
    # Catches: a state that shares what is changed later, drops something when it is pickled, or cannot be pickled
    # while a plan is on its way.
    case = case_of(name, seed)
    state = case.begin([0] * ROWS)
    wanted, _ = case.roll(state)
    for t in range(STEPS):
        twins = [pickle.loads(pickle.dumps(state)), copy.deepcopy(state), copy.copy(state)]
        _, state = case.act(t, state)
        for twin in twins:
            np.testing.assert_array_equal(case.act(t, twin)[0], wanted[t])
            if t == STEPS // 2:
                np.testing.assert_array_equal(case.roll(twin, t)[0], wanted[t:])


def outcome(case: Case) -> list[Any]:
    """Return the actions, and the plans behind them, which differ even where all actions are at their limit."""
    actions, state = case.roll(case.begin([0] * ROWS))
    told = getattr(case.policy, "telemetry", lambda _: [])(state)
    return [actions, *(plan.curve() for row in told for plan in row.plans)]


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_decides_everything(name: str) -> None:
    # Catches: draws from a global generator, a seed that is not used.
    case = case_of(name, 0, 5)
    one, two, three = outcome(case), outcome(case), outcome(case_of(name, 0, 5))
    np.testing.assert_equal(two, one)
    np.testing.assert_equal(three, one)
    others = [outcome(case_of(name, 0, 6 + n)) for n in range(4)]  # a choice among few may fall out the same
    assert not all(np.array_equal(mine, theirs) for other in others for mine, theirs in zip(one, other, strict=True))


KINDS = {
    "float32": lambda v: v.astype(np.float32) if v.dtype.kind == "f" else v.astype(np.int32),
    "fortran": np.asfortranarray,
    "strided": lambda v: np.repeat(v, 2, axis=-1)[..., ::2],
    "reversed": lambda v: np.ascontiguousarray(v[..., ::-1])[..., ::-1],
    "columns": lambda v: np.ascontiguousarray(v.T).T,
    "big-endian": lambda v: v.astype(v.dtype.newbyteorder(">")),
}


def frozen(values: Any) -> Any:
    """Return a copy that cannot be written to."""
    kept = values.copy()
    kept.flags.writeable = False
    return kept


@pytest.mark.parametrize("name", [*MEMORY, "maze-mlp", "maze-sb3", "pendulum-sb3-PPO", "lake-sb3-DQN"])
def test_kinds_of_arrays(name: str) -> None:
    # Catches: memory read as it lies, float32 treated otherwise than float64, an observation that is written to.
    case = case_of(name)
    wanted, _ = case.roll(case.begin([0] * ROWS))
    for kind, change in {**KINDS, "frozen": frozen}.items():
        changed = case.mapped(change)
        np.testing.assert_array_equal(changed.roll(changed.begin([0] * ROWS))[0], wanted, err_msg=kind)


@pytest.mark.parametrize("name", [*MEMORY, "maze-mlp", "pendulum-sb3-SAC", "cartpole-sb3-PPO", "lake-sb3-PPO"])
def test_an_observation_without_a_batch_gets_one_action(name: str) -> None:
    # Catches: a batch of one returned for a single observation, and a state that goes with batches only.
    case, state, row = case_of(name), None, None
    for t in range(3):
        alone, state = case.act(t, state, None, 0)
        batch, row = case.act(t, row, None, slice(0, 1))
        assert np.shape(alone) == case.space.shape and case.space.contains(np.asarray(alone, case.space.dtype)[()])
        close(alone, batch[0])


def test_what_a_policy_remembers_is_its_own() -> None:
    # Catches: a memory of arrays that a vector environment writes over.
    kept = FunctionalPolicy(lambda memory, observation, goal: (np.zeros(2), (observation, goal)))
    for rows in (2, 1):
        seen = {"observation": np.ones((rows, 4)), "desired_goal": np.ones((rows, 2))}
        _, state = kept.predict(seen)
        _, plain = kept.predict(array := np.ones((rows, 4)))
        for values in (array, *seen.values()):
            values[...] = 9
        remembered = [*(part for memory in state.memories for part in memory), *(m[0] for m in plain.memories)]
        assert all((part == 1).all() for part in remembered)
