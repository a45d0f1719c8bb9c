"""Algorithm 2: walk down a scheduling matrix and denoise every token along its own column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dfplan.errors import unknown_name
from dfplan.models.base import Cond, Denoiser
from dfplan.noise import Draw, guidance_coefficient, noise_further, reverse_step
from dfplan.schedule import check_schedule, drop_idle_rows

HOLDS = ("copy", "resample")
LogCost = Callable[[Tensor, Tensor], Tensor]
"""From x0_hat (B, n, D) and levels int64 (n,) to log c (B,), one number per sample."""


@dataclass(frozen=True)
class Samples:
    """Hold the outcome of sampling.

    Attributes:
        x: (B, n, D) clean tokens.
        S: int64 (M+1, n), the matrix that was walked (idle rows dropped).
        network_evaluations: Calls of the denoiser.
        tokens_computed: Tokens that went through the denoiser, summed over its calls (per sample).
        trace: (M+1, B, n, D), the tokens after every row, or None.
    """

    x: Tensor
    S: Tensor
    network_evaluations: int
    tokens_computed: int
    trace: Tensor | None


def present_tokens(k: Tensor, k_next: Tensor, order: Tensor, levels: int, causal: bool) -> Tensor:
    """Find the tokens that the denoiser must see in one row, bool (n,); leaving out the others changes nothing.

    Nobody looks at a token at level K, so one that also stays there is left out. With causal attention everything
    later than the last token that changes is left out too.

    Args:
        k: Levels before the row, int64 (n,).
        k_next: Levels after it, int64 (n,).
        order: Causal order of the tokens, int64 (n,).
        levels: K.
        causal: Whether attention is causal.
    """
    changing = k != k_next
    present = (k < levels) | changing
    if causal and bool(changing.any()):
        present &= order <= order[changing].max()
    return present


def sample(
    model: Denoiser,
    S: Tensor,
    x: Tensor,
    *,
    alpha_bar: Tensor,
    tokens: Tensor,
    order: Tensor,
    causal: bool = True,
    eta: float = 0.0,
    hold: str = "copy",
    log_cost: LogCost | None = None,
    draw: Draw | None = None,
    mask: Tensor | None = None,
    skip: bool = True,
    trace: bool = False,
) -> Samples:
    """Denoise tokens along a scheduling matrix.

    Row m calls the denoiser once with every token's own level ``S[m]`` and moves each token to ``S[m+1]``. A token
    whose level does not change is copied bit for bit (``hold="copy"``), or noised to the next higher level of its
    column and denoised back in the same call (``hold="resample"``, which keeps its law and renews its randomness).

    Args:
        model: The denoiser.
        S: int64 (M+1, n); context tokens have a column of zeros.
        x: (B, n, D); tokens at the levels of the first row, context tokens clean.
        alpha_bar: Table (K+1,).
        tokens: int64 (n,), the positions in the layout that ``x`` holds.
        order: int64 (n,), their causal order.
        causal: Causal or full attention.
        eta: 0 is DDIM, 1 is DDPM.
        hold: ``"copy"`` or ``"resample"``.
        log_cost: ``log c(x0_hat, k)``; its gradient guides every token that moves (all tokens go through the network
            then).
        draw: Source of noise; needed when ``eta > 0`` or for ``"resample"``.
        mask: (n, D), 1 in the columns that a token uses; noise is kept out of the others.
        skip: Leave out idle tokens; for tests, since it changes nothing but time.
        trace: Keep the tokens after every row.

    Returns:
        `Samples`.

    Raises:
        ValueError: If S is not admissible, shapes do not fit, or noise is needed and missing.

    Source:
        arXiv 2407.01392, Algorithm 2 and appendix B.5 (what to do with held tokens).
    """
    K = len(alpha_bar) - 1
    check_schedule(S, K)
    if x.ndim != 3 or x.shape[1] != S.shape[1] or tokens.shape != (x.shape[1],):
        raise ValueError(
            "x (B, n, D), S (M+1, n) and tokens (n,) must agree in n, "
            f"got {tuple(x.shape)}, {tuple(S.shape)} and {tuple(tokens.shape)}"
        )
    if hold not in HOLDS:
        raise unknown_name("hold rule", hold, HOLDS)
    if draw is None and (eta > 0 or hold == "resample"):
        raise ValueError(f"eta={eta} and hold={hold!r} need noise; pass draw=normal_like(generator)")
    if hold == "copy":
        S = drop_idle_rows(S)
    column_mask = torch.ones_like(x[0]) if mask is None else mask.to(x)

    def noise(like: Tensor) -> Tensor:
        return torch.zeros_like(like) if draw is None else draw(like) * column_mask

    history = [x] if trace else []
    calls = computed = 0
    for m in range(len(S) - 1):
        k, k_next = S[m], S[m + 1]
        if hold == "resample":
            k = torch.where((k == k_next) & (k > 0), _level_above(S, m), k)
            x = noise_further(x, S[m].expand(x.shape[:2]), k.expand(x.shape[:2]), noise(x), alpha_bar)
        present = torch.ones_like(k, dtype=torch.bool)
        if skip and log_cost is None:
            present = present_tokens(k, k_next, order, K, causal)
        index = present.nonzero().squeeze(1)
        cond = Cond(causal=causal, tokens=tokens[index])
        part = _row(
            model,
            x[:, index],
            k[index],
            k_next[index],
            cond,
            alpha_bar,
            eta,
            noise(x)[:, index] if eta > 0 else None,
            log_cost,
        )
        x = part if len(index) == x.shape[1] else x.index_copy(1, index, part)
        calls, computed = calls + 1, computed + len(index)
        if trace:
            history.append(x)
    return Samples(x, S, calls, computed, torch.stack(history) if trace else None)


def _row(
    model: Denoiser, x: Tensor, k: Tensor, k_next: Tensor, cond: Cond, alpha_bar: Tensor, eta: float, eps: Tensor |
        None, log_cost: LogCost | None
) -> Tensor:  # fmt: skip
    """Take one row's step for the tokens that are present."""
    k_rows, next_rows = k.expand(x.shape[:2]).to(x.device), k_next.expand(x.shape[:2]).to(x.device)
    if log_cost is None:
        with torch.no_grad():
            x0_hat = model(x, k_rows, cond)
            return reverse_step(x, x0_hat, k_rows, next_rows, alpha_bar, eta=eta, eps=eps)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        x0_hat = model(leaf, k_rows, cond)
        value = log_cost(x0_hat, k)
        if value.shape != x.shape[:1]:
            raise ValueError(
                f"a cost must return one number per sample, shape {tuple(x.shape[:1])}, got {tuple(value.shape)}"
            )
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    step = reverse_step(x, x0_hat.detach(), k_rows, next_rows, alpha_bar, eta=eta, eps=eps)
    weight = guidance_coefficient(k.cpu(), k_next.cpu(), alpha_bar.cpu(), eta=eta).to(x)
    return step + weight[:, None] * gradient


def _level_above(S: Tensor, m: int) -> Tensor:
    """Find for each token the next higher level that its column visited before row m (or its own level)."""
    now = S[m]
    above = torch.where(S[:m] > now, S[:m], torch.full_like(S[:m], torch.iinfo(S.dtype).max))
    if len(above) == 0:
        return now
    best = above.min(0).values
    return torch.where(best == torch.iinfo(S.dtype).max, now, best)
