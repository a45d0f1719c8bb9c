"""The numbers of the task: reward radius, reset law, time limits. All are D4RL's."""

from __future__ import annotations

import numpy as np

from dfplan_envs.maze2d.layouts import LAYOUTS, Maze

GOAL_RADIUS = 0.5  # cells; the sparse reward is 1 within it
POSITION_NOISE = 0.1  # cells; starts and drawn targets lie within it of a location, per axis
VELOCITY_STD = 0.1  # cells per second, of the start's velocity, per axis
DEFAULT_LIMIT = 800  # steps, for mazes that D4RL does not have

# Steps of an episode, by layout (D4RL's newest version of each).
LIMITS: dict[str, int] = {
    "umaze": 300,
    "medium": 600,
    "large": 800,
    "open": 150,
    "eval-umaze": 300,
    "eval-medium": 600,
    "eval-large": 800,
}


def default_limit(maze: Maze) -> int:
    """Return the episode limit, in steps, of D4RL's maze with these rows; `DEFAULT_LIMIT` for any other."""
    return next((LIMITS[name] for name, rows in LAYOUTS.items() if rows == maze.rows), DEFAULT_LIMIT)


def draw_near(maze: Maze, rng: np.random.Generator) -> tuple[float, float]:
    """Draw a free cell (the goal's included), then a point within `POSITION_NOISE` of its location."""
    i, j = maze.free_cells[int(rng.integers(len(maze.free_cells)))]
    du, dv = rng.uniform(-POSITION_NOISE, POSITION_NOISE, size=2).tolist()
    return i + du, j + dv
