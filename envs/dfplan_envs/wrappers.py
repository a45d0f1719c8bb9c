"""Wrappers around the environments."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from dfplan_envs.maze2d.env import Action, Maze2dEnv, Observation
from dfplan_envs.maze2d.task import reward_at, rewards_at
from dfplan_envs.ogbench.env import PointMazeEnv

GoalDict = dict[str, Any]


def show_goal(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Wrap this package's mazes in `GoalObservation`; leave other environments, which show what they show."""
    return GoalObservation(env) if isinstance(env.unwrapped, Maze2dEnv | PointMazeEnv) else env


class GoalObservation(
    gymnasium.ObservationWrapper[GoalDict, Action, Observation], gymnasium.utils.RecordConstructorArgs
):
    """Show the goal: observations become a dictionary, as goal-conditioned algorithms (HER) want them.

    `observation` (4,) or (2,), `achieved_goal` (2,) the position, `desired_goal` (2,) the episode's goal.
    `compute_reward` scores any pair.

    Args:
        env: a maze2d or pointmaze environment, wrapped or not.

    Raises:
        TypeError: another environment.
    """

    def __init__(self, env: gymnasium.Env[Observation, Action]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        gymnasium.ObservationWrapper.__init__(self, env)
        if not isinstance(env.unwrapped, Maze2dEnv | PointMazeEnv):
            raise TypeError(
                f"GoalObservation wraps a maze2d or pointmaze environment, got {type(env.unwrapped).__name__}; "
                "make it by gym.make('maze2d-...')"
            )
        self._maze = env.unwrapped
        box = self._maze.observation_space
        if not isinstance(box, spaces.Box):
            raise TypeError(f"GoalObservation needs plain observations, got {box}; put it under other wrappers")
        place = spaces.Box(box.low[:2], box.high[:2], dtype=np.float64)
        self.observation_space = spaces.Dict({"observation": box, "achieved_goal": place, "desired_goal": place})

    def observation(self, observation: Observation) -> GoalDict:
        """Add the achieved and the desired goal."""
        return {"observation": observation, "achieved_goal": observation[:2].copy(), "desired_goal": self._maze.goal}

    def compute_reward(
        self, achieved_goal: ArrayLike, desired_goal: ArrayLike, info: Any
    ) -> float | NDArray[np.float64]:
        """Score positions against goals, as `step` does.

        Args:
            achieved_goal: (2,) or (N, 2).
            desired_goal: (2,) or (N, 2).
            info: not used; part of the interface.

        Returns:
            A float, or (N,).

        Raises:
            ValueError: shapes that do not match.
        """
        achieved, desired = np.asarray(achieved_goal, dtype=np.float64), np.asarray(desired_goal, dtype=np.float64)
        if achieved.shape != desired.shape or achieved.shape[-1:] != (2,):
            raise ValueError(
                "achieved_goal and desired_goal must both be (2,) or (N, 2), "
                f"got {achieved.shape} and {desired.shape}; match them"
            )
        if isinstance(self._maze, PointMazeEnv):
            return self._maze.compute_reward(achieved, desired, info)
        away = achieved - desired
        distance = np.hypot(away[..., 0], away[..., 1])
        dense = self._maze.reward == "dense"
        return reward_at(float(distance), dense) if away.ndim == 1 else rewards_at(distance, dense)
