"""OGBench's own files, read and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfplan.data import load_episodes
from dfplan.data.ogbench import is_ogbench, load_ogbench


def arrays(episodes: int = 3, rows: int = 5) -> dict[str, Any]:
    n = episodes * rows
    terminals = np.zeros(n, dtype=bool)
    terminals[rows - 1 :: rows] = True
    numbers = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    return {
        "observations": numbers, "actions": numbers / (2 * n), "terminals": terminals,
        "qpos": numbers, "qvel": np.zeros((n, 2), dtype=np.float32),
    }  # fmt: skip


def written(path: Path, **changes: Any) -> Path:
    values = {**arrays(), **changes}
    np.savez_compressed(path, **{k: v for k, v in values.items() if v is not None})
    return path


def test_rows_are_cut_into_episodes(tmp_path: Path) -> None:
    """Catches an action of the last row kept, which shifts all later ones, or an observation lost."""
    for name in ("pointmaze-medium-stitch-v0.npz", "pointmaze-medium-stitch-v0-val.npz"):
        file = written(tmp_path / name)
        found, raw = load_episodes(file), arrays()
        assert found.lengths.tolist() == [4, 4, 4]
        np.testing.assert_array_equal(found.observations, raw["observations"])
        for e in range(3):
            obs, act, rew = found.episode(e)
            np.testing.assert_array_equal(obs, raw["observations"][5 * e : 5 * e + 5])
            np.testing.assert_array_equal(act, raw["actions"][5 * e : 5 * e + 4])
            assert not rew.any()
        assert found.meta["file"] == name
    assert load_episodes(written(tmp_path / "bare.npz", qpos=None, qvel=None)).steps == 12


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"actions": None}, "keys actions are missing; it holds observations, qpos, qvel, terminals"),
        ({"terminals": np.zeros(15, dtype=bool)}, "ends inside an episode"),
        ({"actions": np.zeros((14, 2), dtype=np.float32)}, "equally many rows, got .*'actions': 14"),
        ({"qvel": np.zeros((3, 2), dtype=np.float32)}, "equally many rows"),
        ({"observations": np.full((15, 2), np.nan, dtype=np.float32)}, "observations must be finite"),
        ({"terminals": np.ones(15, dtype=bool)}, "at least 2 rows, got 1"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    """Catches a file that is read as far as it goes."""
    file = written(tmp_path / "x.npz", **changes)
    assert is_ogbench(file)
    with pytest.raises(ValueError, match=match):
        load_episodes(file)


def test_truncated_and_missing_files_are_refused(tmp_path: Path) -> None:
    """Catches an unpacking error that does not name the file."""
    file = written(tmp_path / "x.npz")
    file.write_bytes(file.read_bytes()[:300])
    assert not is_ogbench(file)
    with pytest.raises(ValueError, match=r"x\.npz is not a readable OGBench file"):
        load_ogbench(file)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_ogbench(tmp_path / "none.npz")
