"""The shortest way to a goal in a maze, measured as the ball moves: both axes at once, each at its own top speed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan_envs.maze2d.layouts import CELL_OFFSET, Maze
from dfplan_envs.maze2d.physics import BALL_RADIUS
from dfplan_envs.maze2d.task import GOAL_RADIUS

SPACING = 0.05  # cells between the nodes of the grid; wall faces lie on nodes
WALL_LAYERS = 3  # nodes inside walls that get a value too, so that a ball pressed against a wall has one
Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]


class MaxAxisGeodesic:
    """Measure the distance to go: the least, over free paths to the goal's disc, of the path's max-axis length.

    A path of max-axis length ``d`` (each piece counts ``max(|dx|, |dy|)``) takes at least ``d / TOP_SPEED`` seconds,
    because the speed of each axis is limited on its own. Computed by breadth-first search over the eight neighbours of
    a grid node, read off by bilinear interpolation: exact to about two spacings.

    Args:
        maze: the maze; the ball's centre stays its radius away from walls.
        goal: (2,) position.
        radius: of the disc that counts as the goal, in cells.

    Raises:
        ValueError: if no free node lies within the disc.
    """

    def __init__(self, maze: Maze, goal: NDArray[np.float64], radius: float = GOAL_RADIUS) -> None:
        axes = [np.arange(round(n / SPACING) + 1) * SPACING - CELL_OFFSET for n in (maze.height, maze.width)]
        nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        free = _free(nodes, maze)
        goal_nodes = free & (np.linalg.norm(nodes - goal, axis=-1) <= radius)
        if not goal_nodes.any():
            raise ValueError(f"goal must lie in a free cell, got ({goal[0]:g}, {goal[1]:g}); move it out of the wall")
        self._distance = _into_walls(_flood(goal_nodes, free)) * SPACING

    def __call__(self, positions: Floats) -> Floats:
        """Return the distance to go, in cells, 0 within the goal's disc.

        Args:
            positions: (..., 2) x, y.

        Returns:
            (...).
        """
        table = self._distance
        at = np.clip((positions + CELL_OFFSET) / SPACING, 0.0, np.array(table.shape) - 1.001)
        low = at.astype(np.int64)
        (i, j), (u, v) = np.moveaxis(low, -1, 0), np.moveaxis(at - low, -1, 0)
        left = (1 - u) * table[i, j] + u * table[i + 1, j]
        right = (1 - u) * table[i, j + 1] + u * table[i + 1, j + 1]
        return np.asarray((1 - v) * left + v * right)


def _free(nodes: Floats, maze: Maze) -> Mask:
    """Tell which nodes the ball's centre can be at: at least its radius away from every wall."""
    free = np.ones(nodes.shape[:-1], dtype=bool)
    for i, j in maze.walls:
        centre = np.array((i, j)) + 0.5 - CELL_OFFSET
        away = np.maximum(np.abs(nodes - centre) - 0.5, 0.0)
        free &= np.hypot(away[..., 0], away[..., 1]) >= BALL_RADIUS - 1e-9
    return free


def _flood(start: Mask, free: Mask) -> NDArray[np.float64]:
    """Count the king's moves from `start` to every free node; infinity for the others."""
    moves = np.where(start, 0.0, np.inf)
    reached, front, count = start, start, 0
    while front.any():
        count += 1
        front = _grown(front) & free & ~reached
        moves[front] = count
        reached = reached | front
    return moves


def _grown(mask: Mask) -> Mask:
    """Add the eight neighbours."""
    tall = mask.copy()
    tall[1:] |= mask[:-1]
    tall[:-1] |= mask[1:]
    wide = tall.copy()
    wide[:, 1:] |= tall[:, :-1]
    wide[:, :-1] |= tall[:, 1:]
    return wide


def _into_walls(moves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Continue a few nodes into the walls; beyond, all is as far as the farthest."""
    for _ in range(WALL_LAYERS):
        padded = np.pad(moves, 1, constant_values=np.inf)
        around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).min(axis=(2, 3))
        moves = np.where(np.isinf(moves), around + 1, moves)
    return np.where(np.isinf(moves), moves[np.isfinite(moves)].max(), moves)
