"""Noise as a fractional mask: level tables, forward noising, conversions and one reverse step.

Levels are integers ``k`` from 0 (clean) to ``K`` (pure noise) and every token has its own. All functions are pure and
work on tensors of shape (..., T, D) with levels of shape (..., T).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dfplan.errors import unknown_name

Draw = Callable[[Tensor], Tensor]
"""Draws standard normal noise shaped like its argument."""


def _cosine(levels: int) -> Tensor:
    """Compute the squared-cosine table, exactly 1 at level 0 and exactly 0 at level K.

    Source: arXiv 2102.09672, Eq. 17, with offset 0 so that both ends are exact.
    """
    u = torch.arange(levels + 1, dtype=torch.float64) / levels
    return torch.cos(0.5 * math.pi * u) ** 2


def _linear(levels: int) -> Tensor:
    """Compute the linear-beta table, rescaled to zero terminal signal-to-noise ratio.

    Betas rise linearly from ``0.1 / K`` to ``20 / K`` (arXiv 2006.11239 in its continuous form), then the square root
    of alpha_bar is shifted and scaled so that its last entry is 0 (arXiv 2305.08891, Algorithm 1).
    """
    beta = torch.linspace(0.1, 20.0, levels, dtype=torch.float64) / levels
    root = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta.clamp(max=0.999), 0).sqrt()])
    root = (root - root[-1]) / (root[0] - root[-1])
    return root**2


NOISE_SCHEDULES: dict[str, Callable[[int], Tensor]] = {"cosine": _cosine, "linear": _linear}


def alpha_bar_table(name: str, levels: int) -> Tensor:
    """Tabulate alpha_bar for the levels 0..K.

    Args:
        name: ``"cosine"`` or ``"linear"``.
        levels: K, at least 1.

    Returns:
        float64 (K+1,), strictly decreasing, 1 at level 0 and 0 at level K (level K is exactly N(0, I)).

    Raises:
        ValueError: If the name is unknown or ``levels`` is below 1.
    """
    if name not in NOISE_SCHEDULES:
        raise unknown_name("noise schedule", name, NOISE_SCHEDULES)
    if levels < 1:
        raise ValueError(f"levels must be at least 1, got {levels}; 100 is usual")
    table = NOISE_SCHEDULES[name](levels)
    table[0], table[-1] = 1.0, 0.0
    return table


def check_levels(k: Tensor, shape: Sequence[int], levels: int) -> None:
    """Check noise levels before they are used as table indices.

    Raises:
        TypeError: If ``k`` is not an integer tensor.
        ValueError: If its shape or range is wrong.
    """
    if k.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"k must be an integer tensor of levels, got {k.dtype}; use k.long()")
    if tuple(k.shape) != tuple(shape):
        raise ValueError(f"k must have shape {tuple(shape)} (B, T), got {tuple(k.shape)}; pass one level per token")
    if k.numel() and (int(k.min()) < 0 or int(k.max()) > levels):
        raise ValueError(
            f"k must lie in 0..{levels}, got {int(k.min())}..{int(k.max())}; 0 is clean, {levels} pure noise"
        )


def _signal_noise(alpha_bar: Tensor, k: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Look up sqrt(alpha_bar_k) and sqrt(1 - alpha_bar_k), each (..., T, 1)."""
    a = alpha_bar.to(like.device)[k.to(like.device)].unsqueeze(-1)
    return a.sqrt().to(like.dtype), (1 - a).sqrt().to(like.dtype)


def add_noise(x0: Tensor, k: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Noise clean tokens to their own levels: ``sqrt(abar_k) x0 + sqrt(1 - abar_k) eps``.

    Args:
        x0: Clean tokens (..., T, D).
        k: Levels int64 (..., T) in 0..K.
        eps: Standard normal noise like ``x0``.
        alpha_bar: Table (K+1,).

    Returns:
        Noisy tokens (..., T, D); a token at level 0 is returned bit for bit.

    Source:
        arXiv 2407.01392, Algorithm 1, line 5.
    """
    signal, noise = _signal_noise(alpha_bar, k, x0)
    return signal * x0 + noise * eps


def noise_further(x: Tensor, k_from: Tensor, k_to: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Noise tokens from one level to a higher one, exactly: ``q(x^{k_to} | x^{k_from})``.

    Args:
        x: Tokens at level ``k_from`` (..., T, D).
        k_from: Levels int64 (..., T).
        k_to: Levels int64 (..., T), nowhere below ``k_from``.
        eps: Standard normal noise like ``x``.
        alpha_bar: Table (K+1,).

    Raises:
        ValueError: If a level would fall.
    """
    if bool((k_to < k_from).any()):
        raise ValueError("k_to must be at least k_from for every token; use reverse_step to go down")
    table = alpha_bar.to(x.device)
    a_from, a_to = table[k_from.to(x.device)].unsqueeze(-1), table[k_to.to(x.device)].unsqueeze(-1)
    ratio = torch.where(a_from > 0, a_to / a_from.clamp_min(1e-30), torch.ones_like(a_to))
    return ratio.sqrt().to(x.dtype) * x + (1 - ratio).clamp_min(0).sqrt().to(x.dtype) * eps


def target_from(kind: str, x0: Tensor, eps: Tensor, k: Tensor, alpha_bar: Tensor) -> Tensor:
    """Compute what a network of a given kind should output: x0, eps or ``v = sqrt(abar) eps - sqrt(1-abar) x0``.

    Source:
        v: arXiv 2202.00512, appendix D.
    """
    if kind == "x0":
        return x0
    if kind == "eps":
        return eps
    if kind == "v":
        signal, noise = _signal_noise(alpha_bar, k, x0)
        return signal * eps - noise * x0
    raise unknown_name("prediction", kind, ("x0", "eps", "v"))


def to_x0(kind: str, output: Tensor, x: Tensor, k: Tensor, alpha_bar: Tensor) -> Tensor:
    """Convert a network output of a given kind to x0_hat.

    An eps output says nothing about x0 at level K, where alpha_bar is 0: there x0_hat is 0, the mean of normalised
    data.

    Args:
        kind: ``"x0"``, ``"eps"`` or ``"v"``.
        output: Network output (..., T, D).
        x: Noisy tokens (..., T, D).
        k: Levels int64 (..., T).
        alpha_bar: Table (K+1,).
    """
    if kind == "x0":
        return output
    signal, noise = _signal_noise(alpha_bar, k, x)
    if kind == "v":
        return signal * x - noise * output
    if kind == "eps":
        return torch.where(signal > 0, (x - noise * output) / signal.clamp_min(1e-12), torch.zeros_like(x))
    raise unknown_name("prediction", kind, ("x0", "eps", "v"))


def to_eps(x0_hat: Tensor, x: Tensor, k: Tensor, alpha_bar: Tensor) -> Tensor:
    """Compute ``eps_hat = (x - sqrt(abar) x0_hat) / sqrt(1 - abar)``; 0 for tokens at level 0, which hold no noise."""
    signal, noise = _signal_noise(alpha_bar, k, x)
    return torch.where(noise > 0, (x - signal * x0_hat) / noise.clamp_min(1e-12), torch.zeros_like(x))


def reverse_step(
    x: Tensor,
    x0_hat: Tensor,
    k_from: Tensor,
    k_to: Tensor,
    alpha_bar: Tensor,
    *,
    eta: float = 0.0,
    eps: Tensor | None = None,
) -> Tensor:
    """Take one reverse step with a pair of levels per token (DDIM; ``eta=1`` is DDPM's ancestral step).

    ``x' = sqrt(abar') x0_hat + sqrt(1 - abar' - sigma^2) eps_hat + sigma eps`` with
    ``sigma = eta sqrt((1-abar')/(1-abar)) sqrt(1 - abar/abar')``. Tokens with ``k_to == k_from`` are copied bit for
    bit.

    Args:
        x: Tokens at level ``k_from`` (..., T, D).
        x0_hat: Predicted clean tokens, same shape.
        k_from: Levels int64 (..., T).
        k_to: Levels int64 (..., T), nowhere above ``k_from``.
        alpha_bar: Table (K+1,).
        eta: 0 (deterministic) to 1 (ancestral).
        eps: Standard normal noise like ``x``; needed when ``eta > 0``.

    Returns:
        Tokens at level ``k_to``; a token that arrives at level 0 equals x0_hat.

    Raises:
        ValueError: If a level would rise, eta is outside [0, 1], or eps is missing.

    Source:
        arXiv 2010.02502, Eq. 12 and 16, applied per token.
    """
    if bool((k_to > k_from).any()):
        raise ValueError("k_to must be at most k_from for every token; use noise_further to go up")
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must lie in [0, 1], got {eta}; 0 is DDIM, 1 is DDPM")
    if eta > 0 and eps is None:
        raise ValueError(f"eta={eta} needs noise; pass eps of shape {tuple(x.shape)}")
    table = alpha_bar.to(x.device)
    a, a_next = table[k_from.to(x.device)].unsqueeze(-1), table[k_to.to(x.device)].unsqueeze(-1)
    eps_hat = to_eps(x0_hat, x, k_from, alpha_bar)
    var = _variance(a, a_next, eta)
    drift = (1 - a_next - var).clamp_min(0).sqrt().to(x.dtype)
    out = a_next.sqrt().to(x.dtype) * x0_hat + drift * eps_hat
    if eps is not None and eta > 0:
        out = out + var.clamp_min(0).sqrt().to(x.dtype) * eps
    return torch.where((k_to == k_from).to(x.device).unsqueeze(-1), x, out)


def guidance_coefficient(k_from: Tensor, k_to: Tensor, alpha_bar: Tensor, *, eta: float = 0.0) -> Tensor:
    """Compute what multiplies ``grad_x log c`` in ``x'`` when eps is replaced by ``eps - sqrt(1-abar) grad_x log c``.

    ``sqrt(abar'/abar) (1-abar) - sqrt(1-abar'-sigma^2) sqrt(1-abar)``. At level K, where abar is 0, x carries no
    information and its gradient is 0, so the coefficient is 0 too; it is also 0 for a token that keeps its level.

    Args:
        k_from: Levels int64 (..., T).
        k_to: Levels int64 (..., T).
        alpha_bar: Table (K+1,).
        eta: That of the step.

    Returns:
        float64 (..., T).

    Source:
        arXiv 2105.05233, Algorithm 2.
    """
    a, a_next = alpha_bar[k_from], alpha_bar[k_to]
    full = (a_next / a.clamp_min(1e-30)).sqrt() * (1 - a) - (1 - a_next - _variance(a, a_next, eta)).clamp_min(
        0
    ).sqrt() * (1 - a).sqrt()
    return torch.where((a > 0) & (k_from != k_to), full, torch.zeros_like(full))


def _variance(a: Tensor, a_next: Tensor, eta: float) -> Tensor:
    """Compute sigma^2 of a reverse step from alpha_bar ``a`` to ``a_next``."""
    ratio = torch.where(a_next > 0, a / a_next.clamp_min(1e-30), torch.ones_like(a))
    return eta**2 * (1 - a_next) / (1 - a).clamp_min(1e-30) * (1 - ratio)


def normal_like(generator: torch.Generator | Sequence[torch.Generator] | None) -> Draw:
    """Build the function that draws noise from one generator, or from one generator per equal block of the batch.

    With one generator per environment the noise of an environment does not depend on who else is in the batch.

    Args:
        generator: None (torch's global generator), a generator, or a sequence that divides the batch evenly.

    Returns:
        A function from a tensor (B, ...) to standard normal noise of the same shape, dtype and device.
    """

    def one(g: torch.Generator | None, shape: Sequence[int], like: Tensor) -> Tensor:
        device = g.device if g is not None else like.device
        return torch.randn(tuple(shape), generator=g, device=device, dtype=like.dtype).to(like.device)

    if generator is None or isinstance(generator, torch.Generator):
        single = generator
        return lambda like: one(single, like.shape, like)
    several = list(generator)

    def draw(like: Tensor) -> Tensor:
        if not several or like.shape[0] % len(several):
            raise ValueError(
                f"a batch of {like.shape[0]} cannot be shared evenly by {len(several)} generators; pass one each"
            )
        rows = like.shape[0] // len(several)
        return torch.cat([one(g, (rows, *like.shape[1:]), like) for g in several])

    return draw
