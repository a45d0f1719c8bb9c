"""Plain loops: a callable that keeps the state for one environment, and a policy made of two functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
