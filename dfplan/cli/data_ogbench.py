"""Make OGBench's pointmaze data by the published recipe."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np

import dfplan_envs  # noqa: F401  (registers the ids)
from dfplan.cli.data_make import Progress, versions
from dfplan.data import Episodes
from dfplan_envs.ogbench import DATASETS, DatasetInfo, find_dataset, generate

PREFIX = "pointmaze-"


def is_dataset(name: str | None) -> bool:
    """Tell whether a name is that of a data set that can be made here, its version left aside."""
    return name is not None and name.removesuffix("-v0") in DATASETS


def make_pointmaze(name: str, steps: int, *, seed: int = 0, progress: Progress | None = None) -> tuple[Episodes, Any]:
    """Make one of OGBench's pointmaze data sets.

    Args:
        name: for example "pointmaze-giant-stitch".
        steps: transitions in all, rounded to whole episodes; the published sets have 1,000,000.
        seed: at least 0.
        progress: called with the number of rows made since its last call.

    Returns:
        The episodes, and the environment's Gymnasium spec.

    Raises:
        ValueError: for a name or number out of range.
        ImportError: without the extra `ogbench`.
    """
    info = find_dataset(name)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    count = max(1, round(steps / info.steps))
    arrays = generate(info.name, seed, count, progress)
    episodes = Episodes(
        arrays["observations"].reshape(-1, 2),
        arrays["actions"].reshape(-1, 2),
        np.zeros(count * info.steps, dtype=np.float32),
        np.full(count, info.steps, dtype=np.int64),
        _meta(info, count, seed),
    )
    return episodes, copy.deepcopy(gymnasium.spec(info.env))


def _meta(info: DatasetInfo, count: int, seed: int) -> dict[str, Any]:
    kinds = {
        "navigate": "from goal to goal among the cells that are no plain corridor",
        "stitch": "to a goal 4 cells away, and stay",
    }
    return {
        "env": info.env,
        "recipe": f"OGBench {info.name}, made again: {kinds[info.kind]}; direction to the next cell's centre plus "
        "N(0, 0.5^2), clipped",
        "noisy": True,
        "action_noise_std": 0.5,
        "seed": seed,
        "simulated_steps": count * info.steps,
        "reward": "0: the data have no rewards",
        "versions": versions("numpy", "mujoco", "gymnasium", "ogbench"),
    }
