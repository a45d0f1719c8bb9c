"""Roll policies out: one vector loop for all, with starts that depend only on the seed and the episode."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

import dfplan_envs  # noqa: F401  (registers the ids)
from dfplan_envs.wrappers import show_goal
from dfplan_policies import NumberedPolicy, Policy, Telemetry, TelemetryPolicy

FloatArray = NDArray[np.floating[Any]]
OnStep = Callable[[int], None]
MEASURED = ("observation", "state", "proprio")  # of a Dict, the part that is recorded: the first that there is


@dataclass(frozen=True)
class EpisodeRecord:
    """Hold what happened in one episode of T steps.

    Attributes:
        number: Which episode of the run it is; with the run's seed it decides the start.
        seed: What the environment was reset with.
        goal: (G,); empty if the task has none.
        observations: float32 (T+1, O).
        actions: float32 (T, A).
        rewards: float64 (T,).
        success: bool (T,), whether the goal was touched after each step.
        contact: bool (T,), whether a wall was touched in each step.
        telemetry: The plans made and what acting cost.
        judged: Whether the environment says what success is; if not, ``success`` is False throughout.
        stage: The furthest stage of the task, where the environment counts stages (``info["stage"]``); else None.
    """

    number: int
    seed: int
    goal: FloatArray
    observations: FloatArray
    actions: FloatArray
    rewards: FloatArray
    success: NDArray[np.bool_]
    contact: NDArray[np.bool_]
    telemetry: Telemetry = field(default_factory=Telemetry)
    judged: bool = True
    stage: int | None = None

    @property
    def steps(self) -> int:
        """T."""
        return len(self.rewards)

    @cached_property
    def strict_return(self) -> float:
        """Sum of the environment's own rewards."""
        return float(self.rewards.sum())

    @cached_property
    def first_reach(self) -> int | None:
        """Steps until the goal was first touched, at least 1; None if it never was."""
        return int(self.success.argmax()) + 1 if bool(self.success.any()) else None

    @cached_property
    def latched_return(self) -> float | None:
        """One per step from the first touch on, whatever happens later; None if the reward is not the touch itself."""
        if not self.judged or not np.array_equal(self.rewards, self.success.astype(np.float64)):
            return None
        return 0.0 if self.first_reach is None else float(self.steps - self.first_reach + 1)

    @cached_property
    def collisions(self) -> int:
        """How many times the ball came into contact with a wall."""
        return int(self.contact[0]) + int((self.contact[1:] & ~self.contact[:-1]).sum()) if self.steps else 0


@dataclass
class Clock:
    """Add up where the time goes.

    Attributes:
        policy_s: Seconds spent in ``predict``.
        loop_s: Seconds of the whole loop: acting, simulating, recording.
        steps: Control steps taken, summed over environments.
        calls_s: Seconds of every call of ``predict``.
    """

    policy_s: float = 0.0
    loop_s: float = 0.0
    steps: int = 0
    calls_s: list[float] = field(default_factory=list)

    def add(self, other: Clock) -> None:
        """Add another clock's times."""
        self.policy_s += other.policy_s
        self.loop_s += other.loop_s
        self.steps += other.steps
        self.calls_s += other.calls_s


def episode_seed(seed: int, number: int) -> int:
    """Return what episode ``number`` of a run is reset with."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def make_env(env_id: str, env_kwargs: Mapping[str, Any] | None = None) -> gymnasium.Env[Any, Any]:
    """Make an environment, one that shows its goal if it is a maze."""
    return show_goal(gymnasium.make(env_id, disable_env_checker=True, **(env_kwargs or {})))


def run_episodes(
    policy: Policy,
    env_id: str,
    numbers: Sequence[int],
    *,
    seed: int,
    num_envs: int,
    env_kwargs: Mapping[str, Any] | None = None,
    reset_options: Mapping[str, Any] | None = None,
    on_step: OnStep | None = None,
) -> tuple[list[EpisodeRecord], Clock]:
    """Run the given episodes, ``num_envs`` at a time.

    Args:
        policy: Any policy.
        env_id: A registered id.
        numbers: Which episodes.
        seed: Seed of the run.
        num_envs: Environments that act side by side.
        env_kwargs: Passed to ``gymnasium.make``.
        reset_options: Passed to every reset.
        on_step: Called with the number of control steps just taken.

    Returns:
        The records in the order of ``numbers``, and where the time went.
    """
    envs = [make_env(env_id, env_kwargs) for _ in range(min(num_envs, len(numbers)))]
    records: list[EpisodeRecord] = []
    clock = Clock()
    try:
        for first in range(0, len(numbers), num_envs):
            chunk = list(numbers[first : first + num_envs])
            group = _Group(envs[: len(chunk)], chunk, seed, dict(reset_options or {}))
            records += group.run(policy, clock, on_step)
    finally:
        for env in envs:
            env.close()
    return records, clock


class _Group:
    """Environments that act side by side, from their resets to the end of the last one."""

    def __init__(
        self, envs: list[gymnasium.Env[Any, Any]], numbers: list[int], seed: int, options: dict[str, Any]
    ) -> None:
        self.envs, self.numbers = envs, numbers
        self.seeds = [episode_seed(seed, number) for number in numbers]
        resets = [env.reset(seed=s, options=options or None) for env, s in zip(envs, self.seeds, strict=True)]
        self.now = [observation for observation, _ in resets]
        self.goals = [_goal(o, info) for o, info in resets]
        self.seen = [[_measured(o)] for o in self.now]
        self.rows: list[list[tuple[Any, float, bool | None, bool]]] = [[] for _ in envs]
        self.telemetry: list[Telemetry | None] = [None] * len(envs)
        self.stages: list[int | None] = [None] * len(envs)

    def run(self, policy: Policy, clock: Clock, on_step: OnStep | None) -> list[EpisodeRecord]:
        """Act until every episode has ended; one that ends early is shown its last observation until then."""
        began = time.perf_counter()
        state = policy.start(self.numbers) if isinstance(policy, NumberedPolicy) else None
        starts = np.ones(len(self.envs), dtype=bool)
        active = list(range(len(self.envs)))
        while active:
            batch = _batch(self.now)
            asked = time.perf_counter()
            actions, state = policy.predict(batch, state=state, episode_start=starts, deterministic=True)
            clock.calls_s.append(time.perf_counter() - asked)
            clock.policy_s += clock.calls_s[-1]
            starts = np.zeros(len(self.envs), dtype=bool)
            ended = [i for i in active if self._step(i, actions[i])]
            if ended and isinstance(policy, TelemetryPolicy):
                costs = policy.telemetry(state)
                for i in ended:
                    self.telemetry[i] = costs[i]
            clock.steps += len(active)
            if on_step is not None:
                on_step(len(active))
            active = [i for i in active if i not in ended]
        clock.loop_s += time.perf_counter() - began
        return [self._record(i) for i in range(len(self.envs))]

    def _step(self, i: int, action: Any) -> bool:
        """Step one environment; returns whether its episode has ended."""
        env = self.envs[i]
        action = np.asarray(action, dtype=env.action_space.dtype)
        self.now[i], reward, terminated, truncated, info = env.step(action)
        self.seen[i].append(_measured(self.now[i]))
        success = info.get("success", info.get("is_success"))
        if "stage" in info:
            self.stages[i] = max(int(info["stage"]), self.stages[i] or 0)
        row = None if success is None else bool(success)
        self.rows[i].append((np.atleast_1d(action), float(reward), row, bool(info.get("contact", False))))
        return terminated or truncated

    def _record(self, i: int) -> EpisodeRecord:
        actions, rewards, success, contact = zip(*self.rows[i], strict=True)
        return EpisodeRecord(
            number=self.numbers[i],
            seed=self.seeds[i],
            goal=self.goals[i],
            observations=np.array(self.seen[i], dtype=np.float32),
            actions=np.array(actions, dtype=np.float32),
            rewards=np.array(rewards, dtype=np.float64),
            success=np.array(success, dtype=bool),
            contact=np.array(contact, dtype=bool),
            telemetry=self.telemetry[i] or Telemetry(),
            judged=any(value is not None for value in success),
            stage=self.stages[i],
        )


def _measured(observation: Any) -> FloatArray:
    """Return the measured part of an observation as a vector."""
    own = observation
    if isinstance(observation, Mapping):
        own = observation[next((key for key in MEASURED if key in observation), next(iter(observation)))]
    return np.asarray(own, dtype=np.float64).reshape(-1)


def _goal(observation: Any, info: Mapping[str, Any]) -> FloatArray:
    """Return the goal of an episode; empty if there is none."""
    shown = observation.get("desired_goal", ()) if isinstance(observation, Mapping) else ()
    return np.array(info.get("goal", shown), dtype=np.float64).reshape(-1)


def _batch(observations: Sequence[Any]) -> Any:
    """Stack observations, dicts key by key."""
    if isinstance(observations[0], Mapping):
        return {key: np.stack([o[key] for o in observations]) for key in observations[0]}
    return np.stack([np.asarray(o) for o in observations])
