"""D4RL's maze2d files as episodes: their names, where they end, and what in them is not a real transition."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan.data.d4rl_file import read_d4rl
from dfplan.data.episodes import Episodes
from dfplan.errors import unknown_name

BASE_URL = "http://rail.eecs.berkeley.edu/datasets/offline_rl/maze2d/"
REWARD_ROWS = ("same", "next")


def _files() -> dict[str, str]:
    names = {"maze2d-open-v0": "maze2d-open-sparse.hdf5", "maze2d-open-dense-v0": "maze2d-open-dense.hdf5"}
    for maze in ("umaze", "medium", "large", "eval-umaze", "eval-medium", "eval-large"):
        names[f"maze2d-{maze}-v1"] = f"maze2d-{maze}-sparse-v1.hdf5"
        names[f"maze2d-{maze}-dense-v1"] = f"maze2d-{maze}-dense-v1.hdf5"
    return names


FILES: dict[str, str] = _files()
"""D4RL's file name by environment id."""


def resolve_d4rl(name: str) -> str:
    """Return the environment id that `name` means, with its version added where it is missing.

    Raises:
        ValueError: for a name that D4RL has no maze2d file for; names the nearest.
    """
    for candidate in (name, f"{name}-v1", f"{name}-v0"):
        if candidate in FILES:
            return candidate
    raise unknown_name("D4RL maze2d dataset", name, FILES)


def env_of_file(path: str | Path) -> str | None:
    """Return the environment id that D4RL's file name stands for, or None for another name."""
    return next((env for env, name in FILES.items() if name == Path(path).name), None)


def d4rl_dataset_dir() -> Path:
    """Return D4RL's cache folder: the environment variable D4RL_DATASET_DIR, else ~/.d4rl/datasets."""
    return Path(os.environ.get("D4RL_DATASET_DIR") or Path.home() / ".d4rl" / "datasets")


def load_d4rl(path: str | Path, *, rewards: str = "same") -> Episodes:
    """Read a D4RL maze2d file as episodes of real transitions, with rewards aligned to the environment's.

    Three quirks of these files are dealt with, and counted in `meta`:

    - The action of a row that ends a segment leads to a state that no row shows truly, so that transition is dropped.
    - Where the row after it repeats the observation (D4RL's script did not copy the new state), the simulator had moved
      on unseen: the repeated row is dropped as well.
    - rewards[t] scores observations[t], while the environment scores the state after the step: the reward of
      observations[t] -> observations[t + 1] is taken from row t + 1.

    Rows after the last end belong to a target that was not reached, and are dropped.

    Args:
        path: the file.
        rewards: "same" when rewards[t] scores observations[t], as in D4RL's maze2d files; "next" when it scores the
            state after the step.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file breaks the format, or nothing in it says where segments end.

    Source: D4RL `scripts/generation/generate_maze2d_datasets.py`, `relabel_maze2d_rewards.py`, from their description.
    """
    if rewards not in REWARD_ROWS:
        raise unknown_name("rewards", rewards, REWARD_ROWS)
    source = Path(path)
    arrays = read_d4rl(source)
    ends, cut_by = _segment_ends(source, arrays)
    kept = _real_segments(arrays["observations"], ends)
    if not kept:
        raise ValueError(
            f"{source}: key {cut_by!r}: found {len(ends)} ends and no real transition between "
            "them; needed: segments of at least 2 rows"
        )
    lengths = np.array([last - first for first, last in kept], dtype=np.int64)
    rows = np.concatenate([np.arange(first, last) for first, last in kept])
    meta: dict[str, Any] = {
        "source": source.name,
        "file_format": "d4rl-hdf5",
        "rows": len(arrays["observations"]),
        "dropped_rows": len(arrays["observations"]) - int(lengths.sum()),
        "cut_by": cut_by,
        "reward_rows": rewards,
    }
    if (env := env_of_file(source)) is not None:
        meta["env"] = env
    return Episodes(
        np.concatenate([arrays["observations"][first : last + 1] for first, last in kept]),
        arrays["actions"][rows],
        arrays["rewards"][rows + 1 if rewards == "same" else rows],
        lengths,
        meta,
    )


def _segment_ends(source: Path, arrays: dict[str, NDArray[Any]]) -> tuple[NDArray[np.int64], str]:
    """Find the last row of each segment, by the first of these that marks any.

    Published files mark them in `timeouts`, files made with D4RL's script in `terminals` (the task itself never ends).
    Without either, the navigation target changes after such a row, or the next row repeats its observation.
    """
    observations = arrays["observations"]
    ends = np.zeros(len(observations), dtype=bool)
    for key in ("timeouts", "terminals"):
        if key in arrays:
            ends |= arrays[key]
    if ends.any():
        used = [key for key in ("timeouts", "terminals") if key in arrays and arrays[key].any()]
        return np.flatnonzero(ends), " and ".join(used)
    if "infos/goal" in arrays:
        changed = (arrays["infos/goal"][1:] != arrays["infos/goal"][:-1]).any(axis=1)
        if changed.any():
            return np.flatnonzero(changed), "infos/goal"
    repeated = (observations[1:] == observations[:-1]).all(axis=1)
    if repeated.any():
        return np.flatnonzero(repeated), "repeated observations"
    raise ValueError(
        f"{source}: key 'timeouts': found none and nothing else that marks where a target was reached "
        "(terminals, a change of infos/goal, a repeated observation); needed: timeouts (N,) bool, True in those rows"
    )


def _real_segments(observations: NDArray[Any], ends: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return (first row, last row) of each run of rows that are joined by real transitions, at least one."""
    segments = []
    first = 0
    for last in ends.tolist():
        if last > first:
            segments.append((first, last))
        repeats = last + 1 < len(observations) and np.array_equal(observations[last], observations[last + 1])
        first = last + (2 if repeats else 1)
    return segments
