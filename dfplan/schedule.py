"""Scheduling matrices for sampling and level samplers for training: pure functions.

A scheduling matrix ``S`` is int64 (M+1, T); ``S[m, t]`` is token t's level after row m. It is admissible when every
level lies in 0..K, every column is non-increasing and the last row is 0. A free token starts at K, a context token is
0 throughout, a warm-started token starts in between.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dfplan.errors import unknown_name


def check_schedule(S: Tensor, levels: int, *, finish: Tensor | bool = True) -> None:
    """Check that a scheduling matrix is admissible.

    Args:
        S: int64 (M+1, T).
        levels: K.
        finish: Which tokens must end clean, one answer for all or bool (T,); the others may stop at any level.

    Raises:
        TypeError: If ``S`` is not int64.
        ValueError: If its shape, range, monotony or last row breaks the rule.

    Source:
        arXiv 2407.01392, Algorithm 2 (the matrix K).
    """
    if S.dtype != torch.int64:
        raise TypeError(f"S must be int64, got {S.dtype}; use S.long()")
    if S.ndim != 2 or S.shape[0] < 1 or S.shape[1] < 1:
        raise ValueError(f"S must have shape (M+1, T) with at least one row and token, got {tuple(S.shape)}")
    if int(S.min()) < 0 or int(S.max()) > levels:
        raise ValueError(f"S must lie in 0..{levels}, got {int(S.min())}..{int(S.max())}; levels are integers up to K")
    rise = (S[1:] > S[:-1]).nonzero()
    if len(rise):
        m, t = (int(v) for v in rise[0])
        raise ValueError(
            f"every column of S must be non-increasing, but token {t} rises after row {m}; noise never comes back"
        )
    last = torch.where(torch.as_tensor(finish), S[-1], torch.zeros_like(S[-1]))
    if int(last.max()) != 0:
        t = int(last.argmax())
        raise ValueError(
            f"the last row of S must be 0, but token {t} ends at {int(S[-1, t])}; add rows until all are clean"
        )


def _staircase(delay: Tensor, levels: int, steps: int) -> Tensor:
    """Let each token wait ``delay`` rows at K, then fall to 0 in ``steps`` equal steps."""
    if not 1 <= steps <= levels:
        raise ValueError(f"steps must lie in 1..{levels} (K), got {steps}")
    rows = steps + int(delay.max()) + 1
    coarse = (steps + delay[None, :] - torch.arange(rows)[:, None]).clamp(0, steps)
    return torch.round(coarse.double() * levels / steps).long()


def _check_tokens(tokens: int, slope: float = 0.0) -> None:
    if tokens < 1:
        raise ValueError(f"tokens must be at least 1, got {tokens}")
    if slope < 0:
        raise ValueError(f"slope must be at least 0, got {slope}; 0 is full sequence, steps is autoregressive")


def full_sequence(tokens: int, levels: int, *, steps: int) -> Tensor:
    """Denoise all tokens together, (steps+1, T): ordinary diffusion over the whole sequence."""
    return pyramid(tokens, levels, steps=steps, slope=0.0)


def autoregressive(tokens: int, levels: int, *, steps: int) -> Tensor:
    """Denoise one token after the other, (steps * T + 1, T)."""
    return pyramid(tokens, levels, steps=steps, slope=float(steps))


def pyramid(tokens: int, levels: int, *, steps: int, slope: float = 1.0) -> Tensor:
    """Zig-zag: keep the far future more uncertain than the near one.

    ``S[m, t] = clip(steps + slope t - m, 0, steps)`` on a ladder of ``steps`` equal level steps from K to 0.

    Args:
        tokens: T, at least 1.
        levels: K.
        steps: Reverse steps a token takes, 1..K; with ``steps = K`` this is the paper's matrix to the digit.
        slope: Rows by which each token lags behind the one before it; fractions are rounded down.

    Returns:
        int64 (M+1, T).

    Raises:
        ValueError: If an argument is out of range.

    Source:
        arXiv 2407.01392, Eq. B.1; slope 0 is full sequence, slope ``steps`` autoregressive.
    """
    _check_tokens(tokens, slope)
    return _staircase((slope * torch.arange(tokens, dtype=torch.float64)).floor().long(), levels, steps)


def coarse_pyramid(tokens: int, levels: int, *, steps: int, slope: float = 1.0, block: int = 4) -> Tensor:
    """Zig-zag over blocks of neighbouring tokens that share a level: ``t`` is replaced by ``block * (t // block)``."""
    _check_tokens(tokens, slope)
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    t = torch.div(torch.arange(tokens), block, rounding_mode="floor") * block
    return _staircase((slope * t.double()).floor().long(), levels, steps)


def trapezoid(tokens: int, levels: int, *, steps: int, slope: float = 1.0) -> Tensor:
    """Zig-zag from both ends: the middle stays uncertain longest, ``delay = slope * min(t, T-1-t)``."""
    _check_tokens(tokens, slope)
    t = torch.arange(tokens)
    return _staircase((slope * torch.minimum(t, tokens - 1 - t).double()).floor().long(), levels, steps)


SCHEDULES: dict[str, Callable[..., Tensor]] = {
    "full_sequence": full_sequence,
    "autoregressive": autoregressive,
    "pyramid": pyramid,
    "coarse_pyramid": coarse_pyramid,
    "trapezoid": trapezoid,
}


def make_schedule(schedule: str | Tensor, tokens: int, levels: int, *, steps: int, slope: float = 1.0) -> Tensor:
    """Build a scheduling matrix by name, or check one of the user's own.

    Args:
        schedule: A key of ``SCHEDULES`` or an int64 matrix (M+1, T).
        tokens: T.
        levels: K.
        steps: Reverse steps per token, 1..K (unused for a matrix).
        slope: Slope of the zig-zag in rows per token (used by the pyramids and the trapezoid).

    Returns:
        An admissible int64 (M+1, T).

    Raises:
        ValueError: If the name is unknown or the matrix is not admissible.
    """
    if isinstance(schedule, Tensor):
        check_schedule(schedule, levels)
        if schedule.shape[1] != tokens:
            raise ValueError(f"S must have {tokens} columns, one per token, got {schedule.shape[1]}")
        return schedule
    if schedule not in SCHEDULES:
        raise unknown_name("schedule", schedule, SCHEDULES)
    extra = {} if schedule in ("full_sequence", "autoregressive") else {"slope": slope}
    S = SCHEDULES[schedule](tokens, levels, steps=steps, **extra)
    check_schedule(S, levels)
    return S


def start_below(S: Tensor, level: int | Tensor) -> Tensor:
    """Cap a matrix at a start level, for a warm start, and drop the leading rows that then do nothing.

    Args:
        S: int64 (M+1, T).
        level: Highest level, one for all tokens or int64 (T,).

    Returns:
        int64 (M'+1, T) with first row ``min(S, level)``.
    """
    capped = torch.minimum(S, torch.as_tensor(level, dtype=torch.int64).expand(S.shape[1]))
    return drop_idle_rows(capped)


def drop_idle_rows(S: Tensor) -> Tensor:
    """Drop rows that equal the row before them: they cost a network call and change nothing."""
    keep = torch.ones(len(S), dtype=torch.bool)
    keep[1:] = (S[1:] != S[:-1]).any(1)
    return S[keep]


LevelSampler = Callable[[tuple[int, int], int, torch.Generator | None], Tensor]


def independent_levels(shape: tuple[int, int], levels: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw one level per token, uniform on 0..K and independent (arXiv 2407.01392, Algorithm 1)."""
    return torch.randint(0, levels + 1, shape, generator=generator)


def shared_levels(shape: tuple[int, int], levels: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw one level per sample, the same for all its tokens: ordinary full-sequence diffusion."""
    return torch.randint(0, levels + 1, (shape[0], 1), generator=generator).expand(shape).clone()


def ramp_levels(shape: tuple[int, int], levels: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw a zig-zag row per sample: a ramp of random slope and position, as sampling along a pyramid meets them."""
    B, T = shape
    slope = levels * torch.rand((B, 1), generator=generator) ** 2
    start = (torch.rand((B, 1), generator=generator) * 2 - 1) * levels
    shift = torch.rand((B, 1), generator=generator) * slope * T * (start < 0)
    return (start - shift + slope * torch.arange(T)).round().clamp(0, levels).long()


def mixed_levels(shape: tuple[int, int], levels: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw half the samples with independent levels and a quarter each with shared levels and with ramps."""
    which = torch.rand((shape[0], 1), generator=generator)
    k = independent_levels(shape, levels, generator)
    k = torch.where(which < 0.25, shared_levels(shape, levels, generator), k)
    return torch.where(which > 0.75, ramp_levels(shape, levels, generator), k)


LEVEL_SAMPLERS: dict[str, LevelSampler] = {
    "independent": independent_levels,
    "shared": shared_levels,
    "ramp": ramp_levels,
    "mixed": mixed_levels,
}
