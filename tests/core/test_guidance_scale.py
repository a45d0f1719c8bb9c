"""G1, G4: the ready-made guidances sample exact posteriors, and their scale means the same however one samples.

Where log c is quadratic, guidance by its value at x0_hat is exact once it is tempered by ``R / (R + V(k))``: R the
variance that the scale stands for, V(k) the variance that the quantity has left at the row's levels. Where log c is
linear nothing needs to be tempered.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dfplan.guidance import (
    DiscObstacle,
    GoalGuidance,
    Guidance,
    LookAheadReward,
    RewardGuidance,
    Smoothness,
    StateBounds,
    all_of,
    any_of,
    tempered,
)
from dfplan.noise import alpha_bar_table
from dfplan.sampler import sample
from dfplan.schedule import make_schedule
from tests.core.gaussian import F64, GaussianDenoiser, Law, chain, condition, extrapolated, sampled_law

T = 3  # the current state and two future tokens
MEAN, COV = chain(T)
START = 0.4


def tables(levels: int) -> tuple[Tensor, GaussianDenoiser]:
    table = alpha_bar_table("cosine", levels)
    return table, GaussianDenoiser(MEAN, COV, table)


def guided_law(
    guidance: Guidance, q: int, *, levels: int = 200, steps: int = 25, eta: float = 0.0, slope: float = 0.25
) -> Law:
    """Compute the law of the future tokens given the first, guided by a guidance on states (B, H+1, 1)."""
    table, model = tables(levels)
    S = make_schedule("pyramid", T - 1, levels, steps=steps * q, slope=slope * steps * q)
    S = torch.cat([torch.zeros(len(S), 1, dtype=torch.int64), S], 1)
    context = torch.tensor([[START], [0.0], [0.0]], dtype=F64)
    return sampled_law(model, S, table, 1, context, causal=False, eta=eta, log_cost=guidance)


def prior() -> tuple[Tensor, Tensor]:
    return condition(MEAN.reshape(-1), COV, torch.tensor([True, False, False]), torch.tensor([START], dtype=F64))


def posterior(direction: Tensor, target: float, variance: float) -> tuple[Tensor, Tensor]:
    """Condition the law of the future on ``direction . x = target``, observed with a variance."""
    mean, cov = prior()
    gain = cov @ direction / (direction @ cov @ direction + variance)
    return mean + gain * (target - direction @ mean), cov - torch.outer(gain, direction @ cov)


def left_along(direction: Tensor, variance: float) -> Callable[[Tensor], float]:
    """Build R / (R + V(k)) for a quantity ``direction . x`` of the future tokens."""
    _, model = tables(200)

    def factor(k: Tensor) -> float:
        left = model.posterior(k, torch.arange(T), False)[2][1:, 1:]
        return variance / (variance + float(direction @ left @ direction))

    return factor


SCALE = 2.5  # stands for a variance of 1 / (2 scale) = 0.2
LAST, BEND = torch.tensor([0.0, 1.0], dtype=F64), torch.tensor([-2.0, 1.0], dtype=F64)
# Each is quadratic wherever the chain goes: bounds and discs that every plan violates, on one token by slicing.
ONE = (0,)
QUADRATIC: list[tuple[str, Guidance, Tensor, float]] = [
    ("goal", GoalGuidance((2.0,), ONE, SCALE), LAST, 2.0),
    ("bounds below", lambda s, k: StateBounds(50.0, math.inf, ONE, SCALE)(s[:, [0, 2]], k), LAST, 50.0),
    ("bounds above", lambda s, k: StateBounds(-math.inf, -50.0, ONE, SCALE)(s[:, [0, 2]], k), LAST, -50.0),
    ("disc", lambda s, k: DiscObstacle((-500.0,), 520.0, 30.0, ONE, SCALE, refine=0)(s[:, [0, 2]], k), LAST, 50.0),
    ("smoothness", Smoothness(ONE, SCALE), BEND, -START),
]


@pytest.mark.parametrize(
    ("name", "guidance", "direction", "target"), QUADRATIC, ids=lambda v: v if isinstance(v, str) else ""
)
def test_quadratic_guidance_samples_the_posterior(
    name: str, guidance: Guidance, direction: Tensor, target: float
) -> None:
    # G1. Catches: a factor 2 in a scale, a target or sign that is off, a push on the wrong token.
    exact = tempered(guidance, left_along(direction, 1 / (2 * SCALE)))
    mean, cov = posterior(direction, target, 1 / (2 * SCALE))
    size = max(1.0, float((mean - prior()[0]).abs().max()))  # the mean's error grows with how far it is moved
    law = extrapolated(lambda q: guided_law(exact, q))
    assert float((law.mean - mean).abs().max()) < 0.005 * size
    assert float((law.cov - cov).abs().max()) < 0.005


LINEAR: list[tuple[Guidance, Tensor]] = [
    (RewardGuidance(lambda s: 0.7 * s[..., 0], 1.5), torch.tensor([0.525, 0.525], dtype=F64)),
    (all_of(RewardGuidance(lambda s: s[..., 0]), RewardGuidance(lambda s: -3 * s[..., 0])), -torch.ones(2, dtype=F64)),
    (tempered(RewardGuidance(lambda s: s[..., 0]), -2.0), -torch.ones(2, dtype=F64)),
    (any_of(*[RewardGuidance(lambda s: 2 * s[..., 0])] * 3), torch.ones(2, dtype=F64)),
]


@pytest.mark.parametrize(("guidance", "slope"), LINEAR)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_linear_guidance_samples_the_tilted_law(guidance: Guidance, slope: Tensor, eta: float) -> None:
    # G1. Catches: means and sums swapped, a scale that acts twice. exp(w . x) moves a Gaussian by cov w.
    mean, cov = prior()
    law = extrapolated(lambda q: guided_law(guidance, q, eta=eta, steps=25 if eta == 0 else 50))
    assert law.error(mean + cov @ slope, cov) < (0.006 if eta == 0 else 0.012)


def test_look_ahead_is_a_tilt_by_discounted_weights_while_nothing_is_finished() -> None:
    # Catches: weights that change with the rows of a full-sequence walk.
    look = LookAheadReward(lambda s: s[..., 0], 4.0, discount=0.5)
    mean, cov = prior()
    law = extrapolated(lambda q: guided_law(look, q, slope=0.0))
    assert law.error(mean + cov @ torch.tensor([2.0, 1.0], dtype=F64), cov) < 0.006


# ---- the scale means the same


@pytest.mark.parametrize(
    "guidance",
    [GoalGuidance((2.0,), ONE, SCALE), StateBounds(8.0, math.inf, ONE, SCALE), Smoothness(ONE, SCALE),
     RewardGuidance(lambda s: s[..., 0], 2.0)],
    ids=lambda g: type(g).__name__,
)  # fmt: skip
def test_scale_does_not_depend_on_levels_or_steps(guidance: Guidance) -> None:
    # G4. Catches: a push that is counted once per row, or divided by K: 4 times the rows would be 4 times the pull.
    moved = []
    for levels, steps in ((50, 50), (200, 50), (200, 200)):
        law = guided_law(guidance, 1, levels=levels, steps=steps)
        moved.append(torch.cat([law.mean - prior()[0], (law.cov - prior()[1]).flatten()]))
    assert float(moved[0].abs().max()) > 0.1
    for other in moved[1:]:
        torch.testing.assert_close(other, moved[0], rtol=0.06, atol=0.04)


def independent(tokens: int) -> tuple[Tensor, GaussianDenoiser]:
    """Build a chain of independent standard normal tokens: what moves one says nothing of the others."""
    table = alpha_bar_table("cosine", 100)
    return table, GaussianDenoiser(torch.zeros(tokens, 1, dtype=F64), torch.eye(tokens, dtype=F64), table)


def walk(guidance: Guidance | None, x: Tensor) -> Tensor:
    table, model = independent(x.shape[1])
    S = make_schedule("full_sequence", x.shape[1] - 1, 100, steps=25)
    S = torch.cat([torch.zeros(len(S), 1, dtype=torch.int64), S], 1)
    everything: dict[str, Any] = {"tokens": torch.arange(x.shape[1]), "order": torch.arange(x.shape[1])}
    return sample(model, S, x, alpha_bar=table, causal=False, log_cost=guidance, **everything).x


@pytest.mark.parametrize(
    "guidance",
    [StateBounds(0.5, math.inf, ONE, SCALE), DiscObstacle((0.0,), 0.8, 0.1, ONE, SCALE, 0)],
    ids=lambda g: type(g).__name__,
)
def test_a_constraint_does_to_a_token_the_same_in_long_plans_and_big_batches(guidance: Guidance) -> None:
    # G4. Catches: means over tokens or samples in constraints.
    x = torch.randn(6, 33, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    long = walk(guidance, x)
    torch.testing.assert_close(long[:, :5], walk(guidance, x[:, :5]))
    torch.testing.assert_close(long[2:3], walk(guidance, x[2:3]))
    assert float((long - walk(None, x))[:, 1:].abs().mean()) > 0.1


def test_a_goal_does_to_the_last_token_the_same_in_long_plans() -> None:
    # G4. Catches: a mean over tokens in goals.
    x = torch.randn(2, 33, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    goal = GoalGuidance((2.0,), ONE, SCALE)
    short = walk(goal, torch.cat([x[:, :3], x[:, -1:]], 1))
    torch.testing.assert_close(walk(goal, x)[:, -1], short[:, -1])
    assert float((short[:, -1] - 2).abs().max()) < 1.0
