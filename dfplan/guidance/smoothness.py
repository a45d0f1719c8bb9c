"""Prefer plans without kinks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dfplan.guidance.base import check_not_negative


@dataclass(frozen=True)
class Smoothness:
    """Prefer small accelerations over tokens: ``log c = -scale * sum_t |s_{t+1} - 2 s_t + s_{t-1}|^2``.

    One factor per inner token: a kink is pushed flat by its neighbours, whatever the horizon. Accelerations are in
    environment units per token^2; divide by the duration of a token squared for SI units.

    Attributes:
        columns: Observation columns of the position.
        scale: Strength, 1 / (2 variance) of a Gaussian on the acceleration.
    """

    columns: tuple[int, ...] = (0, 1)
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_not_negative("scale", self.scale)

    def __call__(self, states: Tensor, k: Tensor) -> Tensor:
        """Return log c (B,) of states (B, H+1, O); 0 if there are fewer than three tokens."""
        return -self.scale * (states[..., list(self.columns)].diff(n=2, dim=1) ** 2).sum((1, 2))
