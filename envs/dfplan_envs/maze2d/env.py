"""D4RL's maze2d as a Gymnasium environment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, final

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from dfplan_envs._errors import unknown
from dfplan_envs.maze2d import options as opt
from dfplan_envs.maze2d.layouts import CELL_OFFSET, Maze, as_maze
from dfplan_envs.maze2d.physics import PointMass
from dfplan_envs.maze2d.render import RENDERERS, View, make_view
from dfplan_envs.maze2d.task import GOAL_RADIUS, REWARDS, draw_cell, draw_near, draw_velocity, reward_at
from dfplan_envs.scores import get_normalized_score

Observation = NDArray[np.float64]
Action = NDArray[np.float32]


@final
class Maze2dEnv(gymnasium.Env[Observation, Action]):
    """Push a ball through a maze to a goal; D4RL's task to the digit.

    Observation (4,) float64: position x (along maze rows) and y (along columns) in cells, velocity in cells per second.
    Location (row, column) is position (row, column), 0.2 off the cell's centre. The goal is not in it: see `info`, or
    `wrappers.GoalObservation`.
    Action (2,) float32 in [-1, 1]: motors along x and y; one step is 0.01 s.
    Reward, of the state after the step: 1 within 0.5 of the goal, else 0; dense: exp(-distance). An episode ends by its
    time limit only (`truncated`); `terminated` is never True.
    Info: `success` (within 0.5 now), `goal` (2,), `distance_to_goal`, `contact` (a wall pushed the ball in this step).
    Reset: a free cell drawn uniformly, the goal's included, +-0.1 per axis; velocity N(0, 0.1^2). Options: `goal` ((2,)
        or "random"),
    `location` ((row, column), with the same noise), `state` ((4,), exact). They hold for one episode.

    Args:
        maze: a layout's name, rows of '#', 'O' and 'G', or a `Maze`.
        reward: "sparse" or "dense".
        goal: None for the maze's 'G' cell, "random" for one drawn at every reset (a free cell, +-0.1), or a fixed (2,)
            position.
        render_mode: None or "rgb_array".
        renderer: "topdown" (numpy, runs anywhere) or "mujoco" (offscreen, needs EGL, OSMesa or a display).
        render_size: longer side of a frame, in pixels.

    Raises:
        ValueError: an ill-formed maze, no goal, a goal inside a wall, or an unknown choice.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 100}  # type: ignore[misc]

    def __init__(
        self,
        maze: Maze | str | Sequence[str] | None = None,
        reward: Literal["sparse", "dense"] = "sparse",
        goal: ArrayLike | Literal["random"] | None = None,
        render_mode: str | None = None,
        renderer: Literal["topdown", "mujoco"] = "topdown",
        render_size: int = 480,
    ) -> None:
        if maze is None:
            raise ValueError(
                "maze2d needs a maze, got none; pass maze='large' or rows such as ['#####', '#OOG#', '#####']"
            )
        for kind, value, choices in (
            ("reward", reward, REWARDS),
            ("renderer", renderer, RENDERERS),
            ("render_mode", render_mode, (None, *self.metadata["render_modes"])),
        ):
            if value not in choices:
                raise unknown(kind, value, map(str, choices))
        self.maze = as_maze(maze)
        self.render_mode = render_mode
        self.reward = reward
        self._renderer, self._render_size = renderer, render_size
        self._view: View | None = None
        self._dense = reward == "dense"
        self._default_goal = opt.default_goal(self.maze, goal)
        self._ball = PointMass(self.maze)
        self._goal: Observation | None = None
        self._goal_x = self._goal_y = math.nan
        low = np.array([-CELL_OFFSET, -CELL_OFFSET, -opt.SPEED_LIMIT, -opt.SPEED_LIMIT])
        high = np.array(
            [self.maze.height - CELL_OFFSET, self.maze.width - CELL_OFFSET, opt.SPEED_LIMIT, opt.SPEED_LIMIT]
        )
        self.observation_space = spaces.Box(low, high, dtype=np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, shape=(2,), dtype=np.float32)

    @property
    def drawing(self) -> dict[str, Any]:
        """Say how positions lie in the map, for `dfplan.plotting.MazeMap`."""
        return {"rows": self.maze.rows, "offset": CELL_OFFSET, "goal_radius": GOAL_RADIUS}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: seeds everything that is drawn from here on; None goes on.
            options: `goal`, `location`, `state`: see the class.

        Returns:
            Observation (4,) and info.

        Raises:
            ValueError: an unknown option, or one that is out of the maze.
        """
        super().reset(seed=seed)
        chosen = opt.read(self.maze, options)
        # Everything is drawn in any case and in this order, so that one seed gives one start whatever the goal.
        cell = draw_cell(self.maze, self.np_random)
        x, y = draw_near(chosen.location or cell, self.np_random)
        state = chosen.state or (x, y, *draw_velocity(self.np_random))
        goal = chosen.goal or self._default_goal
        self._set_goal(*(draw_near(draw_cell(self.maze, self.np_random), self.np_random) if goal == "random" else goal))
        self._ball.set(*state)
        return self.get_state(), self._info(self._distance(), contact=False)

    def step(self, action: ArrayLike) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Apply an action for 0.01 s.

        Args:
            action: (2,), clipped to [-1, 1].

        Returns:
            Observation (4,), reward, terminated (always False), truncated (False here; the time limit is a wrapper),
            info.

        Raises:
            ValueError: an action that is not two finite numbers.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self._goal is None:
            raise gymnasium.error.ResetNeeded("step() needs a state, got none; call reset() first")
        ball = self._ball
        ball.step(*opt.read_action(action))
        distance = math.hypot(ball.x - self._goal_x, ball.y - self._goal_y)
        observation = np.array((ball.x, ball.y, ball.vx, ball.vy))
        return observation, reward_at(distance, self._dense), False, False, self._info(distance, ball.contact)

    def render(self) -> NDArray[np.uint8] | None:
        """Draw the maze from above: rows go down, columns go right.

        Returns:
            (H, W, 3) uint8; None (and a warning) without a `render_mode`.

        Raises:
            RuntimeError: renderer "mujoco" without a graphics library.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render mode: gym.make(..., render_mode='rgb_array')")
            return None
        if self._goal is None:
            raise gymnasium.error.ResetNeeded("render() needs a state, got none; call reset() first")
        if self._view is None:
            self._view = make_view(self._renderer, self.maze, self._ball, self._render_size)
        return self._view.draw(self._goal_x, self._goal_y)

    def close(self) -> None:
        """Free the renderer."""
        if self._view is not None:
            self._view.close()
            self._view = None

    @property
    def goal(self) -> Observation:
        """Return this episode's goal (2,), a copy."""
        if self._goal is None:
            raise gymnasium.error.ResetNeeded("the goal is chosen by reset(); call reset() first")
        return self._goal.copy()

    def get_state(self) -> Observation:
        """Return the whole state (4,): x, y, vx, vy. What follows is a function of it and the actions."""
        return np.array((self._ball.x, self._ball.y, self._ball.vx, self._ball.vy))

    def set_state(self, state: ArrayLike) -> None:
        """Put the ball somewhere; from there the environment goes on bit for bit as it did after the same `get_state`.

        Args:
            state: (4,) x, y, vx, vy, in a free cell.

        Raises:
            ValueError: wrong shape, not finite, inside a wall, or faster than the ball can be.
        """
        self._ball.set(*opt.read_state(self.maze, state))

    def simulate(self, states: ArrayLike, actions: ArrayLike) -> Observation:
        """Foretell where actions lead, without moving the ball: the exact dynamics, walls and velocity clip included.

        Args:
            states: (N, 4) x, y, vx, vy.
            actions: (N, H, 2), clipped to [-1, 1].

        Returns:
            (N, H + 1, 4), the states before and after every step; bit for bit what `set_state` and `step` give.

        Raises:
            ValueError: wrong shapes, or numbers that are not finite.
        """
        return self._ball.simulate(*opt.read_batch(states, actions))

    def normalized_score(self, episode_return: float) -> float:
        """Put an episode's return on D4RL's scale (see `dfplan_envs.get_normalized_score`).

        Raises:
            ValueError: an environment without reference scores, or one not made by `gymnasium.make`.
        """
        if self.spec is None:
            raise ValueError("normalized_score needs the environment's id, got none; make it by gymnasium.make(id)")
        return get_normalized_score(self.spec.id, episode_return)

    def _set_goal(self, x: float, y: float) -> None:
        self._goal, self._goal_x, self._goal_y = np.array((x, y)), x, y

    def _distance(self) -> float:
        return math.hypot(self._ball.x - self._goal_x, self._ball.y - self._goal_y)

    def _info(self, distance: float, contact: bool) -> dict[str, Any]:
        goal = np.array((self._goal_x, self._goal_y))
        return {"success": distance <= GOAL_RADIUS, "goal": goal, "distance_to_goal": distance, "contact": contact}
