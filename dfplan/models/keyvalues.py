"""What a transformer remembers of tokens that are left behind."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KeyValues:
    """Remember tokens by their keys and values.

    Attributes:
        layers: One pair of (B, heads, m, c) per block.
        positions: int64 (m,).
        visible: bool (B, m), False for a token at level K, which nobody looks at.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    positions: Tensor
    visible: Tensor

    def __len__(self) -> int:
        """Count the remembered tokens."""
        return len(self.positions)

    @property
    def next(self) -> int:
        """Position that follows the last remembered token."""
        return int(self.positions.max()) + 1 if len(self) else 0

    def repeat(self, n: int) -> KeyValues:
        """Return the memory of a batch in which every sample is repeated ``n`` times in a row."""
        layers = tuple((k.repeat_interleave(n, 0), v.repeat_interleave(n, 0)) for k, v in self.layers)
        return KeyValues(layers, self.positions, self.visible.repeat_interleave(n, 0))

    def detach(self) -> KeyValues:
        """Return the memory cut off from gradients."""
        return KeyValues(tuple((k.detach(), v.detach()) for k, v in self.layers), self.positions, self.visible)

    def last(self, tokens: int) -> KeyValues:
        """Return the memory of the newest ``tokens`` tokens only."""
        if tokens >= len(self):
            return self
        part = slice(len(self) - tokens, None)
        layers = tuple((k[:, :, part], v[:, :, part]) for k, v in self.layers)
        return KeyValues(layers, self.positions[part], self.visible[:, part])

    def grown(self, layers: tuple[tuple[Tensor, Tensor], ...], positions: Tensor, visible: Tensor) -> KeyValues:
        """Return the memory with tokens appended whose keys and values ``layers`` hold behind the remembered ones."""
        shared = self.visible.stride(0) == 0 and visible.stride(0) == 0
        old, new = (self.visible[:1], visible[:1]) if shared else (self.visible, visible)
        seen = torch.cat([old, new], 1).expand(len(visible), -1)
        return KeyValues(layers, torch.cat([self.positions, positions]), seen)
