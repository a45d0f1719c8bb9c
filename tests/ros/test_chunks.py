"""Chunks by time: late ones are dropped, old ones never win, targets are continuous, nothing is extrapolated."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfplan_policies.ros.actions import done_first
from dfplan_policies.ros.chunks import Chunk, ChunkBuffer, ChunkSettings

SETTINGS = ChunkSettings(joints=2, latency_s=0.02, blend_s=0.1, longest_age_s=3.0)


def chunk(observed_s: float, values: object, dt_s: float = 0.1, gripper: object = None) -> Chunk:
    positions = np.array(values, dtype=float)
    times = observed_s + dt_s * np.arange(len(positions))
    return Chunk(observed_s, times, positions, None if gripper is None else np.array(gripper, dtype=float))


def taken(item: Chunk, now_s: float, buffer: ChunkBuffer | None = None) -> ChunkBuffer:
    buffer, problem = (buffer or ChunkBuffer(SETTINGS)).accept(item, now_s)
    assert problem == ""
    return buffer


def test_a_chunk_is_read_at_the_time_of_its_observation() -> None:
    # Catches: a chunk anchored at its arrival, a latency forgotten or taken with the wrong sign.
    item = chunk(1.0, [[0, 0], [1, -1], [2, -2], [3, -3]])
    buffer = taken(item, 1.15)
    found = buffer.now(1.15)
    assert found is not None
    assert np.allclose(found.position, [1.7, -1.7]) and np.allclose(found.velocity, [10, -10])
    assert np.isclose(buffer.left_s(1.15), 0.13)


def test_nothing_is_played_past_the_end_or_from_an_old_observation() -> None:
    # Catches: the last position repeated, or its velocity, where there is no plan; a plan played for ever.
    buffer = taken(chunk(0.0, [[0, 0], [1, 1]]), 0.0)
    assert buffer.at(0.1) is not None and buffer.at(0.1 + 1e-9) is None and buffer.left_s(0.2) == 0
    slow = taken(chunk(0.0, [[0, 0], [1, 1]], dt_s=10.0), 0.0)
    assert slow.at(3.0) is not None and slow.at(3.01) is None
    assert buffer.cleared().at(0.05) is None and ChunkBuffer(SETTINGS).at(0.0) is None
    assert buffer.at(float("nan")) is None


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (chunk(0.5, [[0, 0], [1, 1]]), "not newer"),
        (chunk(1.0, [[0, 0], [1, 1]]), "not newer"),
        (chunk(1.2, [[0, 0], [1, 1]], 0.1), "too late"),
        (chunk(1.6, [[0, 0], [1, 1]]), "in the future"),
        (chunk(1.2, [[0, 0], [np.nan, 1], [0, 0], [0, 0]]), "not finite"),
        (chunk(1.2, [[0, 0], [np.inf, -np.inf], [0, 0], [0, 0]]), "not finite"),
        (chunk(np.nan, [[0, 0], [1, 1]]), "not finite"),
        (chunk(1.2, [[0, 0, 0], [1, 1, 1]]), r"shape \(n, 2\)"),
        (chunk(1.2, np.zeros((0, 2))), "shape"),
        (chunk(1.2, [[0, 0], [1, 1], [2, 2], [3, 3]], 0.0), "must increase"),
        (chunk(1.2, [[0, 0], [1, 1], [2, 2]], 0.3, [0.0, np.nan, 0.0]), "not finite"),
        (chunk(1.2, [[0, 0], [1, 1], [2, 2]], 0.3, [0.0, 0.0]), "openings"),
    ],
)  # fmt: skip
def test_a_chunk_that_is_no_good_changes_nothing(item: Chunk, problem: str) -> None:
    # Catches: a chunk from an older observation that arrives late and wins; a NaN, a wrong shape, an empty or
    # backward chunk let through; a late one that is played from its end.
    before = taken(chunk(1.0, [[0, 0]] * 30), 1.0)
    after, said = before.accept(item, 1.4)
    assert re.search(problem, said)
    assert after is before


@given(st.integers(0, 10_000))
def test_targets_are_continuous_however_often_chunks_change(seed: int) -> None:
    # Catches: a step at a switch, also in the middle of a blend; a velocity that is not the slope of the position; a
    # blend that never ends.
    rng = np.random.default_rng(seed)
    buffer, now, before = ChunkBuffer(SETTINGS), 0.0, None
    offset = np.zeros(2)
    for _ in range(120):
        now += 0.005
        if rng.random() < 0.15:
            offset = rng.normal(0, 0.2, 2)
            buffer, _ = buffer.accept(chunk(now - rng.uniform(0, 0.05), rng.normal(0, 0.1, (12, 2)) + offset), now)
        found = buffer.now(now)
        if found is not None and before is not None:
            middle = (found.velocity + before.velocity) / 2
            assert np.allclose(found.position - before.position, middle * 0.005, atol=0.012)
        before = found


def test_a_switch_is_continuous_in_position_and_velocity_and_then_over() -> None:
    # Catches: position blended but not velocity; the difference faded over the wrong time.
    old = taken(chunk(0.0, np.linspace(0, 2, 21)[:, None] * [1, 2]), 0.0)
    item = chunk(0.3, np.linspace(1, 0, 21)[:, None] * [1, 3])
    new = taken(item, 0.4, old)
    plain = taken(item, 0.4)
    at = 0.42
    for name in ("position", "velocity"):
        assert np.allclose(getattr(new.at(at), name), getattr(old.at(at), name))
        assert np.allclose(getattr(new.at(at + 0.1), name), getattr(plain.at(at + 0.1), name))
        assert not np.allclose(getattr(new.at(at + 0.08), name), getattr(plain.at(at + 0.08), name))


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_the_curve_meets_its_knots_and_overshoots_none(seed: int, n: int) -> None:
    # Catches: a spline that swings beyond the positions that the planner asked for; a velocity with a wrong scale.
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.02, 0.3, n))
    item = Chunk(0.0, times, rng.normal(size=(n, 2)))
    buffer = taken(item, times[0] - 0.02 - 1e-3)
    for k in range(n):
        assert np.allclose(buffer.at(times[k]).position, item.positions[k])  # type: ignore[union-attr]
    for t in rng.uniform(times[0], times[-1], 20):
        k = min(int(np.searchsorted(times, t, side="right")), n - 1)
        low, high = np.sort(item.positions[[max(k - 1, 0), k]], axis=0)
        found, near = buffer.at(t), buffer.at(min(t + 1e-6, times[-1]))
        assert found is not None and near is not None
        assert (found.position >= low - 1e-9).all() and (found.position <= high + 1e-9).all()
        assert np.allclose((near.position - found.position), found.velocity * (min(t + 1e-6, times[-1]) - t), atol=1e-7)


def test_a_straight_plan_stays_straight_and_the_gripper_goes_along() -> None:
    # Catches: slopes that bend uneven knots; a gripper that begins to close before the action that asks for it.
    item = Chunk(0.0, np.array([0.0, 0.1, 0.4, 0.5]), np.array([[0, 0], [1, 2], [4, 8], [5, 10]]) / 10, np.arange(4.0))
    found = taken(item, 0.0).at(0.25)
    assert found is not None
    assert np.allclose(found.position, [0.25, 0.5]) and np.allclose(found.velocity, [1, 2])
    assert found.gripper == 1.0


def test_before_its_first_knot_a_chunk_rests() -> None:
    # Catches: a plan whose first knot lies ahead read backwards, an index of -1.
    buffer = taken(Chunk(0.0, np.array([0.5, 0.6]), np.array([[1.0, 2.0], [2.0, 3.0]])), 0.0)
    found = buffer.at(0.1)
    assert found is not None and found.position.tolist() == [1, 2] and found.velocity.tolist() == [0, 0]


def test_a_chunk_that_is_done_first_begins_on_arrival_and_stays_at_its_end() -> None:
    # Catches: its first part dropped because planning took time; an arm that goes on past the end instead of waiting
    # there; a next question before the end, or while the command is still behind; a stay that outlives the longest age.
    item = done_first(chunk(0.0, [[0, 0], [1, 1], [2, 2]], gripper=[0, 1, 2]), 3.0)
    buffer = taken(item, 1.0, ChunkBuffer(replace(SETTINGS, longest_age_s=9.0)))
    assert taken(item, 1.0).at(2.9) is not None and taken(item, 1.0).at(3.1) is None
    start = buffer.at(1.02)
    assert start is not None and start.position.tolist() == [0, 0] and start.gripper == 0
    end = buffer.at(1.02 + 0.2)
    assert end is not None and np.allclose(end.position, [2, 2]) and np.allclose(end.velocity, 0)
    later = buffer.at(1.02 + 2.5)
    assert later is not None and np.allclose(later.position, [2, 2]) and later.gripper == 2
    assert buffer.left_s(1.1) == pytest.approx(0.1) and buffer.left_s(1.5) == 0
    assert buffer.at(1.02 + 3.3) is None
    there, behind = np.array([2.0, 2.0]), np.array([2.0, 1.9])
    assert buffer.occupied(1.21, there) and not buffer.occupied(1.23, there) and buffer.occupied(1.23, behind)
    assert not buffer.occupied(9.0, behind) and not ChunkBuffer(SETTINGS).occupied(0.0, there)
    assert not taken(chunk(0.0, [[0, 0], [1, 1]]), 0.0).occupied(0.05, behind)
    wrong = Chunk(0.0, item.times_s, item.positions, item.gripper, 99.0)
    assert "done_s must lie between" in ChunkBuffer(SETTINGS).accept(wrong, 0.0)[1]
