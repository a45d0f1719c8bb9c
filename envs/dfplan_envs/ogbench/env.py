"""The adapter: OGBench's pointmaze with what the evaluator needs, seeded by `reset(seed=)` alone.

Dynamics, tasks, noise of starts and goals, and success are the package's. Only the source of the noise differs: the
package draws it from NumPy's global generator, here it comes from the environment's own.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from dfplan_envs._errors import unknown

Floats = NDArray[np.float64]

SIZES = ("medium", "large", "giant")
TASKS = (1, 2, 3, 4, 5)
SUCCESS_RADIUS = 1.0
DT_S = 0.1
RESET_OPTIONS = ("task_id", "render_goal")


def make_inner(size: str, **options: Any) -> Any:
    """Make the package's own environment, unwrapped.

    Args:
        size: "medium", "large" or "giant".
        options: passed to the package.

    Raises:
        ValueError: another size.
        ImportError: without the extra: pip install 'dfplan[ogbench]'.
    """
    if size not in SIZES:
        raise unknown("size of pointmaze", size, SIZES)
    try:
        from ogbench.locomaze.maze import make_maze_env
    except ImportError as error:
        raise ImportError("pointmaze needs ogbench; install it: pip install 'dfplan[ogbench]'") from error
    return make_maze_env("point", "maze", maze_type=size, **options)


class PointMazeEnv(gymnasium.Env[Floats, NDArray[np.float32]], gymnasium.utils.RecordConstructorArgs):
    """Move a ball by at most 0.2 per axis and step to a goal that may be 30 cells of 4 units away.

    Observation (2,) float64: the position (x, y). Action (2,) in [-1, 1]: the move in units of 0.2. Reward 1 within 1.0
    of the goal, which ends the episode; the registered ids truncate after 1000 steps, as the package's do.

    Every `info` has `goal` (2,), `task_id`, `success` and `contact` (whether a wall was touched in the step).

    Args:
        size: "medium", "large" or "giant".
        task: 1 to 5; None draws one at every reset. `reset(options={"task_id": 3})` goes first.

    Raises:
        ValueError: an unknown size or task.
        ImportError: without the extra `ogbench`.
    """

    metadata: dict[str, Any] = {"render_modes": [], "render_fps": round(1 / DT_S)}  # noqa: RUF012

    def __init__(self, size: str, task: int | None = None) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, size=size, task=task)
        if task is not None:
            _check_task(task)
        self.size, self.task = size, task
        self.inner = make_inner(size)
        self.inner.add_noise = self._add_noise
        grid = np.array(self.inner.maze_map)
        low = np.full(2, -float(self.inner._offset_x))
        high = low + float(self.inner._maze_unit) * (np.array(grid.shape[::-1]) - 1)
        self.observation_space = spaces.Box(low, high, dtype=np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), dtype=np.float32)
        model = self.inner.model
        self._walls = {i for i in range(model.ngeom) if model.geom(i).name.startswith("block_")}

    @property
    def goal(self) -> Floats:
        """Return the episode's goal (2,)."""
        return np.array(self.inner.cur_goal_xy, dtype=np.float64)

    @property
    def rows(self) -> list[str]:
        """Return the map, "#" for a wall; rows go along y, columns along x."""
        return ["".join("#" if cell else "O" for cell in row) for row in self.inner.maze_map]

    @property
    def drawing(self) -> dict[str, Any]:
        """Say how positions lie in the map, for `dfplan.plotting.MazeMap`."""
        unit = float(self.inner._maze_unit)
        return {
            "rows": self.rows, "offset": 1.5, "unit": unit, "x_right": True, "goal_radius": SUCCESS_RADIUS / unit
        }  # fmt: skip

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Begin an episode of a task; start and goal are the task's cells, each moved by U(-1, 1) per axis.

        Args:
            seed: decides task and noise.
            options: `task_id`, 1 to 5.

        Raises:
            ValueError: an unknown option or task.
        """
        super().reset(seed=seed)
        options = options or {}
        for option in options:
            if option not in RESET_OPTIONS:
                raise unknown("option of reset", option, RESET_OPTIONS)
        drawn = int(self.np_random.integers(1, len(TASKS) + 1))
        task = options.get("task_id", self.task if self.task is not None else drawn)
        _check_task(task)
        inner_seed = int(self.np_random.integers(2**31))
        self.inner.action_space.seed(inner_seed)
        observation, info = self.inner.reset(options={**options, "task_id": int(task)}, seed=inner_seed)
        return np.array(observation), {"goal": self.goal, "task_id": int(task), "success": False, "contact": False} | {
            k: v for k, v in info.items() if k == "goal_rendered"
        }

    def step(self, action: ArrayLike) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Move; the episode ends within 1.0 of the goal."""
        observation, reward, terminated, truncated, info = self.inner.step(np.asarray(action))
        found = {"goal": self.goal, "task_id": self.inner.cur_task_id, "success": info["success"] > 0}
        return (
            np.array(observation), float(reward), bool(terminated), bool(truncated),
            {**found, "contact": self._touches()},
        )  # fmt: skip

    def close(self) -> None:
        """Release the simulator."""
        self.inner.close()

    def compute_reward(self, achieved_goal: ArrayLike, desired_goal: ArrayLike, info: Any) -> float | Floats:
        """Score positions (2,) or (N, 2) against goals of the same shape, as `step` does."""
        away = np.asarray(achieved_goal, dtype=np.float64) - np.asarray(desired_goal, dtype=np.float64)
        near = (np.hypot(away[..., 0], away[..., 1]) <= SUCCESS_RADIUS).astype(np.float64)
        return float(near) if near.ndim == 0 else near

    def _add_noise(self, xy: Any) -> tuple[float, float]:
        """Move a place by U(-1, 1) per axis, as the package does, but from this environment's own generator."""
        x, y = self.np_random.uniform(-1.0, 1.0, 2) * float(self.inner._noise * self.inner._maze_unit) / 4
        return float(xy[0] + x), float(xy[1] + y)

    def _touches(self) -> bool:
        data = self.inner.data
        return any(not self._walls.isdisjoint((int(c.geom1), int(c.geom2))) for c in data.contact[: data.ncon])


def _check_task(task: Any) -> None:
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(map(str, TASKS))}, got {task!r}")
