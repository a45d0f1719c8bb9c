"""What every guidance is, and checks that several of them share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Guidance = Callable[[Tensor, Tensor], Tensor]
"""From states (B, H+1, O) in environment units and levels int64 (H+1,) to log c (B,), one number per sample."""

Numbers = Tensor | Sequence[float] | float


def check_not_negative(name: str, value: float) -> None:
    """Check that a number is finite and at least 0.

    Raises:
        ValueError: If it is not.
    """
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be at least 0, got {value}")


def per_column(name: str, value: Numbers, columns: tuple[int, ...]) -> Tensor:
    """Turn one number per column, or one for all, into a tensor (..., C).

    Args:
        name: What it is, for the error.
        value: (C,), (B, C) or a number.
        columns: The C columns.

    Raises:
        ValueError: If the last axis does not fit, or a value is NaN.
    """
    tensor = torch.as_tensor(value)
    tensor = tensor if tensor.is_floating_point() else tensor.float()
    tensor = tensor.expand(len(columns)) if tensor.ndim == 0 else tensor
    if tensor.ndim > 2 or tensor.shape[-1] != len(columns):
        raise ValueError(
            f"{name} must have one number per column of {columns}, shape ({len(columns)},) or (B, {len(columns)}), "
            f"got {tuple(tensor.shape)}"
        )
    if bool(tensor.isnan().any()):
        raise ValueError(f"{name} holds NaN; pass numbers in environment units")
    return tensor
