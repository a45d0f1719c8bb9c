"""The executor for systems whose action is the next move."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfplan_policies.executors import KinematicExecutor, PathExecutor, make_executor
from dfplan_policies.plans import PlanView

L_SHAPE = np.array([[0.0, 0.0], [4.0, 0.0], [8.0, 0.0], [8.0, 4.0], [8.0, 8.0]])


def view(states: Any = L_SHAPE, arrives: bool = True) -> PlanView:
    return PlanView(
        np.asarray(states, dtype=np.float64),
        20,
        0.1,
        80.0 if arrives else np.inf,
        np.array(states[-1], dtype=np.float64),
    )


def never(state: Any, upcoming: Any) -> Any:
    raise AssertionError("the kinematic executor asks the model nothing")


def test_a_plan_without_velocities_is_a_polyline() -> None:
    """Catches the second coordinate taken for the velocity of the first."""
    np.testing.assert_allclose(view().states_at(np.array([0.0, 10.0, 30.0, 50.0])), [[0, 0], [2, 0], [6, 0], [8, 2]])
    np.testing.assert_allclose(view().states_at(np.array([85.0])), [[8, 8]])
    curve = view().curve()
    assert np.abs(curve[:, 1][curve[:, 0] < 7.9]).max() == 0.0


def test_it_follows_the_path_at_full_speed_and_stops_at_the_goal() -> None:
    """Catches a direction bent by clipping, a corner cut by more than the lookahead, overshooting the goal."""
    executor = KinematicExecutor()
    track, at, seen = executor.start(view()), np.zeros(2), []
    for _ in range(120):
        outcome = executor.step(track, at, never)
        assert np.abs(outcome.action).max() <= 1.0 + 1e-12
        assert not outcome.stuck
        track, at = outcome.track, at + 0.2 * outcome.action
        seen.append(at)
    path = np.array(seen)
    np.testing.assert_allclose(path[-1], [8, 8], atol=1e-9)
    assert outcome.settled
    off = np.minimum(np.abs(path[:, 1]), np.abs(path[:, 0] - 8))
    assert off.max() < 0.8
    assert np.linalg.norm(path - [8, 8], axis=1).argmin() <= 85  # 16 units at 0.2 per step are 80 steps


def test_the_direction_of_a_slanted_path_is_kept() -> None:
    """Catches an action clipped per axis, which would go along the diagonal."""
    executor = KinematicExecutor()
    action = executor.step(executor.start(view([[0.0, 0.0], [8.0, 2.0]])), np.zeros(2), never).action
    np.testing.assert_allclose(action, [1.0, 0.25], atol=1e-6)


def test_no_progress_asks_for_a_new_plan_and_names_the_place() -> None:
    """Catches a ball that pushes a wall for ever, and one at the goal that is called stuck."""
    executor = KinematicExecutor(stuck_steps=10)
    track, outcomes = executor.start(view()), []
    for _ in range(12):
        outcomes.append(executor.step(track, np.array([1.0, 0.0]), never))
        track = outcomes[-1].track
    assert [o.stuck for o in outcomes].index(True) == 10
    np.testing.assert_allclose(outcomes[10].blocked, [1.8, 0.0])
    track = executor.start(view([[0.0, 0.0], [0.3, 0.0]]))
    for _ in range(12):
        outcome = executor.step(track, np.array([0.1, 0.0]), never)
        track = outcome.track
        assert outcome.settled and not outcome.stuck
    away = executor.step(executor.start(view()), np.array([0.0, 3.5]), never)
    assert away.stuck and away.blocked is None


def test_remaining_counts_the_path_ahead() -> None:
    """Catches a plan that does not arrive preferred to one that does."""
    executor = KinematicExecutor()
    assert executor.remaining(executor.start(view())) == pytest.approx(16.0, abs=0.1)
    assert executor.remaining(executor.start(view(arrives=False))) == np.inf


def test_it_is_found_by_name_and_checks_its_options() -> None:
    """Catches an executor that is not registered, and a length of 0."""
    assert make_executor("kinematic", {"lookahead": 1.5}) == KinematicExecutor(lookahead=1.5)
    with pytest.raises(ValueError, match="reach must be positive, got 0"):
        make_executor("kinematic", {"reach": 0.0})
    with pytest.raises(ValueError, match="use kinematic"):
        PathExecutor().start(view())
