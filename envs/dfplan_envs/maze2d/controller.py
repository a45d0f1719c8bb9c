"""The controller that made D4RL's data: shortest cell path, then a PD law from waypoint to waypoint.

Source: D4RL `pointmaze/waypoint_controller.py`, rebuilt from its description. A breadth-first search stands in for its
tabular Q-iteration: the same paths with the same tie-breaking, also beyond the 50 cells that 50 sweeps reach.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dfplan_envs.maze2d.layouts import MOVES, Cell, Maze, as_maze

GAIN_P = 10.0  # action per cell of position error
GAIN_D = 1.0  # action per cell/s of velocity
REACHED = 0.1  # distance, in cells, at which a waypoint or the target counts as reached
JITTER = 0.2  # waypoints but the last are moved by -U(0, JITTER) per axis


class WaypointController:
    """Drive the ball to a target along the shortest cell path, as D4RL's data collection does.

    Args:
        maze: a `Maze`, a layout's name, or rows.
        rng: draws the jitter of the waypoints.

    A plan is made when the target's rounded cell changes, and only then. Call `reset` at the start of an episode:
    D4RL's own scoring script does not, which is why its reference scores are those of a controller that fails about
    half of the time.
    """

    def __init__(self, maze: Maze | str | Sequence[str], rng: np.random.Generator) -> None:
        self.maze = as_maze(maze)
        self.solved = False
        self._rng = rng
        self._next_cell: dict[Cell, dict[Cell, Cell]] = {}
        self._target: Cell | None = None
        self._waypoints: list[tuple[float, float]] = []
        self._index = 0
        self._last = (0.0, 0.0)

    @property
    def waypoints(self) -> list[tuple[float, float]]:
        """Return a copy of the current plan's waypoints, the last of which is the target's cell."""
        return list(self._waypoints)

    def reset(self) -> None:
        """Forget the plan, so that the next call plans from where the ball is."""
        self._target = None
        self.solved = False

    def act(self, observation: ArrayLike, target: ArrayLike) -> NDArray[np.float32]:
        """Choose the next action, and set `solved`.

        Args:
            observation: (4,) x, y, vx, vy in D4RL's frame.
            target: (2,) where to go; its rounded cell is what counts.

        Returns:
            (2,) action in [-1, 1].

        Raises:
            ValueError: wrong shape, or a start or target inside a wall.
        """
        state, goal = np.asarray(observation, dtype=np.float64), np.asarray(target, dtype=np.float64)
        if state.shape != (4,) or goal.shape != (2,):
            raise ValueError(
                f"observation must be (4,) and target (2,), got {state.shape} and {goal.shape}; pass one environment"
            )
        x, y, vx, vy = state.tolist()
        return np.array(self.act_floats(x, y, vx, vy, *goal.tolist()), dtype=np.float32)

    def act_floats(self, x: float, y: float, vx: float, vy: float, goal_x: float, goal_y: float) -> tuple[float, float]:
        """Do what `act` does, on plain floats (the fast path of data generation)."""
        target = (round(goal_x), round(goal_y))
        if target != self._target:
            self._plan(x, y, target, goal_x, goal_y)
        i, j = self._target or target
        last_x, last_y = self._last
        slow = math.hypot(last_x - x, last_y - y) < REACHED
        self.solved = slow and math.hypot(x - i, y - j) < REACHED
        way_x, way_y = (i, j) if self.solved else self._waypoints[self._index]
        if (
            not self.solved
            and slow
            and self._index + 1 < len(self._waypoints)
            and math.hypot(x - way_x, y - way_y) < REACHED
        ):
            self._index += 1
        self._last = (x, y)
        action_x = GAIN_P * (way_x - x) - GAIN_D * vx
        action_y = GAIN_P * (way_y - y) - GAIN_D * vy
        return min(1.0, max(-1.0, action_x)), min(1.0, max(-1.0, action_y))

    def _plan(self, x: float, y: float, target: Cell, goal_x: float, goal_y: float) -> None:
        start = self._free("start", x, y)
        goal = target if self.maze.is_free(target) else self._free("target", goal_x, goal_y)
        path = self._path(start, goal)
        jitter = self._rng.uniform(0.0, JITTER, size=(len(path) - 1, 2)).tolist()
        self._waypoints = [(i - du, j - dv) for (i, j), (du, dv) in zip(path[:-1], jitter, strict=True)]
        self._waypoints.append((float(goal[0]), float(goal[1])))
        self._index, self._target = 0, target
        self._last = (float(start[0]), float(start[1]))

    def _free(self, what: str, x: float, y: float) -> Cell:
        """Return D4RL's cell of a position (rounded), or the cell that holds it where rounding gives a wall."""
        for cell in ((round(x), round(y)), self.maze.cell_at(x, y)):
            if self.maze.is_free(cell):
                return cell
        raise ValueError(
            f"{what} ({x:.3g}, {y:.3g}) must lie in a free cell of the maze, got a wall; move it into an 'O' cell"
        )

    def _path(self, start: Cell, goal: Cell) -> list[Cell]:
        """List the cells after `start` up to the goal; the goal alone when the ball is there."""
        table = self._next_cell.get(goal)
        if table is None:
            table = self._next_cell[goal] = _next_cells(self.maze, goal)
        cell, path = start, []
        while cell != goal:
            cell = table[cell]
            path.append(cell)
        return path or [goal]


def _next_cells(maze: Maze, goal: Cell) -> dict[Cell, Cell]:
    """Map every cell to its neighbour nearest to the goal; the first in `MOVES` wins a tie."""
    distance = maze.distances(goal)
    table = {}
    for i, j in distance:
        around = [(i + di, j + dj) for di, dj in MOVES if (i + di, j + dj) in distance]
        table[(i, j)] = min(around, key=lambda cell: distance[cell], default=(i, j))
    return table
