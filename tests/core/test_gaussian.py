"""The yardstick itself, and E3 for training: the loss of the exact denoiser is the conditional variance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dfplan.objective
from dfplan.models.base import Cond
from dfplan.noise import add_noise, alpha_bar_table
from dfplan.objective import ObjectiveConfig, diffusion_forcing_loss
from dfplan.tokens import CONTEXT, TokenSpec
from dfplan.windows import Batch
from tests.core.gaussian import F64, GaussianDenoiser, chain, condition

K = 8
TABLE = alpha_bar_table("cosine", K)
SPEC = TokenSpec(1, 1, stride=1, horizon=3, goal_columns=(0,), rest_columns=())


def joint_with_noise(mean: Tensor, cov: Tensor, k: Tensor, D: int) -> tuple[Tensor, Tensor]:
    """Build the joint law of (x0, noisy x) by the definition of the forward process."""
    s = TABLE[k].sqrt().repeat_interleave(D)
    noise = (1 - TABLE[k]).repeat_interleave(D).diag()
    cov_all = torch.cat([torch.cat([cov, cov * s], 1), torch.cat([s[:, None] * cov, s[:, None] * cov * s + noise], 1)])
    return torch.cat([mean.reshape(-1), s * mean.reshape(-1)]), cov_all


@settings(max_examples=25)
@given(st.integers(1, 2), st.lists(st.integers(0, K), min_size=3, max_size=3), st.integers(0, 1000), st.booleans())
def test_denoiser_is_the_conditional_mean(D: int, levels: list[int], seed: int, causal: bool) -> None:
    # Catches: an oracle with a wrong gain, a token that looks ahead, or noise that is counted twice.
    mean, cov = chain(3, D)
    k = torch.tensor(levels)
    joint_mean, joint_cov = joint_with_noise(mean, cov, k, D)
    x = torch.randn(1, 3, D, dtype=F64, generator=torch.Generator().manual_seed(seed))
    x0_hat = GaussianDenoiser(mean, cov, TABLE)(x, k[None], Cond(causal=causal))
    for t in range(3):
        seen = torch.zeros(6 * D, dtype=torch.bool)
        seen[3 * D : 3 * D + D * (t + 1 if causal else 3)] = True
        expected, _ = condition(joint_mean, joint_cov, seen, x.reshape(-1)[seen[3 * D :]])
        torch.testing.assert_close(x0_hat[0, t], expected[t * D : t * D + D], rtol=1e-8, atol=1e-8)


def test_levels_and_subsets_are_per_sample() -> None:
    # Catches: an oracle that takes the first sample's levels or tokens for all.
    mean, cov = chain(4, 2)
    oracle = GaussianDenoiser(mean, cov, TABLE)
    g = torch.Generator().manual_seed(0)
    x, k = torch.randn(6, 3, 2, dtype=F64, generator=g), torch.randint(0, K + 1, (6, 3), generator=g)
    tokens = torch.stack([torch.randperm(4, generator=g)[:3].sort().values for _ in range(6)])
    together = oracle(x, k, Cond(causal=False, tokens=tokens))
    for b in range(6):
        alone = oracle(x[b : b + 1], k[b : b + 1], Cond(causal=False, tokens=tokens[b]))
        torch.testing.assert_close(together[b : b + 1], alone)


def test_pure_noise_is_the_same_as_absence() -> None:
    # Catches: information that leaks from level K, or an absent token that is not marginalised.
    mean, cov = chain(4, 1)
    oracle = GaussianDenoiser(mean, cov, TABLE)
    x, k = torch.randn(5, 4, 1, dtype=F64), torch.tensor([2, K, 0, 5]).expand(5, 4)
    keep = torch.tensor([0, 2, 3])
    without = oracle(x[:, keep], k[:, keep], Cond(causal=False, tokens=keep))
    torch.testing.assert_close(oracle(x, k, Cond(causal=False))[:, keep], without)


def batch_of(cov: Tensor, mean: Tensor, B: int) -> Batch:
    """Draw windows from a Gaussian over the columns that SPEC uses."""
    root = torch.linalg.cholesky(cov + 1e-12 * torch.eye(len(cov), dtype=F64))
    z = torch.randn(B, len(cov), dtype=F64, generator=torch.Generator().manual_seed(3))
    x0 = (mean.reshape(-1) + z @ root.T).reshape(B, SPEC.tokens, SPEC.width) * SPEC.column_mask()
    weight = SPEC.column_mask().float().expand(B, -1, -1).clone()
    weight[:, :CONTEXT] = 0
    return Batch(x0.float(), weight, torch.ones(B, SPEC.tokens, dtype=torch.bool))


def window_gaussian() -> tuple[Tensor, Tensor]:
    """Build a dense Gaussian over the used columns of SPEC's tokens (zero variance elsewhere)."""
    g = torch.Generator().manual_seed(1)
    n = SPEC.tokens * SPEC.width
    A = torch.randn(n, n, dtype=F64, generator=g)
    used = SPEC.column_mask().reshape(-1).to(F64)
    mean = torch.randn(n, dtype=F64, generator=g) * used
    return mean.reshape(SPEC.tokens, SPEC.width), (A @ A.T / n + 0.2 * torch.eye(n, dtype=F64)) * used * used[:, None]


def expected_loss(oracle: GaussianDenoiser, k: Tensor, tokens: Tensor, causal: bool, weight: float) -> float:
    """Compute the loss from the posterior covariance: a token's squared error is its conditional variance."""
    var = oracle.posterior(k, tokens, causal)[2].diagonal().reshape(len(k), -1)
    a = TABLE[k][:, None]
    if oracle.kind == "eps":  # eps_hat - eps = sqrt(abar / (1 - abar)) (x0 - x0_hat); at level 0 the noise is unseen
        var = torch.where(a < 1, a / (1 - a).clamp_min(1e-30) * var, torch.ones_like(var))
    if oracle.kind == "v":  # v_hat - v = (x0_hat - x0) / sqrt(1 - abar); at level 0 it is the unseen noise
        var = torch.where(a < 1, var / (1 - a).clamp_min(1e-30), torch.ones_like(var))
    columns = SPEC.column_mask()[tokens].to(F64)
    error = (var * columns).sum(1) / columns.sum(1)
    share = torch.ones(len(k), dtype=F64)
    share[:CONTEXT], share[SPEC.plan_tokens :] = 0, weight
    return float((error * share).sum() / share.sum())


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", ["x0", "eps", "v"])
@pytest.mark.parametrize("pattern", [(0, 0, 1, 4, 7, 3), (5, 0, 8, 0, 2, 8), (0, 8, 3, 3, 3, 1)])
def test_loss_of_the_exact_denoiser_is_the_conditional_variance(
    pattern: tuple[int, ...], kind: str, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # E3 and T2. Catches: a wrong target, noise of another level than the one shown, tokens and levels out of step.
    mean, cov = window_gaussian()
    oracle = GaussianDenoiser(mean, cov, TABLE, SPEC.order(), kind)
    B, k = 40_000, torch.tensor(pattern)
    tokens = torch.arange(SPEC.plan_tokens + 1)
    monkeypatch.setattr(dfplan.objective, "draw_levels", lambda *_: k.expand(B, -1))
    config = ObjectiveConfig(action_tokens=1, action_weight=4.0)
    parts = diffusion_forcing_loss(
        oracle, batch_of(cov, mean, B), SPEC, K, kind, config, causal=causal, generator=torch.Generator().manual_seed(5)
    )
    # A mean of 4 squares with at least one of full weight over 40,000 samples: 1.5 % is beyond 4 standard errors.
    assert float(parts["loss"]) == pytest.approx(expected_loss(oracle, k, tokens, causal, 4.0), rel=0.015)


def test_no_other_denoiser_has_a_smaller_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a loss that something else than the conditional mean minimises (E2: one model serves all patterns).
    mean, cov = window_gaussian()
    k = torch.tensor([0, 0, 3, 6, 2, 4])
    monkeypatch.setattr(dfplan.objective, "draw_levels", lambda *_: k.expand(10_000, -1))

    def loss(change: Any) -> float:
        class Changed(GaussianDenoiser):
            def network(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
                return change(super().network(x, k, cond))

        parts = diffusion_forcing_loss(
            Changed(mean, cov, TABLE, SPEC.order(), "x0"), batch_of(cov, mean, 10_000), SPEC, K, "x0",
            ObjectiveConfig(action_tokens=1), causal=False, generator=torch.Generator().manual_seed(5),
        )  # fmt: skip
        return float(parts["loss"])

    best = loss(lambda y: y)
    for change in (lambda y: 1.1 * y, lambda y: 0.9 * y, lambda y: y + 0.1, lambda y: y - 0.1):
        assert loss(change) > best * 1.005


@given(st.lists(st.integers(0, K), min_size=3, max_size=3), st.integers(0, 10_000))
def test_oracle_error_matches_its_own_covariance(levels: list[int], seed: int) -> None:
    # Catches: forward noise that does not follow the table. Error and x are independent, so one big draw is enough.
    mean, cov = chain(3, 1)
    k, g = torch.tensor(levels), torch.Generator().manual_seed(seed)
    B = 4000
    x0 = mean + (torch.randn(B, 3, dtype=F64, generator=g) @ torch.linalg.cholesky(cov).T).unsqueeze(-1)
    x = add_noise(x0, k.expand(B, 3), torch.randn(B, 3, 1, dtype=F64, generator=g), TABLE)
    oracle = GaussianDenoiser(mean, cov, TABLE)
    error = (oracle(x, k.expand(B, 3), Cond(causal=False)) - x0).squeeze(-1)
    var = oracle.posterior(k, torch.arange(3), False)[2].diagonal()
    torch.testing.assert_close((error**2).mean(0), var, rtol=6 * (2 / B) ** 0.5, atol=1e-9)
