"""A decision with a lottery behind it, and its exact denoiser."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dfplan.models import Cond


@dataclass(frozen=True)
class Lottery:
    """Hold a mixture of Gaussians over sequences (T, 1), independent over the tokens of each component.

    Attributes:
        weight: (C,) shares of the components.
        mean: (C, T).
        std: (C, T), positive.
        alpha_bar: Table (K+1,).
    """

    weight: Tensor
    mean: Tensor
    std: Tensor
    alpha_bar: Tensor

    def __call__(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        """Return the posterior mean (B, n, 1) of every token given the noisy tokens that it may see."""
        at = torch.arange(x.shape[1]) if cond.tokens is None else cond.tokens
        a, value = self.alpha_bar[k][:, None].to(x), x[..., 0][:, None]  # (B, 1, n)
        mean, var = self.mean[:, at].to(x), self.std[:, at].to(x) ** 2
        total = a * var + 1 - a
        log = -0.5 * ((value - a.sqrt() * mean) ** 2 / total + total.log())
        log = torch.where(a > 0, log, torch.zeros_like(log))  # a token at level K tells nothing
        seen = log.cumsum(-1) if cond.causal else log.sum(-1, keepdim=True).expand_as(log)
        share = (self.weight.to(x).log()[:, None] + seen).softmax(1)
        inside = mean + a.sqrt() * var / total * (value - a.sqrt() * mean)
        return (share * inside).sum(1).unsqueeze(-1)


SURE, WIN, LOSS, CHANCE = 0.5, 2.0, -0.5, 0.25


def two_routes(alpha_bar: Tensor) -> Lottery:
    """Build the toy: token 0 is the choice (+1 the sure route, -1 the lottery), token 1 the reward it leads to.

    The sure route pays 0.5. The lottery pays 2 with probability 1/4 and -0.5 otherwise: 0.125 on average.
    """
    weight = torch.tensor([0.5, 0.5 * CHANCE, 0.5 * (1 - CHANCE)], dtype=torch.float64)
    mean = torch.tensor([[1.0, SURE], [-1.0, WIN], [-1.0, LOSS]], dtype=torch.float64)
    return Lottery(weight, mean, torch.full_like(mean, 0.15), alpha_bar)


def true_reward(choice: Tensor) -> tuple[Tensor, Tensor]:
    """Return the expected reward of each choice, and the variance of the reward over choices and nature's draws."""
    lottery = WIN * CHANCE + LOSS * (1 - CHANCE)
    expected = torch.where(choice > 0, SURE, lottery).double()
    inside = torch.where(choice > 0, 0.0, CHANCE * (WIN - lottery) ** 2 + (1 - CHANCE) * (LOSS - lottery) ** 2)
    return expected, inside.double().mean() + expected.var(unbiased=False)
