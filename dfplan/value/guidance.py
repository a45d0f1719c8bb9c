"""Guide sampling by a learned return."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dfplan.guidance.base import check_not_negative
from dfplan.value.model import ValueModel


@dataclass(frozen=True)
class ValueGuidance:
    """Prefer plans with a high learned return: ``log c(x, k) = scale * E[return | x]`` of the noisy tokens x.

    It goes to ``noisy_log_cost`` of `dfplan.sampler.sample`. The exact guidance towards ``exp(scale * return)`` is
    ``log E[exp(scale * return) | x]``; this is its first cumulant, the same up to a constant where the spread of the
    return given x does not depend on x (as for a Gaussian), and less eager to gamble otherwise.

    Attributes:
        model: Trained on the same layout, statistics and levels as the denoiser.
        tokens: int64 (n,), the positions in the layout of the tokens that are sampled.
        scale: Strength, in 1 / return.
    """

    model: ValueModel
    tokens: Tensor
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_not_negative("scale", self.scale)

    def __call__(self, x: Tensor, k: Tensor) -> Tensor:
        """Return log c (B,) of noisy tokens x (B, n, D) at levels k (n,)."""
        value: Tensor = self.model(x, k.to(x.device).expand(x.shape[:2]), self.tokens)
        return self.scale * value
