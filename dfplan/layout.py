"""What a denoiser needs to know of a sequence, and the plainest kind: one token after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Layout(Protocol):
    """A sequence of token positions, their columns, their causal order and who may look at whom."""

    @property
    def tokens(self) -> int:
        """T, token positions (of a training window, if the layout is open-ended)."""
        ...

    @property
    def width(self) -> int:
        """D, columns of a token."""
        ...

    def column_mask(self) -> Tensor:
        """Build the bool (T, D) mask of the columns that each token uses."""
        ...

    def order(self) -> Tensor:
        """Build the int64 (T,) causal order."""
        ...

    def attention(self, causal: bool) -> Tensor:
        """Build the bool (T, T) mask of who (row) may look at whom (column)."""
        ...


@dataclass(frozen=True)
class SequenceSpec:
    """Describe a plain sequence: tokens of one kind, the position is the causal order, and there is no last position.

    Attributes:
        width: D, columns of a token.
        tokens: T, tokens of a training window; a roll-out may be longer, with what it remembers cut to T - 1 tokens.
    """

    width: int
    tokens: int

    def __post_init__(self) -> None:
        for name in ("width", "tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")

    def column_mask(self) -> Tensor:
        """Build the bool (T, D) mask: every token uses every column."""
        return torch.ones(self.tokens, self.width, dtype=torch.bool)

    def order(self) -> Tensor:
        """Build the int64 (T,) causal order 0..T-1."""
        return torch.arange(self.tokens)

    def attention(self, causal: bool) -> Tensor:
        """Build the bool (T, T) mask: all, or all at or before."""
        everything = torch.ones(self.tokens, self.tokens, dtype=torch.bool)
        return everything.tril() if causal else everything

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"width": self.width, "tokens": self.tokens}


def is_open_ended(layout: Layout) -> bool:
    """Tell whether positions may go past the layout's last one (the causal order is the position itself)."""
    return isinstance(layout, SequenceSpec)
