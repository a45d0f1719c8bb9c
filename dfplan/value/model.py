"""The network: tokens with levels of their own in, one number out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfplan.layout import Layout
from dfplan.noise import alpha_bar_table, check_levels
from dfplan.tokens import GOAL


@dataclass(frozen=True)
class ValueConfig:
    """Size of the network and its noise levels, which must be those of the denoiser that it guides.

    Attributes:
        width: Channels.
        layers: Attention blocks.
        heads: Attention heads; must divide ``width``.
        levels: K.
        noise: Name of the alpha_bar table.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    levels: int = 100
    noise: str = "cosine"

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "levels"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, got {self.heads} heads and width {self.width}")
        alpha_bar_table(self.noise, self.levels)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


class _Block(nn.Module):
    """Attention over the tokens that may be seen, then a layer per token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: Tensor, seen: Tensor) -> Tensor:
        """Update h (B, n, C); ``seen`` bool (B, 1, 1, n)."""
        B, n, C = h.shape
        q, k, v = self.qkv(F.layer_norm(h, (C,))).reshape(B, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        h = h + self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).reshape(B, n, C))
        mixed: Tensor = h + self.down(F.gelu(self.up(F.layer_norm(h, (C,)))))
        return mixed


class ValueModel(nn.Module):
    """Estimate ``E[return | noisy tokens]``.

    A token at level K tells the model nothing, exactly: nobody looks at it, so that it might as well be absent. In a
    layout with returns the same holds for the goal token: it holds what is to be estimated.

    Args:
        spec: The token layout, that of the denoiser.
        config: Size and levels.
    """

    alpha_bar: Tensor
    column_mask: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, spec: Layout, config: ValueConfig) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        C = config.width
        self.register_buffer("alpha_bar", alpha_bar_table(config.noise, config.levels), persistent=False)
        self.register_buffer("column_mask", spec.column_mask(), persistent=False)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.content = nn.Linear(spec.width, C)
        self.level = nn.Sequential(nn.Linear(10, C), nn.SiLU(), nn.Linear(C, 2 * C))
        self.position = nn.Parameter(torch.randn(spec.tokens, C) * 0.1)
        self.query = nn.Parameter(torch.randn(C) * 0.1)
        self.blocks = nn.ModuleList(_Block(C, config.heads) for _ in range(config.layers))
        self.head = nn.Linear(C, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def levels(self) -> int:
        """K."""
        return self.config.levels

    def set_scale(self, mean: float, std: float) -> None:
        """Set the mean and the standard deviation of the returns; the network itself predicts about unit variance."""
        self.mean.fill_(mean)
        self.std.fill_(std if std > 0 else 1.0)

    def forward(self, x: Tensor, k: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Estimate the return.

        Args:
            x: Noisy tokens (B, n, D).
            k: Levels int64 (B, n).
            tokens: int64 (n,) or (B, n), their positions in the layout; None if all are there.

        Returns:
            (B,), in the units of the returns of training.

        Raises:
            TypeError: If ``k`` is not an integer tensor.
            ValueError: If a shape or level does not fit.
        """
        check_levels(k, x.shape[:2], self.levels)
        positions = torch.arange(self.spec.tokens) if tokens is None else tokens
        positions = positions.to(x.device)
        if positions.shape[-1] != x.shape[1]:
            raise ValueError(f"x holds {x.shape[1]} tokens but tokens names {positions.shape[-1]}; name each of them")
        seen = k < self.levels
        if getattr(self.spec, "returns", False):
            seen = seen & (positions != GOAL)
        content = self.content(torch.where(seen.unsqueeze(-1) & self.column_mask[positions], x, torch.zeros_like(x)))
        scale, shift = self.level(self._level_features(k, x.dtype)).chunk(2, -1)
        h = content * (1 + scale) + shift + self.position[positions]
        h = torch.cat([self.query.expand(len(x), 1, -1), h], 1)  # the query reads the others and is always seen
        mask = torch.cat([torch.ones_like(seen[:, :1]), seen], 1)[:, None, None, :]
        for block in self.blocks:
            h = block(h, mask)
        value: Tensor = self.head(F.layer_norm(h[:, 0], (h.shape[-1],)))[:, 0]
        return self.mean + self.std * value

    def _level_features(self, k: Tensor, dtype: torch.dtype) -> Tensor:
        """Describe levels by signal and noise and by sines, (B, n, 10)."""
        a = self.alpha_bar[k].unsqueeze(-1)
        angle = k.unsqueeze(-1) / self.levels * math.pi * torch.tensor([0.5, 1.0, 2.0, 4.0], device=k.device)
        return torch.cat([a.sqrt(), (1 - a).sqrt(), angle.sin(), angle.cos()], -1).to(dtype)
