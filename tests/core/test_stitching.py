"""Stitching in the data: composed episodes against what the data hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfplan.data.episodes import Episodes
from dfplan.stitching import StitchConfig, stitch


def corridor(pieces: int = 6, copies: int = 30, shift: float = 0.0, velocity: bool = False) -> Episodes:
    """Make episodes of 40 steps along a line; piece n goes from 4 n on to the right or back, next to the others.

    With ``velocity`` the state has two more columns, and those that go right are not near those that go back.
    """
    rng, length = np.random.default_rng(0), 40
    observations, actions = [], []
    for n, direction in [(n, d) for _ in range(copies) for n in range(pieces) for d in (1, -1)]:
        x = 0.1 * length * n + 0.1 * np.arange(length + 1)[::direction]
        y = shift * n + rng.uniform(0, 0.05) + np.zeros(length + 1)
        more = [np.full(length + 1, direction), np.zeros(length + 1)] if velocity else []
        observations.append(np.stack([x, y, *more], 1))
        actions.append(np.tile([direction, n], (length, 1)))
    count = len(observations)
    return Episodes(
        np.concatenate(observations), np.concatenate(actions), np.arange(count * length, dtype=np.float32),
        np.full(count, length), {"env": "line"},
    )  # fmt: skip


def configured(**changes: Any) -> StitchConfig:
    return StitchConfig(**{"radius": 0.3, "steps": 400, "episodes": 40, "goals": 30, "gap": 5, "piece": 20, **changes})


def jumps(data: Episodes, made: Episodes) -> tuple[Any, Any]:
    """Find, by the rewards (which number the data's transitions), where each composed transition really led."""
    misses, since = [], []
    episode = np.repeat(np.arange(len(data)), data.lengths)
    for e in range(len(made)):
        obs, act, rew = made.episode(e)
        rows = rew.astype(np.int64) + episode[rew.astype(np.int64)]
        np.testing.assert_array_equal(data.observations[rows], obs[:-1])
        np.testing.assert_array_equal(data.actions[rew.astype(np.int64)], act)
        misses.append(np.linalg.norm(data.observations[rows + 1] - obs[1:], axis=1))
        at = np.flatnonzero(np.diff(rows) != 1)
        since += np.diff(at).tolist()
    return np.concatenate(misses), np.array(since)


@pytest.mark.parametrize("velocity", [False, True])
def test_every_transition_is_the_datas_up_to_the_radius(velocity: bool) -> None:
    """Catches a jump longer than the radius, an action of another transition, and jumps one after the other."""
    data = corridor(velocity=velocity)
    made = stitch(data, configured())
    misses, since = jumps(data, made)
    assert (misses > 0).any()
    assert misses.max() <= 0.3
    assert since.min() >= 5
    assert made.meta["env"] == "line" and made.meta["stitched"]["radius"] == 0.3


def test_composed_episodes_go_further_than_the_datas_and_straight() -> None:
    """Catches goals within reach only, and walks that double back on the way to a far goal."""
    data = corridor()
    assert np.ptp(data.episode(0)[0][:, 0]) == pytest.approx(4.0)
    made = stitch(data, configured())
    ends = np.array([made.episode(e)[0][[0, -1], 0] for e in range(len(made))])
    assert np.abs(ends[:, 1] - ends[:, 0]).max() > 12  # of 24 in all
    for e in range(len(made)):
        x = made.episode(e)[0][:, 0]
        travelled, gained = np.abs(np.diff(x)).sum(), abs(x[-1] - x[0])
        assert travelled <= gained + 12  # may first have to go to where it can turn


def test_nothing_to_jump_to_is_said() -> None:
    """Catches composed episodes across a gap in the data, and an empty result."""
    apart = corridor(shift=2.0)
    made = stitch(apart, configured())
    y = made.observations[:, 1]
    for e in range(len(made)):
        assert np.ptp(made.episode(e)[0][:, 1]) < 0.1  # never from piece to piece
    assert y.max() > 2
    single = Episodes(np.zeros((2, 2)), np.zeros((1, 2)), np.zeros(1), np.array([1]))
    with pytest.raises(ValueError, match=r"nothing can be stitched.*larger radius"):
        stitch(single, configured())


def test_a_seed_decides_the_bits() -> None:
    """Catches a draw from a global generator."""
    data = corridor(copies=5)
    assert stitch(data, configured(), 3).digest() == stitch(data, configured(), 3).digest()
    assert stitch(data, configured(), 3).digest() != stitch(data, configured(), 4).digest()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"radius": 0.0}, "radius must be positive"),
        ({"radius": np.inf}, "radius"),
        ({"gap": 0}, "gap must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], match: str) -> None:
    """Catches a radius of nothing, with which no jump is possible and no word of it is said."""
    with pytest.raises(ValueError, match=match):
        configured(**changes)


def test_composed_episodes_end_at_their_goals() -> None:
    """Catches walks that stop a hop short, so that nothing ever ends at the tip of a dead end."""
    made = stitch(corridor(), configured(goals=1, gap=20, detours=0.0))
    ends = np.array([made.episode(e)[0][-1] for e in range(len(made))])
    assert len(made) > 10
    assert np.ptp(ends, axis=0).max() <= 4 * 0.3


def hairpin(copies: int = 40) -> Episodes:
    """Make episodes of 40 steps along two lines 1 apart that meet at their far ends, in both directions."""
    rng, observations = np.random.default_rng(0), []
    along = 0.1 * np.arange(161)
    line = np.stack([np.minimum(along, 16.0 - along), np.where(along < 8.0, 0.0, 1.0)], 1)
    for _ in range(copies):
        for begin in range(0, 121, 20):
            piece = line[begin : begin + 41] + rng.uniform(0, 0.05, 2)
            observations += [piece, piece[::-1]]
    count = len(observations)
    return Episodes(
        np.concatenate(observations), np.zeros((40 * count, 1)), np.zeros(40 * count), np.full(count, 40)
    )  # fmt: skip


def test_detours_head_for_what_is_near_but_far_to_go() -> None:
    """Catches the straight line counted in another unit than the way, and the share of such episodes ignored."""

    def share(detours: float) -> float:
        made = stitch(hairpin(), configured(episodes=300, detours=detours, steps=300))
        both = [
            (np.linalg.norm(np.ptp(made.episode(e)[0][[0, -1]], axis=0)), made.lengths[e]) for e in range(len(made))
        ]
        return float(np.mean([away < 3 and steps > 60 for away, steps in both]))

    assert share(1.0) > share(0.0) + 0.15
