"""E1 to E3: the bounds against exact log-likelihoods of a linear-Gaussian chain, without Monte Carlo error.

With the exact denoiser a squared error is a quadratic function of the noise and of x0, and the mean of a quadratic over
N normal numbers is its mean over the 2 N points ``+- sqrt(N) e_i``. Fed with those points in the place of draws, the
functions under test return expectations to machine precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from dfplan.likelihood import VARIANCES, bound_weights, chain_rule, noisy_bound, step_terms, subsequence_bound
from dfplan.models.base import Cond
from dfplan.noise import add_noise, alpha_bar_table, normal_like
from dfplan.schedule import autoregressive, full_sequence, pyramid, trapezoid
from tests.core.gaussian import F64, GaussianDenoiser, chain
from tests.core.tiny import random_denoiser, small_spec

T = 3


class Points:
    """Answer all calls of one draw with the same point ``+- sqrt(N) e_i``; one draw has ``calls`` calls."""

    def __init__(self, calls: int) -> None:
        self.calls, self.asked = calls, 0

    def __call__(self, like: Tensor) -> Tensor:
        index, self.asked = self.asked // self.calls, self.asked + 1
        N = like[0].numel()
        out = torch.zeros(N, dtype=like.dtype)
        out[index % N] = math.sqrt(N) * (1 if index < N else -1)
        return out.reshape(like[0].shape).expand_as(like)


def points_of(mean: Tensor, cov: Tensor) -> Tensor:
    """Return the points (2N, T, D) over which a quadratic has its mean over N(mean, cov)."""
    root = math.sqrt(len(cov)) * torch.linalg.cholesky(cov).T
    return mean + torch.cat([root, -root]).reshape(-1, *mean.shape)


def exact_bound(model: Any, x0: Tensor, table: Tensor, S: Tensor | None = None, **options: Any) -> Tensor:
    """Return the bound (B,) in expectation over the noise."""
    subset = options.pop("subset", torch.arange(x0.shape[1]))
    order = options.pop("order", torch.arange(x0.shape[1]))
    S = chain_rule(order[subset], len(table) - 1) if S is None else S
    rows = int((S[1:] != S[:-1]).any(1).sum())
    draws = 2 * len(subset) * x0.shape[2]
    return subsequence_bound(
        model, x0, table, order=order, subset=subset, schedule=S, draw=Points(rows), draws=draws, **options
    ).nats


def log_density(mean: Tensor, cov: Tensor, subset: Tensor, x0: Tensor) -> Tensor:
    """Return the exact ln p(x_A) (B,)."""
    flat = (subset[:, None] * mean.shape[1] + torch.arange(mean.shape[1])).reshape(-1)
    law = MultivariateNormal(mean.reshape(-1)[flat], cov[flat][:, flat])
    return law.log_prob(x0[:, subset].flatten(1))


def entropy(cov: Tensor) -> float:
    return 0.5 * float(torch.logdet(2 * math.pi * math.e * cov))


def exact(K: int, D: int = 1, tokens: int = T, noise: str = "cosine") -> tuple[GaussianDenoiser, Tensor]:
    mean, cov = chain(tokens, D)
    table = alpha_bar_table(noise, K)
    return GaussianDenoiser(mean, cov, table), table


def random_matrix(tokens: int, K: int, seed: int) -> Tensor:
    """Build a matrix in which every row moves a random choice of tokens by one level."""
    g = torch.Generator().manual_seed(seed)
    share = torch.rand(tokens, generator=g) * 0.8 + 0.2
    rows = [torch.full((tokens,), K)]
    while int(rows[-1].max()) > 0:
        rows.append((rows[-1] - (torch.rand(tokens, generator=g) < share).long()).clamp_min(0))
    return torch.stack(rows)


# The terms of one step


def kl_by_conditioning(k_from: int, k_to: int, a: Tensor, x0: float, x0_hat: float, variance: str) -> float:
    """Compute the cost of a step from the joint law of (x', x) given x0, and the definition of DDPM's step."""
    b, f = float(a[k_to]), float(a[k_from])
    if k_to == 0:
        s2 = 1 - f if variance == "forward" else (1 - f) / f
        return -float(Normal(x0_hat, math.sqrt(s2)).log_prob(torch.tensor(x0, dtype=F64)))
    root = math.sqrt(f / b)  # x = root x' + noise; cov(x', x) = root (1 - b)
    x = 0.3  # any value: it moves both means alike
    gain = root * (1 - b) / (1 - f)
    q_var = (1 - b) - gain * root * (1 - b)

    def mean(clean: float) -> float:
        return math.sqrt(b) * clean + gain * (x - math.sqrt(f) * clean)

    p_var = q_var if variance == "posterior" else 1 - f / b
    q, p = (Normal(torch.tensor(m, dtype=F64), math.sqrt(v)) for m, v in ((mean(x0), q_var), (mean(x0_hat), p_var)))
    return float(kl_divergence(q, p))


@given(
    st.integers(1, 12), st.integers(0, 11), st.floats(-2, 2), st.floats(-2, 2),
    st.sampled_from(VARIANCES), st.sampled_from(["cosine", "linear"]),
)  # fmt: skip
def test_a_step_costs_the_divergence_of_the_two_gaussians(
    k_from: int, drop: int, x0: float, x0_hat: float, variance: str, noise: str
) -> None:
    # E2. Catches: a wrong posterior, variances swapped, a lost half, a decoder of another rung.
    a, k_to = alpha_bar_table(noise, 12), k_from - 1 - drop % k_from
    if k_from == 12 and k_to == 0 and variance == "posterior":
        return
    weight, constant = step_terms(torch.tensor([k_from]), torch.tensor([k_to]), a, variance)
    expected = kl_by_conditioning(k_from, k_to, a, x0, x0_hat, variance)
    assert float(weight * (x0 - x0_hat) ** 2 + constant) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("noise", ["cosine", "linear"])
def test_weights_of_the_bound(noise: str) -> None:
    # E2. Catches: a level too many or too few, the decoder's weight in the wrong place.
    a = alpha_bar_table(noise, 30)
    snr = a / (1 - a)
    found = bound_weights(a, "posterior")
    torch.testing.assert_close(found[2:], 0.5 * (snr[1:-1] - snr[2:]))
    assert float(found[0]) == 0.0 and float(found[1]) == pytest.approx(0.5 * float(snr[1]))
    forward = bound_weights(a)
    for k in range(1, 31):
        cost = [kl_by_conditioning(k, k - 1, a, 0.0, e, "forward") for e in (0.0, 1.0)]
        assert float(forward[k]) == pytest.approx(cost[1] - cost[0])


def test_a_held_token_costs_nothing() -> None:
    # Catches: 0/0 or a constant where a level stays, at either end too.
    k = torch.tensor([0, 3, 8])
    for variance in VARIANCES:
        for term in step_terms(k, k, alpha_bar_table("cosine", 8), variance):
            assert torch.equal(term, torch.zeros(3, dtype=F64))


# Sub-sequences


def generated_law(model: GaussianDenoiser, S: Tensor, where: Tensor, causal: bool, variance: str) -> MultivariateNormal:
    """Compute what the denoiser and the matrix generate, row by row from N(0, I), with the steps' definition."""
    a, D = model.alpha_bar, model.D
    mean, cov = torch.zeros(len(where) * D, dtype=F64), torch.eye(len(where) * D, dtype=F64)
    for k, k_next in pairwise(S):
        gain, offset, _ = model.posterior(k, where, causal)
        f, b = (a[level].repeat_interleave(D) for level in (k, k_next))
        ratio = torch.where(b > 0, f / b, 0.0)
        on_hat = torch.where(k_next.repeat_interleave(D) == 0, 1.0, b.sqrt() * (1 - ratio) / (1 - f).clamp_min(1e-30))
        on_x = ratio.sqrt() * (1 - b) / (1 - f).clamp_min(1e-30)
        last = torch.where(f > 0, (1 - f) / f.clamp_min(1e-30), 0.0)
        posterior = torch.where(b < 1, (1 - b) / (1 - f).clamp_min(1e-30) * (1 - ratio), last)
        moves = (k != k_next).repeat_interleave(D)
        var = torch.where(moves, 1 - ratio if variance == "forward" else posterior, 0.0)
        step = torch.where(moves, on_hat, 0.0)[:, None] * gain + torch.where(moves, on_x, 1.0).diag()
        mean = step @ mean + torch.where(moves, on_hat, 0.0) * offset
        cov = step @ cov @ step.T + var.diag()
    return MultivariateNormal(mean, cov)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 2), st.sets(st.integers(0, T - 1), min_size=1), st.integers(0, 10_000),
    st.sampled_from(VARIANCES), st.booleans(),
)  # fmt: skip
def test_it_is_a_bound_for_every_subset_matrix_and_sequence(
    D: int, chosen: set[int], seed: int, variance: str, causal: bool
) -> None:
    # E1. Catches: a term forgotten or of the wrong sign, a decoder that is too sure, tokens outside A that are seen.
    # The bound is one on what the model generates, for every single sequence.
    K = 8
    model, table = exact(K, D)
    subset = torch.tensor(sorted(chosen))
    x0 = model.mean + 1.5 * torch.randn(4, T, D, dtype=F64, generator=torch.Generator().manual_seed(seed))
    S = random_matrix(len(subset), K, seed)
    found = exact_bound(model, x0, table, S, subset=subset, variance=variance, causal=causal)
    law = generated_law(model, S, subset, causal, variance)
    assert bool((found <= law.log_prob(x0[:, subset].flatten(1)) + 1e-9).all())
    outside = x0.clone()
    outside[:, [t for t in range(T) if t not in chosen]] = 99.0
    assert torch.equal(exact_bound(model, outside, table, S, subset=subset, variance=variance, causal=causal), found)


@pytest.mark.parametrize("noise", ["cosine", "linear"])
@pytest.mark.parametrize(("subset", "D"), [([0, 1, 2], 1), ([0, 2], 2), ([1], 2)])
def test_the_gap_falls_as_one_over_k(subset: list[int], D: int, noise: str) -> None:
    # E1 and E3. Catches: any bias, which would remain; a bound that is valid and useless.
    where, gaps = torch.tensor(subset), []
    for K in (20, 40, 80):
        model, table = exact(K, D, noise=noise)
        x0 = points_of(model.mean, model.cov)
        bound = exact_bound(model, x0, table, subset=where)
        gaps.append(float((log_density(model.mean, model.cov, where, x0) - bound).mean()))
    assert gaps[0] > gaps[1] > gaps[2] > 0
    for coarse, fine in pairwise(gaps):
        assert 1.8 < coarse / fine < 2.6
    assert gaps[2] < 0.03 * len(subset) * D


def test_every_matrix_tells_the_same_for_large_k() -> None:
    # Catches: rows that are counted twice or shown at the wrong levels; only some matrices would then be right.
    K = 60
    model, table = exact(K)
    x0 = points_of(model.mean, model.cov)
    true = log_density(model.mean, model.cov, torch.arange(T), x0).mean()
    matrices = [
        full_sequence(T, K, steps=K), autoregressive(T, K, steps=K), pyramid(T, K, steps=K, slope=7.5),
        trapezoid(T, K, steps=K, slope=9.0), random_matrix(T, K, 0), random_matrix(T, K, 1),
    ]  # fmt: skip
    for S in matrices:
        gap = float(true - exact_bound(model, x0, table, S, causal=False).mean())
        assert 0 < gap < 0.09


def test_causal_attention_needs_the_chain_rule_to_be_tight() -> None:
    # Catches: full attention whatever was asked. Moving together, a causal token ignores what later ones show.
    gaps = {}
    for K in (20, 60):
        model, table = exact(K)
        x0 = points_of(model.mean, model.cov)
        true = log_density(model.mean, model.cov, torch.arange(T), x0).mean()
        for name, S in (("together", full_sequence(T, K, steps=K)), ("chain", chain_rule(torch.arange(T), K))):
            gaps[name, K] = float(true - exact_bound(model, x0, table, S, causal=True).mean())
    assert gaps["together", 60] > 0.8 * gaps["together", 20] > 5 * gaps["chain", 60] > 0


def test_posterior_variance_leaves_a_gap() -> None:
    # The module's claim: about 1.4 nats per column and token at any K. Catches: one variance under two names.
    for K in (60, 120):
        model, table = exact(K, tokens=1)
        x0 = points_of(model.mean, model.cov)
        posterior, forward = (-entropy(model.cov) - float(exact_bound(model, x0, table, variance=v).mean()) for v in
                              ("posterior", "forward"))  # fmt: skip
        assert 1.3 < posterior < 1.45 and 0 < forward < 0.01


@pytest.mark.parametrize("places", [[0, 1, 2], [4, 0, 9], [2, 1, 0]])
def test_the_chain_rule_is_the_sum_of_the_conditionals(places: list[int]) -> None:
    # Catches: given tokens that are noised or counted, an order that is not followed.
    K, order = 24, torch.tensor(places)
    mean, cov = chain(T, 1)
    table = alpha_bar_table("cosine", K)
    model, x0 = GaussianDenoiser(mean, cov, table, order), points_of(mean, cov)
    total, seen, known = torch.zeros(len(x0), dtype=F64), torch.zeros(T, dtype=torch.bool), 0.0
    for t in order.argsort().tolist():
        subset = torch.cat([seen.nonzero().squeeze(1), torch.tensor([t])])
        S = chain_rule(order[subset], K, given=torch.arange(len(subset)) < len(subset) - 1)
        part = exact_bound(model, x0, table, S, subset=subset, order=order)
        joint = -entropy(cov[subset][:, subset])
        assert joint - known - 0.1 < float(part.mean()) < joint - known
        total, known = total + part, joint
        seen[t] = True
    torch.testing.assert_close(exact_bound(model, x0, table, order=order), total)


@pytest.mark.parametrize("change", [lambda y: 0.9 * y, lambda y: y + 0.2, lambda y: torch.zeros_like(y)])
def test_a_worse_denoiser_has_a_lower_bound(change: Callable[[Tensor], Tensor]) -> None:
    # E2. Catches: a bound that does not look at the model. Whatever the model, it stays below the entropy.
    model, table = exact(30)
    x0 = points_of(model.mean, model.cov)

    def worse(x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        return change(model(x, k, cond))

    best = float(exact_bound(model, x0, table).mean())
    assert float(exact_bound(worse, x0, table).mean()) < best - 0.01 and best < -entropy(model.cov)


def test_only_the_columns_of_a_token_count() -> None:
    # Catches: unused columns that add constants, noise or errors. The same chain in a wider layout has the same bound.
    K = 15
    narrow, table = exact(K)
    mask = torch.tensor([[True, False], [False, True], [True, False]])
    used = mask.reshape(-1).nonzero().squeeze(1)
    mean, cov = torch.zeros(T * 2, dtype=F64), torch.zeros(T * 2, T * 2, dtype=F64)
    mean[used], cov[used[:, None], used[None, :]] = narrow.mean.reshape(-1), narrow.cov
    wide = GaussianDenoiser(mean.reshape(T, 2), cov, table)
    x0 = torch.randn(4, T, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    packed = torch.where(mask, x0, torch.zeros(()))

    def leaky(x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        unused = torch.where(mask, 0.0, x)  # noise that leaks in would spoil the answer
        return wide(x, k, cond) + unused.sum(-1, keepdim=True) + torch.where(mask, 0.0, 7.0)

    torch.testing.assert_close(exact_bound(leaky, packed, table, mask=mask), exact_bound(narrow, x0, table))


def test_coarse_steps_are_still_a_bound() -> None:
    # Catches: terms of neighbouring levels used for steps over several; a single forward step from K to 0 included.
    model, table = exact(24)
    x0 = points_of(model.mean, model.cov)
    found = [
        float(exact_bound(model, x0, table, chain_rule(torch.arange(T), 24, steps=s)).mean()) for s in (1, 2, 6, 24)
    ]
    assert found == sorted(found) and found[-1] < -entropy(model.cov)


# The estimator


class Fixed:
    """Answer 0 whatever is asked, so that a squared error is x0^2; the noise then matters by its square alone."""

    def __call__(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        return torch.zeros_like(x)


@pytest.mark.parametrize("wanted", [1, 4, 9])
def test_sampled_rows_are_unbiased(wanted: int) -> None:
    # Catches: rows at the ends that come too seldom, a scale forgotten. Over an even grid of starts it is exact.
    K, x0 = 6, torch.randn(2, T, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    table, order = alpha_bar_table("cosine", K), torch.arange(T)
    rows = T * K
    starts = iter(Normal(0.0, 1.0).icdf((torch.arange(rows, dtype=F64) + 0.5) / rows).tolist())

    def draw(like: Tensor) -> Tensor:
        return torch.full_like(like, next(starts)) if like.ndim == 2 else torch.ones_like(like)

    options: dict[str, Any] = {"order": order, "draw": draw}
    every = subsequence_bound(Fixed(), x0, table, **options)
    some = subsequence_bound(Fixed(), x0, table, draws=rows, rows_per_draw=wanted, **options)
    torch.testing.assert_close(some.nats, every.nats)


def test_with_all_rows_drawn_nothing_is_left_out() -> None:
    # Catches: rows drawn twice while others are missing.
    model, table = exact(6)
    x0 = model.mean.expand(2, -1, -1)
    every, drawn = (
        subsequence_bound(Fixed(), x0, table, order=torch.arange(T), draw=torch.ones_like, rows_per_draw=rows)
        for rows in (None, 18)
    )
    torch.testing.assert_close(every.nats, drawn.nats)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("function", [subsequence_bound, noisy_bound])
def test_chunks_and_company_change_nothing(function: Callable[..., Any]) -> None:
    # Catches: noise that depends on the chunk or on the other samples, rows lost at the end of a chunk.
    spec = small_spec(kind="bundle")
    model = random_denoiser(spec, levels=8)
    x0 = torch.randn(3, spec.tokens, spec.width, generator=generator()) * spec.column_mask()
    options: dict[str, Any] = {
        "order": spec.order(), "mask": spec.column_mask(), "subset": torch.tensor([0, 2, 4, 5]), "draws": 5,
    }  # fmt: skip
    if function is subsequence_bound:
        options["rows_per_draw"] = 7

    def run(rows: slice, chunk: int) -> Any:
        draw = normal_like([generator(seed) for seed in range(3)[rows]])
        return function(model, x0[rows], model.alpha_bar, draw=draw, chunk=chunk, **options)

    whole = run(slice(0, 3), 4096)
    for rows, chunk in ((slice(0, 3), 1), (slice(0, 3), 7), (slice(1, 2), 4096), (slice(2, 3), 2)):
        part = run(rows, chunk)
        torch.testing.assert_close(part.nats, whole.nats[rows], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(part.stderr, whole.stderr[rows], rtol=1e-4, atol=1e-4)


def test_the_noise_that_was_drawn_is_taken_off() -> None:
    # Catches: the error's own noise left in, or taken off with the wrong sign; the bound would need 10 times the draws.
    model, table = exact(60, tokens=1)
    x0 = model.mean.expand(500, -1, -1)
    found = subsequence_bound(model, x0, table, order=torch.arange(1), draw=normal_like(generator()))
    assert float(found.nats.std()) < 0.1  # 1.1 without, 0.011 with


@pytest.mark.parametrize("function", [subsequence_bound, noisy_bound])
def test_standard_error_is_that_of_the_draws(function: Callable[..., Any]) -> None:
    # Catches: a spread over samples or rows, or one that forgets the root of the number of draws.
    model, table = exact(8)
    x0, draw = model.mean + torch.randn(3, T, 1, dtype=F64, generator=generator(1)), normal_like(generator())
    options: dict[str, Any] = {"order": torch.arange(T)}
    single = [function(model, x0, table, draw=draw, **options) for _ in range(6)]
    assert bool(single[0].stderr.isnan().all())
    values = torch.stack([b.nats for b in single])
    found = function(model, x0, table, draw=normal_like(generator()), draws=6, chunk=3, **options)
    torch.testing.assert_close(found.nats, values.mean(0))
    torch.testing.assert_close(found.stderr, (values.var(0) / 6).sqrt())


# Theorem 3.1


def every_level(K: int, tokens: int) -> Tensor:
    """List all (K+1)^n patterns of levels."""
    return torch.cartesian_prod(*[torch.arange(K + 1)] * tokens).reshape(-1, tokens)


class Patterns:
    """Answer calls for levels with every pattern in turn, and calls for noise with every point for each pattern."""

    def __init__(self, K: int, tokens: int) -> None:
        self.k, self.count, self.asked = every_level(K, tokens), 2 * tokens, 0
        self.z = Normal(0.0, 1.0).icdf((self.k.double() + 0.5) / (K + 1))
        self.noise = Points(1)

    @property
    def draws(self) -> int:
        return len(self.k) * self.count

    def __call__(self, like: Tensor) -> Tensor:
        turn, self.asked = self.asked, self.asked + 1
        if turn % 2 == 0:
            return self.z[turn // 2 // self.count][:, None].expand_as(like)
        self.noise.asked = turn // 2 % self.count
        return self.noise(like)


def expected_noisy_bound(model: Any, x0: Tensor, table: Tensor, **options: Any) -> Tensor:
    draw = Patterns(len(table) - 1, x0.shape[1])
    return noisy_bound(
        model, x0, table, order=torch.arange(x0.shape[1]), draw=draw, draws=draw.draws, chunk=len(x0), **options
    ).nats


@pytest.mark.parametrize("variance", VARIANCES)
def test_theorem_by_hand(variance: str) -> None:
    # E1. Catches: j/(K+1) off by one, the decoder weighed like a step, a constant of other levels or another sign.
    K, x0 = 5, torch.tensor([[[0.7], [-1.3]]], dtype=F64)
    a = alpha_bar_table("cosine", K)
    expected = -2 / (K + 1) * sum(0.5 * math.log(2 * math.pi * math.e * (1 - float(a[k]))) for k in range(1, K + 1))
    for value in x0.flatten().tolist():
        expected -= kl_by_conditioning(1, 0, a, value, 0.0, variance) / (K + 1)
        for j in range(2, K + 1):
            expected -= j / (K + 1) * kl_by_conditioning(j, j - 1, a, value, 0.0, variance)
    assert float(expected_noisy_bound(Fixed(), x0, a, variance=variance)) == pytest.approx(expected, rel=1e-6)


def expected_log_density(model: GaussianDenoiser, K: int) -> float:
    """Compute E ln p(x^k) over uniform levels: minus the mean entropy of the noisy chain."""
    total = 0.0
    patterns = every_level(K, model.T)
    for k in patterns:
        s = model.alpha_bar[k].sqrt()
        total -= entropy(s[:, None] * model.cov * s + (1 - model.alpha_bar[k]).diag())
    return total / len(patterns)


def test_theorem_against_the_exact_expectation() -> None:
    # E1. Catches: a z with levels of its own token's, a bound above the truth, a bias that does not fall with K.
    gaps = []
    for K in (4, 8, 16):
        model, table = exact(K, tokens=2)
        found = float(expected_noisy_bound(model, points_of(model.mean, model.cov), table).mean())
        gaps.append(expected_log_density(model, K) - found)
    assert gaps[0] > gaps[1] > gaps[2] > 0 and gaps[2] < 0.02
    assert 1.6 < gaps[1] / gaps[2] < 2.6


def test_levels_are_uniform() -> None:
    # Catches: levels that leave out 0 or K, or that all tokens share.
    model, asked = exact(3)[0], []

    def spy(x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        assert cond.causal
        asked.append(k)
        return torch.zeros_like(x)

    x0 = model.mean.expand(100, -1, -1)
    options: dict[str, Any] = {"order": torch.arange(T), "draw": normal_like(generator()), "draws": 64}
    noisy_bound(spy, x0, model.alpha_bar, **options)
    k = torch.cat(asked)
    patterns = k @ torch.tensor([16, 4, 1])
    share = torch.bincount(patterns, minlength=64).double() / len(k)
    assert bool(((share * 64 - 1).abs() < 0.5).all())  # 100 of each of 64 patterns: 5 standard errors


# E3: the loss


@settings(max_examples=40)
@given(st.lists(st.integers(0, 9), min_size=4, max_size=4), st.integers(1, 2), st.booleans())
def test_error_of_the_exact_denoiser_is_the_conditional_variance(k: list[int], D: int, causal: bool) -> None:
    # E3. Catches: noise of another level than the one shown. Exact over x0 and noise; the variance by conditioning.
    model, table = exact(9, D, tokens=4)
    levels, N = torch.tensor(k), 4 * D
    x0 = points_of(model.mean, model.cov).repeat_interleave(2 * N, 0)
    eye = math.sqrt(N) * torch.eye(N, dtype=F64)
    eps = torch.cat([eye, -eye]).reshape(2 * N, 4, D).repeat(2 * N, 1, 1)
    rows = levels.expand(len(x0), -1)
    error = ((model(add_noise(x0, rows, eps, table), rows, Cond(causal=causal)) - x0) ** 2).mean(0).reshape(-1)
    s = table[levels].sqrt().repeat_interleave(D)
    joint = torch.cat([torch.cat([model.cov, model.cov * s], 1), torch.cat([s[:, None] * model.cov,
        s[:, None] * model.cov * s + (1 - s**2).diag()], 1)])  # fmt: skip
    for i in range(N):
        seen = torch.arange(N, 2 * N)[: (i // D + 1) * D if causal else N]
        seen = seen[s[seen - N] > 0]
        gain = torch.linalg.lstsq(joint[seen][:, seen], joint[seen, i], driver="gelsd").solution
        assert float(error[i]) == pytest.approx(float(joint[i, i] - gain @ joint[seen, i]), abs=1e-8)


# Refusals


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"subset": torch.tensor([0, 0])}, "subset must name at least one of the 3 tokens, each once"),
        ({"subset": torch.tensor([3])}, "subset must name at least one of the 3 tokens"),
        ({"subset": torch.zeros(3, dtype=torch.bool)}, "subset must name at least one"),
        ({"subset": torch.ones(2, dtype=torch.bool)}, r"a bool subset must have shape \(3,\)"),
        ({"schedule": torch.tensor([[8, 8], [4, 4], [0, 0]])}, "schedule must have 3 columns, one per token"),
        ({"schedule": torch.tensor([[8, 8, 4], [0, 0, 0]])}, "must begin at 8 .free. or 0 .given., but column 2"),
        ({"schedule": torch.tensor([[0, 0, 0]])}, "nothing is left to be bounded"),
        ({"schedule": torch.tensor([[8, 8, 8], [0, 0, 1]])}, "the last row of S must be 0"),
        ({"schedule": torch.tensor([[8, 8, 8], [0, 0, 0]]), "variance": "posterior"}, "no step may lead from K to 0"),
        ({"variance": "beta"}, "unknown variance 'beta'"),
        ({"rows_per_draw": 25}, r"rows_per_draw must lie in 1..24"),
        ({"draws": 0}, "draws and chunk must be at least 1, got 0 and 4096"),
        ({"mask": torch.ones(1, 3)}, r"mask must have shape \(3, 1\)"),
        ({"x0": torch.zeros(3, 1)}, r"x0 must have shape \(B, T, D\)"),
        ({"alpha_bar": torch.tensor([1.0, 0.5, 0.1])}, "alpha_bar must end at 0"),
    ],
)
def test_bad_questions_are_refused(change: dict[str, Any], match: str) -> None:
    model, table = exact(8)
    arguments: dict[str, Any] = {
        "x0": model.mean[None], "alpha_bar": table, "order": torch.arange(T), "draw": torch.zeros_like, **change
    }  # fmt: skip
    with pytest.raises(ValueError, match=match):
        subsequence_bound(model, **arguments)


def test_the_theorem_needs_places_of_their_own() -> None:
    # Catches: a bound on nothing, for tokens that see each other.
    model, table = exact(8)
    with pytest.raises(ValueError, match="one token per place"):
        noisy_bound(model, model.mean[None], table, order=torch.tensor([0, 0, 1]), draw=torch.zeros_like)


def test_everything_given_is_refused() -> None:
    with pytest.raises(ValueError, match="given must leave at least one token free"):
        chain_rule(torch.arange(2), 4, given=torch.ones(2, dtype=torch.bool))
