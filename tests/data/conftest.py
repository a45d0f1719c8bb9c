"""Small episodes, and files in D4RL's format made by D4RL's own loop over a system whose every step can be checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dfplan.data import Episodes

GOAL = np.array([3.0, 0.0])


def line_reward(state: Any) -> Any:
    """Score a state of the line system: how far its position is from the fixed goal."""
    return np.linalg.norm(np.asarray(state)[..., :2] - GOAL, axis=-1).astype(np.float32)


@pytest.fixture
def episodes() -> Episodes:
    """Three short episodes with distinct numbers."""
    rng = np.random.default_rng(0)
    lengths = np.array([3, 1, 5])
    return Episodes(
        rng.normal(size=(lengths.sum() + 3, 4)),
        rng.uniform(-1, 1, size=(lengths.sum(), 2)),
        np.arange(lengths.sum()),
        lengths,
        {"env": "maze2d-umaze-v1", "seed": 7},
    )


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of Minari datasets."""
    root = tmp_path / "minari"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return root


def tour_arrays(steps: int = 60, every: int = 7, quirk: bool = True) -> dict[str, np.ndarray]:
    """Run D4RL's data loop on s' = s + (a, a), so that a real transition is one whose states differ by its action.

    The flag is set at every `every`-th row. As in D4RL's script, the state that is recorded is then not refreshed
    (`quirk`) although the system moves on. rewards[t] scores observations[t]; the target changes after a flagged row.
    """
    rng = np.random.default_rng(1)
    true = np.array([1.0, 2.0, 0.0, 0.0])
    seen, target = true, 0
    rows: dict[str, list[Any]] = {key: [] for key in ("observations", "actions", "rewards", "timeouts", "infos/goal")}
    for t in range(steps):
        action = rng.integers(1, 9, size=2) / 8.0
        done = t % every == every - 1
        values = (seen, action, line_reward(seen), done, (target, target))
        for key, value in zip(rows, values, strict=True):
            rows[key].append(value)
        true = true + np.concatenate([action, action])
        seen = seen if done and quirk else true
        target += done
    arrays = {key: np.asarray(values, dtype=np.float32) for key, values in rows.items()}
    arrays["timeouts"] = arrays["timeouts"].astype(bool)
    arrays["terminals"] = np.zeros(steps, dtype=bool)
    return arrays


@pytest.fixture
def tour() -> Callable[..., dict[str, np.ndarray]]:
    """`tour_arrays`."""
    return tour_arrays


@pytest.fixture
def write_h5(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes arrays to an HDF5 file, gzip-compressed as D4RL's are."""

    def write(arrays: dict[str, Any], name: str = "tour.hdf5") -> Path:
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            for key, value in arrays.items():
                file.create_dataset(key, data=value, compression="gzip" if np.ndim(value) else None)
        return path

    return write
