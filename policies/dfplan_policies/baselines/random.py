"""The ``random`` policy: uniform actions."""

from __future__ import annotations

import numpy as np

from dfplan.spaces import Spaces
from dfplan_policies.per_environment import PerEnvironmentPolicy
from dfplan_policies.protocol import FloatArray


class RandomPolicy(PerEnvironmentPolicy[tuple[int, int]]):
    """Draw every action afresh from the policy's seed, the episode's number and the step.

    Args:
        act_dim: A, width of an action.
        seed: Seed of all draws.
        spaces: The environment's spaces, over whose actions the draws are uniform; None for [-1, 1].
    """

    def __init__(self, act_dim: int, *, seed: int = 0, spaces: Spaces | None = None) -> None:
        if act_dim < 1:
            raise ValueError(f"act_dim must be at least 1, got {act_dim}")
        self.act_dim, self.seed, self.spaces = act_dim, seed, spaces

    def begin(self, episode: int) -> tuple[int, int]:
        """Start counting steps."""
        return (episode, 0)

    def act(
        self, memory: tuple[int, int], observation: FloatArray, goal: FloatArray | None
    ) -> tuple[FloatArray, tuple[int, int]]:
        """Draw the action of this step."""
        episode, step = memory
        return np.random.default_rng([self.seed, episode, step]).uniform(-1.0, 1.0, self.act_dim), (episode, step + 1)
