"""D4RL's files as episodes; here those of maze2d: where they end, and what in them is not a real transition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan.data.d4rl_file import read_d4rl
from dfplan.data.d4rl_names import FILES, KINDS, d4rl_dataset_dir, env_of_file, kind_of, resolve_d4rl
from dfplan.data.d4rl_steps import REWARDS, cut_steps
from dfplan.data.episodes import Episodes
from dfplan.errors import unknown_name

__all__ = ["FILES", "KINDS", "d4rl_dataset_dir", "env_of_file", "load_d4rl", "resolve_d4rl"]

REWARD_ROWS = ("same", "next")
MAZE2D_WIDTH = 4  # (x, y, vx, vy)


def load_d4rl(path: str | Path, *, rewards: str | None = None, kind: str | None = None) -> Episodes:
    """Read one of D4RL's files as episodes of real transitions, with rewards aligned to the environment's.

    Args:
        path: the file.
        rewards: "same" when rewards[t] scores observations[t], as in D4RL's maze2d and kitchen files; "next" when it
            scores the state after the step, as in the others; None goes by the kind.
        kind: how rows are read, "tour" (maze2d), "steps" (locomotion, adroit), "antmaze" or "kitchen"; None goes by
            D4RL's file name, and for other names by what the file holds.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file breaks the format, or nothing in it says where episodes end.
    """
    for what, given, options in (("rewards", rewards, REWARD_ROWS), ("kind", kind, KINDS)):
        if given is not None and given not in options:
            raise unknown_name(what, given, options)
    source = Path(path)
    arrays = read_d4rl(source)
    name = env_of_file(source)
    kind = kind or _kind(name, arrays)
    if kind == "tour":
        episodes = _cut_tour(source, arrays, rewards or "same")
    else:
        episodes = cut_steps(source, arrays, kind, rewards or REWARDS[kind])
    if name is not None:
        episodes.meta["env"] = name
    return episodes


def _kind(name: str | None, arrays: dict[str, NDArray[Any]]) -> str:
    if name is not None:
        return kind_of(name)
    tour = arrays["observations"].shape[1] == MAZE2D_WIDTH and "next_observations" not in arrays
    return "tour" if tour else "steps"


def _cut_tour(source: Path, arrays: dict[str, NDArray[Any]], rewards: str) -> Episodes:
    """Cut a maze2d file, one endless tour, where a target was reached.

    Three quirks of these files are dealt with, and counted in `meta`:

    - The action of a row that ends a segment leads to a state that no row shows truly, so that transition is dropped.
    - Where the row after it repeats the observation (D4RL's script did not copy the new state), the simulator had moved
      on unseen: the repeated row is dropped as well.
    - rewards[t] scores observations[t], while the environment scores the state after the step: the reward of
      observations[t] -> observations[t + 1] is taken from row t + 1.

    Rows after the last end belong to a target that was not reached, and are dropped.

    Source: D4RL `scripts/generation/generate_maze2d_datasets.py`, `relabel_maze2d_rewards.py`, from their description.
    """
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
