"""Monte Carlo Guidance (M1-M3): the gradient of an expected cost over futures, against closed forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dfplan.layout import SequenceSpec
from dfplan.models import Cond, RecurrentConfig, TransformerConfig
from dfplan.montecarlo import SCOPES, MonteCarlo, Row, expected_gradient
from dfplan.noise import Draw, alpha_bar_table, normal_like
from dfplan.sampler import Samples, sample
from dfplan.schedule import make_schedule
from tests.core.gaussian import F64, GaussianDenoiser, chain
from tests.core.mixture import MixtureDenoiser
from tests.core.tiny import random_network, small_spec

K, T = 100, 4
TABLE = alpha_bar_table("cosine", K)
DENOISER = GaussianDenoiser(*chain(T), TABLE)
Q = torch.tensor([[1.0, 0.2, 0.0, -0.5], [0.2, 0.7, 0.0, 0.3], [0.0, 0.0, 0.4, 0.1], [-0.5, 0.3, 0.1, 2.0]], dtype=F64)
G = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=F64)
attentions = pytest.mark.parametrize("causal", [True, False])


def quadratic(x0_hat: Tensor) -> Tensor:
    gap = x0_hat[..., 0] - G
    return -0.5 * ((gap @ Q) * gap).sum(-1)


def wild(x0_hat: Tensor) -> Tensor:
    return (0.7 * x0_hat[:, -1, 0]).exp() - (x0_hat[:, 1, 0] * x0_hat[:, -1, 0]).sin()


def zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like)


def make_row(k: list[int], *, B: int = 2, seed: int = 0, **changes: Any) -> Row:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(B, T, 1, generator=g, dtype=F64)
    basic = Row(x, torch.tensor(k), torch.tensor(k), torch.arange(T), torch.ones(T, dtype=torch.bool), TABLE,
                torch.ones(T, 1, dtype=F64))  # fmt: skip
    return replace(basic, **changes)


def gradient(
    row: Row, config: MonteCarlo, draw: Draw, *, causal: bool = True, value: Callable[[Tensor], Tensor] = quadratic
) -> Tensor:
    predict = lambda x, k, repeats: DENOISER(x, k, Cond(causal))  # noqa: E731
    return expected_gradient(predict, value, row, config, draw)[0]


def exact(row: Row, unknown: Tensor, causal: bool) -> Tensor:
    """Compute the gradient of E[quadratic | the tokens that are not ``unknown`` (T,)], (B, T, 1).

    The expectation of a quadratic is its value at the mean plus a constant, and the mean is linear in the tokens.
    """
    levels = torch.where(unknown, K, row.k)
    gain, offset, _ = DENOISER.posterior(levels, torch.arange(T), causal)
    mean = row.x.squeeze(-1) @ gain.T + offset
    return -(((mean - G) @ Q) @ gain).unsqueeze(-1)


# ---- M1: the expectation


@attentions
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("k", [[30, 50, 70, K], [0, 50, 70, 90], [30, 30, 30, 30], [60, 20, K, 0]])
def test_token_scope_is_the_gradient_of_the_expected_cost(k: list[int], steps: int, causal: bool) -> None:
    # M1. Catches: futures that keep their noisy content or their level, a token that is drawn itself, the gradient of
    # one token added to another's, a future cut off from the graph. With a linear denoiser a gradient is affine in the
    # noise, so that no noise, or any noise and its negative, give the expectation exactly.
    row, g = make_row(k), torch.Generator().manual_seed(1)

    def mirrored(like: Tensor) -> Tensor:
        half = torch.randn(like.shape[0], like.shape[1] // 2, 1, generator=g, dtype=F64)
        groups = half.reshape(len(like), bands, -1)
        return torch.cat([groups, -groups], -1).reshape(like.shape)

    bands = sum(0 < level < K for level in k)
    expected = torch.zeros_like(row.x)
    for t in range(T):
        if 0 < k[t] < K:
            expected[:, t] = exact(row, torch.arange(T) > t, causal)[:, t]
    for samples, draw in ((1, zeros), (2, mirrored)):
        found = gradient(row, MonteCarlo(samples, steps), draw, causal=causal)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@attentions
def test_row_scope_draws_what_is_still_pure_noise(causal: bool) -> None:
    # Catches: tokens of the band that are drawn, tokens at level K that are not.
    row = make_row([0, 40, 80, K])
    expected = exact(row, row.k == K, causal) * (row.k < K)[:, None]
    for steps in (1, 4):
        found = gradient(row, MonteCarlo(1, steps, "row"), zeros, causal=causal)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@attentions
def test_resample_scope_is_the_gradient_after_one_rung_up(causal: bool) -> None:
    # Catches: clean or context tokens that are noised, a rung of another column, a missing sqrt(abar' / abar).
    above = torch.tensor([0, 60, 90, K])
    row = make_row([0, 40, 80, K], above=above)
    r = (TABLE[above] / TABLE[row.k].clamp_min(1e-30)).sqrt()
    r[3] = 1.0
    raised = replace(row, x=row.x * r[:, None], k=above)
    expected = exact(raised, above == K, causal) * r[:, None]
    found = gradient(row, MonteCarlo(1, 1, "resample"), zeros, causal=causal)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_drawn_futures_follow_the_conditional_law() -> None:
    # M1. Catches: futures that are too narrow or too wide: noise scaled wrongly, or not fresh for every token. The law
    # is an affine map of the noise; with full attention it is the exact conditional but for the error of finite steps.
    def law(steps: int) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []

        def keep(x0_hat: Tensor) -> Tensor:
            seen.append(x0_hat.detach()[..., 0])
            return x0_hat.sum((1, 2))

        impulses = torch.cat([torch.zeros(1, 3, 1, dtype=F64), torch.eye(3, dtype=F64).unsqueeze(-1)])
        gradient(row, MonteCarlo(4, steps), lambda like: impulses.reshape(1, 12, 1), causal=False, value=keep)
        effect = seen[-1][1:, 1:] - seen[-1][:1, 1:]
        return seen[-1][0, 1:], effect.T @ effect

    row = make_row([30, K, K, K], B=1)
    gain, offset, cov = DENOISER.posterior(row.k, torch.arange(T), False)
    mean, spread = (2 * b - a for a, b in zip(law(25), law(50), strict=True))
    torch.testing.assert_close(mean, (row.x[0, :, 0] @ gain.T + offset)[1:], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(spread, cov[1:, 1:], rtol=0.02, atol=0.01)


@pytest.mark.parametrize("scope", SCOPES)
def test_gradients_are_averaged_not_futures(scope: str) -> None:
    # M1. Catches: the gradient at the average future, a sum in place of a mean, noise shared by all samples.
    row = make_row([0, 40, 80, K], above=torch.tensor([0, 60, 90, K]))
    width = {"token": 2 * 2, "row": 1, "resample": 3}[scope]
    N, g = 3, torch.Generator().manual_seed(2)
    noise = torch.randn(2, N, width, generator=g, dtype=F64)

    def all_of(like: Tensor) -> Tensor:
        if scope != "token":
            return noise.reshape(like.shape)
        return noise.reshape(2, N, 2, 2).transpose(1, 2).reshape(like.shape)

    found = gradient(row, MonteCarlo(N, 3, scope), all_of, value=wild)
    single = [
        gradient(row, MonteCarlo(1, 3, scope), lambda like, i=i: noise[:, i].reshape(like.shape), value=wild)  # type: ignore[misc]
        for i in range(N)
    ]
    torch.testing.assert_close(found, torch.stack(single).mean(0), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(single[0], single[1])


# ---- M2: N = 1 and many


def test_variance_falls_as_one_over_n() -> None:
    # M2. Catches: futures that are the same, or share noise between tokens or samples of the batch.
    B, variance = 2000, []
    row = make_row([20, 60, K, K], B=1)
    row = replace(row, x=row.x.expand(B, T, 1).contiguous())
    draw = normal_like(torch.Generator().manual_seed(3))
    for samples in (1, 4, 16):
        found = gradient(row, MonteCarlo(samples, 3), draw, value=wild)
        variance.append(found[:, :2, 0].var(0))
    for many, few in ((variance[1], variance[0]), (variance[2], variance[1])):
        assert bool(((few / many - 4).abs() < 1.0).all()), few / many  # 5 standard errors: a ratio is known to 5 %


def walk(
    model: Any, S: Tensor, *, seed: int = 0, B: int = 3, tokens: Tensor | None = None, draw: Draw | None = None,
    **options: Any,
) -> Samples:  # fmt: skip
    n = S.shape[1]
    g = torch.Generator().manual_seed(seed)
    D = 1 if not hasattr(model, "spec") else model.spec.width
    x = torch.randn(B, n, D, generator=g, dtype=F64)
    tokens = torch.arange(n) if tokens is None else tokens
    order = tokens if not hasattr(model, "spec") or isinstance(model.spec, SequenceSpec) else model.spec.order()[tokens]
    draw = draw or normal_like(torch.Generator().manual_seed(seed + 1))
    return sample(model, S, x, alpha_bar=model.alpha_bar, tokens=tokens, order=order, draw=draw, **options)


PLAIN = SequenceSpec(2, 6)
NETWORKS: dict[str, Any] = {
    "rotary": random_network(
        PLAIN, TransformerConfig(width=16, layers=2, heads=2, levels=20, positions="rotary")
    ).double(),
    "recurrent": random_network(PLAIN, RecurrentConfig(width=12, levels=20)).double(),
    "path": random_network(small_spec(horizon=4), TransformerConfig(width=16, layers=2, heads=2, levels=20)).double(),
}
networks = pytest.mark.parametrize("name", sorted(NETWORKS))


def log_cost(x0_hat: Tensor, k: Tensor) -> Tensor:
    return -((x0_hat[:, -1] - 1) ** 2).sum(-1) + 0.1 * (x0_hat[:, -1] * x0_hat[:, 2]).sum(-1).sin()


def matrix(name: str = "pyramid", tokens: int = 4, slope: float = 2.0) -> Tensor:
    S = make_schedule(name, tokens, 20, steps=5, slope=slope)
    return torch.cat([torch.zeros(len(S), 2, dtype=torch.int64), S], 1)


@networks
def test_one_future_of_one_step_is_ordinary_guidance(name: str) -> None:
    # M2. Catches: a strength that differs from that of plain guidance; scales that are left out.
    scales = torch.tensor([0.0, 1.0, 2.5], dtype=F64)
    plain = walk(NETWORKS[name], matrix(), log_cost=log_cost, scales=scales)
    found = walk(NETWORKS[name], matrix(), log_cost=log_cost, scales=scales, monte_carlo=MonteCarlo(1, 1, "row"))
    torch.testing.assert_close(found.x, plain.x, rtol=1e-10, atol=1e-10)
    unguided = walk(NETWORKS[name], matrix())
    torch.testing.assert_close(plain.x[:1], unguided.x[:1], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(plain.x[1:], unguided.x[1:])


@networks
def test_with_a_full_sequence_there_is_nothing_to_draw(name: str) -> None:
    # M3. Catches: randomness where the future is not uncertain; and shows that a pyramid has some.
    full, zigzag = matrix("full_sequence"), matrix()
    many = MonteCarlo(5, 3, "row")
    plain = walk(NETWORKS[name], full, log_cost=log_cost)
    found = walk(NETWORKS[name], full, log_cost=log_cost, monte_carlo=many)
    torch.testing.assert_close(found.x, plain.x, rtol=1e-12, atol=1e-12)
    two = [walk(NETWORKS[name], zigzag, log_cost=log_cost, monte_carlo=many, draw=d) for d in (None, zeros)]
    assert not torch.allclose(two[0].x, two[1].x)


def test_a_lottery_fools_one_sample_more_often_than_many() -> None:
    # M2. The first token chooses the route by its sign: left a sure 0.3, right a lottery of 1.2 or -1.2. Catches: a
    # cost of one lucky future taken for the expected one. Measured: 0.44 go right with N = 1, 0.23 with 64, 0.5 unled.
    routes = torch.tensor([[-1.0, 0.3], [1.0, 1.2], [1.0, -1.2]]).unsqueeze(-1)
    model = MixtureDenoiser(torch.tensor([2.0, 1.0, 1.0]), routes, 0.01 * torch.eye(2), TABLE)
    S = make_schedule("autoregressive", 2, K, steps=6)

    def reward(x0_hat: Tensor, k: Tensor) -> Tensor:
        return 4.0 * x0_hat[:, 1, 0] * float(k[1] == K)  # guide the choice alone, not the draw of the lottery

    right, won = [], []
    for samples in (1, 64):
        out = walk(model, S, B=256, log_cost=reward, monte_carlo=MonteCarlo(samples, 4))
        right.append(float((out.x[:, 0, 0] > 0).double().mean()))
        won.append(float(out.x[:, 1, 0].mean()))
    assert right[0] - right[1] > 0.12 and won[1] > won[0]


# ---- independence, cost, context


def test_a_tokens_gradient_does_not_know_the_noise_of_later_tokens() -> None:
    # M1. Catches: futures that start from the present noise of the tokens after it.
    row = make_row([30, 50, 70, 90])
    other = replace(row, x=torch.cat([row.x[:, :2], row.x[:, 2:] + 3], 1))
    draw = lambda like: torch.randn(like.shape, generator=torch.Generator().manual_seed(4), dtype=F64)  # noqa: E731
    for scope in ("token", "row"):
        a, b = (gradient(r, MonteCarlo(3, 3, scope), draw, value=wild) for r in (row, other))
        assert torch.equal(a[:, :2], b[:, :2]) == (scope == "token")
        assert not torch.equal(a[:, 2:], b[:, 2:])


def test_context_is_never_drawn() -> None:
    # C5. Catches: a noisy observation that lies ahead and is replaced by a draw.
    row = make_row([30, 50, 40, K], finish=torch.tensor([True, True, False, True]))
    found = gradient(row, MonteCarlo(1, 3), zeros, causal=False)
    expected = torch.zeros_like(row.x)
    expected[:, 0] = exact(row, torch.tensor([False, True, False, True]), False)[:, 0]
    expected[:, 1] = exact(row, torch.tensor([False, False, False, True]), False)[:, 1]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scope", SCOPES)
@networks
def test_scopes_run_with_memory_and_one_sample_does_not_know_the_others(name: str, scope: str) -> None:
    # Design 15, S6. Catches: memory repeated in another order than the samples, draws that depend on what has been
    # remembered, a gradient averaged over the batch, noise in columns that a token does not use.
    model = NETWORKS[name]
    mask = torch.ones(6, 2, dtype=F64) if name != "path" else model.spec.column_mask()[:6].double()

    class Spy:
        spec, alpha_bar, advance = model.spec, model.alpha_bar, model.advance

        def __call__(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
            tokens = torch.arange(6) if cond.tokens is None else cond.tokens
            fresh = (k == 20).unsqueeze(-1) & (mask[tokens] == 0) & (x != start[0, tokens]).any(-1, keepdim=True)
            assert bool((x[fresh] == 0).all())
            return model(x, k, cond)

    def generators(*seeds: int) -> Draw:
        return normal_like([torch.Generator().manual_seed(s) for s in seeds])

    options: dict[str, Any] = {"log_cost": log_cost, "monte_carlo": MonteCarlo(3, 2, scope), "mask": mask}
    start = torch.randn(3, 6, model.spec.width, generator=torch.Generator().manual_seed(0), dtype=F64) * mask
    tokens = torch.arange(6)
    order = tokens if name != "path" else model.spec.order()[:6]
    found = {}
    for cache in (True, False):
        found[cache] = sample(
            Spy(), matrix(), start, alpha_bar=model.alpha_bar, tokens=tokens, order=order, draw=generators(1, 2, 3),
            cache=cache, **options,
        )  # fmt: skip
    torch.testing.assert_close(found[True].x, found[False].x, rtol=1e-9, atol=1e-9)
    assert found[True].tokens_computed < found[False].tokens_computed
    for b in range(3):
        alone = sample(
            model, matrix(), start[b : b + 1], alpha_bar=model.alpha_bar, tokens=tokens, order=order,
            draw=generators(b + 1), **options,
        )  # fmt: skip
        torch.testing.assert_close(found[True].x[b : b + 1], alone.x, rtol=1e-9, atol=1e-9)
    assert bool(torch.isfinite(alone.x).all()) and not torch.allclose(alone.x, walk(model, matrix(), B=1).x)


@pytest.mark.parametrize("scope", SCOPES)
def test_more_futures_cost_batch_and_no_calls(scope: str) -> None:
    # Catches: a loop over futures or over tokens; a count that leaves them out.
    calls: list[int] = []

    class Spy:
        alpha_bar = TABLE

        def __call__(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
            calls.append(x.shape[0] * x.shape[1])
            return DENOISER(x, k, cond)

    S = torch.cat([torch.zeros(7, 1, dtype=torch.int64), make_schedule("pyramid", 3, K, steps=4)], 1)
    cost = lambda x0_hat, k: quadratic(x0_hat)  # noqa: E731
    counts = []
    for samples in (1, 7):
        calls.clear()
        out = walk(Spy(), S, log_cost=cost, monte_carlo=MonteCarlo(samples, 3, scope))
        assert out.network_evaluations == len(calls) and out.tokens_computed * 3 == sum(calls)
        counts.append(len(calls))
    rows = len(S) - 1
    assert counts[0] == counts[1] == rows + (rows if scope == "resample" else 3 * (rows - 1))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"samples": 0}, "samples must be a positive integer, got 0"),
        ({"samples": 2.0}, r"samples must be a positive integer, got 2\.0"),
        ({"steps": -1}, "steps must be a positive integer, got -1"),
        ({"scope": "tokens"}, r"unknown scope of Monte Carlo Guidance 'tokens'\. Did you mean 'token'"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        MonteCarlo(**values)


def test_wrong_calls_are_refused() -> None:
    S = make_schedule("pyramid", T, K, steps=3)
    x, t = torch.zeros(2, T, 1, dtype=F64), torch.arange(T)
    with pytest.raises(ValueError, match=r"need noise; pass draw=normal_like\(generator\)"):
        sample(DENOISER, S, x, alpha_bar=TABLE, tokens=t, order=t, log_cost=log_cost, monte_carlo=MonteCarlo())
    with pytest.raises(ValueError, match=r"one number per sample, shape \(2,\), got \(\)"):
        walk(DENOISER, S, B=2, log_cost=lambda x0_hat, k: x0_hat.mean(), monte_carlo=MonteCarlo(1, 1))
    with pytest.raises(ValueError, match=r"scales must have shape \(3,\), one per sample, got \(1,\)"):
        walk(DENOISER, S, log_cost=log_cost, scales=torch.ones(1))
