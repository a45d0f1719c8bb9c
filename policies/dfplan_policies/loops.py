"""Plain loops: a callable that keeps the state for one environment, a policy made of two functions, an episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dfplan_policies.per_environment import PerEnvironmentPolicy
from dfplan_policies.protocol import FloatArray, NumberedPolicy, Policy


class AgentLoop:
    """Act in one environment, and keep the policy's state in between.

    ``action = agent(observation)`` in place of ``actions, state = policy.predict(observation[None], state, ...)``.
    For a whole batch, or to branch off, call the policy itself.

    Args:
        policy: Anything with ``predict``: a policy of this package, a stable-baselines3 algorithm.
        deterministic: Passed on.
    """

    def __init__(self, policy: Policy, *, deterministic: bool = True) -> None:
        self.policy, self.deterministic = policy, deterministic
        self.state: Any = None
        self._start = True

    def reset(self, episode: int | None = None) -> None:
        """Begin an episode; to be called with every ``env.reset``.

        Args:
            episode: Its number, which decides the policy's draws; None counts on from the last.

        Raises:
            ValueError: If the policy's episodes have no numbers.
        """
        self._start = True
        if episode is None:
            return
        if not isinstance(self.policy, NumberedPolicy):
            raise ValueError(
                f"{type(self.policy).__name__} has no start(episodes), so episode={episode} says nothing to it; "
                "leave it out"
            )
        self.state = self.policy.start([episode])

    def __call__(self, observation: Any) -> Any:
        """Return the action for an observation as ``env.reset`` and ``env.step`` give it, for ``env.step``."""
        row = {k: np.asarray(v)[None] for k, v in observation.items()} if isinstance(observation, Mapping) else None
        batch = np.asarray(observation)[None] if row is None else row
        actions, self.state = self.policy.predict(
            batch, state=self.state, episode_start=np.array([self._start]), deterministic=self.deterministic
        )
        self._start = False
        return actions[0]


class FunctionalPolicy(PerEnvironmentPolicy[Any]):
    """Make a policy of two functions, which act in one environment and know nothing of batches.

    Args:
        act: ``(memory, observation (O,), goal (G,) or None) -> (action (A,), next memory)``; must not change the
            memory.
        begin: ``(episode) -> memory`` at the start of an episode; by default the memory is the episode's number.
        goal: (G,), for observations that bring no ``desired_goal``.
    """

    def __init__(
        self,
        act: Callable[[Any, FloatArray, FloatArray | None], tuple[Any, Any]],
        begin: Callable[[int], Any] | None = None,
        *,
        goal: FloatArray | None = None,
    ) -> None:
        self._act, self._begin, self.goal = act, begin, goal

    def begin(self, episode: int) -> Any:
        """Return the memory at the start of an episode."""
        return episode if self._begin is None else self._begin(episode)

    def act(self, memory: Any, observation: FloatArray, goal: FloatArray | None) -> tuple[FloatArray, Any]:
        """Call the function."""
        action, memory = self._act(memory, observation, goal)
        return np.asarray(action), memory


@dataclass(frozen=True)
class EpisodeOutcome:
    """Say how an episode went.

    Attributes:
        total: Sum of rewards.
        steps: How many.
        success: Whether ``info`` said so at any time, as ``is_success`` or ``success``.
        frames: Pictures (H, W, 3) uint8 that were kept.
    """

    total: float
    steps: int
    success: bool
    frames: tuple[Any, ...] = ()


def run_episode(policy: Policy, env: Any, seed: int, *, frame_every: int = 0) -> EpisodeOutcome:
    """Run one episode; ``seed`` decides the start, and for policies with numbered episodes their draws.

    Args:
        policy: Anything with ``predict``.
        env: A Gymnasium environment with a time limit, not a vector of them.
        seed: Of the reset, 0 or more.
        frame_every: Keep a picture every so many steps; 0 keeps none. Needs ``render_mode="rgb_array"``.
    """
    agent = AgentLoop(policy)
    agent.reset(seed if isinstance(policy, NumberedPolicy) else None)
    observation, _ = env.reset(seed=seed)
    total, steps, success, over, frames = 0.0, 0, False, False, []
    while not over:
        if frame_every and steps % frame_every == 0:
            frames.append(env.render())
        observation, reward, terminated, truncated, info = env.step(agent(observation))
        total, steps, over = total + float(reward), steps + 1, terminated or truncated
        success = success or bool(info.get("is_success", info.get("success", False)))
    return EpisodeOutcome(total, steps, success, tuple(frames))
