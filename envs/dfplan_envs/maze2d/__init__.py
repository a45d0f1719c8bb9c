"""D4RL's maze2d on today's MuJoCo: mazes, physics, the data's controller and generator, the environment."""

from __future__ import annotations

from dfplan_envs.maze2d.controller import WaypointController
from dfplan_envs.maze2d.generate import generate_tour
from dfplan_envs.maze2d.layouts import LAYOUTS, Maze, as_maze

__all__ = ["LAYOUTS", "Maze", "WaypointController", "as_maze", "generate_tour"]
