"""D4RL's maze2d on today's MuJoCo: mazes, physics, the data's controller and generator, the environment."""

from __future__ import annotations

from dfplan_envs.maze2d.controller import WaypointController
from dfplan_envs.maze2d.env import Maze2dEnv
from dfplan_envs.maze2d.generate import generate_tour
from dfplan_envs.maze2d.layouts import LAYOUTS, Maze, as_maze
from dfplan_envs.maze2d.oracle import MazeOracle
from dfplan_envs.maze2d.pointmaze import action_from_pointmaze, action_to_pointmaze, from_pointmaze, to_pointmaze

__all__ = [
    "LAYOUTS",
    "Maze",
    "Maze2dEnv",
    "MazeOracle",
    "WaypointController",
    "action_from_pointmaze",
    "action_to_pointmaze",
    "as_maze",
    "from_pointmaze",
    "generate_tour",
    "to_pointmaze",
]
