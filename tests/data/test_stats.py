"""Statistics and coverage against known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dfplan.data import Episodes
from dfplan.data.stats import coverage, coverage_text, summary


def walk(points: list[tuple[float, float]]) -> Episodes:
    steps = len(points) - 1
    return Episodes(np.array(points), np.zeros((steps, 1)), np.zeros(steps), np.array([steps]))


def test_summary_agrees_with_numpy(episodes: Episodes) -> None:
    facts = summary(episodes)
    assert (facts["episodes"], facts["steps"], facts["digest"]) == (3, 9, episodes.digest())
    assert facts["episode_steps"]["median"] == 3
    assert facts["episode_steps"]["mean"] == 3
    assert (facts["episode_steps"]["min"], facts["episode_steps"]["max"]) == (1, 5)
    np.testing.assert_allclose(facts["observation"]["std"], episodes.observations.astype(float).std(axis=0))
    np.testing.assert_allclose(facts["action"]["mean"], episodes.actions.astype(float).mean(axis=0))
    assert facts["reward"] == {"mean": 4.0, "nonzero_share": 8 / 9}
    assert facts["episode_return"]["mean"] == (0 + 1 + 2 + 3 + 4 + 5 + 6 + 7 + 8) / 3
    assert (facts["episode_return"]["min"], facts["episode_return"]["max"]) == (3, 4 + 5 + 6 + 7 + 8)
    assert facts["episode_return"]["std"] == pytest.approx(np.std([3, 3, 30]))
    assert (facts["terminated_share"], facts["normalized_return"]) == (0.0, None)
    assert facts["meta"] == {"env": "maze2d-umaze-v1", "seed": 7}


def test_normalized_return_uses_the_datas_own_scores(episodes: Episodes) -> None:
    """Catches a fraction of the wrong range, and a division by a range of 0."""
    meta = {"reference_scores": {"min": 2.0, "max": 22.0}}
    scored = Episodes(episodes.observations, episodes.actions, episodes.rewards, episodes.lengths, meta)
    assert summary(scored)["normalized_return"] == pytest.approx((12 - 2) / 20)
    scored.meta["reference_scores"] = {"min": 2.0, "max": 2.0}
    assert summary(scored)["normalized_return"] is None


def test_coverage_counts_every_observation_where_it_is() -> None:
    """Catches swapped axes, a shifted corner and a lost last row."""
    counts, corner = coverage(walk([(-0.1, 2.0), (0.1, 2.4), (0.1, 3.6), (0.6, 2.0), (0.6, 2.1)]))
    assert corner == (-0.5, 2.0)
    assert counts.tolist() == [[1, 0, 0, 0], [1, 0, 0, 1], [2, 0, 0, 0]]


def test_text_shows_x_down_and_y_to_the_right() -> None:
    text = coverage_text(walk([(0, 0), (0, 0), (0, 0), (0, 0), (2, 1), (2, 2)]), cells_per_unit=1)
    assert text.splitlines() == ["@@", "", "  ++++"]


def test_coverage_refuses_what_it_cannot_draw(episodes: Episodes) -> None:
    with pytest.raises(ValueError, match="cells_per_unit must be positive, got 0"):
        coverage(episodes, 0)
    with pytest.raises(ValueError, match=r"a grid of .* cells is too fine; lower cells_per_unit"):
        coverage(episodes, 1e6)
    narrow = Episodes(episodes.observations[:, :1], episodes.actions, episodes.rewards, episodes.lengths)
    with pytest.raises(ValueError, match=r"needs \(x, y\) in columns 0 and 1, got 1 column"):
        coverage(narrow)


def test_picture_puts_visits_where_the_maze_is(tmp_path: Path) -> None:
    """Catches a picture whose visits lie off the maze's cells."""
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("matplotlib.image")
    from dfplan.plotting.coverage import save_coverage

    maze = ("#####", "#OGO#", "#####")
    counts = np.full((10, 30), 50)  # the three free cells: x in [0.3, 1.3), y in [0.3, 3.3)
    filled = image.imread(save_coverage(counts, (0.3, 0.3), 10.0, tmp_path / "in.png", maze=maze))
    moved = image.imread(save_coverage(counts, (0.3, 1.3), 10.0, tmp_path / "off.png", maze=maze))

    def walls(picture: np.ndarray) -> int:
        return int((np.abs(picture[..., :3] - np.array([59, 66, 82]) / 255).max(axis=-1) < 0.01).sum())

    bare = image.imread(save_coverage(counts[:1, :1], (0.3, 0.3), 10.0, tmp_path / "bare.png", maze=maze))
    floor = (np.abs(bare[..., :3] - np.array([251, 250, 247]) / 255).max(axis=-1) < 0.01).sum()
    covered = (np.abs(filled[..., :3] - np.array([251, 250, 247]) / 255).max(axis=-1) < 0.01).sum()
    assert walls(filled) == walls(bare) == walls(moved)  # walls are drawn over stray visits
    assert covered < 0.02 * floor
    still_bare = (np.abs(moved[..., :3] - np.array([251, 250, 247]) / 255).max(axis=-1) < 0.01).sum()
    assert still_bare > 0.2 * floor
    with pytest.raises(ValueError, match=r"a picture must be named \*.png, \*.pdf, \*.svg, got 'a.txt'"):
        save_coverage(counts, (0.0, 0.0), 10.0, tmp_path / "a.txt")
