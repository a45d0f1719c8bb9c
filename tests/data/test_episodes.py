"""The flat arrays, and where tours are cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfplan.data import Episodes, episodes_from_tours, load_npz, save_npz


def numbered_tour(ends: list[bool], base: int = 0) -> dict[str, np.ndarray]:
    """A tour whose every number says which row it is."""
    rows = np.arange(base, base + len(ends), dtype=np.float32)
    return {
        "observations": np.stack([rows, rows], axis=1),
        "actions": rows[:, None] + 0.5,
        "rewards": rows,
        "timeouts": np.array(ends),
    }


def test_cut_shares_the_row_where_the_target_was_reached() -> None:
    """Catches a cut one row off, a lost transition and a kept tail."""
    ends = [False, False, True, False, True, False, False]
    cut = episodes_from_tours([numbered_tour(ends)])
    assert cut.lengths.tolist() == [2, 2]
    assert cut.observations[:, 0].tolist() == [0, 1, 2, 2, 3, 4]
    assert cut.actions[:, 0].tolist() == [0.5, 1.5, 2.5, 3.5]
    assert cut.rewards.tolist() == [0, 1, 2, 3]


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=30), min_size=1, max_size=4))
def test_every_transition_before_the_last_target_is_kept_once(flags: list[list[bool]]) -> None:
    """Catches rows joined across tours, and flat arrays that do not line up."""
    tours = [numbered_tour(ends, base=100 * index) for index, ends in enumerate(flags)]
    kept = [100 * index + t for index, ends in enumerate(flags) for t in range(max([0, *np.flatnonzero(ends)]))]
    if not kept:
        with pytest.raises(ValueError, match="at least one target must be reached"):
            episodes_from_tours(tours)
        return
    cut = episodes_from_tours(tours)
    assert cut.rewards.tolist() == kept
    assert (cut.observations[cut.next_rows, 0] - cut.actions[:, 0] == 0.5).all()
    assert (cut.observations[cut.next_rows - 1, 0] - cut.actions[:, 0] == -0.5).all()
    for index in range(len(cut)):
        observations, actions, rewards = cut.episode(index)
        assert len(observations) == len(actions) + 1 == len(rewards) + 1 == cut.lengths[index] + 1
        assert observations[0, 0] == actions[0, 0] - 0.5 == cut.observations[cut.starts[index], 0]


def test_meta_and_types(episodes: Episodes) -> None:
    assert episodes.observations.dtype == episodes.actions.dtype == episodes.rewards.dtype == np.float32
    assert episodes.lengths.dtype == np.int64
    assert episodes.steps == 9
    assert episodes.starts.tolist() == [0, 4, 6]
    assert episodes.action_starts.tolist() == [0, 3, 4]
    np.testing.assert_array_equal(episodes.episode(-1)[0], episodes.episode(2)[0])
    with pytest.raises(IndexError, match=r"must be in \[0, 2\], got 3"):
        episodes.episode(3)


def test_digest_is_of_every_number(episodes: Episodes) -> None:
    """Catches a digest that leaves an array out, and one that depends on the description."""
    parts = {name: getattr(episodes, name).copy() for name in ("observations", "actions", "rewards")}
    assert Episodes(**parts, lengths=episodes.lengths).digest() == episodes.digest()
    for name in parts:
        other = {**parts, name: parts[name].copy()}
        other[name].flat[-1] += 1
        assert Episodes(**other, lengths=episodes.lengths).digest() != episodes.digest(), name
    assert Episodes(**parts, lengths=np.array([1, 3, 5])).digest() != episodes.digest()


def test_how_episodes_ended_is_part_of_them(episodes: Episodes, tmp_path: Path) -> None:
    """Catches flags lost in a file or a selection, and an older file's digest that changes."""
    parts = {name: getattr(episodes, name) for name in ("observations", "actions", "rewards", "lengths")}
    assert episodes.terminated.tolist() == [False] * 3
    assert Episodes(**parts, terminated=np.zeros(3, dtype=bool)).digest() == episodes.digest()
    ended = Episodes(**parts, terminated=np.array([True, False, True]))
    assert ended.digest() != episodes.digest()
    assert ended.digest() != Episodes(**parts, terminated=np.array([False, True, True])).digest()
    again = load_npz(save_npz(ended, tmp_path / "ended.npz"))
    assert again.terminated.tolist() == [True, False, True]
    assert again.digest() == ended.digest()
    with np.load(save_npz(episodes, tmp_path / "cut.npz")) as archive:
        assert "terminated" not in archive.files  # the file of before there was this field
    picked = ended.select([2, 0, 2])
    assert picked.terminated.tolist() == [True, True, True]
    assert picked.returns.tolist() == [30, 3, 30]
    np.testing.assert_array_equal(picked.episode(1)[0], episodes.episode(0)[0])
    with pytest.raises(IndexError, match="at least one episode must be selected"):
        ended.select([])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"terminated": np.array([True])}, r"terminated must be bool of shape \(3,\), got bool of shape \(1,\)"),
        ({"terminated": np.array([0, 1, 0])}, "terminated must be bool of shape"),
        (
            {"lengths": np.array([3, 6])},
            r"observations must have shape \(11, n\) for 9 steps in 2 episodes, got \(12, 4\)",
        ),
        ({"lengths": np.array([3.0, 1.0, 5.0])}, "1-d array of integers, got float64"),
        ({"lengths": np.array([], dtype=int)}, "at least one episode .* got no episode"),
        ({"lengths": np.array([4, 0, 5])}, "got a length of 0"),
        ({"actions": np.zeros((8, 2))}, r"actions must have shape \(9, n\)"),
        ({"actions": np.zeros(9)}, r"actions must have shape \(9, n\)"),
        ({"rewards": np.zeros((9, 1))}, r"rewards must have shape \(9,\)"),
        ({"rewards": np.array([0, 0, np.inf, 0, 0, 0, 0, 0, 0])}, "rewards must be finite, .* first in row 2"),
        ({"observations": np.where(np.arange(12)[:, None] == 5, np.nan, np.zeros((12, 4)))}, "first in row 5"),
        ({"observations": np.full((12, 4), "a")}, "observations must hold real numbers"),
    ],
)
def test_broken_arrays_are_refused(episodes: Episodes, change: dict[str, np.ndarray], match: str) -> None:
    parts = {name: getattr(episodes, name) for name in ("observations", "actions", "rewards", "lengths")}
    with pytest.raises(ValueError, match=match):
        Episodes(**{**parts, **change})
