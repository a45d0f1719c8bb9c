"""Guidance: costs in environment units whose gradient steers every token while it is denoised.

A guidance is a function ``log_c(states, k) -> (B,)`` of the predicted clean states (B, H+1, O) in environment units
and the levels of those tokens (H+1,); higher is better. It is evaluated per sample: no mean over the batch, so its
strength is the same whatever the batch size, and the ready-made ones take a mean over tokens, so that it is the same
whatever the horizon.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dfplan.errors import unknown_name

Guidance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class GoalGuidance:
    """Pull plans towards a goal: ``log c = -scale * distance^2``, distance in environment units.

    Attributes:
        goal: (G,) or (B, G).
        columns: Observation columns of the goal.
        scale: Strength, 1 / (2 variance) of a Gaussian on the goal.
        when: ``"end"``: the last token; ``"any_time"``: the mean over all future tokens of minus the plain distance
            (the paper's ``-sum |p_t - g|``), which rewards being there early.
    """

    goal: Tensor
    columns: tuple[int, ...] = (0, 1)
    scale: float = 1.0
    when: str = "end"

    def __post_init__(self) -> None:
        if self.when not in ("end", "any_time"):
            raise unknown_name("time of goal guidance", self.when, ("end", "any_time"))
        if self.scale < 0:
            raise ValueError(f"scale must be at least 0, got {self.scale}")

    def __call__(self, states: Tensor, k: Tensor) -> Tensor:
        """Return log c (B,) of states (B, H+1, O)."""
        goal = self.goal.to(states).reshape(-1, 1, len(self.columns))
        gap = states[:, 1:, list(self.columns)] - goal
        if self.when == "end":
            return -self.scale * (gap[:, -1] ** 2).sum(-1)
        return -self.scale * (gap**2).sum(-1).add(1e-8).sqrt().mean(-1)


@dataclass(frozen=True)
class RewardGuidance:
    """Prefer plans with a high mean reward per token: ``log c = scale * mean_t reward(state_t)``.

    Attributes:
        reward: From states (B, H, O) to rewards (B, H), differentiable.
        scale: Strength.
    """

    reward: Callable[[Tensor], Tensor]
    scale: float = 1.0

    def __call__(self, states: Tensor, k: Tensor) -> Tensor:
        """Return log c (B,) of states (B, H+1, O)."""
        value = self.reward(states[:, 1:])
        if value.shape != states[:, 1:, 0].shape:
            raise ValueError(
                "reward must return one number per token, "
                f"shape {tuple(states[:, 1:, 0].shape)}, got {tuple(value.shape)}"
            )
        return self.scale * value.mean(-1)
