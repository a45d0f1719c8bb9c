"""The contract that every denoiser keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Cond:
    """Say which tokens are present and who may look at whom.

    Attributes:
        causal: Causal attention if True, full attention if False.
        tokens: int64 (n,), the positions in the layout of the n tokens that are present; None if all are. A subset may
            be given per sample as (B, n).
    """

    causal: bool = True
    tokens: Tensor | None = None


class Denoiser(Protocol):
    """Predict the clean tokens.

    ``x`` (B, n, D) are noisy tokens, ``k`` int64 (B, n) their levels; the result is x0_hat (B, n, D). Sample b depends
    on sample b alone. A token at level K tells the others nothing.
    """

    def __call__(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        """Return x0_hat (B, n, D)."""
        ...
