"""Gymnasium-Robotics' PointMaze in D4RL's frame, so that what was learned on maze2d acts there as it is."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from dfplan_envs._errors import unknown
from dfplan_envs.maze2d.layouts import CELL_OFFSET, Maze, as_maze
from dfplan_envs.maze2d.options import SPEED_LIMIT
from dfplan_envs.maze2d.pointmaze import action_to_pointmaze, from_pointmaze
from dfplan_envs.registry import register_robotics

IDS = {"umaze": "PointMaze_UMaze-v3", "medium": "PointMaze_Medium-v3", "large": "PointMaze_Large-v3"}
SUCCESS_RADIUS = 0.45
GoalDict = dict[str, NDArray[np.float64]]


class RoboticsPointMaze(gymnasium.Env[GoalDict, NDArray[np.float32]], gymnasium.utils.RecordConstructorArgs):
    """The package's own environment; only coordinates are turned (`dfplan_envs.maze2d.pointmaze`).

    Observation: `observation` (4,) x, y, vx, vy, `achieved_goal` (2,), `desired_goal` (2,), float64, in D4RL's frame.
    Action (2,) in [-1, 1], D4RL's axes. Starts and goals are the package's, drawn at every reset; reward 1 within 0.45
    of the goal, which ends nothing. Every `info` has `success` and `goal` (2,).

    Args:
        maze: "umaze", "medium" or "large".
        render_mode: of the package; None renders nothing.

    Raises:
        ValueError: another maze.
        ImportError: without the extra: pip install 'dfplan[robotics]'.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 50}  # noqa: RUF012

    def __init__(self, maze: str, render_mode: str | None = None) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, maze=maze, render_mode=render_mode)
        if maze not in IDS:
            raise unknown("maze of PointMaze", maze, list(IDS))
        self.maze: Maze = as_maze(maze)
        self.render_mode = render_mode
        self.inner = _make(IDS[maze], render_mode)
        limit = np.array([self.maze.height, self.maze.width, SPEED_LIMIT, SPEED_LIMIT])
        whole, place = spaces.Box(-limit, limit, dtype=np.float64), spaces.Box(-limit[:2], limit[:2], dtype=np.float64)
        shown: Any = spaces.Dict({"observation": whole, "achieved_goal": place, "desired_goal": place})
        self.observation_space = shown
        self.action_space = spaces.Box(-1.0, 1.0, (2,), dtype=np.float32)

    @property
    def goal(self) -> NDArray[np.float64]:
        """Return the episode's goal (2,), D4RL's frame."""
        return from_pointmaze(self.inner.goal, self.maze)

    @property
    def drawing(self) -> dict[str, Any]:
        """Say how positions lie in the map, for `dfplan.plotting.MazeMap`."""
        return {"rows": self.maze.rows, "offset": CELL_OFFSET, "goal_radius": SUCCESS_RADIUS}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[GoalDict, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: decides start and goal; None goes on.
            options: the package's `reset_cell` and `goal_cell`.
        """
        super().reset(seed=seed)
        observation, info = self.inner.reset(seed=seed, options=options)
        return self._turned(observation), self._info(info)

    def step(self, action: ArrayLike) -> tuple[GoalDict, float, bool, bool, dict[str, Any]]:
        """Apply an action (2,) for one step of 0.01 s."""
        turned = np.clip(action_to_pointmaze(action), -1, 1).astype(np.float32)
        observation, reward, terminated, truncated, info = self.inner.step(turned)
        return self._turned(observation), float(reward), bool(terminated), bool(truncated), self._info(info)

    def compute_reward(self, achieved_goal: ArrayLike, desired_goal: ArrayLike, info: Any) -> Any:
        """Score positions (..., 2) against goals, as `step` does; distances are the same in both frames."""
        return self.inner.compute_reward(np.asarray(achieved_goal), np.asarray(desired_goal), info)

    def render(self) -> Any:
        """Return the package's picture."""
        return self.inner.render()

    def close(self) -> None:
        """Close the package's environment."""
        self.inner.close()

    def _turned(self, observation: GoalDict) -> GoalDict:
        return {name: from_pointmaze(value, self.maze) for name, value in observation.items()}

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, "success": bool(info["success"]), "goal": self.goal}


def _make(env_id: str, render_mode: str | None) -> Any:
    if env_id not in register_robotics():
        raise ImportError("PointMaze needs gymnasium-robotics; install it: pip install 'dfplan[robotics]'")
    return gymnasium.make(env_id, render_mode=render_mode, disable_env_checker=True).unwrapped
