"""Fit the inverse head: regress action chunks on the two states they connect, all of it in float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dfplan.models.inverse import InverseHead
from dfplan.noise import add_noise
from dfplan.tokens import Normalizer, TokenSpec
from dfplan.windows import EpisodeArrays

WHITENED_BY = 100_000  # pairs whose covariance is taken


@dataclass(frozen=True)
class InverseTraining:
    """Say how the inverse head is fitted.

    Attributes:
        steps: Optimiser steps.
        batch: Pairs of states per step.
        lr: Peak learning rate of AdamW, after a linear warm-up over a twentieth of the steps; a cosine to 0.
        from_noise: Share of chunks at level K, where nothing but the states is known; the others are at any level.
        seed: Of pairs, levels and noise.
    """

    steps: int = 4000
    batch: int = 512
    lr: float = 2e-3
    from_noise: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.lr <= 0:
            raise ValueError(f"steps, batch and lr must be positive, got {self.steps}, {self.batch} and {self.lr}")
        if not 0 <= self.from_noise <= 1:
            raise ValueError(f"from_noise is a share and must lie in [0, 1], got {self.from_noise}")


class Pairs:
    """Draw pairs of states one token apart, and the actions between them.

    Args:
        episodes: The data.
        spec: The layout.
        norm: The statistics.

    Raises:
        ValueError: If no episode is as long as a token.
    """

    def __init__(self, episodes: EpisodeArrays, spec: TokenSpec, norm: Normalizer) -> None:
        lengths, F = np.asarray(episodes.lengths, dtype=np.int64), spec.stride
        if lengths.max(initial=0) < F:
            raise ValueError(f"no episode is as long as a token of {F} steps; the longest has {lengths.max(initial=0)}")
        episode = np.repeat(np.arange(len(lengths)), lengths)
        begin = np.cumsum(lengths) - lengths
        step = np.arange(int(lengths.sum()))
        self._starts = step[step - begin[episode] + F <= lengths[episode]]
        self._row = self._starts + episode[self._starts]  # each episode has one observation more than actions
        self._episodes, self._spec, self._norm = episodes, spec, norm

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self._starts)

    def take(self, which: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[Tensor, Tensor]:
        """Return pairs of states (n, 2 O) and chunks (n, F A) as an action token holds them, both normalised."""
        F, rows = self._spec.stride, self._row[which]
        states = np.stack([self._episodes.observations[rows], self._episodes.observations[rows + F]], 1)
        actions = self._episodes.actions[self._starts[which][:, None] + np.arange(F)]
        obs = self._norm.obs(torch.from_numpy(states).float())
        return obs.flatten(1), self._norm.act(torch.from_numpy(actions).float()).flatten(1)


def fit_inverse(
    head: InverseHead,
    episodes: EpisodeArrays,
    spec: TokenSpec,
    norm: Normalizer,
    alpha_bar: Tensor,
    config: InverseTraining | None = None,
    *,
    log: Callable[[int, float], None] | None = None,
) -> float:
    """Fit an inverse head in place; afterwards its parameters are no longer trained.

    The loss is the squared error of the clean actions, given the pair of states and the chunk at a random level.

    Args:
        head: The head.
        episodes: The data.
        spec: The layout.
        norm: The statistics.
        alpha_bar: Table (K+1,).
        config: How to fit.
        log: Called after every step with its number and the loss.

    Returns:
        The loss, averaged over the last tenth of the steps.

    Raises:
        ValueError: If no episode is as long as a token, or the loss is not finite.
    """
    c, pairs, device = config or InverseTraining(), Pairs(episodes, spec, norm), head.centre.device
    rng = np.random.default_rng([c.seed, 11])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    every = rng.permutation(len(pairs))[:WHITENED_BY]
    head.whiten_by(pairs.take(every)[0].to(device))
    trained = [p for p in head.parameters() if p is not head.centre and p is not head.whiten]
    optimizer, K, recent = torch.optim.AdamW(trained, lr=c.lr, weight_decay=1e-4), len(alpha_bar) - 1, []
    for step in range(c.steps):
        for group in optimizer.param_groups:
            group["lr"] = c.lr * min(1.0, 20 * (step + 1) / c.steps) * 0.5 * (1 + math.cos(math.pi * step / c.steps))
        pair, clean = (v.to(device) for v in pairs.take(rng.integers(0, len(pairs), c.batch)))
        k = torch.randint(1, K + 1, (c.batch, 1), generator=generator)
        k[torch.rand(c.batch, generator=generator) < c.from_noise] = K
        eps = torch.randn(clean.shape, generator=generator)
        k, eps = k.to(device), eps.to(device)
        noisy = add_noise(clean[:, None], k, eps[:, None], alpha_bar)[:, 0]
        noisy = torch.where(k == K, torch.zeros_like(noisy), noisy)
        loss = (head(pair, noisy, alpha_bar[k[:, 0]]) - clean).square().mean()
        if not bool(torch.isfinite(loss)):
            raise ValueError(f"the loss of the inverse head is {float(loss.detach())} at step {step}; check the data")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        recent.append(float(loss.detach()))
        if log is not None:
            log(step + 1, recent[-1])
    for parameter in head.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None  # it would count in the gradient norm of what is trained next
    last = recent[-max(1, c.steps // 10) :]
    return sum(last) / len(last)
