"""D4RL's files with one row per step (locomotion, adroit, antmaze, kitchen) as episodes of real transitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan.data.d4rl_names import STEP_LIMIT
from dfplan.data.episodes import Episodes
from dfplan.data.trajectories import vector_spaces

JUMP = 1e-3  # relative difference from which a row does not follow from the one before
REWARDS = {"steps": "next", "antmaze": "next", "kitchen": "same"}
"""Which state rewards[t] scores in each kind: the one after the step, or its own row's."""


def cut_steps(source: Path, arrays: dict[str, NDArray[Any]], kind: str, rewards: str) -> Episodes:
    """Cut rows into episodes.

    Where the file has `next_observations`, every row is a transition, and an episode ends with the state that its last
    step led to; else the last row of an episode only closes it, for its action leads to a state that no row shows.

    - "steps": an episode ends at `timeouts` and `terminals`, without `timeouts` also after 1000 steps, and where
      `next_observations` is not the next row's observation.
    - "antmaze": at `timeouts` only; `terminals` there mark every row near the goal, and the ant walks on.
    - "kitchen": at `terminals`, which mark the end of a demonstration and not of the task.

    Args:
        source: for the text of errors.
        arrays: of `read_d4rl`.
        kind: "steps", "antmaze" or "kitchen".
        rewards: "next" when rewards[t] scores the state after the step, "same" when it scores its own row's.

    Raises:
        ValueError: when nothing says where episodes end, or no transition is left.
    """
    following = arrays.get("next_observations") if rewards == "next" else None
    ends, cut_by = _ends(source, arrays, kind, following)
    segments = _segments(ends, least=1 if following is not None else 2)
    if not segments:
        raise ValueError(f"{source}: found {int(ends.sum())} ends and no transition between them; needed: episodes")
    steps = [last - first + (following is not None) for first, last in segments]
    rows = np.concatenate([np.arange(f, f + n) for (f, _), n in zip(segments, steps, strict=True)])
    observations = [arrays["observations"][first : last + 1] for first, last in segments]
    if following is not None:
        observations = [
            np.concatenate([o, following[last][None]]) for o, (_, last) in zip(observations, segments, strict=True)
        ]
    flags = arrays["terminals"] if kind == "steps" else np.zeros(len(ends), dtype=bool)
    meta: dict[str, Any] = {
        "source": source.name,
        "file_format": f"d4rl-hdf5, {kind}",
        "rows": len(ends),
        "dropped_rows": len(ends) - sum(steps),
        "cut_by": cut_by,
        "reward_rows": rewards,
        "spaces": vector_spaces(arrays["observations"].shape[1], arrays["actions"].shape[1]),
    }
    return Episodes(
        np.concatenate(observations),
        arrays["actions"][rows],
        arrays["rewards"][rows + 1 if rewards == "same" else rows],
        np.array(steps, dtype=np.int64),
        meta,
        np.array([flags[last] for _, last in segments], dtype=bool),
    )


def _ends(
    source: Path, arrays: dict[str, NDArray[Any]], kind: str, following: NDArray[Any] | None
) -> tuple[NDArray[np.bool_], str]:
    """Mark the last row of every episode."""
    keys = {"antmaze": ("timeouts",), "kitchen": ("terminals",)}.get(kind, ("timeouts", "terminals"))
    used = [key for key in keys if key in arrays and arrays[key].any()]
    ends = np.zeros(len(arrays["observations"]), dtype=bool)
    for key in used:
        ends |= arrays[key]
    if kind == "steps" and "timeouts" not in arrays:
        ends, used = _limited(ends), [*used, f"{STEP_LIMIT} steps"]
    if following is not None and (jumps := _jumps(arrays["observations"], following) & ~ends).any():
        ends, used = ends | jumps, [*used, "next_observations"]
    if not used and kind != "steps":
        raise ValueError(
            f"{source}: key {keys[0]!r}: found none; needed: {keys[0]} (N,) bool, True in the last row of each episode"
        )
    ends[-1] = True
    return ends, " and ".join(used) or "the end of the file"


def _limited(ends: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Add an end wherever an episode would be longer than the limit."""
    ends, age = ends.copy(), 0
    for row in range(len(ends)):
        age += 1
        ends[row] |= age == STEP_LIMIT
        age = 0 if ends[row] else age
    return ends


def _jumps(observations: NDArray[Any], following: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell after which rows the next row is not where the step led."""
    away = np.abs(following[:-1] - observations[1:]) > JUMP * (1 + np.abs(observations[1:]))
    return np.append(away.any(axis=1), False)


def _segments(ends: NDArray[np.bool_], least: int) -> list[tuple[int, int]]:
    """Return (first row, last row) of each episode of at least `least` rows."""
    last = np.flatnonzero(ends)
    first = np.concatenate([[0], last[:-1] + 1])
    return [(int(a), int(b)) for a, b in zip(first, last, strict=True) if b - a + 1 >= least]
