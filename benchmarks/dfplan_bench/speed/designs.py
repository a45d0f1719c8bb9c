"""Three published planner designs as plain PyTorch modules with random weights, for timing only.

Written from the shapes that their papers and configurations state; nothing is trained and no plan of theirs is judged
here. What is left out makes them faster, not slower: Diffusion Veteran's critic and its policy network, Diffuser's
inpainting, environment steps in Diffusion Forcing's re-planning.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoids(values: Tensor, width: int) -> Tensor:
    """Describe numbers (...,) by sines and cosines, (..., width)."""
    half = width // 2
    rate = torch.exp(torch.arange(half, device=values.device) * -(math.log(10_000) / max(1, half - 1)))
    angle = values.float().unsqueeze(-1) * rate
    return torch.cat([angle.sin(), angle.cos()], -1)


class ForcingTransformer(nn.Module):
    """Diffusion Forcing v1.5's planner: a causal post-norm encoder over bundles of 10 steps of state and action.

    12 layers, width 128, 4 heads, feed-forward 512; a level per token enters by 64 sines beside the token.
    """

    def __init__(self, token: int = 60, width: int = 128, layers: int = 12, heads: int = 4) -> None:
        super().__init__()
        self.width = width
        self.enter = nn.Sequential(nn.Linear(token + width // 2, width), nn.ReLU(), nn.Linear(width, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.leave = nn.Linear(width, token)

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        """Predict (B, n, token) from noisy tokens and their levels (B, n)."""
        n = x.shape[1]
        h = self.enter(torch.cat([x, sinusoids(k, self.width // 2)], -1))
        h = h + sinusoids(torch.arange(n, device=x.device), self.width)
        mask = nn.Transformer.generate_square_subsequent_mask(n, device=x.device)
        out: Tensor = self.leave(self.body(h, mask=mask, is_causal=True))
        return out


class _Convolution(nn.Sequential):
    """Convolve with kernel 5, normalise 8 groups, Mish."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(nn.Conv1d(before, after, 5, padding=2), nn.GroupNorm(8, after), nn.Mish())


class _Residual(nn.Module):
    """Two convolutions; the step enters between them."""

    def __init__(self, before: int, after: int, time: int) -> None:
        super().__init__()
        self.one, self.two = _Convolution(before, after), _Convolution(after, after)
        self.time = nn.Sequential(nn.Mish(), nn.Linear(time, after))
        self.skip = nn.Conv1d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.two(self.one(x) + self.time(t).unsqueeze(-1)) + self.skip(x)
        return out


class TemporalUNet(nn.Module):
    """Diffuser's network for maze2d: base 32, multipliers 1, 4, 8, kernel 5, over transitions of state and action."""

    def __init__(self, transition: int = 6, base: int = 32, multipliers: tuple[int, ...] = (1, 4, 8)) -> None:
        super().__init__()
        self.base, widths = base, [base * m for m in multipliers]
        self.time = nn.Sequential(nn.Linear(base, 4 * base), nn.Mish(), nn.Linear(4 * base, base))
        pairs = list(zip([transition, *widths[:-1]], widths, strict=True))
        self.down = nn.ModuleList(nn.ModuleList([_Residual(a, b, base), _Residual(b, b, base)]) for a, b in pairs)
        self.shrink = nn.ModuleList(nn.Conv1d(w, w, 3, 2, 1) for w in widths[:-1])
        self.middle = nn.ModuleList(_Residual(widths[-1], widths[-1], base) for _ in range(2))
        back = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ModuleList([_Residual(2 * a, b, base), _Residual(b, b, base)]) for a, b in back)
        self.grow = nn.ModuleList(nn.ConvTranspose1d(b, b, 4, 2, 1) for _, b in back)
        self.leave = nn.Sequential(_Convolution(base, base), nn.Conv1d(base, transition, 1))

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """Predict (B, horizon, transition) from noisy transitions and the step (B,)."""
        t = self.time(sinusoids(step, self.base))
        h, kept = x.transpose(1, 2), []
        for i, pair in enumerate(self.down):
            for block in pair.children():
                h = block(h, t)
            kept.append(h)
            h = self.shrink[i](h) if i < len(self.shrink) else h
        for block in self.middle:
            h = block(h, t)
        for pair, grow in zip(self.up, self.grow, strict=True):
            h = torch.cat([h, kept.pop()], 1)
            for block in pair.children():
                h = block(h, t)
            h = grow(h)
        out: Tensor = self.leave(h).transpose(1, 2)
        return out


class _DiTBlock(nn.Module):
    """Attention and MLP with scale, shift and gate from the step."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(t).unsqueeze(1).chunk(6, -1)
        y = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale1) + shift1
        x = x + gate1 * self.attention(y, y, y, need_weights=False)[0]
        y = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale2) + shift2
        out: Tensor = x + gate2 * self.mlp(y)
        return out


class VeteranTransformer(nn.Module):
    """Diffusion Veteran's planner: a diffusion transformer of depth 2, width 256, 4 heads, over 32 states."""

    def __init__(self, state: int = 4, width: int = 256, depth: int = 2, heads: int = 4, embedding: int = 128) -> None:
        super().__init__()
        self.embedding, self.width = embedding, width
        self.noise = nn.Sequential(nn.Linear(embedding, 4 * embedding), nn.Mish(), nn.Linear(4 * embedding, embedding))
        self.time = nn.Sequential(nn.Linear(embedding, width), nn.Mish(), nn.Linear(width, width), nn.Mish())
        self.enter = nn.Linear(state, width)
        self.blocks = nn.ModuleList(_DiTBlock(width, heads) for _ in range(depth))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.leave = nn.Linear(width, state)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """Predict (B, n, state) from noisy states and the step (B,)."""
        t = self.time(self.noise(sinusoids(step, self.embedding)))
        h = self.enter(x) + sinusoids(torch.arange(x.shape[1], device=x.device), self.width)
        for block in self.blocks:
            h = block(h, t)
        shift, scale = self.modulation(t).unsqueeze(1).chunk(2, -1)
        out: Tensor = self.leave(F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale) + shift)
        return out


def parameters(model: nn.Module) -> int:
    """Count the parameters."""
    return sum(p.numel() for p in model.parameters())
