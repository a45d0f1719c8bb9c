"""What both networks share: noise levels as features, rotary positions, checks of a configuration."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dfplan.errors import unknown_name
from dfplan.noise import alpha_bar_table

PREDICTIONS = ("v", "x0", "eps")
ROTARY_BASE = 1000.0


def check_sizes(config: Any, names: tuple[str, ...]) -> None:
    """Check positive sizes, the kind of prediction and the noise table of a network's configuration.

    Raises:
        ValueError: If one is out of range or unknown.
    """
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if config.prediction not in PREDICTIONS:
        raise unknown_name("prediction", config.prediction, PREDICTIONS)
    alpha_bar_table(config.noise, config.levels)


def distinct_levels(k: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """List the levels that must be embedded, and where each token finds its own.

    In training all levels are listed (most of them occur); in sampling only those that occur, which are few.

    Args:
        k: int64 (B, n).
        levels: K.

    Returns:
        The levels int64 (U,), and int64 (B, n) indices into them.
    """
    if torch.is_grad_enabled():
        return torch.arange(levels + 1, device=k.device), k
    found, where = torch.unique(k, return_inverse=True)
    return found, where


def level_features(k: Tensor, levels: int, dtype: torch.dtype) -> Tensor:
    """Describe levels (U,) out of 0..K by sines and cosines of 32 frequencies, (U, 64)."""
    u, device = k.float() / levels, k.device
    angle = u[:, None] * torch.exp(torch.linspace(0, math.log(1000), 32, device=device))
    return torch.cat([angle.sin(), angle.cos()], -1).to(dtype)


def turns(positions: Tensor, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Compute cosines and sines of the angles by which pairs of channels turn at each position.

    Args:
        positions: int64 (n,) or (B, n).
        channels: c, even.
        dtype: Of the result; the angles are float64 for float64 and float32 for everything else.

    Returns:
        Two tensors (n, c/2), or (B, 1, n, c/2).
    """
    half = channels // 2
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    rate = ROTARY_BASE ** (-torch.arange(half, device=positions.device, dtype=exact) / half)
    angle = positions.to(exact).unsqueeze(-1) * rate
    if angle.ndim == 3:
        angle = angle.unsqueeze(1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn pairs of channels by angles that grow with the position, so that products depend on distances only.

    Args:
        x: (B, heads, n, c) queries or keys.
        turn: What `turns` computed.

    Source:
        arXiv 2104.09864, Eq. 34.
    """
    (cos, sin), half = turn, x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def waves(x: Tensor, octaves: int) -> Tensor:
    """Append sines and cosines of the columns with periods 4, 2, 1, 1/2, ...

    ``[x, sin(pi/2 2^j x), cos(pi/2 2^j x)]`` for j = 0 .. octaves - 1.

    Args:
        x: (..., D).
        octaves: At least 0; with 0 the result is ``x``.

    Returns:
        (..., D (1 + 2 octaves)).

    Source:
        arXiv 2006.10739, Section 4, with frequencies in octaves.
    """
    angles = [x * (0.5 * math.pi * 2.0**j) for j in range(octaves)]
    return torch.cat([x, *(f(a) for a in angles for f in (torch.sin, torch.cos))], -1) if octaves else x
