"""A transformer that sees noisy tokens and their levels and predicts the clean ones, causally or with full attention.

Two properties hold by construction. A token at level K carries no information: its content is replaced by 0 and no
other token attends to it. And an output depends only on the tokens that the layout allows (`TokenSpec.attention`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfplan.errors import unknown_name
from dfplan.models.base import Cond
from dfplan.noise import alpha_bar_table, check_levels, to_x0
from dfplan.tokens import TokenSpec

PREDICTIONS = ("v", "x0", "eps")


@dataclass(frozen=True)
class TransformerConfig:
    """Size of the network and its noise levels.

    Attributes:
        width: Channels of the residual stream.
        layers: Blocks.
        heads: Attention heads; must divide ``width``.
        levels: K, noise levels.
        noise: Name of the alpha_bar table.
        prediction: What the head outputs: ``"v"``, ``"x0"`` or ``"eps"``; converted to x0_hat at the edge.
    """

    width: int = 192
    layers: int = 3
    heads: int = 4
    levels: int = 100
    noise: str = "cosine"
    prediction: str = "v"

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "levels"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, got {self.heads} heads and width {self.width}")
        if self.prediction not in PREDICTIONS:
            raise unknown_name("prediction", self.prediction, PREDICTIONS)
        alpha_bar_table(self.noise, self.levels)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Compute masked attention; written out on the CPU, where the fused bf16 backward pass is about seven times slower.

    Args:
        q: (B, heads, n, c), and likewise ``k`` and ``v``.
        mask: bool, broadcastable to (B, heads, n, n), True where a row may look at a column; no row is empty.
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

    def forward(self, h: Tensor, level: Tensor, one_hot: Tensor, mask: Tensor) -> Tensor:
        """Update the residual stream (B, n, C); ``level`` (K+1, C) embeds all levels, ``one_hot`` (B, n, K+1) picks
        one per token.
        """
        B, n, C = h.shape
        scale1, shift1, scale2, shift2 = (one_hot @ self.modulation(level)).chunk(4, -1)
        y = F.layer_norm(h, (C,)) * (1 + scale1) + shift1
        q, key, v = self.qkv(y).reshape(B, n, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        h = h + self.out(attend(q, key, v, mask).transpose(1, 2).reshape(B, n, C))
        y = F.layer_norm(h, (C,)) * (1 + scale2) + shift2
        mixed: Tensor = self.down(F.relu(self.up(y)).square())
        return h + mixed


class TransformerDenoiser(nn.Module):
    """Denoise the tokens of one layout; see the module's text for what is exact.

    Args:
        spec: The token layout (T positions, width D).
        config: The network's size and levels.
    """

    alpha_bar: Tensor
    column_mask: Tensor
    allowed: Tensor

    def __init__(self, spec: TokenSpec, config: TransformerConfig) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        C = config.width
        self.register_buffer("alpha_bar", alpha_bar_table(config.noise, config.levels), persistent=False)
        self.register_buffer("column_mask", spec.column_mask(), persistent=False)
        self.register_buffer("allowed", torch.stack([spec.attention(False), spec.attention(True)]), persistent=False)
        self.content = nn.Linear(spec.width, C)
        self.position = nn.Parameter(torch.randn(spec.tokens, C) * 0.02)
        self.mode = nn.Parameter(torch.randn(2, C) * 0.02)
        self.level = nn.Sequential(nn.Linear(64, C), nn.SiLU(), nn.Linear(C, C), nn.SiLU())
        self.blocks = nn.ModuleList(Block(C, config.heads) for _ in range(config.layers))
        self.head = nn.Linear(C, spec.width)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def levels(self) -> int:
        """K, the number of noise levels."""
        return self.config.levels

    def _level_features(self, dtype: torch.dtype) -> Tensor:
        """Embed all levels 0..K by sines of 32 frequencies, (K+1, 64)."""
        u = torch.arange(self.levels + 1, device=self.position.device, dtype=torch.float32) / self.levels
        angle = u[:, None] * torch.exp(torch.linspace(0, math.log(1000), 32, device=u.device))
        return torch.cat([angle.sin(), angle.cos()], -1).to(dtype)

    def _mask(self, positions: Tensor, k: Tensor, causal: bool) -> Tensor:
        """Build (B, 1, n, n): the layout's rule, and nobody but itself looks at a token at level K."""
        n = k.shape[1]
        rows, columns = positions.unsqueeze(-1), positions.unsqueeze(-2)
        allowed = self.allowed[int(causal)][rows, columns]
        itself = torch.eye(n, dtype=torch.bool, device=k.device)
        return ((allowed & (k < self.levels).unsqueeze(-2)) | itself).unsqueeze(1)

    def network(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        """Return the raw head output (B, n, D) in the kind ``config.prediction``."""
        positions = cond.tokens if cond.tokens is not None else torch.arange(self.spec.tokens, device=x.device)
        if x.shape[1] != positions.shape[-1]:
            raise ValueError(
                f"x holds {x.shape[1]} tokens but cond.tokens names {positions.shape[-1]}; name each token present"
            )
        known = (k < self.levels).unsqueeze(-1) & self.column_mask[positions]
        h = self.content(torch.where(known, x, torch.zeros_like(x)))
        h = h + self.position[positions] + self.mode[int(cond.causal)]
        level = self.level(self._level_features(self.position.dtype))
        one_hot = F.one_hot(k, self.levels + 1).to(h.dtype)  # a product is faster than a gather, forwards and backwards
        mask = self._mask(positions, k, cond.causal)
        for block in self.blocks:
            h = block(h, level, one_hot, mask)
        output: Tensor = self.head(F.layer_norm(h, (h.shape[-1],)))
        return output.to(x.dtype)

    def forward(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        """Predict the clean tokens.

        Args:
            x: Noisy tokens (B, n, D).
            k: Levels int64 (B, n).
            cond: Which tokens are present, causal or full.

        Returns:
            x0_hat (B, n, D), 0 in the columns that a token does not use.

        Raises:
            TypeError: If ``k`` is not an integer tensor.
            ValueError: If the shape or range of ``k`` is wrong, or ``x`` holds other tokens than ``cond`` names.
        """
        check_levels(k, x.shape[:2], self.levels)
        positions = cond.tokens if cond.tokens is not None else torch.arange(self.spec.tokens, device=x.device)
        x0_hat = to_x0(self.config.prediction, self.network(x, k, cond), x, k, self.alpha_bar)
        return x0_hat * self.column_mask[positions]
