"""A toy with an exact denoiser in which no single guidance scale is best for the whole plan.

Two routes of four tokens. The first half of the right one leads away from the goal at 3, and only guidance gets its
second half there; the first half of the other one is nearer to the goal, but its second half is a dead end at 0.2.
Guidance on the first half picks the dead end, no guidance on the second half misses the goal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dfplan.noise import alpha_bar_table, normal_like
from dfplan.ragged import Descent
from dfplan.sampler import Samples, sample
from dfplan.schedule import coarse_pyramid
from dfplan.selection import Judge
from tests.core.gaussian import F64
from tests.core.mixture import MixtureDenoiser

K, T, GOAL = 50, 4, 3.0
TABLE, ORDER = alpha_bar_table("cosine", K), torch.arange(T)
S = coarse_pyramid(T, K, steps=10, slope=5.0, block=2)  # the first two tokens are clean before the others begin


def pair(deviation: float) -> Tensor:
    """Build the covariance of two neighbouring tokens."""
    return deviation**2 * torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=F64)


RIGHT, DEAD_END = (-1.0, -1.0, 1.2, 1.2), (1.0, 1.0, 0.2, 0.2)
MODEL = MixtureDenoiser(
    torch.tensor([0.5, 0.5]),
    torch.tensor([RIGHT, DEAD_END], dtype=F64).unsqueeze(-1),
    torch.stack([torch.block_diag(pair(0.3), pair(0.5)), torch.block_diag(pair(0.3), pair(0.1))]),
    TABLE,
)


def cost(x0_hat: Tensor, k: Tensor) -> Tensor:
    """Pull all tokens to the goal."""
    return -((x0_hat[..., 0] - GOAL) ** 2).mean(1)


JUDGE = Judge(states=lambda x: x, score=lambda states: -(states[:, -1, 0] - GOAL).abs())
DESCENT = Descent(MODEL, TABLE, ORDER, ORDER, log_cost=cost)


def start(n: int = 1) -> Tensor:
    """Return tokens that will be drawn anew."""
    return torch.zeros(n, T, 1, dtype=F64)


def run(scales: Tensor, generator: torch.Generator) -> Samples:
    """Sample one candidate per scale."""
    x = normal_like(generator)(start(len(scales)))
    return sample(MODEL, S, x, alpha_bar=TABLE, tokens=ORDER, order=ORDER, log_cost=cost, scales=scales)


class Clock:
    """Tell the time: the first reading begins the search, each further one ends the next of the given durations."""

    def __init__(self, *seconds: float) -> None:
        self.now, self.seconds = 100.0, [0.0, *seconds]

    def __call__(self) -> float:
        """Return the time after the next of the durations."""
        self.now += self.seconds.pop(0)
        return self.now
