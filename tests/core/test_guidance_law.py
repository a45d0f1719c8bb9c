"""G1: guidance with the exact log-likelihood samples the exact posterior; G2: how far a future cost reaches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import dfplan.noise
import dfplan.sampler
from dfplan.noise import alpha_bar_table
from dfplan.sampler import Samples, sample
from dfplan.schedule import SCHEDULES, make_schedule
from tests.core.gaussian import GaussianDenoiser, Law, chain, extrapolated, sampled_law
from tests.core.tiny import random_denoiser, small_spec

K, T = 200, 4
TABLE = alpha_bar_table("cosine", K)
MEAN, COV = chain(T)
DENOISER = GaussianDenoiser(MEAN, COV, TABLE)
Y, R = 2.0, 0.2  # the observed value of one token and the variance of that observation
# Measured: 0.002 to 0.003 at eta 0 and 0.006 at eta 1 (extrapolated, 25/50 and 50/100 steps).
TOLERANCE = {0.0: 0.006, 1.0: 0.012}


def log_likelihood(token: int, causal: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """Build log p(y | noisy tokens) up to a constant: the variance left at the levels of the row counts too."""

    def log_c(x0_hat: Tensor, k: Tensor) -> Tensor:
        left = DENOISER.posterior(k, torch.arange(T), causal)[2][token, token]
        return -((x0_hat[:, token, 0] - Y) ** 2) / (2 * (R + left))

    return log_c


def posterior(token: int) -> tuple[Tensor, Tensor]:
    """Compute the law of the chain given y, by Bayes' rule for Gaussians."""
    mean, total = MEAN.reshape(-1), COV[token, token] + R
    gain = COV[:, token] / total
    return mean + gain * (Y - mean[token]), COV - torch.outer(gain, gain) * total


def guided_error(name: str, eta: float, token: int = T - 1, *, causal: bool = False) -> float:
    def law(q: int) -> Law:
        steps = (25 if eta == 0 else 50) * q
        S = make_schedule(name, T, K, steps=steps, slope=0.25 * steps)
        log_c = log_likelihood(token, causal)
        return sampled_law(DENOISER, S, TABLE, 1, causal=causal, eta=eta, log_cost=log_c)

    return extrapolated(law).error(*posterior(token))


@pytest.mark.parametrize(("name", "eta"), [*((n, 0.0) for n in sorted(SCHEDULES)), ("pyramid", 1.0)])
def test_guidance_on_the_last_token_samples_the_posterior(name: str, eta: float) -> None:
    # G1, and G2's reach: all earlier tokens get their share. Catches: whatever is planted below.
    assert guided_error(name, eta) < TOLERANCE[eta]


def test_guidance_on_a_middle_token_samples_the_posterior() -> None:
    # Catches: a gradient that reaches backwards only.
    assert guided_error("pyramid", 0.0, token=1) < TOLERANCE[0.0]


def test_causal_autoregressive_guidance_samples_the_posterior() -> None:
    # G2. Catches: a future cost whose gradient stops at the tokens that are still pure noise.
    assert guided_error("autoregressive", 0.0, causal=True) < TOLERANCE[0.0]


COEFFICIENT = dfplan.noise.guidance_coefficient


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (lambda a, b, t, eta: -COEFFICIENT(a, b, t, eta=eta), "down the gradient"),
        (lambda a, b, t, eta: 0 * COEFFICIENT(a, b, t, eta=eta), "no guidance"),
        (lambda a, b, t, eta: 2 * COEFFICIENT(a, b, t, eta=eta), "twice as strong"),
        (lambda a, b, t, eta: (1 - t[a]).sqrt() * (a != b), "the factor on eps used on x"),
        (lambda a, b, t, eta: (t[b] / t[a].clamp_min(1e-30)).sqrt() * (1 - t[a]) * (t[a] > 0) * (a != b),
         "the term of x0_hat alone"),
        (lambda a, b, t, eta: COEFFICIENT(a, b, t, eta=eta) / 5, "divided by the batch"),
    ],
)  # fmt: skip
def test_wrong_coefficients_are_detected(
    wrong: Callable[..., Tensor], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dfplan.sampler, "guidance_coefficient", wrong)
    assert not guided_error("pyramid", 0.0) < 2 * TOLERANCE[0.0], what


def test_gradients_that_stop_at_the_token_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    # The bug: d log c / d x0_hat in place of d log c / d x; only the token under the cost would move.
    def own_gradient(value: Tensor, leaf: Tensor) -> tuple[Tensor]:
        (whole,) = real(value, leaf)
        only = torch.zeros_like(whole)
        only[:, -1] = whole[:, -1]
        return (only,)

    real = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", own_gradient)
    assert not guided_error("pyramid", 0.0) < 2 * TOLERANCE[0.0]


# ---- in the real network


SPEC = small_spec()
MODEL = random_denoiser(SPEC)
TOKENS = torch.arange(SPEC.plan_tokens)


def plan_with(log_cost: Callable[[Tensor, Tensor], Tensor] | None, x: Tensor, S: Tensor, causal: bool) -> Samples:
    return sample(
        MODEL, S, x, alpha_bar=MODEL.alpha_bar, tokens=TOKENS, order=SPEC.order()[TOKENS], causal=causal,
        log_cost=log_cost, mask=SPEC.column_mask()[TOKENS], trace=True,
    )  # fmt: skip


def start(batch: int) -> Tensor:
    x = torch.randn(batch, len(TOKENS), SPEC.width, generator=torch.Generator().manual_seed(2))
    return x * SPEC.column_mask()[TOKENS]


def matrix() -> Tensor:
    S = make_schedule("pyramid", SPEC.horizon, MODEL.levels, steps=10, slope=2.0)
    return torch.cat([torch.zeros(len(S), 2, dtype=torch.int64), S], 1)


@pytest.mark.parametrize("causal", [True, False])
def test_cost_on_the_last_token_moves_earlier_ones_but_not_the_context(causal: bool) -> None:
    # G2. Catches: guidance of the token itself only, guidance that moves clean tokens (state, goal, finished ones).
    S, x = matrix(), start(2)
    plain = plan_with(None, x, S, causal)
    guided = plan_with(lambda x0_hat, k: -(x0_hat[:, -1] ** 2).sum(-1), x, S, causal)
    assert torch.equal(guided.x[:, :2], x[:, :2])
    assert bool((guided.x[:, 2:] != plain.x[:, 2:]).any(-1).all())
    assert guided.trace is not None
    for m in range(len(guided.S) - 1):
        done = guided.S[m] == 0
        assert torch.equal(guided.trace[m][:, done], guided.trace[m + 1][:, done])


def test_causal_cost_on_an_early_token_leaves_later_inputs_alone() -> None:
    # Catches: a gradient that leaks against the arrow of attention: token 0 does not depend on token 1.
    S = torch.tensor([[0, 0, 20, 20, 20, 20, 20], [0, 0, 8, 8, 8, 8, 8], [0, 0, 0, 0, 0, 0, 0]])
    x = start(2)
    plain, guided = (plan_with(c, x, S, True) for c in (None, lambda x0_hat, k: x0_hat[:, 2].sum(-1)))
    # The first row starts from pure noise, where nothing is guided; in the second only the first future token is.
    assert bool((guided.x[:, 2] != plain.x[:, 2]).any()) and torch.allclose(guided.x[:, 3:], plain.x[:, 3:], atol=1e-5)


def test_guidance_of_a_sample_does_not_depend_on_the_batch() -> None:
    # G4. Catches: a mean over the batch, which makes guidance as many times weaker.
    def log_c(x0_hat: Tensor, k: Tensor) -> Tensor:
        return -(x0_hat[:, -1] ** 2).sum(-1)

    S, x = matrix(), start(6)
    together = plan_with(log_c, x, S, True).x
    for b in (0, 5):
        alone = plan_with(log_c, x[b : b + 1], S, True).x
        torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-4, atol=1e-4)


def test_pure_noise_is_not_guided_and_nothing_is_nan() -> None:
    # Catches: the coefficient's division by alpha_bar = 0 at level K.
    seen: list[Tensor] = []

    def log_c(x0_hat: Tensor, k: Tensor) -> Tensor:
        seen.append(k)
        return -(x0_hat**2).sum((1, 2)) * 100

    S, x = matrix(), start(2)
    out = plan_with(log_c, x, S, False)
    assert bool(torch.isfinite(out.x).all())
    assert out.trace is not None and torch.equal(out.trace[1][:, 3:], x[:, 3:])
    assert [k.tolist() for k in seen] == out.S[:-1].tolist()


def test_samples_come_without_a_gradient() -> None:
    # Catches: a graph that grows with every row, with guidance or without.
    for log_cost in (None, lambda x0_hat, k: x0_hat.sum((1, 2))):
        out = plan_with(log_cost, start(1), matrix(), True)
        assert out.trace is not None and not out.x.requires_grad and not out.trace.requires_grad
