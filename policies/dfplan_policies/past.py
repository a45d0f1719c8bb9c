"""What a policy remembers of an episode: observations that may be noisy or missing, and what it did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dfplan.context import History
from dfplan_policies.protocol import FloatArray


@dataclass(frozen=True)
class Past:
    """Hold the last steps of an episode, oldest first.

    Attributes:
        obs: (n, O) observations, all NaN where one is missing.
        act: (n, A) actions; ``act[i]`` was taken after ``obs[i]``.
    """

    obs: FloatArray
    act: FloatArray

    @classmethod
    def empty(cls, obs_dim: int, act_dim: int) -> Past:
        """Return the past of an episode that begins."""
        return cls(np.zeros((0, obs_dim)), np.zeros((0, act_dim)))

    def __len__(self) -> int:
        """Count the steps."""
        return len(self.obs)

    def after(self, observation: FloatArray, action: FloatArray, limit: int) -> Past:
        """Return the past one step later; at most ``limit`` steps are kept."""
        obs, act = np.vstack([self.obs, observation[None]]), np.vstack([self.act, action[None]])
        return Past(obs[-limit:], act[-limit:]) if limit else Past(obs[:0], act[:0])

    def history(self, stride: int, tokens: int, missing: int, level: int) -> History | None:
        """Read the history tokens of now: ``stride``, 2 ``stride``, ... steps ago.

        Args:
            stride: F.
            tokens: h, at most.
            missing: K, the level of a missing observation.
            level: The level of a measured one.

        Returns:
            A batch of one, or None if the episode is younger than a token.
        """
        h = min(tokens, len(self) // stride)
        if h == 0:
            return None
        first = len(self) - h * stride
        obs = self.obs[first::stride]
        levels = np.where(np.isnan(obs).any(1), missing, level)
        rows = [torch.as_tensor(v, dtype=torch.float32)[None] for v in (obs, self.act[first:])]
        return History(rows[0], rows[1], levels=torch.as_tensor(levels)[None])

    def before(self, steps: int) -> Past:
        """Return the past as it was ``steps`` ago."""
        end = len(self) - steps
        return Past(self.obs[:end], self.act[:end])

    def since_measured(self) -> int | None:
        """Count the steps since the last observation that is not missing; None if there is none."""
        seen = np.flatnonzero(~np.isnan(self.obs).any(1))
        return len(self) - int(seen[-1]) if len(seen) else None
