"""Hierarchy: a planner proposes sub-goals, a goal-conditioned agent reaches them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dfplan_policies.belief import as_numpy, as_row
from dfplan_policies.protocol import FloatArray
from dfplan_policies.streams import stream
from dfplan_policies.wanted import target_of, wanted

Propose = Callable[[FloatArray, FloatArray, int, int], FloatArray]
"""From an observation (O,), the goal (G,), the episode's number and a count to a path (n, G) that begins here."""

KEYS = ("observation", "achieved_goal", "desired_goal")


class PlannerGoalWrapper(gymnasium.Wrapper[Any, Any, Any, Any], gymnasium.utils.RecordConstructorArgs):
    """Show an agent the next point on a plan in place of the far goal, and reward it for getting there.

    Observations are those of a goal environment: ``observation``, ``achieved_goal`` (where it is), ``desired_goal``
    (the sub-goal). The sub-goal stays until it is reached or ``patience`` steps have passed; the next is the point
    ``ahead`` further along the plan. Near the end it is the goal itself. The reward is 0 within ``radius`` of the
    sub-goal and -1 elsewhere, so that hindsight (HER) can compute it for any other. ``info`` holds the environment's
    own reward as ``env_reward``, its success as ``is_success``, and ``reached``, sub-goals so far.

    Args:
        env: An environment with dict observations (``observation``, ``achieved_goal``, ``desired_goal``), for example
            `dfplan_envs.wrappers.GoalObservation`.
        source: A `dfplan.DFPlanner`, a policy that has one (``policy.planner``), or a function that proposes paths.
        ahead: Distance between sub-goals along the plan, environment units.
        radius: Distance at which a sub-goal counts as reached.
        patience: Steps after which the next one is chosen even so.
        replan_every: Steps between plans; a plan is also made when the agent is ``astray`` from the last one.
        astray: Distance from the plan, environment units.
        seed: With the number of the episode and a count, decides a planner's draws; ``reset(seed=s)`` begins episode s.
        **plan_options: Passed to ``planner.plan``; ``target_return`` as in `DFPolicy`.

    Raises:
        ValueError: If observations have no goals, a number is not positive, or a planner is one of other columns.
        TypeError: If ``source`` proposes nothing.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        source: Any,
        ahead: float = 0.6,
        *,
        radius: float = 0.2,
        patience: int = 50,
        replan_every: int = 200,
        astray: float = 1.0,
        seed: int = 0,
        **plan_options: Any,
    ) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(
            self, _disable_deepcopy=True, source=source, ahead=ahead, radius=radius, patience=patience,
            replan_every=replan_every, astray=astray, seed=seed, **plan_options,
        )  # fmt: skip
        gymnasium.Wrapper.__init__(self, env)
        space = env.observation_space
        if not isinstance(space, spaces.Dict) or any(key not in space.spaces for key in KEYS):
            raise ValueError(f"PlannerGoalWrapper needs dict observations with {', '.join(KEYS)}, got {space}; "
                             "wrap the environment in GoalObservation first")  # fmt: skip
        names = ("ahead", "radius", "patience", "replan_every", "astray")
        for name, value in zip(names, (ahead, radius, patience, replan_every, astray), strict=True):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self._columns = _columns(getattr(source, "planner", source), space)
        self.propose: Propose = _proposer(source, seed, plan_options)
        self.ahead, self.radius, self.patience = ahead, radius, patience
        self.replan_every, self.astray = replan_every, astray
        self._place: Any = space["desired_goal"]
        self.observation_space = spaces.Dict({key: space[key] for key in KEYS})
        self._episode = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, plan and show the first sub-goal."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._episode = self._episode + 1 if seed is None else seed
        self._plans, self._step, self._reached, self._done = 0, 0, 0, False
        self._subgoal: Any = None
        self._observation = observation
        self._plan()
        self._choose()
        return self._shown(), {**info, "final_goal": np.asarray(observation["desired_goal"])}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the environment; the reward is for the sub-goal that the new observation shows."""
        if self._done or self._step - self._shown_at >= self.patience:
            self._choose()
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._observation, self._step = observation, self._step + 1
        shown = self._shown()
        own = float(self.compute_reward(shown["achieved_goal"], shown["desired_goal"], info))
        self._reached += own == 0.0 and not self._done
        self._done = own == 0.0
        success = info.get("success", info.get("is_success", False))
        extra = {"env_reward": reward, "is_success": bool(success), "reached": self._reached}
        return shown, own, terminated, truncated, {**info, **extra}

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        """Return 0 within the radius and -1 elsewhere, for (G,) or (n, G)."""
        away = np.asarray(achieved_goal, dtype=np.float64) - np.asarray(desired_goal, dtype=np.float64)
        return -(np.linalg.norm(away, axis=-1) > self.radius).astype(np.float64)

    # ---- inside

    def _shown(self) -> dict[str, Any]:
        kept = {key: self._observation[key] for key in ("observation", "achieved_goal")}
        return {**kept, "desired_goal": self._subgoal.copy()}

    def _plan(self) -> None:
        """Ask for a path from here to the goal, and lay points along it at equal distances."""
        goal = np.asarray(self._observation["desired_goal"], dtype=np.float64)
        here = self._columns(self._observation)
        path = np.asarray(self.propose(here, goal, self._episode, self._plans), dtype=np.float64)
        self._path, self._at = _even(path, self.ahead / 10), 0
        self._plans, self._planned_at = self._plans + 1, self._step

    def _choose(self) -> None:
        """Choose the point that is ``ahead`` of the place on the plan that is nearest to here."""
        here = np.asarray(self._observation["achieved_goal"], dtype=np.float64)
        window = self._path[self._at : self._at + 40]
        distance = np.linalg.norm(window - here, axis=1)
        if distance.min() > self.astray or self._step - self._planned_at >= self.replan_every:
            self._plan()
            distance = np.linalg.norm(self._path[:40] - here, axis=1)
        self._at += int(distance.argmin())
        ahead = min(self._at + 10, len(self._path) - 1)
        chosen = np.clip(self._path[ahead], self._place.low, self._place.high).astype(self._place.dtype)
        if self._subgoal is None or not np.array_equal(chosen, self._subgoal):
            self._done = False  # the goal itself is reached once, however long it is held
        self._subgoal, self._shown_at = chosen, self._step


def _columns(planner: Any, space: spaces.Dict) -> Callable[[Any], FloatArray]:
    """Return what turns an observation into what is proposed from: a planner's columns, or the observation itself.

    A planner's columns follow from the spaces of its data; the place that is achieved may be a part of the observation
    or stand behind it.

    Raises:
        ValueError: If a planner's goals or columns are not those of the environment.
    """
    spec, codec = getattr(planner, "spec", None), getattr(getattr(planner, "spaces", None), "observation", None)
    width, goals = (math.prod(space[key].shape or ()) for key in ("observation", "desired_goal"))
    if spec is not None:
        if len(spec.goal_columns) != goals:
            raise ValueError(
                f"the planner's goals have {len(spec.goal_columns)} numbers, those of the environment {goals}; "
                "use a checkpoint that was trained with this environment's goals"
            )
        own = spec.obs_dim - (goals if codec is not None and codec.kind == "goal" and codec.appended else 0)
        if own != width:
            raise ValueError(
                f"the planner's observations have the width {own}, those of the environment {width}; "
                "use a checkpoint that was trained for this environment"
            )
    if codec is None:
        return lambda seen: np.asarray(seen["observation"], dtype=np.float64).reshape(-1)
    return lambda seen: np.asarray(codec.encode(seen if codec.kind == "goal" else seen["observation"]))


def _proposer(source: Any, seed: int, options: dict[str, Any]) -> Propose:
    """Make a function that proposes paths."""
    planner = getattr(source, "planner", source)
    if hasattr(planner, "plan"):
        spec = getattr(planner, "spec", None)
        target = target_of(planner, options.pop("target_return", None))

        def propose(observation: FloatArray, goal: FloatArray, episode: int, count: int) -> FloatArray:
            asked = as_row(np.asarray(wanted(goal, target)))
            found = planner.plan(as_row(observation), asked, generator=stream(seed, episode, count), **options)
            columns = list(range(len(goal)) if spec is None else spec.goal_columns)
            path: FloatArray = as_numpy(found.observations)[0][:, columns]
            arrival = float(found.arrival_steps[0, int(found.selected[0])])
            if np.isfinite(arrival):  # what comes after the arrival is rest
                path = np.concatenate([path[: max(2, int(np.ceil(arrival / found.stride)) + 1)], goal[None]])
            return path

        return propose
    if callable(source) and not options:
        proposing: Propose = source
        return proposing
    raise TypeError(f"PlannerGoalWrapper needs a planner, a policy with one or a function, got {type(source).__name__}")


def _even(path: FloatArray, spacing: float) -> FloatArray:
    """Lay points (m, G) along a polyline (n, G) at equal distances; its ends are kept."""
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.linspace(0.0, float(length[-1]), max(1, round(float(length[-1]) / spacing)) + 1)
    return np.stack([np.interp(at, length, column) for column in path.T], axis=1)
