"""The step that keeps limits: exact in discrete time, for any target, over millions of ticks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfplan_policies.ros.limits import JointLimits, brake, follow, stoppable_speed, table_limits, urdf_limits

LIMITS = JointLimits(
    np.array([-2.9, -1.7, -0.1]), np.array([2.9, 1.7, 4.0]), np.array([2.0, 0.5, 3.0]), np.array([7.0, 0.9, 30.0])
)
DT = 0.01


def targets(rng: np.random.Generator, runs: int, ticks: int) -> np.ndarray:
    """Draw (ticks, runs, 3): steps, noise, ramps beyond the limits and rests, changed at random."""
    kinds = rng.integers(0, 4, (runs, 1))
    value = rng.uniform(-5, 5, (runs, 3))
    speed = rng.uniform(-4, 4, (runs, 3))
    out = np.empty((ticks, runs, 3))
    for k in range(ticks):
        fresh = rng.random((runs, 1)) < 0.01
        value = np.where(fresh, rng.uniform(-5, 5, (runs, 3)), value + np.where(kinds == 1, speed * DT, 0))
        kinds = np.where(fresh, rng.integers(0, 4, (runs, 1)), kinds)
        out[k] = value + np.where(kinds == 2, rng.normal(0, 0.5, (runs, 3)), 0)
    return out


def test_no_target_breaks_a_limit_in_a_million_ticks() -> None:
    # Catches: a step that is cut in the wrong order, braking that begins a period late, limits that meet without a
    # step between them, a speed limit that follows a falling share at once.
    rng, runs, ticks = np.random.default_rng(0), 700, 1500
    at = rng.uniform(LIMITS.lower, LIMITS.upper, (runs, 3))
    v = np.zeros((runs, 3))
    goals = targets(rng, runs, ticks)
    for k in range(ticks):
        hold = rng.random((runs, 1)) < 0.02
        share = rng.choice([0.0, 0.3, 1.0], (runs, 1), p=[0.02, 0.18, 0.8])
        feed = rng.choice([0.0, 1.0, 20.0]) * rng.normal(size=(runs, 3))
        taken = follow(at, v, goals[k], feed, LIMITS, DT, share).velocity
        new = np.where(hold, brake(v, LIMITS, DT), taken)
        there = at + new * DT
        assert np.isfinite(there).all()
        assert (there >= LIMITS.lower - 1e-9).all() and (there <= LIMITS.upper + 1e-9).all()
        speed = (there - at) / DT
        assert (np.abs(speed) <= LIMITS.velocity).all()
        assert (np.abs(speed - v) / DT <= LIMITS.acceleration * (1 + 1e-9)).all()
        at, v = there, new


@given(st.floats(0, 4), st.floats(0.1, 50), st.floats(0.001, 0.05))
def test_a_stoppable_speed_stops_in_its_room_and_none_faster_does(room: float, a: float, dt: float) -> None:
    # Catches: the continuous v^2 / 2a in place of the discrete sum, an n that is one off.
    def way(v: float) -> float:
        total = 0.0
        while v > 0:
            total += v * dt
            v -= a * dt
        return total

    if room / (a * dt * dt) > 1e7:
        return
    v = float(stoppable_speed(np.array(room), np.array(a), dt))
    assert way(v) <= room + 1e-9 * (1 + room)
    assert way(v + 1e-3 * a * dt + 1e-6 * v) >= room - 1e-9 * (1 + room)


def test_a_target_within_the_limits_is_met_exactly() -> None:
    # Catches: a lag behind a moving target, a clamp that counts though nothing was held back.
    t = np.arange(0, 6, DT)
    path = np.stack([1.0 * np.sin(1.3 * t), 0.2 * np.sin(t), 2 + np.sin(2 * t)], 1)
    speed = np.stack([1.3 * np.cos(1.3 * t), 0.2 * np.cos(t), 2 * np.cos(2 * t)], 1)
    ramp = np.minimum(t / 2, 1.0)[:, None] ** 2 * (3 - 2 * np.minimum(t / 2, 1.0)[:, None])
    slope = np.gradient(ramp[:, 0], DT)[:, None]
    goal, feed = path[0] + ramp * (path - path[0]), ramp * speed + slope * (path - path[0])
    at, v = goal[0], np.zeros(3)
    for k in range(1, len(t)):
        step = follow(at, v, goal[k], feed[k], LIMITS, DT)
        at, v = at + step.velocity * DT, step.velocity
        assert np.allclose(at, goal[k], atol=1e-9)
        assert not step.clamped_position.any() and not step.clamped_rate.any()


def test_a_step_is_taken_fast_and_without_overshoot() -> None:
    # Catches: a wish of gap / dt alone, which swings round the goal; a brake that creeps.
    at, v, goal = np.zeros(3), np.zeros(3), np.array([1.0, 0.3, 3.0])
    for _ in range(int(2.5 / DT)):
        step = follow(at, v, goal, np.zeros(3), LIMITS, DT)
        at, v = at + step.velocity * DT, step.velocity
        assert (at <= goal + 1e-12).all()
    assert np.allclose(at, goal, atol=1e-9) and np.allclose(v, 0, atol=1e-9)


def test_a_joint_without_end_has_room() -> None:
    # Catches: infinity in the room that turns into NaN.
    limits = JointLimits(np.array([-np.inf]), np.array([np.inf]), np.array([1.0]), np.array([2.0]))
    step = follow(np.zeros(1), np.zeros(1), np.array([50.0]), np.zeros(1), limits, DT)
    assert np.allclose(step.velocity, 0.02, rtol=1e-5) and not step.clamped_position.any()


URDF = """<robot name="r"><joint name="a" type="revolute"><limit lower="-1" upper="2" velocity="3" effort="1"/></joint>
<joint name="b" type="continuous"><limit velocity="4" effort="1"/></joint><joint name="c" type="fixed"/></robot>"""


def test_limits_come_from_a_urdf_by_name() -> None:
    # Catches: the file's order in place of the asked one, limits of a continuous joint read as 0.
    found = urdf_limits(["b", "a"], URDF, [5.0, 6.0])
    assert found.lower.tolist() == [-np.inf, -1] and found.upper.tolist() == [np.inf, 2]
    assert found.velocity.tolist() == [4, 3] and found.acceleration.tolist() == [5, 6]
    with pytest.raises(ValueError, match="unknown joint of the URDF 'd'"):
        urdf_limits(["d"], URDF, 1.0)
    with pytest.raises(ValueError, match="'c' is fixed"):
        urdf_limits(["c"], URDF, 1.0)


def test_a_table_must_name_every_joint_and_number() -> None:
    # Catches: a missing limit that becomes a default, a typing error that is passed over.
    row = {"lower": -1, "upper": 1, "velocity": 1, "acceleration": 1}
    assert table_limits(["a", "b"], {"b": row, "a": {**row, "upper": 2}}).upper.tolist() == [2, 1]
    with pytest.raises(ValueError, match="'b' lack lower, upper"):
        table_limits(["a", "b"], {"a": row})
    with pytest.raises(ValueError, match="unknown limit of a 'speed'"):
        table_limits(["a"], {"a": {**row, "speed": 1}})
    with pytest.raises(ValueError, match="unknown joint with limits 'c'"):
        table_limits(["a"], {"a": row, "c": row})
    with pytest.raises(ValueError, match="velocity must be positive"):
        table_limits(["a"], {"a": {**row, "velocity": 0}})
