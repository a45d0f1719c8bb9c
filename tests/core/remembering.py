"""The exact denoiser of a Gaussian sequence, with a memory: it remembers noisy tokens, their levels and positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dfplan.layout import SequenceSpec
from dfplan.models.base import Cond
from tests.core.gaussian import F64, GaussianDenoiser


@dataclass(frozen=True)
class Past:
    """Remember tokens as they were seen: ``state`` (B, m, D) at levels ``k`` (B, m) and ``positions`` (m,)."""

    state: Tensor
    k: Tensor
    positions: Tensor

    @property
    def next(self) -> int:
        """Position that follows the last remembered token."""
        return int(self.positions.max()) + 1

    def repeat(self, n: int) -> Past:
        """Repeat every sample ``n`` times in a row."""
        return Past(self.state.repeat_interleave(n, 0), self.k.repeat_interleave(n, 0), self.positions)

    def detach(self) -> Past:
        """Return the memory cut off from gradients."""
        return Past(self.state.detach(), self.k, self.positions)

    def last(self, tokens: int) -> Past:
        """Return the memory of the newest tokens only."""
        return Past(self.state[:, -tokens:], self.k[:, -tokens:], self.positions[-tokens:])


class RememberingGaussian:
    """Compute E[x0 | noisy tokens at or before], those in the memory included.

    Args:
        mean: (T, D) and ``cov`` (T*D, T*D) of the whole sequence.
        cov: See ``mean``.
        alpha_bar: Table (K+1,).
        tokens: Window of the layout (T if None).
    """

    def __init__(self, mean: Tensor, cov: Tensor, alpha_bar: Tensor, tokens: int | None = None) -> None:
        self.exact, self.alpha_bar = GaussianDenoiser(mean, cov, alpha_bar), alpha_bar
        self.spec = SequenceSpec(mean.shape[1], tokens or len(mean))

    def advance(self, x: Tensor, k: Tensor, cond: Cond, keep: int) -> tuple[Tensor, Past]:
        """Return x0_hat and the memory extended by the first ``keep`` tokens."""
        past: Past | None = cond.memory
        begin = 0 if past is None else past.next
        tokens = begin + torch.arange(x.shape[1]) if cond.tokens is None else cond.tokens
        if past is None:
            past = Past(x[:, :0], k[:, :0], tokens[:0])
        assert not len(past.positions) or int(tokens.min()) >= past.next
        whole, levels = torch.cat([past.state.to(x), x], 1), torch.cat([past.k, k], 1)
        positions = torch.cat([past.positions, tokens])
        x0_hat = self.exact(whole, levels, Cond(cond.causal, positions))[:, len(past.positions) :]
        m = len(past.positions) + keep
        return x0_hat, Past(whole[:, :m], levels[:, :m], positions[:m])

    def __call__(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        """Return x0_hat (B, n, D)."""
        return self.advance(x, k, cond, 0)[0]


def steady_chain(tokens: int) -> tuple[Tensor, Tensor]:
    """Build mean (T, 1) and covariance (T, T) of ``x_{t+1} = 0.9 x_t + w`` with variance 1 throughout."""
    t = torch.arange(tokens, dtype=F64)
    return torch.zeros(tokens, 1, dtype=F64), 0.9 ** (t[:, None] - t).abs()
