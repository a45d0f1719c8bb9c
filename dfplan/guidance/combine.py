"""Combine guidances: all of them, any of them, or one more or less strongly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dfplan.guidance.base import Guidance


@dataclass(frozen=True)
class AllOf:
    """Multiply likelihoods: ``log c = sum_i log c_i``; see `all_of`."""

    parts: tuple[Guidance, ...]

    def __post_init__(self) -> None:
        _check(self.parts, "all_of")

    def __call__(self, states: Tensor, k: Tensor) -> Tensor:
        """Return log c (B,) of states (B, H+1, O)."""
        return torch.stack([part(states, k) for part in self.parts]).sum(0)


@dataclass(frozen=True)
class AnyOf:
    """Add likelihoods: ``log c = log sum_i c_i``; see `any_of`."""

    parts: tuple[Guidance, ...]

    def __post_init__(self) -> None:
        _check(self.parts, "any_of")

    def __call__(self, states: Tensor, k: Tensor) -> Tensor:
        """Return log c (B,) of states (B, H+1, O)."""
        return torch.stack([part(states, k) for part in self.parts]).logsumexp(0)


@dataclass(frozen=True)
class Tempered:
    """Raise a likelihood to a power: ``log c = scale * log c_1``; see `tempered`."""

    part: Guidance
    scale: float | Callable[[Tensor], float]

    def __post_init__(self) -> None:
        _check((self.part,), "tempered")
        if not callable(self.scale) and not math.isfinite(self.scale):
            raise ValueError(f"scale must be a finite number or a function of the levels, got {self.scale}")

    def __call__(self, states: Tensor, k: Tensor) -> Tensor:
        """Return log c (B,) of states (B, H+1, O) at levels k (H+1,)."""
        scale = self.scale(k) if callable(self.scale) else self.scale
        return scale * self.part(states, k)


def all_of(*guidances: Guidance) -> AllOf:
    """Ask for everything at once: the product of the likelihoods, ``log c = sum_i log c_i``.

    Args:
        guidances: At least one.

    Raises:
        TypeError: If one of them is not callable.
        ValueError: If there is none.
    """
    return AllOf(guidances)


def any_of(*guidances: Guidance) -> AnyOf:
    """Ask for one thing or another: the sum of the likelihoods, ``log c = log sum_i exp(log c_i)``.

    The gradient is the parts' gradients weighted by how likely each part is already, ``softmax_i(log c_i)``: every
    sample goes for what it is closest to. The parts should have comparable maxima; those of goals and constraints are
    all 0.

    Args:
        guidances: At least one.

    Raises:
        TypeError: If one of them is not callable.
        ValueError: If there is none.
    """
    return AnyOf(guidances)


def tempered(guidance: Guidance, scale: float | Callable[[Tensor], float]) -> Tempered:
    """Make a guidance stronger or weaker: ``log c = scale * log c_1``.

    Args:
        guidance: What to scale.
        scale: A number, negative to turn away; or a function of the levels k (H+1,) of the row, for a guidance that
            grows as the tokens settle. For a Gaussian likelihood of variance R on a quantity whose variance given the
            noisy tokens is V(k), ``R / (R + V(k))`` makes guidance exact.

    Raises:
        TypeError: If the guidance is not callable.
        ValueError: If the scale is not finite.
    """
    return Tempered(guidance, scale)


def _check(parts: tuple[Guidance, ...], name: str) -> None:
    if not parts:
        raise ValueError(f"{name} needs at least one guidance, got none")
    for part in parts:
        if not callable(part):
            raise TypeError(
                f"{name} combines functions log_c(states, k), got {type(part).__name__}; pass them one by one"
            )
