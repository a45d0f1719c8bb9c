"""Transitions of offline data from a file, without dfplan: our .npz of episodes, or D4RL's HDF5."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NPZ_KEYS = ("observations", "actions", "rewards", "lengths", "meta")
HDF5_KEYS = ("observations", "actions", "rewards", "terminals")


@dataclass(frozen=True)
class Transitions:
    """Hold N transitions (s, a, r, s', whether s' ends the task), the states stored once.

    Attributes:
        states: float32 (R, O), all states in order.
        rows: int64 (N,), the row of s; s' is the next row.
        actions: float32 (N, A).
        rewards: float32 (N,).
        terminals: float32 (N,), 1 where nothing follows s'; a time limit or a new target is no such end.
        origin: What the file says about itself.
    """

    states: NDArray[np.float32]
    rows: NDArray[np.int64]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    terminals: NDArray[np.float32]
    origin: dict[str, Any]

    def __len__(self) -> int:
        """Return N."""
        return len(self.rows)

    def batch(self, chosen: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """Return the chosen transitions (B,) under d3rlpy's names; next_actions, which none of ours reads, are 0."""
        rows, actions = self.rows[chosen], self.actions[chosen]
        return {
            "observations": self.states[rows],
            "actions": actions,
            "rewards": self.rewards[chosen, None],
            "next_observations": self.states[rows + 1],
            "next_actions": np.zeros_like(actions),
            "terminals": self.terminals[chosen, None],
            "intervals": np.ones((len(chosen), 1), dtype=np.float32),
        }


def load(path: Path) -> Transitions:
    """Read a file.

    Args:
        path: ``.npz`` of ``dfplan data make ... --npz``, or D4RL's ``.hdf5``.

    Raises:
        ValueError: For another suffix, or a file that lacks a key.
    """
    readers = {".npz": _from_npz, ".hdf5": _from_hdf5, ".h5": _from_hdf5}
    if path.suffix not in readers:
        raise ValueError(f"data must be one of {', '.join(readers)}, got {path.name!r}; see `dfplan data make --npz`")
    return readers[path.suffix](path)


def _from_npz(path: Path) -> Transitions:
    """Episode i has lengths[i] actions and one state more."""
    with np.load(path, allow_pickle=False) as file:
        _check(path, NPZ_KEYS, file.files)
        states, actions, rewards, lengths = (file[key] for key in NPZ_KEYS[:4])
        meta = json.loads(file["meta"].tobytes().decode())
    rows = np.arange(len(actions)) + np.repeat(np.arange(len(lengths)), lengths)
    kept = ("env", "command", "reward")
    origin = {"file": path.name, "transitions": len(rows), **{key: meta[key] for key in kept if key in meta}}
    return Transitions(states, rows, actions, rewards, np.zeros(len(rows), dtype=np.float32), origin)


def _from_hdf5(path: Path) -> Transitions:
    """Drop the last row of each segment, whose next state is not in the file, as D4RL's own helper does."""
    import h5py

    with h5py.File(path, "r") as file:
        _check(path, HDF5_KEYS, list(file))
        states, actions, rewards = (np.asarray(file[key], dtype=np.float32) for key in HDF5_KEYS[:3])
        terminals = np.asarray(file["terminals"]).astype(bool)
        cut = np.asarray(file["timeouts"]).astype(bool) if "timeouts" in file else np.zeros(len(states), dtype=bool)
    rows = np.flatnonzero(terminals[:-1] | ~cut[:-1])
    origin = {"file": path.name, "transitions": len(rows), "reward": "as in the file"}
    return Transitions(
        states, rows, actions[rows], rewards[rows].reshape(-1), terminals[rows].astype(np.float32), origin
    )


def _check(path: Path, needed: tuple[str, ...], found: list[str]) -> None:
    missing = [key for key in needed if key not in found]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; needed are {', '.join(needed)}")
