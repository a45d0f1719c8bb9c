"""Monte Carlo Guidance: steer a token by the cost of many sampled futures instead of one guess.

Guidance needs the gradient of the *expected* cost of what may follow a noisy token. Ordinary guidance evaluates the
cost at one predicted future; Monte Carlo Guidance draws ``N`` whole futures given the token, and averages the
gradients, not the futures. All futures go through the network as one batch.

Where the future is not uncertain there is nothing to draw: with a full-sequence schedule every token is in the band
from the second row on, and the scope ``"row"`` is ordinary guidance. Use a zig-zag schedule.

Source:
    arXiv 2407.01392, section 3.4 and appendix C.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dfplan.errors import unknown_name
from dfplan.noise import Draw, noise_further, reverse_step

SCOPES = ("token", "row", "resample")
Predict = Callable[[Tensor, Tensor, int], Tensor]
"""From noisy tokens (R, n, D), levels (R, n) and R / B to x0_hat (R, n, D)."""


@dataclass(frozen=True)
class MonteCarlo:
    """Say how futures are drawn.

    Attributes:
        samples: N, futures per token; 1 with ``steps=1`` is ordinary guidance.
        steps: Denoising steps of a drawn future; with 1 it is the predicted mean, whatever N.
        scope: Which futures a token is judged by. ``"token"``: everything after that very token is drawn anew, the
            paper's definition, at a cost of N times the tokens of the band. ``"row"``: the tokens that are still pure
            noise are drawn anew, the same draws for all tokens of the band, at a cost of N. ``"resample"``: every
            unfinished token is noised one rung further and predicted again, N times, as the authors' program does.
    """

    samples: int = 16
    steps: int = 4
    scope: str = "token"

    def __post_init__(self) -> None:
        for name in ("samples", "steps"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.scope not in SCOPES:
            raise unknown_name("scope of Monte Carlo Guidance", self.scope, SCOPES)


@dataclass(frozen=True)
class Row:
    """Describe one row of the sampler.

    Attributes:
        x: (B, n, D) tokens that go through the network.
        k: int64 (n,) their levels.
        above: int64 (n,) the next higher level that each column visited.
        order: int64 (n,) their causal order.
        finish: bool (n,), False for context tokens, which are never drawn anew.
        alpha_bar: Table (K+1,).
        mask: (n, D), 1 in the columns that a token uses.
    """

    x: Tensor
    k: Tensor
    above: Tensor
    order: Tensor
    finish: Tensor
    alpha_bar: Tensor
    mask: Tensor


def expected_gradient(
    predict: Predict, value: Callable[[Tensor], Tensor], row: Row, config: MonteCarlo, draw: Draw
) -> tuple[Tensor, int, int]:
    """Estimate ``grad_{x_t} E[log c(futures)]`` for every token of a row.

    Args:
        predict: The denoiser on a repeated batch.
        value: ``log c`` (R,) of predicted clean tokens (R, n, D), on a repeated batch.
        row: Tokens and levels.
        config: N, steps, scope.
        draw: Source of noise.

    Returns:
        The gradient (B, n, D), how often the network was called, and with how many copies of every sample.
    """
    K = len(row.alpha_bar) - 1
    if config.scope == "resample":
        return _resampled(predict, value, row, config, draw), 1, config.samples
    band = ((row.k > 0) & (row.k < K) & row.finish).nonzero().squeeze(1)
    gradient = torch.zeros_like(row.x)
    if not len(band):
        return gradient, 0, 0
    n = len(row.k)
    if config.scope == "token":
        drawn = (row.order[None, :] > row.order[band][:, None]) & row.finish[None, :]
        own = torch.zeros(len(band), n, dtype=torch.bool).index_put((torch.arange(len(band)), band), torch.tensor(True))
    else:
        drawn, own = ((row.k == K) & row.finish)[None, :], torch.ones(1, n, dtype=torch.bool)
    gradient = _drawn(predict, value, row, config, draw, drawn, own)
    return gradient, config.steps, len(drawn) * config.samples


def _noise(row: Row, tokens: Tensor, repeats: int, draw: Draw) -> Tensor:
    """Draw noise (B, repeats, n, D) for the tokens bool (n,) that need it, in causal order, and 0 for the others.

    So the numbers do not depend on which other tokens are there (they may have been remembered and left behind).
    """
    B, n, D = row.x.shape
    index = tokens.nonzero().squeeze(1)
    index = index[torch.argsort(row.order[index], stable=True)]
    drawn = draw(row.x.new_zeros(B, repeats * len(index), D)).reshape(B, repeats, len(index), D)
    where = index.to(row.x.device)
    return row.x.new_zeros(B, repeats, n, D).index_copy(2, where, drawn) * row.mask.to(row.x)


def _drawn(
    predict: Predict, value: Callable[[Tensor], Tensor], row: Row, config: MonteCarlo, draw: Draw, drawn: Tensor,
    own: Tensor,
) -> Tensor:  # fmt: skip
    """Draw futures: ``drawn`` bool (G, n) are the tokens drawn in each group, ``own`` those whose gradient counts."""
    B, n, D = row.x.shape
    G, N, K = len(drawn), config.samples, len(row.alpha_bar) - 1
    device = row.x.device
    future, own = drawn.to(device)[None, :, None, :, None], own.to(device)[None, :, None, :, None]
    with torch.enable_grad():
        leaf = row.x.detach().requires_grad_(True)
        kept = torch.where(own, leaf[:, None, None], leaf.detach()[:, None, None])
        noise = _noise(row, drawn.any(0), G * N, draw).reshape(B, G, N, n, D)
        x = torch.where(future, noise, kept.expand(B, G, N, n, D)).reshape(B * G * N, n, D)
        levels = row.k.to(device).expand(G, n)
        ladder = [round(K * (config.steps - j) / config.steps) for j in range(config.steps + 1)]
        repeated = drawn.to(device)[None, :, None, :].expand(B, G, N, n).reshape(-1, n)
        still = levels[None, :, None, :].expand(B, G, N, n).reshape(-1, n)
        x0_hat = x
        for k_from, k_to in pairwise(ladder):
            k, k_next = (torch.where(repeated, level, still) for level in (k_from, k_to))
            x0_hat = predict(x, k, G * N)
            x = reverse_step(x, x0_hat, k, k_next, row.alpha_bar)
        (gradient,) = torch.autograd.grad(value(x0_hat).sum() / N, leaf)
    return gradient


def _resampled(predict: Predict, value: Callable[[Tensor], Tensor], row: Row, config: MonteCarlo, draw: Draw) -> Tensor:
    """Noise unfinished tokens to the rung above, predict, and average the gradients."""
    B, n, D = row.x.shape
    N = config.samples
    moving = ((row.k > 0) & row.finish).to(row.x.device)
    up = torch.where(moving, row.above.to(row.x.device), row.k.to(row.x.device))
    with torch.enable_grad():
        leaf = row.x.detach().requires_grad_(True)
        x = leaf.repeat_interleave(N, 0)
        noise = _noise(row, (row.k > 0) & row.finish, N, draw).reshape(B * N, n, D)
        k_from, k_to = row.k.to(row.x.device).expand(B * N, n), up.expand(B * N, n)
        noised = noise_further(x, k_from, k_to, noise, row.alpha_bar)
        x = torch.where((k_to > k_from).unsqueeze(-1), noised, x)
        x0_hat = predict(x, k_to.contiguous(), N)
        (gradient,) = torch.autograd.grad(value(x0_hat).sum() / N, leaf)
    return gradient
