"""A transformer's block: attention among tokens, then each token on its own, both told the token's level."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfplan.models.embedding import rotate


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Compute masked attention; written out on the CPU, where the fused bf16 backward pass is about seven times slower.

    Args:
        q: (B, heads, n, c), and likewise ``k`` and ``v`` (B, heads, m, c).
        mask: bool, broadcastable to (B, heads, n, m), True where a row may look at a column; no row is empty.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    logits = (q @ k.transpose(-1, -2)) * (1 / math.sqrt(q.shape[-1]))
    return logits.masked_fill(~mask, float("-inf")).softmax(-1).to(v.dtype) @ v


class Block(nn.Module):
    """One pre-norm block; scale and shift of both norms come from each token's own level."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 4 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        for layer in (self.out, self.down):
            nn.init.normal_(layer.weight, std=0.02 / math.sqrt(6))
            nn.init.zeros_(layer.bias)

    def forward(
        self, h: Tensor, levels: Tensor, one_hot: Tensor, mask: Tensor, turn: tuple[Tensor, Tensor] | None,
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:  # fmt: skip
        """Update the residual stream (B, n, C).

        Args:
            h: (B, n, C).
            levels: (U, C), the levels that occur, embedded.
            one_hot: (B, n, U), picks a level per token.
            mask: Who looks at whom, the remembered tokens first.
            turn: Cosines and sines of rotary positions, or None.
            past: Keys and values of the remembered tokens, or None.

        Returns:
            The stream, and the keys and values of the remembered tokens and those passed.
        """
        B, n, C = h.shape
        scale1, shift1, scale2, shift2 = (one_hot @ self.modulation(levels)).chunk(4, -1)
        y = F.layer_norm(h, (C,)) * (1 + scale1) + shift1
        q, key, value = self.qkv(y).reshape(B, n, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        if turn is not None:
            q, key = rotate(q, turn), rotate(key, turn)
        if past is not None:
            key, value = torch.cat([past[0].to(key.dtype), key], 2), torch.cat([past[1].to(value.dtype), value], 2)
        h = h + self.out(attend(q, key, value, mask).transpose(1, 2).reshape(B, n, C))
        y = F.layer_norm(h, (C,)) * (1 + scale2) + shift2
        mixed: Tensor = self.down(F.relu(self.up(y)).square())
        return h + mixed, (key, value)
