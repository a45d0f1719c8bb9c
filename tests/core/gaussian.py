"""The exact denoiser of a jointly Gaussian sequence, and the exact law of what a sampler makes of it.

With a Gaussian the best denoiser is linear in the noisy tokens, so a whole run of the sampler is an affine map of all
the noise it draws. Feeding it one unit impulse per number drawn gives that map, hence the mean and the covariance of
the samples without any Monte Carlo error; what is left is the error of finite steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dfplan.models.base import Cond
from dfplan.sampler import sample

F64 = torch.float64


def chain(tokens: int, width: int = 1) -> tuple[Tensor, Tensor]:
    """Build mean (T, D) and covariance (T*D, T*D) of ``x_{t+1} = A x_t + c + w``: nothing is centred or normalised."""
    A = torch.tensor([[0.9]], dtype=F64) if width == 1 else torch.tensor([[0.8, 0.35], [-0.3, 0.85]], dtype=F64)
    c = torch.tensor([0.3, -0.2], dtype=F64)[:width]
    W = 0.3 * torch.eye(width, dtype=F64) + 0.05
    mean = torch.zeros(tokens, width, dtype=F64)
    cov = torch.zeros(tokens, width, tokens, width, dtype=F64)
    mean[0], cov[0, :, 0] = 0.5 * torch.arange(1, width + 1, dtype=F64), 1.2 * torch.eye(width, dtype=F64) - 0.1
    for t in range(1, tokens):
        mean[t] = A @ mean[t - 1] + c
        for s in range(t):
            cov[t, :, s] = A @ cov[t - 1, :, s]
            cov[s, :, t] = cov[t, :, s].T
        cov[t, :, t] = A @ cov[t - 1, :, t - 1] @ A.T + W
    return mean, cov.reshape(tokens * width, tokens * width)


def condition(mean: Tensor, cov: Tensor, known: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Condition a flat Gaussian on entries (a bool mask) that are known; returns the law of the others."""
    gain = torch.linalg.solve(cov[known][:, known], cov[known][:, ~known]).T
    return mean[~known] + gain @ (values - mean[known]), cov[~known][:, ~known] - gain @ cov[known][:, ~known]


class GaussianDenoiser:
    """Compute E[x0 | the noisy tokens that may be seen] under the contract of `dfplan.models.base.Denoiser`.

    Tokens that are absent are marginalised, tokens at level K tell nothing, every token has a level of its own. Full:
    a token sees everything present. Causal: only tokens at or before its own place in ``order``. Entries whose
    variance is 0 (columns that a token does not use) stay at their mean.
    """

    def __init__(
        self, mean: Tensor, cov: Tensor, alpha_bar: Tensor, order: Tensor | None = None, kind: str = "x0"
    ) -> None:
        self.mean, self.cov, self.alpha_bar, self.kind = mean, cov, alpha_bar, kind
        self.T, self.D = mean.shape
        self.order = torch.arange(self.T) if order is None else order
        self._known: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}

    def posterior(self, k: Tensor, tokens: Tensor, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return gain (nD, nD), offset (nD,) and covariance (nD, nD) of x0 given tokens at levels k (n,)."""
        key = (tuple(k.tolist()), tuple(tokens.tolist()), causal)
        if key not in self._known:
            self._known[key] = self._posterior(k, tokens, causal)
        return self._known[key]

    def _posterior(self, k: Tensor, tokens: Tensor, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
        n, D = len(tokens), self.D
        flat = (tokens[:, None] * D + torch.arange(D)).reshape(-1)
        mean, cov = self.mean.reshape(-1)[flat], self.cov[flat][:, flat]
        level, place = k.repeat_interleave(D), self.order[tokens].repeat_interleave(D)
        a = self.alpha_bar[level]
        useful = (cov.diagonal() > 0) & (a > 0)
        gain, offset, left = torch.zeros(n * D, n * D, dtype=F64), mean.clone(), cov.clone()
        for p in place.unique() if causal else place[:1]:
            rows = (place == p) if causal else torch.ones_like(useful)
            seen = useful & (place <= p) if causal else useful
            s, noise = a[seen].sqrt(), (1 - a[seen]).diag()
            cross = cov[:, seen] * s
            inverse = torch.linalg.inv(s[:, None] * cov[seen][:, seen] * s + noise)
            g = cross @ inverse
            index = rows.nonzero().squeeze(1)
            gain[index[:, None], seen.nonzero().squeeze(1)[None, :]] = g[rows]
            offset[rows] = mean[rows] - (g @ (s * mean[seen]))[rows]
            block = cov - g @ cross.T
            left[index[:, None], index[None, :]] = block[rows][:, rows]
        return gain, offset, left

    def __call__(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        """Return x0_hat (B, n, D)."""
        tokens = torch.arange(x.shape[1]) if cond.tokens is None else cond.tokens
        keys = k if tokens.ndim == 1 else torch.cat([k, tokens], 1)
        out = torch.empty_like(x)
        same = bool((keys == keys[:1]).all())
        for row in keys[:1] if same else keys.unique(dim=0):
            here = torch.ones(len(x), dtype=torch.bool) if same else (keys == row).all(1)
            levels, where = (row, tokens) if tokens.ndim == 1 else row.chunk(2)
            gain, offset, _ = self.posterior(levels, where, cond.causal)
            value = (x[here].to(F64).flatten(1) @ gain.T + offset).reshape(x[here].shape).to(x.dtype)
            if same:
                return value
            out[here] = value
        return out

    def network(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        """Return the best raw output of the kind ``self.kind``, as a trained head would."""
        x0_hat = self(x, k, cond)
        a = self.alpha_bar[k].unsqueeze(-1)
        eps_hat = torch.where(a < 1, (x - a.sqrt() * x0_hat) / (1 - a).clamp_min(1e-30).sqrt(), torch.zeros_like(x))
        v_hat = a.sqrt() * eps_hat - (1 - a).sqrt() * x0_hat
        return {"x0": x0_hat, "eps": eps_hat, "v": v_hat}[self.kind].to(x.dtype)


class Impulses:
    """A source of noise that answers call c with a unit impulse in each entry, one per row of the batch."""

    def __init__(self, first: int) -> None:
        self.row, self.calls = first, 0

    def __call__(self, like: Tensor) -> Tensor:
        """Return noise like (B, n, D)."""
        out = torch.zeros_like(like).flatten(1)
        width = out.shape[1]
        if self.row + width <= len(out):
            out[self.row + torch.arange(width), torch.arange(width)] = 1.0
        self.row, self.calls = self.row + width, self.calls + 1
        return out.reshape(like.shape)


@dataclass(frozen=True)
class Law:
    """Mean (n*D,) and covariance (n*D, n*D) of the sampled tokens that were free."""

    mean: Tensor
    cov: Tensor

    def error(self, mean: Tensor, cov: Tensor) -> float:
        """Return the largest deviation, in units of the largest variance (or its root for the mean)."""
        scale = float(cov.diagonal().max())
        return max(float((self.cov - cov).abs().max()) / scale, float((self.mean - mean).abs().max()) / scale**0.5)


def sampled_law(
    model: Any, S: Tensor, alpha_bar: Tensor, width: int, context: Tensor | None = None, **options: Any
) -> Law:
    """Compute the exact law of `dfplan.sampler.sample` for an affine denoiser.

    Args:
        model: The denoiser.
        S: (M+1, n); columns of zeros are context.
        alpha_bar: Table.
        width: D.
        context: (n, D), the values of context tokens; the other entries are ignored.
        options: Further arguments of ``sample``.
    """
    n = S.shape[1]
    free = (S[0] > 0).repeat_interleave(width)
    start = torch.zeros(n, width, dtype=F64) if context is None else context * (S[0] == 0)[:, None]
    tokens = options.pop("tokens", torch.arange(n))
    order = options.pop("order", torch.arange(n))

    def run(x: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
        out = sample(model, S, x, alpha_bar=alpha_bar, tokens=tokens, order=order, draw=draw, **options)
        return out.x.flatten(1)

    counter = Impulses(10**9)
    if options.get("eta", 0.0) > 0 or options.get("hold") == "resample":
        run(start[None], counter)
    first = 1 + int(free.sum())
    rows = first + counter.calls * n * width
    x = start.expand(rows, n, width).clone().flatten(1)
    x[1 + torch.arange(first - 1), free.nonzero().squeeze(1)] = 1.0
    out = run(x.reshape(rows, n, width), Impulses(first))[:, free]
    effect = out[1:] - out[0]
    return Law(out[0], effect.T @ effect)


def extrapolated(law: Callable[[int], Law]) -> Law:
    """Cancel the first-order error of finite steps: ``2 law(2) - law(1)``; ``law(q)`` has q times the steps.

    The samplers are first-order methods, so what remains falls with the square of the step.
    """
    once, twice = law(1), law(2)
    return Law(2 * twice.mean - once.mean, 2 * twice.cov - once.cov)
