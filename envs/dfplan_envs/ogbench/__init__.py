"""OGBench's pointmaze: the package's own environments adapted, and its data made again by the published recipe.

The simulator is loaded on first use (extra ``ogbench``).
"""

from __future__ import annotations

from dfplan_envs.ogbench.env import DT_S, SIZES, SUCCESS_RADIUS, TASKS, PointMazeEnv
from dfplan_envs.ogbench.generate import DATASETS, DatasetInfo, find_dataset, generate

__all__ = [
    "DATASETS",
    "DT_S",
    "SIZES",
    "SUCCESS_RADIUS",
    "TASKS",
    "DatasetInfo",
    "PointMazeEnv",
    "find_dataset",
    "generate",
]
