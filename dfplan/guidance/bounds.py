"""Keep observation columns between bounds."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dfplan.guidance.base import Numbers, check_not_negative, per_column


@dataclass(frozen=True)
class StateBounds:
    """Keep observation columns between a lower and an upper bound at every token.

    ``log c = -scale * sum_t sum_c (max(0, low_c - s_tc)^2 + max(0, s_tc - high_c)^2)``: one factor per token and
    column, exactly 0 within the bounds.

    Attributes:
        low: (C,), (B, C) or one number for all; minus infinity where there is no bound.
        high: Likewise; infinity where there is no bound.
        columns: Observation columns that are bounded.
        scale: Strength, 1 / (2 variance) of a Gaussian on the excess, in 1 / (unit of the column)^2.
    """

    low: Numbers
    high: Numbers
    columns: tuple[int, ...] = (0, 1)
    scale: float = 10.0

    def __post_init__(self) -> None:
        check_not_negative("scale", self.scale)
        low, high = per_column("low", self.low, self.columns), per_column("high", self.high, self.columns)
        if bool((low > high).any()):
            raise ValueError(f"low must not be above high, got {low.tolist()} and {high.tolist()}")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    def __call__(self, states: Tensor, k: Tensor) -> Tensor:
        """Return log c (B,) of states (B, H+1, O)."""
        s, width = states[:, 1:, list(self.columns)], len(self.columns)
        low = per_column("low", self.low, self.columns).to(s).reshape(-1, 1, width)
        high = per_column("high", self.high, self.columns).to(s).reshape(-1, 1, width)
        excess = (low - s).clamp_min(0) ** 2 + (s - high).clamp_min(0) ** 2
        return -self.scale * excess.sum((1, 2))
