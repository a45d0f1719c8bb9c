"""The loop of Algorithm 2: what it holds, what it leaves out, what it counts, what it refuses."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dfplan.models.base import Cond
from dfplan.noise import alpha_bar_table, normal_like
from dfplan.sampler import Samples, present_tokens, sample
from dfplan.schedule import SCHEDULES, make_schedule
from tests.core.gaussian import F64, GaussianDenoiser, chain
from tests.core.tiny import random_denoiser, small_spec

K, T = 20, 5
TABLE = alpha_bar_table("cosine", K)
DENOISER = GaussianDenoiser(*chain(T), TABLE)


class Spy:
    """Pass calls on and remember them."""

    def __init__(self, model: Any = DENOISER) -> None:
        self.model, self.calls = model, []

    def __call__(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        self.calls.append((x.detach().clone(), k.clone(), cond))
        return self.model(x, k, cond)


def walk_down(S: Tensor, model: Any = DENOISER, *, seed: int = 0, x: Tensor | None = None, **options: Any) -> Samples:
    """Sample with fresh generators, so that two calls draw the same noise."""
    n = S.shape[1]
    draw = normal_like(torch.Generator().manual_seed(seed))
    start = draw(torch.empty(3, n, 1, dtype=F64)) if x is None else x
    options = {"tokens": torch.arange(n), "order": torch.arange(n), "draw": draw, **options}
    return sample(model, S, start, alpha_bar=TABLE, **options)


@st.composite
def matrices(draw: st.DrawFn, tokens: int = T) -> Tensor:
    """Draw an admissible matrix with free columns from K, warm ones from below and context ones."""
    rows = draw(st.integers(1, 8))
    columns = []
    for _ in range(tokens):
        start = draw(st.sampled_from([0, K // 2, K, K, K]))
        middle = sorted(draw(st.lists(st.integers(0, start), min_size=rows - 1, max_size=rows - 1)), reverse=True)
        columns.append([start, *middle, 0])
    return torch.tensor(columns).T.contiguous()


@given(matrices(), st.booleans(), st.sampled_from([0.0, 0.7]))
def test_copied_tokens_are_bit_identical(S: Tensor, causal: bool, eta: float) -> None:
    # S5. Catches: a held or clean token that is recomputed, shrunk or noised.
    out = walk_down(S, causal=causal, eta=eta, trace=True)
    assert out.trace is not None
    for m in range(len(out.S) - 1):
        held = out.S[m] == out.S[m + 1]
        assert torch.equal(out.trace[m][:, held], out.trace[m + 1][:, held])
        moved = out.trace[m][:, ~held] != out.trace[m + 1][:, ~held]
        assert bool(moved.all())


@given(matrices())
def test_resampled_tokens_change_while_they_wait_and_only_then(S: Tensor) -> None:
    # S5. Catches: "resample" that copies; that touches clean tokens or pure noise; that forgets the level it came from.
    out = walk_down(S, causal=False, hold="resample", trace=True)
    assert out.trace is not None and torch.equal(out.S, S)
    for m in range(len(S) - 1):
        held = S[m] == S[m + 1]
        been_higher = (S[:m] > S[m]).any(0)
        renewed = (out.trace[m] != out.trace[m + 1]).all(0).squeeze(-1)
        assert torch.equal(renewed, ~held | (held & been_higher & (S[m] > 0)))


def test_resampling_goes_up_to_the_level_visited_before() -> None:
    # S5. Catches: a held token shown at its own level, or noised past the level its column came from.
    S = torch.tensor([[20, 20], [16, 20], [9, 20], [9, 12], [9, 5], [0, 0]])
    spy = Spy()
    walk_down(S, spy, causal=False, hold="resample")
    assert [k[0].tolist() for _, k, _ in spy.calls][2:] == [[16, 20], [16, 12], [9, 5]]


@given(matrices(), st.booleans(), st.sampled_from([0.0, 1.0]), st.sampled_from(["copy", "resample"]))
def test_skipping_changes_nothing_but_the_work(S: Tensor, causal: bool, eta: float, hold: str) -> None:
    # S6. Catches: a token left out that somebody looks at; noise that goes to another token when some are left out.
    lean = walk_down(S, causal=causal, eta=eta, hold=hold)
    whole = walk_down(S, causal=causal, eta=eta, hold=hold, skip=False)
    torch.testing.assert_close(lean.x, whole.x, rtol=1e-9, atol=1e-9)
    assert lean.network_evaluations == whole.network_evaluations
    assert lean.tokens_computed <= whole.tokens_computed == len(whole.S[1:]) * S.shape[1]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_skipping_changes_nothing_in_the_transformer(name: str, causal: bool) -> None:
    # S6 in the real network. Catches: attention to pure noise, an order that differs from the attention mask.
    spec = small_spec(horizon=4)
    model = random_denoiser(spec, levels=K).double()
    tokens = torch.tensor([0, 1, 2, 3, 4, 5])
    S = make_schedule(name, 4, K, steps=10, slope=3.0)
    S = torch.cat([torch.zeros(len(S), 2, dtype=torch.int64), S], 1)
    x = torch.randn(2, 6, spec.width, dtype=F64, generator=torch.Generator().manual_seed(1))
    options = {"tokens": tokens, "order": spec.order()[tokens], "x": x, "causal": causal}
    lean, whole = walk_down(S, model, **options), walk_down(S, model, skip=False, **options)
    torch.testing.assert_close(lean.x, whole.x, rtol=1e-10, atol=1e-10)
    assert lean.tokens_computed < whole.tokens_computed or name in ("full_sequence", "coarse_pyramid")


@given(matrices(), st.booleans())
def test_only_the_needed_tokens_are_computed(S: Tensor, causal: bool) -> None:
    # S6. Catches: idle tokens that are computed all the same, a wrong count. Counted here from the rule.
    out = walk_down(S, causal=causal)
    expected = rows = 0
    for now, then in pairwise(S):
        changing = now != then
        if not bool(changing.any()):
            continue
        rows += 1
        last = max(t for t in range(S.shape[1]) if changing[t])
        expected += sum(bool(changing[t]) or (int(now[t]) < K and not (causal and t > last)) for t in range(S.shape[1]))
    assert (out.network_evaluations, out.tokens_computed) == (rows, expected)


def test_most_updates_of_a_long_zigzag_are_saved() -> None:
    # S6. Catches: skipping that skips nothing. 80 tokens of 50 steps: 4,000 of 10,320 token updates do something.
    S = make_schedule("pyramid", 80, 50, steps=50, slope=1.0)
    order, changed = torch.arange(80), 0
    for now, then in pairwise(S):
        present = present_tokens(now, then, order, 50, causal=True)
        assert bool(present[now != then].all()) and not bool(present[(now == 50) & (then == 50)].any())
        changed += int((now != then).sum())
    assert changed / S[1:].numel() == pytest.approx(0.39, abs=0.005)


def test_later_tokens_are_left_out_only_if_nobody_earlier_needs_them() -> None:
    # S6. Catches: an order confused with positions; equal places in the order; full attention that drops later ones.
    k, k_next = torch.tensor([0, 0, 5, 9, 20, 7]), torch.tensor([0, 0, 4, 9, 20, 7])
    order = torch.tensor([0, 0, 2, 2, 4, 4])
    assert present_tokens(k, k_next, order, 20, True).tolist() == [True, True, True, True, False, False]
    assert present_tokens(k, k_next, order, 20, False).tolist() == [True, True, True, True, False, True]
    assert present_tokens(k, k_next, order.flip(0), 20, True).tolist() == [False, False, True, True, False, True]


def test_the_denoiser_sees_levels_before_the_step_and_its_tokens() -> None:
    # S1. Catches: levels after the step, positions instead of tokens, a row that is left out.
    S = torch.tensor([[20, 20, 0], [12, 20, 0], [12, 20, 0], [3, 8, 0], [0, 0, 0]])
    spy = Spy()
    tokens = torch.tensor([1, 2, 4])
    out = walk_down(S, spy, causal=True, tokens=tokens, order=tokens, trace=True)
    assert [k[0].tolist() for _, k, _ in spy.calls] == [[20], [12, 20], [3, 8]]
    assert [c.tokens.tolist() for _, _, c in spy.calls] == [[1], [1, 2], [1, 2]]
    assert all(c.causal for _, _, c in spy.calls)
    assert out.S.tolist() == [[20, 20, 0], [12, 20, 0], [3, 8, 0], [0, 0, 0]]
    assert out.trace is not None and out.trace.shape == (4, 3, 3, 1)
    assert torch.equal(out.trace[-1], out.x) and torch.equal(out.trace[1][:, :1], spy.calls[1][0][:, :1])


def test_a_matrix_of_one_row_does_nothing() -> None:
    # Catches: a loop that calls the network once too often.
    x = torch.randn(3, 2, 1, dtype=F64)
    out = walk_down(torch.zeros(1, 2, dtype=torch.int64), x=x, trace=True)
    assert torch.equal(out.x, x) and out.network_evaluations == 0
    assert out.trace is not None and out.trace.shape == (1, 3, 2, 1)


@pytest.mark.parametrize("model", ["oracle", "transformer"])
def test_a_row_in_which_everything_waits_is_harmless(model: str) -> None:
    # Catches: a crash on a row without tokens (only "resample" keeps such rows).
    S = torch.tensor([[20, 20], [20, 20], [0, 0]])
    spec = small_spec(horizon=2)
    real = random_denoiser(spec, levels=K).double()
    x = torch.randn(3, 2, spec.width, dtype=F64) if model == "transformer" else None
    options = {"tokens": torch.tensor([2, 3]), "order": torch.tensor([2, 4])} if model == "transformer" else {}
    out = walk_down(S, real if model == "transformer" else DENOISER, x=x, hold="resample", **options)
    assert bool(torch.isfinite(out.x).all())


def test_noise_stays_out_of_unused_columns() -> None:
    # Catches: eta or resampling that writes into columns a token does not have.
    mean, cov = chain(3, 2)
    denoiser = GaussianDenoiser(mean, cov, TABLE)
    mask = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=F64)

    def masked(x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        return denoiser(x, k, cond) * mask[cond.tokens]

    S = make_schedule("pyramid", 3, K, steps=5, slope=2.0)
    x = torch.randn(4, 3, 2, dtype=F64) * mask
    out = walk_down(S, masked, x=x, eta=1.0, hold="resample", mask=mask, trace=True)
    assert out.trace is not None and bool((out.trace * (1 - mask) == 0).all()) and bool((out.x[:, 2] != 0).all())


def test_same_seed_same_bits_and_one_sample_does_not_know_the_others() -> None:
    # Catches: global random numbers, a batch statistic in the loop.
    S = make_schedule("pyramid", T, K, steps=8, slope=2.0)
    both = [walk_down(S, seed=7, eta=1.0, hold="resample").x for _ in range(2)]
    assert torch.equal(*both) and not torch.equal(both[0], walk_down(S, seed=8, eta=1.0, hold="resample").x)
    generators = [torch.Generator().manual_seed(s) for s in (3, 4)]
    x = torch.cat([torch.randn(1, T, 1, dtype=F64, generator=g) for g in generators])
    pair = walk_down(S, x=x, eta=1.0, draw=normal_like(generators)).x
    g = torch.Generator().manual_seed(4)
    alone = walk_down(S, x=torch.randn(1, T, 1, dtype=F64, generator=g), eta=1.0, draw=normal_like(g)).x
    torch.testing.assert_close(pair[1:], alone, rtol=1e-12, atol=1e-12)


def test_bad_input_is_refused() -> None:
    S = make_schedule("pyramid", T, K, steps=5)
    with pytest.raises(ValueError, match=r"unknown hold rule 'copies'. Did you mean 'copy'\?"):
        walk_down(S, hold="copies")
    for options in ({"eta": 0.5}, {"hold": "resample"}):
        with pytest.raises(ValueError, match="pass draw=normal_like"):
            walk_down(S, draw=None, **options)
    with pytest.raises(ValueError, match=r"must agree in n, got \(3, 4, 1\), \(\d+, 5\) and \(5,\)"):
        walk_down(S, x=torch.zeros(3, 4, 1, dtype=F64))
    with pytest.raises(ValueError, match=r"must agree in n"):
        walk_down(S, tokens=torch.arange(4))
    with pytest.raises(ValueError, match="last row of S must be 0"):
        walk_down(S[:-1])
    with pytest.raises(ValueError, match=r"one number per sample, shape \(3,\), got \(3, 5\)"):
        walk_down(S, log_cost=lambda x0_hat, k: x0_hat.sum(-1))
