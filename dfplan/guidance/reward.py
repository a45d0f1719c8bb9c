"""Prefer plans with a high reward: over the whole plan, or from the first unfinished token on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dfplan.guidance.base import check_not_negative

Reward = Callable[[Tensor], Tensor]
"""From states (B, H, O) in environment units to rewards (B, H), differentiable."""


def rewards_of(reward: Reward, states: Tensor) -> Tensor:
    """Compute the rewards (B, H) of the future states in ``states`` (B, H+1, O).

    Raises:
        ValueError: If ``reward`` returns another shape.
    """
    value = reward(states[:, 1:])
    expected = tuple(states[:, 1:, 0].shape)
    if tuple(value.shape) != expected:
        raise ValueError(f"reward must return one number per token, shape {expected}, got {tuple(value.shape)}")
    return value


@dataclass(frozen=True)
class RewardGuidance:
    """Prefer plans with a high mean reward per token: ``log c = scale * mean_t reward(state_t)``.

    Attributes:
        reward: From states (B, H, O) to rewards (B, H), differentiable.
        scale: Strength, in 1 / (reward per token).
    """

    reward: Reward
    scale: float = 1.0

    def __call__(self, states: Tensor, k: Tensor) -> Tensor:
        """Return log c (B,) of states (B, H+1, O)."""
        return self.scale * rewards_of(self.reward, states).mean(-1)


@dataclass(frozen=True)
class LookAheadReward:
    """Prefer plans whose rewards from here on are high: a discounted sum from the first unfinished token u on.

    ``log c = scale * (1 - discount) * sum_{t >= u} discount^(t - u) * reward(state_t)``, where u is the first future
    token whose level is above 0 (the first of all if none is: a finished plan is scored as a whole). The weights depend
    on the distance from u alone, not on the horizon, and sum up to at most 1, so that ``scale`` compares with that of
    `RewardGuidance`. What is already decided can no longer be changed and drops out, and what lies more than about
    ``1 / (1 - discount)`` tokens ahead counts little.

    Attributes:
        reward: From states (B, H, O) to rewards (B, H), differentiable.
        scale: Strength, in 1 / (reward per token).
        discount: Per token, in [0, 1); 0 looks at token u alone.
    """

    reward: Reward
    scale: float = 1.0
    discount: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.discount < 1:
            raise ValueError(
                f"discount must lie in [0, 1), got {self.discount}; RewardGuidance has no discount and takes the mean"
            )
        check_not_negative("scale", self.scale)

    def __call__(self, states: Tensor, k: Tensor) -> Tensor:
        """Return log c (B,) of states (B, H+1, O) at levels k (H+1,)."""
        value = rewards_of(self.reward, states)
        unfinished = (k[1:] > 0).to(torch.int64)
        ahead = torch.arange(value.shape[1], device=value.device) - unfinished.argmax().to(value.device)
        weight = torch.where(ahead >= 0, self.discount ** ahead.clamp_min(0).to(value), torch.zeros_like(value[0]))
        return self.scale * (1 - self.discount) * (value * weight).sum(-1)
