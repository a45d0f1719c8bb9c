"""The exact change of frame between D4RL's maze2d and Gymnasium-Robotics' PointMaze.

The two have the same dynamics. PointMaze puts the origin at the maze's centre, x along columns, y up, and cell centres
exact; D4RL puts x along rows, y along columns, and locations 0.2 off the centres.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dfplan_envs.maze2d.layouts import CELL_OFFSET, Maze, as_maze

Floats = NDArray[np.float64]


def to_pointmaze(state: ArrayLike, maze: Maze | str | Sequence[str]) -> Floats:
    """Turn positions or states from D4RL's frame to PointMaze's.

    Args:
        state: (..., 2) x, y, or (..., 4) x, y, vx, vy.
        maze: the maze, for its size.

    Returns:
        The same shape: X = y + 0.7 - W/2, Y = H/2 - x - 0.7, V = (vy, -vx).

    Raises:
        ValueError: another width than 2 or 4.
    """
    source, grid = _read(state), as_maze(maze)
    target = np.empty_like(source)
    target[..., 0] = source[..., 1] + CELL_OFFSET - grid.width / 2
    target[..., 1] = grid.height / 2 - source[..., 0] - CELL_OFFSET
    target[..., 2:] = action_to_pointmaze(source[..., 2:]) if source.shape[-1] == 4 else source[..., 2:]
    return target


def from_pointmaze(state: ArrayLike, maze: Maze | str | Sequence[str]) -> Floats:
    """Turn positions or states from PointMaze's frame to D4RL's; undoes `to_pointmaze`.

    Args:
        state: (..., 2) or (..., 4) in PointMaze's frame.
        maze: the maze, for its size.

    Returns:
        The same shape, in D4RL's frame.

    Raises:
        ValueError: another width than 2 or 4.
    """
    source, grid = _read(state), as_maze(maze)
    target = np.empty_like(source)
    target[..., 0] = grid.height / 2 - source[..., 1] - CELL_OFFSET
    target[..., 1] = source[..., 0] - CELL_OFFSET + grid.width / 2
    target[..., 2:] = action_from_pointmaze(source[..., 2:]) if source.shape[-1] == 4 else source[..., 2:]
    return target


def action_to_pointmaze(action: ArrayLike) -> Floats:
    """Turn actions (..., 2) from D4RL's frame to PointMaze's: (a_y, -a_x)."""
    source = np.asarray(action, dtype=np.float64)
    return np.stack((source[..., 1], -source[..., 0]), axis=-1)


def action_from_pointmaze(action: ArrayLike) -> Floats:
    """Turn actions (..., 2) from PointMaze's frame to D4RL's: (-a_y, a_x)."""
    source = np.asarray(action, dtype=np.float64)
    return np.stack((-source[..., 1], source[..., 0]), axis=-1)


def _read(state: ArrayLike) -> Floats:
    array = np.asarray(state, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] not in (2, 4):
        raise ValueError(
            f"state must have shape (..., 2) or (..., 4), got {array.shape}; pass x, y or x, y, vx, vy last"
        )
    return array
