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


def level_features(levels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Describe all levels 0..K by sines and cosines of 32 frequencies, (K+1, 64)."""
    u = torch.arange(levels + 1, device=device, dtype=torch.float32) / levels
    angle = u[:, None] * torch.exp(torch.linspace(0, math.log(1000), 32, device=device))
    return torch.cat([angle.sin(), angle.cos()], -1).to(dtype)


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Turn pairs of channels by angles that grow with the position, so that products depend on distances only.

    Args:
        x: (B, heads, n, c) queries or keys, c even.
        positions: int64 (n,) or (B, n).

    Source:
        arXiv 2104.09864, Eq. 34.
    """
    half = x.shape[-1] // 2
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    rate = ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=exact) / half)
    angle = positions.to(x.device, exact).unsqueeze(-1) * rate
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    if angle.ndim == 3:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
