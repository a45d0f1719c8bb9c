"""The task's numbers and draws: reward, starts, random goals, time limit. All are D4RL's."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dfplan_envs.maze2d.layouts import LAYOUTS, Cell, Maze
from dfplan_envs.registry import CUSTOM_LIMIT, EPISODE_STEPS

GOAL_RADIUS = 0.5  # cells; the sparse reward is 1 within it, its edge included
POSITION_NOISE = 0.1  # cells; starts and drawn goals lie within it of a location, per axis
VELOCITY_STD = 0.1  # cells per second, of the start's velocity, per axis
REWARDS = ("sparse", "dense")


def episode_limit(maze: Maze) -> int:
    """Return the steps of an episode in D4RL's maze with these rows, or of a custom one."""
    return next((EPISODE_STEPS[name] for name, rows in LAYOUTS.items() if rows == maze.rows), CUSTOM_LIMIT)


def draw_cell(maze: Maze, rng: np.random.Generator) -> Cell:
    """Draw a free cell, the goal's included, uniformly."""
    return maze.free_cells[int(rng.integers(len(maze.free_cells)))]


def draw_near(cell: Cell, rng: np.random.Generator) -> tuple[float, float]:
    """Draw a point within `POSITION_NOISE` of a cell's location, per axis."""
    du, dv = rng.uniform(-POSITION_NOISE, POSITION_NOISE, size=2).tolist()
    return cell[0] + du, cell[1] + dv


def draw_velocity(rng: np.random.Generator) -> tuple[float, float]:
    """Draw a start's velocity, N(0, `VELOCITY_STD`^2) per axis."""
    vx, vy = rng.normal(0.0, VELOCITY_STD, size=2).tolist()
    return vx, vy


def reward_at(distance: float, dense: bool) -> float:
    """Score one distance to the goal: exp(-distance), or 1 within `GOAL_RADIUS` and else 0."""
    return math.exp(-distance) if dense else float(distance <= GOAL_RADIUS)


def rewards_at(distances: NDArray[np.float64], dense: bool) -> NDArray[np.float64]:
    """Score many distances to the goal."""
    return np.exp(-distances) if dense else (distances <= GOAL_RADIUS).astype(np.float64)
