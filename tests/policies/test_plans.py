"""The curve through a plan."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfplan_policies.plans import PlanView, hermite


def cubic(seed: int, t: np.ndarray) -> np.ndarray:
    """States (n, 4) of a random cubic motion at the times t."""
    c = np.random.default_rng(seed).normal(size=(4, 2))
    p = sum(c[i] * t[:, None] ** i for i in range(4))
    v = sum(i * c[i] * t[:, None] ** (i - 1) for i in range(1, 4))
    return np.concatenate([p, v], 1)


@given(st.integers(0, 10_000))
def test_hermite_reproduces_cubic_motion(seed: int) -> None:
    # Catches: velocities not scaled by the spacing, a wrong basis polynomial, a wrong derivative.
    knots = np.arange(5) * 0.15
    at = np.linspace(0, 4, 41)
    np.testing.assert_allclose(hermite(cubic(seed, knots), at, 0.15), cubic(seed, at * 0.15), atol=1e-9)


def test_states_after_arrival_are_the_goal_at_rest() -> None:
    # Catches: a plan that drives on after its arrival.
    states = cubic(0, np.arange(9) * 0.15)
    view = PlanView(states, stride=15, dt_s=0.01, arrival_steps=45, goal=np.array([3.0, 4.0]))
    out = view.states_at(np.array([44.0, 45.0, 500.0]))
    assert np.abs(out[0] - cubic(0, np.array([0.44]))[0]).max() < 1e-9
    np.testing.assert_array_equal(out[1:], [[3, 4, 0, 0]] * 2)


def test_a_plan_that_does_not_arrive_ends_at_its_last_state() -> None:
    states = cubic(1, np.arange(5) * 0.15)
    view = PlanView(states, stride=15, dt_s=0.01, goal=np.array([3.0, 4.0]))
    np.testing.assert_allclose(view.states_at(np.array([60.0, 400.0])), states[[-1, -1]], atol=1e-12)
    assert view.end_steps == 60


@pytest.mark.parametrize("arrival", [30.0, 37.0])
def test_curve_is_cut_at_arrival_and_ends_in_the_goal(arrival: float) -> None:
    # Catches: the resting tail of a plan staying in the path, or the goal missing from it.
    states = cubic(2, np.arange(9) * 0.15)
    view = PlanView(states, stride=15, dt_s=0.01, arrival_steps=arrival, goal=np.array([9.0, 9.0]))
    curve = view.curve()
    np.testing.assert_array_equal(curve[-1], [9, 9])
    np.testing.assert_allclose(curve[-2], cubic(2, np.array([arrival / 100]))[0, :2], atol=1e-9)
    assert len(curve) == int(arrival) + 2


@pytest.mark.parametrize(("width", "arrival"), [(4, 20.0), (4, math.inf), (5, 20.0), (2, 20.0)])
def test_positions_alone_are_those_of_the_states(width: int, arrival: float) -> None:
    # Catches: positions that are interpolated in another way than the states that are asked for beside them, the goal
    # that is left out after the arrival.
    states = np.random.default_rng(0).normal(size=(4, width))
    plan = PlanView(states, 10, 0.1, arrival, np.array([3.0, 4.0]))
    steps = np.array([0.0, 3.3, 10.0, 19.9, 20.0, 40.0])
    np.testing.assert_array_equal(plan.positions_at(steps), plan.states_at(steps)[:, : width // 2])
