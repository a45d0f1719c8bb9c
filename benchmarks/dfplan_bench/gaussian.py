"""A linear-Gaussian process, its exact denoiser and its exact log-likelihoods."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dfplan.models.base import Cond

F64 = torch.float64


def rotation(tokens: int, *, decay: float = 0.9, angle: float = 0.6) -> tuple[Tensor, Tensor]:
    """Build mean (T, 2) and covariance (2T, 2T) of a stationary noisy rotation with unit variance.

    ``x_{t+1} = decay R(angle) x_t + w``, ``w ~ N(0, (1 - decay^2) I)``, ``x_0 ~ N(0, I)``.

    Args:
        tokens: T.
        decay: In (0, 1); correlation of neighbours.
        angle: Radians per token.
    """
    A = decay * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=F64)
    powers = [torch.linalg.matrix_power(A, lag) for lag in range(tokens)]
    cov = torch.empty(tokens, 2, tokens, 2, dtype=F64)
    for t in range(tokens):
        for s in range(tokens):
            cov[t, :, s] = powers[t - s] if t >= s else powers[s - t].T
    return torch.zeros(tokens, 2, dtype=F64), cov.reshape(2 * tokens, 2 * tokens)


def draw_sequences(mean: Tensor, cov: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw sequences float64 (count, T, D)."""
    z = torch.randn(count, len(cov), dtype=F64, generator=generator)
    centred: Tensor = (z @ torch.linalg.cholesky(cov).T).reshape(count, *mean.shape)
    return mean + centred


def log_likelihood(mean: Tensor, cov: Tensor, x0: Tensor, subset: Tensor) -> Tensor:
    """Compute the exact ln p(x_A) (B,) in nats for sequences (B, T, D) and positions int64 (n,)."""
    flat = _columns(subset, mean.shape[1])
    root = torch.linalg.cholesky(cov[flat][:, flat])
    z = torch.linalg.solve_triangular(root, (x0 - mean)[:, subset].flatten(1).T, upper=False)
    out: Tensor = -0.5 * (z**2).sum(0) - root.diagonal().log().sum() - 0.5 * len(flat) * math.log(2 * math.pi)
    return out


def _columns(tokens: Tensor, width: int) -> Tensor:
    return (tokens[:, None] * width + torch.arange(width)).reshape(-1)


class GaussianDenoiser:
    """Compute E[x0 | noisy tokens] of a Gaussian process under the contract of `dfplan.models.base.Denoiser`.

    With ``x = s x0 + sqrt(1 - s^2) eps``, ``s = sqrt(abar_k)``:
    ``x0_hat = mean + C s (s C s + 1 - s^2)^-1 (x - s mean)``. A token that may not be seen has s = 0.
    """

    def __init__(self, mean: Tensor, cov: Tensor, alpha_bar: Tensor) -> None:
        self.mean, self.cov, self.alpha_bar = mean, cov, alpha_bar.to(F64)

    def __call__(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        """Return x0_hat (B, n, D); the place of a token in the sequence is its causal order."""
        tokens = torch.arange(x.shape[1]) if cond.tokens is None else cond.tokens
        D = x.shape[2]
        flat = _columns(tokens, D)
        mean, cov = self.mean[tokens], self.cov[flat][:, flat]
        s, x = self.alpha_bar[k].sqrt(), x.to(F64)
        if not cond.causal:
            return _posterior_mean(mean, cov, s, x)
        out = torch.empty_like(x)
        for i, place in enumerate(tokens):
            out[:, i] = _posterior_mean(mean, cov, torch.where(tokens <= place, s, 0.0), x)[:, i]
        return out


def _posterior_mean(mean: Tensor, cov: Tensor, s: Tensor, x: Tensor) -> Tensor:
    """Compute x0_hat (B, n, D) from signal strengths s (B, n); rows that share them share a solution."""
    rows, of_row = torch.unique(s, dim=0, return_inverse=True)
    strength = rows.repeat_interleave(x.shape[2], 1)
    signal = strength[:, :, None] * cov
    noisy = signal * strength[:, None, :] + torch.diag_embed(1 - strength**2)
    gain = torch.linalg.solve(noisy, signal)[of_row]  # where there is no signal it is 0: noise is not read
    residual = x.flatten(1) - strength[of_row] * mean.reshape(-1)
    gained: Tensor = (residual[:, None] @ gain).reshape(x.shape)
    return mean + gained


class Cubature:
    """Answer call i of every draw with the same one of 2N points ``+- sqrt(N) e_j``, N the numbers of one sequence.

    The mean of a quadratic function of N standard normal numbers is its mean over these points. The squared error of a
    denoiser that is linear, as the exact one of a Gaussian is, is such a function: 2N draws give its expectation.

    Args:
        calls: Calls per draw.
    """

    def __init__(self, calls: int) -> None:
        self.calls, self.made = calls, 0

    def __call__(self, like: Tensor) -> Tensor:
        """Return a point for each sample, shaped like (B, ...)."""
        N = like[0].numel()
        j, self.made = self.made // self.calls % (2 * N), self.made + 1
        point = torch.zeros(N, dtype=like.dtype)
        point[j % N] = math.sqrt(N) if j < N else -math.sqrt(N)
        return point.reshape(like[0].shape).expand_as(like)
