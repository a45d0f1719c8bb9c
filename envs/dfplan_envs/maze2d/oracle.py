"""What only an oracle knows of a maze: where any actions lead, and how far it is to the goal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dfplan_envs.maze2d import options as opt
from dfplan_envs.maze2d.geodesic import Floats, MaxAxisGeodesic
from dfplan_envs.maze2d.layouts import Maze, as_maze
from dfplan_envs.maze2d.physics import DT_S, TOP_SPEED, PointMass

KEPT_FIELDS = 32  # goals whose distances are kept; a field of the largest maze takes 0.3 MB


class MazeOracle:
    """Answer a planner's questions from the simulator and the map. It can be pickled.

    Args:
        maze: a layout's name, rows, or a `Maze`.
    """

    def __init__(self, maze: Maze | str | Sequence[str]) -> None:
        self.maze = as_maze(maze)
        self._ball: PointMass | None = None
        self._fields: dict[tuple[float, float], MaxAxisGeodesic] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the maze alone; the simulator is built again where it is needed."""
        return MazeOracle, (self.maze,)

    def simulate(self, states: ArrayLike, actions: ArrayLike) -> NDArray[np.float64]:
        """Foretell where actions lead.

        Args:
            states: (N, 4) x, y, vx, vy.
            actions: (N, H, 2), clipped to [-1, 1].

        Returns:
            (N, H + 1, 4), bit for bit what the environment gives.

        Raises:
            ValueError: wrong shapes, or numbers that are not finite.
        """
        if self._ball is None:
            self._ball = PointMass(self.maze)
        return self._ball.simulate(*opt.read_batch(states, actions))

    def steps_to_go(self, positions: ArrayLike, goal: ArrayLike) -> Floats:
        """Tell the least number of steps to the goal's disc: the max-axis geodesic at top speed, to about two steps.

        Args:
            positions: (..., 2).
            goal: (2,).

        Returns:
            (...), 0 within the disc.

        Raises:
            ValueError: a goal inside a wall.
        """
        target = np.asarray(goal, dtype=np.float64)
        key = (float(target[0]), float(target[1]))
        if key not in self._fields:
            if len(self._fields) >= KEPT_FIELDS:
                self._fields.clear()
            self._fields[key] = MaxAxisGeodesic(self.maze, target)
        return self._fields[key](np.asarray(positions, dtype=np.float64)) / (TOP_SPEED * DT_S)
