"""The contract that every denoiser keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

from torch import Tensor


class Memory(Protocol):
    """What a denoiser remembers of the tokens before; it is never changed, only extended to a new one."""

    @property
    def next(self) -> int:
        """Position that follows the last remembered token."""
        ...

    def repeat(self, n: int) -> Self:
        """Return the memory of a batch in which every sample is repeated ``n`` times in a row."""
        ...

    def detach(self) -> Self:
        """Return the memory cut off from gradients."""
        ...


@dataclass(frozen=True)
class Cond:
    """Say which tokens are present, who may look at whom, and what came before.

    Attributes:
        causal: Causal attention if True, full attention if False.
        tokens: int64 (n,), the positions in the layout of the n tokens that are present; None if all are (with a
            memory: those that follow it, in a plain sequence). A subset may be given per sample as (B, n).
        memory: What an earlier call remembered of tokens that are not passed again; only with causal attention.
    """

    causal: bool = True
    tokens: Tensor | None = None
    memory: Any = None


class Denoiser(Protocol):
    """Predict the clean tokens.

    ``x`` (B, n, D) are noisy tokens, ``k`` int64 (B, n) their levels; the result is x0_hat (B, n, D). Sample b depends
    on sample b alone. A token at level K tells the others nothing.
    """

    def __call__(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        """Return x0_hat (B, n, D)."""
        ...


class RememberingDenoiser(Denoiser, Protocol):
    """A causal denoiser that can leave tokens behind: what later tokens need of them is kept in a memory.

    Passing tokens together, or some first (remembered) and the rest with that memory, gives the same x0_hat.
    """

    def advance(self, x: Tensor, k: Tensor, cond: Cond, keep: int) -> tuple[Tensor, Any]:
        """Return x0_hat (B, n, D) of all tokens and the memory extended by the first ``keep`` of them."""
        ...


def remember(model: RememberingDenoiser, x: Tensor, k: Tensor, cond: Cond) -> Any:
    """Extend a memory by all tokens that are passed, at their levels."""
    return model.advance(x, k, cond, x.shape[1])[1]
