"""Properties of the policies on real, tiny networks: batches, restarts, copies, seeds, kinds of arrays."""

from __future__ import annotations

import copy
import pickle
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfplan import DFPlanner
from dfplan_policies import ActPolicy, DFPolicy
from tests.core.tiny import small_spec, tiny_checkpoint

KINDS = ("path", "interleaved", "act")
cases = st.tuples(st.sampled_from(KINDS), st.integers(0, 2**16), st.integers(2, 4), st.integers(2, 4))
few = settings(max_examples=6)


@cache
def planner(kind: str) -> DFPlanner:
    options = {"samples": 2, "steps": 2, "precision": "fp32", "action_steps": 1}
    return DFPlanner(tiny_checkpoint(small_spec(kind=kind, horizon=3), planner=options, width=8, layers=1))


def policy(kind: str, seed: int = 0) -> Any:
    if kind == "act":
        return ActPolicy(planner("interleaved"), 2, steps=2, seed=seed)
    return DFPolicy(planner(kind), "diffused_actions", replan_every=2, seed=seed)


def observations(seed: int, rows: int, steps: int) -> list[dict[str, np.ndarray]]:
    """Draw observations that float32 holds exactly."""
    rng = np.random.default_rng(seed)

    def draw(width: int) -> np.ndarray:
        return rng.normal(size=(rows, width)).astype(np.float32).astype(np.float64)

    goal = draw(2)
    return [{"observation": draw(4), "desired_goal": goal} for _ in range(steps)]


def roll(policy: Any, seen: list[Any], state: Any, starts: dict[int, Any] | None = None) -> tuple[np.ndarray, Any]:
    out = []
    for t, observation in enumerate(seen):
        actions, state = policy.predict(observation, state, (starts or {}).get(t))
        out.append(actions)
    return np.array(out), state


def rows_of(seen: list[Any], rows: Any) -> list[Any]:
    return [{k: v[rows] for k, v in o.items()} for o in seen]


@few
@given(cases)
def test_a_batch_of_n_equals_n_single_ones(case: tuple[str, int, int, int]) -> None:
    # Catches: draws, a mean or a goal shared in the batch.
    kind, seed, rows, steps = case
    seen, p = observations(seed, rows, steps), policy(kind)
    numbers = list(np.random.default_rng(seed).integers(0, 99, rows))
    together, _ = roll(p, seen, p.start(numbers))
    for row in range(rows):
        alone, _ = roll(p, rows_of(seen, slice(row, row + 1)), p.start([numbers[row]]))
        np.testing.assert_allclose(alone[:, 0], together[:, row], rtol=0, atol=1e-6)


@few
@given(cases, st.data())
def test_a_restart_of_one_environment_does_not_touch_the_others(case: tuple[str, int, int, int], data: Any) -> None:
    # Catches: a restart that clears the batch, one that clears nothing, one that repeats the old episode's draws.
    kind, seed, rows, steps = case
    chosen, at = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(1, steps - 1))
    seen, p = observations(seed, rows, steps), policy(kind)
    flags = np.arange(rows) == chosen
    without, _ = roll(p, seen, p.start([0] * rows))
    found, state = roll(p, seen, p.start([0] * rows), {at: flags})
    np.testing.assert_array_equal(found[:, ~flags], without[:, ~flags])
    fresh, _ = roll(p, rows_of(seen[at:], slice(chosen, chosen + 1)), p.start([1]))
    np.testing.assert_allclose(found[at:, chosen], fresh[:, 0], rtol=0, atol=1e-6)
    assert state.episodes == tuple(int(f) for f in flags)


@few
@given(cases)
def test_copies_of_the_state_are_as_good(case: tuple[str, int, int, int]) -> None:
    # Catches: a state that shares what is changed later, or that drops something when it is pickled.
    kind, seed, rows, steps = case
    seen, p = observations(seed, rows, 2 * steps), policy(kind)
    _, state = roll(p, seen[:steps], None)
    twins = [pickle.loads(pickle.dumps(state)), copy.deepcopy(state), copy.copy(state)]
    wanted, _ = roll(p, seen[steps:], state)
    for twin in twins:
        np.testing.assert_array_equal(roll(p, seen[steps:], twin)[0], wanted)


@few
@given(cases)
def test_a_seed_decides_everything(case: tuple[str, int, int, int]) -> None:
    # Catches: draws from a global generator, a seed that is not used.
    kind, seed, rows, steps = case
    seen = observations(seed, rows, steps)
    one, two = (roll(policy(kind, seed), seen, None)[0] for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, roll(policy(kind, seed + 1), seen, None)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_arrays(kind: str) -> None:
    # Catches: memory read as it lies, float32 treated otherwise than float64.
    seen, p = observations(0, 3, 3), policy(kind)
    wanted, _ = roll(p, seen, None)
    for change in (lambda v: v.astype(np.float32), np.asfortranarray, lambda v: np.repeat(v, 2, axis=1)[:, ::2]):
        changed = [{k: change(v) for k, v in o.items()} for o in seen]
        np.testing.assert_array_equal(roll(p, changed, None)[0], wanted)
