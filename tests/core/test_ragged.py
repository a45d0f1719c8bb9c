"""Every sample down a matrix of its own, in shared calls of the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dfplan.models.base import Cond
from dfplan.noise import alpha_bar_table, normal_like
from dfplan.ragged import Descent, stack_rows, walk_each
from dfplan.sampler import sample
from dfplan.schedule import SCHEDULES, drop_idle_rows, make_schedule
from tests.core.gaussian import F64, GaussianDenoiser, chain
from tests.core.tiny import random_denoiser, small_spec

K, T = 20, 5
TABLE, ORDER = alpha_bar_table("cosine", K), torch.arange(T)
DENOISER = GaussianDenoiser(*chain(T), TABLE)


def cost(x0_hat: Tensor, k: Tensor) -> Tensor:
    """Depend on the levels too, so that a cost that is given the wrong ones shows."""
    return -((x0_hat[..., 0] - 1.0 - 0.01 * k) ** 2).sum(-1)


def noise(B: int, seed: int = 0) -> Tensor:
    return torch.randn(B, T, 1, dtype=F64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "costs", [{}, {"log_cost": cost}, {"noisy_log_cost": cost}, {"log_cost": cost, "noisy_log_cost": cost}]
)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_each_sample_walks_as_if_alone(eta: float, causal: bool, costs: Any) -> None:
    # Catches: levels of one sample used for another, a row too few or too many, noise that depends on the company,
    # tokens left out that another sample needs, a cost that is given other levels than those of its samples.
    matrices = [make_schedule(name, T, K, steps=5, slope=2.0) for name in sorted(SCHEDULES)]  # some rows are idle
    scales = torch.tensor([0.0, 0.3, 1.0, 2.0, 0.5], dtype=F64)
    walk = Descent(DENOISER, TABLE, ORDER, ORDER, causal=causal, eta=eta, **costs)
    draw = normal_like([torch.Generator().manual_seed(b) for b in range(5)])
    out = walk_each(walk, stack_rows(matrices), noise(5), scales=scales, draw=draw)
    for b, S in enumerate(matrices):
        alone = sample(
            DENOISER, S, noise(5)[b : b + 1], alpha_bar=TABLE, tokens=ORDER, order=ORDER, causal=causal, eta=eta,
            scales=scales[b : b + 1] if costs else None, **costs, draw=normal_like(torch.Generator().manual_seed(b)),
        )  # fmt: skip
        torch.testing.assert_close(out.x[b : b + 1], alone.x, rtol=1e-9, atol=1e-9)
    rows = [len(drop_idle_rows(S)) - 1 for S in matrices]
    assert out.network_evaluations == max(rows)
    assert out.sample_evaluations == sum(rows)


def test_the_transformer_takes_mixed_levels() -> None:
    # Catches: positions or attention masks that are right only if all samples are at the same levels.
    spec = small_spec(horizon=3)
    model = random_denoiser(spec, levels=K).double()
    tokens = torch.tensor([0, 2, 3, 4])
    matrices = [make_schedule(n, 3, K, steps=6, slope=s) for n, s in (("pyramid", 1.0), ("pyramid", 6.0))]
    matrices = [torch.cat([torch.zeros(len(S), 1, dtype=torch.int64), S], 1) for S in matrices]
    x = torch.randn(2, 4, spec.width, dtype=F64, generator=torch.Generator().manual_seed(0))
    walk = Descent(model, TABLE, tokens, spec.order()[tokens])
    out = walk_each(walk, stack_rows(matrices), x, scales=torch.zeros(2))
    for b, S in enumerate(matrices):
        alone = sample(model, S, x[b : b + 1], alpha_bar=TABLE, tokens=tokens, order=spec.order()[tokens])
        torch.testing.assert_close(out.x[b : b + 1], alone.x, rtol=1e-9, atol=1e-9)


def test_a_part_of_a_matrix_and_then_the_rest_is_the_whole() -> None:
    # Catches: a last row that is taken for clean.
    S = make_schedule("pyramid", T, K, steps=5, slope=2.0)
    walk, scales = Descent(DENOISER, TABLE, ORDER, ORDER), torch.zeros(2)
    half = walk_each(walk, torch.stack([S[:4]] * 2), noise(2), scales=scales)
    whole = walk_each(walk, torch.stack([S[3:]] * 2), half.x, scales=scales)
    torch.testing.assert_close(whole.x, walk_each(walk, torch.stack([S] * 2), noise(2), scales=scales).x)
    assert half.network_evaluations == 3


def test_the_scale_of_one_sample_changes_no_other_bit() -> None:
    # Catches: a cost, a gradient or a scale averaged over the batch; a scale of 0 that lets an infinite gradient in.
    S = torch.stack([make_schedule("pyramid", T, K, steps=5, slope=2.0)] * 3)
    walk = Descent(DENOISER, TABLE, ORDER, ORDER, log_cost=cost)
    one = walk_each(walk, S, noise(3), scales=torch.tensor([0.0, 1.0, 1.0])).x
    two = walk_each(walk, S, noise(3), scales=torch.tensor([0.0, 1.0, 9.0])).x
    assert torch.equal(one[:2], two[:2]) and not torch.equal(one[2], two[2])
    steep = Descent(DENOISER, TABLE, ORDER, ORDER, log_cost=lambda x, k: x[..., 0].mul(0).sqrt().sum(-1))
    calm = walk_each(steep, S, noise(3), scales=torch.zeros(3)).x
    torch.testing.assert_close(
        calm, walk_each(Descent(DENOISER, TABLE, ORDER, ORDER), S, noise(3), scales=torch.ones(3)).x
    )


@pytest.mark.parametrize("causal", [True, False])
def test_idle_tokens_and_samples_are_left_out(causal: bool) -> None:
    # Catches: samples that wait but are computed, tokens that nobody needs. Counted by a spy.
    seen: list[tuple[list[list[int]], list[int]]] = []

    def spy(x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        seen.append((k.tolist(), [] if cond.tokens is None else cond.tokens.tolist()))
        return DENOISER(x, k, cond)

    one, two = (
        torch.tensor([[20, 20, 20], [9, 20, 20], [9, 20, 20], [0, 9, 20], [0, 0, 0]]),
        torch.tensor([[0, 20, 20]]),
    )
    two = torch.cat([two, torch.tensor([[0, 0, 20], [0, 0, 20], [0, 0, 0]])])
    order = torch.arange(3)
    walk_each(
        Descent(spy, TABLE, order, order, causal=causal), stack_rows([one, two]), noise(2)[:, :3], scales=torch.zeros(2)
    )
    assert seen == [
        ([[20, 20], [0, 20]], [0, 1]),
        ([[9, 20, 20], [0, 0, 20]], [0, 1, 2]),
        ([[0, 9, 20]], [0, 1, 2]),
    ]


def test_noise_stays_out_of_unused_columns() -> None:
    # Catches: eta that writes into columns a token does not have.
    mean, cov = chain(3, 2)
    oracle, order = GaussianDenoiser(mean, cov, TABLE), torch.arange(3)
    mask = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=F64)

    def masked(x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        return oracle(x, k, cond) * mask[cond.tokens]

    S = make_schedule("pyramid", 3, K, steps=5, slope=2.0)[:6].expand(2, -1, -1)
    x = torch.randn(2, 3, 2, dtype=F64) * mask
    walk = Descent(masked, TABLE, order, order, eta=1.0, mask=mask)
    out = walk_each(walk, S, x, scales=torch.zeros(2), draw=normal_like(torch.Generator().manual_seed(0)))
    assert bool((out.x * (1 - mask) == 0).all())


def test_bad_input_is_refused() -> None:
    S, x = torch.zeros(2, 3, T, dtype=torch.int64), noise(2)
    walk = Descent(DENOISER, TABLE, ORDER, ORDER, log_cost=lambda x0_hat, k: x0_hat)
    for s, scales in (
        (S[0], torch.zeros(2)),
        (S[:1], torch.zeros(2)),
        (S[..., 1:], torch.zeros(2)),
        (S, torch.zeros(3)),
    ):
        with pytest.raises(ValueError, match=r"S \(B, M\+1, n\), x \(B, n, D\) and scales \(B,\) must agree"):
            walk_each(walk, s, x, scales=scales)
    with pytest.raises(ValueError, match=r"one number per sample, \(2,\), got \(2, 5, 1\)"):
        walk_each(walk, make_schedule("pyramid", T, K, steps=5).expand(2, -1, -1), x, scales=torch.zeros(2))
    with pytest.raises(ValueError, match=r"eta=0\.5 needs noise"):
        walk_each(Descent(DENOISER, TABLE, ORDER, ORDER, eta=0.5), S, x, scales=torch.zeros(2))
