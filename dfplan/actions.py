"""Denoise action tokens along states that are given: the inverse-dynamics question."""

from __future__ import annotations

import torch
from torch import Tensor

from dfplan.models.base import Cond, Denoiser
from dfplan.noise import Draw, reverse_step


def denoise_actions(
    model: Denoiser,
    x: Tensor,
    tokens: Tensor,
    ladder: Tensor,
    alpha_bar: Tensor,
    *,
    mask: Tensor,
    causal: bool,
    draw: Draw,
) -> Tensor:
    """Denoise the tokens that follow the clean ones.

    Args:
        model: The denoiser.
        x: Clean normalised tokens (B, n, D).
        tokens: int64 (n + c,), the positions of the n clean tokens and then of the c action tokens.
        ladder: int64 (steps + 1,), levels from K down to 0. With one step the result is the conditional mean.
        alpha_bar: Table (K+1,).
        mask: (T, D), 1 in the columns that each position uses.
        causal: Causal or full attention.
        draw: Source of noise.

    Returns:
        (B, c, D) normalised action tokens.
    """
    B, n = x.shape[:2]
    new = x.new_zeros(B, len(tokens) - n, x.shape[2])
    x = torch.cat([x, draw(new) * mask[tokens[n:]]], 1)
    cond = Cond(causal=causal, tokens=tokens)
    free = torch.arange(len(tokens), device=x.device) >= n
    with torch.no_grad():
        for k_from, k_to in zip(ladder[:-1].tolist(), ladder[1:].tolist(), strict=True):
            k, k_next = (free * level for level in (k_from, k_to))
            rows = k.expand(B, -1)
            x = reverse_step(x, model(x, rows, cond), rows, k_next.expand(B, -1), alpha_bar)
    return x[:, n:]
