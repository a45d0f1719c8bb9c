"""The exact denoiser of a mixture of Gaussians over whole sequences: several routes, exactly.

With x0 from ``sum_c w_c N(mean_c, cov_c)`` and a level per token, the posterior mean is the mean of the components'
posterior means, weighted by how well each component explains the noisy tokens that may be seen. Nothing is learned, so
what a sampler makes of several routes can be compared with known answers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dfplan.models.base import Cond
from tests.core.gaussian import F64, GaussianDenoiser


class MixtureDenoiser:
    """Compute E[x0 | the noisy tokens that may be seen] under the contract of `dfplan.models.base.Denoiser`.

    Tokens that are absent are marginalised, tokens at level K tell nothing, every token has a level of its own. Full:
    a token sees everything present. Causal: only tokens at or before its own place in ``order``. Entries that are the
    same number in every component (columns that a token does not use) stay at it. Entries of zero variance whose means
    differ are fine as long as their token is never seen at level 0. The computation is float64 and differentiable in
    the tokens.

    Args:
        weights: (C,), positive; they are normalised.
        means: (C, T, D).
        covs: (C, T*D, T*D), or one (T*D, T*D) for all.
        alpha_bar: Table (K+1,).
        order: int64 (T,), causal order of the positions; their number if None.
    """

    def __init__(
        self, weights: Tensor, means: Tensor, covs: Tensor, alpha_bar: Tensor, order: Tensor | None = None
    ) -> None:
        self.weights = (weights / weights.sum()).to(F64)
        self.means, self.alpha_bar = means.to(F64), alpha_bar
        C, self.T, self.D = means.shape
        self.covs = covs.to(F64).expand(C, self.T * self.D, self.T * self.D)
        self.order = torch.arange(self.T) if order is None else order
        pairs = zip(self.means, self.covs, strict=True)
        self.parts = [GaussianDenoiser(mean, cov, alpha_bar, self.order) for mean, cov in pairs]
        flat = self.means.flatten(1)
        self.informative = ((flat != flat[:1]) | (self.covs.diagonal(dim1=1, dim2=2) > 0)).any(0)
        self._known: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw clean sequences (n, T, D)."""
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        values, vectors = torch.linalg.eigh(self.covs)
        root = vectors * values.clamp_min(0).sqrt()[:, None]
        eps = torch.randn(n, self.T * self.D, generator=generator, dtype=F64)
        return self.means[which] + torch.einsum("nij,nj->ni", root[which], eps).reshape(n, self.T, self.D)

    def log_likelihood(self, x: Tensor, k: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Compute the log density (B, C) of noisy tokens x (B, n, D) at levels k (n,) under each component."""
        tokens = torch.arange(x.shape[1]) if tokens is None else tokens
        every = torch.ones(len(tokens) * self.D, dtype=torch.bool)
        return self._explain(x.to(F64).flatten(1), k, tokens, every, ("all",))

    def responsibilities(self, x: Tensor, k: Tensor, tokens: Tensor, causal: bool) -> Tensor:
        """Compute P(component | the noisy tokens that each token may see), (B, n, C)."""
        place = self.order[tokens]
        flat, out = x.to(F64).flatten(1), torch.zeros(*x.shape[:2], len(self.parts), dtype=F64)
        for p in place.unique() if causal else place[:1]:
            seen = (place <= p) if causal else torch.ones_like(place, dtype=torch.bool)
            rows = (place == p) if causal else seen
            log = self._explain(flat, k, tokens, seen.repeat_interleave(self.D), (int(p), causal))
            share = (self.weights.log() + log).softmax(-1)
            out = torch.where(rows[None, :, None], share[:, None, :], out)
        return out

    def _explain(self, flat: Tensor, k: Tensor, tokens: Tensor, seen: Tensor, label: tuple[Any, ...]) -> Tensor:
        """Compute the log density (B, C) of the seen entries of noisy tokens, up to what no component explains."""
        key = (tuple(k.tolist()), tuple(tokens.tolist()), label)
        if key not in self._known:
            index = (tokens[:, None] * self.D + torch.arange(self.D)).reshape(-1)
            a = self.alpha_bar[k.repeat_interleave(self.D)]
            use = (seen & (a > 0) & self.informative[index]).nonzero().squeeze(1)
            s, at = a[use].sqrt(), index[use]
            cov = s[:, None] * self.covs[:, at][:, :, at] * s + (1 - a[use]).diag()
            self._known[key] = (use, s * self.means.flatten(1)[:, at], torch.linalg.cholesky(cov))
        use, mean, root = self._known[key]
        gap = flat[:, None, use] - mean
        white = torch.linalg.solve_triangular(root, gap.permute(1, 2, 0), upper=False)
        log_det = root.diagonal(dim1=1, dim2=2).log().sum(-1)
        norm = len(use) / 2 * torch.log(torch.tensor(2 * torch.pi, dtype=F64))
        return -(white**2).sum(1).T / 2 - log_det - norm

    def __call__(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        """Return x0_hat (B, n, D)."""
        tokens = torch.arange(x.shape[1]) if cond.tokens is None else cond.tokens
        keys = k if tokens.ndim == 1 else torch.cat([k, tokens], 1)
        if bool((keys == keys[:1]).all()):
            return self._mean(x, k[0], tokens if tokens.ndim == 1 else tokens[0], cond.causal)
        out = torch.zeros_like(x)
        for row in keys.unique(dim=0):
            here = (keys == row).all(1).nonzero().squeeze(1)
            levels, where = (row, tokens) if tokens.ndim == 1 else row.chunk(2)
            out = out.index_copy(0, here, self._mean(x[here], levels, where, cond.causal))
        return out

    def _mean(self, x: Tensor, k: Tensor, tokens: Tensor, causal: bool) -> Tensor:
        share = self.responsibilities(x, k, tokens, causal)
        total = torch.zeros(x.shape, dtype=F64)
        for c, part in enumerate(self.parts):
            gain, offset, _ = part.posterior(k, tokens, causal)
            mean = (x.to(F64).flatten(1) @ gain.T + offset).reshape(x.shape)
            total = total + share[..., c : c + 1] * mean
        return total.to(x.dtype)
