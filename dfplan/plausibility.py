"""Ask the model itself how plausible a plan is: hide every other token and see how well it is foretold.

A sampler now and then cuts a corner through a wall. Such a plan arrives early, so a selection by arrival alone prefers
it, and the more so the more candidates there are. The model that drew it can tell: given the tokens in between, what it
predicts for the hidden ones is far from what the plan says. This needs per-token noise levels, two calls of the
network and neither a map nor a simulator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dfplan.models.base import Cond, Denoiser
from dfplan.noise import Draw, add_noise


def surprise(
    model: Denoiser,
    x: Tensor,
    free: Tensor,
    *,
    k: Tensor,
    tokens: Tensor,
    columns: list[int],
    level: int,
    alpha_bar: Tensor,
    mask: Tensor,
    causal: bool,
    draw: Draw,
) -> Tensor:
    r"""Compute how far each token is from what the model predicts for it, given every other one.

    ``s_i = |x0_hat_i(x_j for j of the other parity, x_i at level k) - x_i|^2`` over the given columns: the even tokens
    are noised to one level with the odd ones clean, then the other way round.

    Args:
        model: The denoiser.
        x: (N, n, D), clean tokens and what was given.
        free: bool (n,), the tokens to judge, in the order of time.
        k: int64 (n,), the levels of those that are not judged.
        tokens: int64 (n,), positions in the layout.
        columns: Columns that count.
        level: Noise level of the hidden tokens, 1..K.
        alpha_bar: Table (K+1,).
        mask: (n, D), 1 in the columns that a token uses.
        causal: Causal or full attention; with causal attention a token is foretold from what precedes it.
        draw: Source of noise.

    Returns:
        (N, f), one number per judged token, in normalised units squared.
    """
    place = free.long().cumsum(0) - 1
    eps = draw(x) * mask
    out = x.new_zeros(x.shape[:2])
    cond = Cond(causal=causal, tokens=tokens)
    for parity in (0, 1):
        hidden = free & (place % 2 == parity)
        levels = torch.where(hidden, level, k).expand(len(x), -1).to(x.device)
        index = hidden.to(x.device)
        noisy = torch.where(index[:, None], add_noise(x, levels, eps, alpha_bar), x)
        with torch.no_grad():
            x0_hat = model(noisy, levels, cond)
        error = (x0_hat - x)[..., columns].square().sum(-1)
        out = torch.where(index, error, out)
    return out[:, free.to(x.device)]


def penalty(surprises: Tensor, arrival: Tensor, stride: int, weight: float) -> Tensor:
    """Turn surprises into environment steps by which a candidate counts as later than it claims.

    ``weight * horizon * s / median(s)`` with s the sum over the tokens before arrival and the median over candidates:
    nothing but the order among the candidates of one environment depends on its unit.

    Args:
        surprises: (N, f).
        arrival: (N,) environment steps, infinite where a candidate does not arrive.
        stride: Environment steps per token.
        weight: Penalty of a candidate of median surprise, as a share of the horizon.

    Returns:
        (N,) environment steps.
    """
    f = surprises.shape[1]
    begins = torch.arange(f, device=surprises.device) * stride
    total = torch.where(begins < arrival[:, None], surprises, torch.zeros_like(surprises)).sum(1)
    scale = total.median().clamp_min(torch.finfo(total.dtype).tiny)
    return weight * f * stride * total / scale
