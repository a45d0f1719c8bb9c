"""E3: sampling with the exact denoiser reproduces the exact law, whatever the scheduling matrix."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dfplan.noise import alpha_bar_table, normal_like
from dfplan.sampler import sample
from dfplan.schedule import SCHEDULES, check_schedule, coarse_pyramid, make_schedule
from tests.core.gaussian import F64, GaussianDenoiser, Law, chain, condition, extrapolated, sampled_law

K, T = 200, 4
TABLE = alpha_bar_table("cosine", K)
MEAN, COV = chain(T)
DENOISER = GaussianDenoiser(MEAN, COV, TABLE)
# With 25 and 50 (eta 0) or 50 and 100 (eta > 0) steps a token the extrapolated error was measured at 0.001 to 0.008 of
# the largest variance; every bug of test_sampling_bugs.py makes it larger than twice these tolerances. The step counts
# divide K, so that twice the steps is the same path.
TOLERANCE = {0.0: 0.006, 0.5: 0.006, 1.0: 0.012}


def steps_for(eta: float) -> int:
    return 25 if eta == 0 else 50


def error_of(
    name: str, eta: float = 0.0, *, causal: bool = False, lag: float = 0.25, denoiser: GaussianDenoiser = DENOISER
) -> float:
    """Measure the error of the joint law; ``lag`` is the slope as a share of the steps."""

    def law(q: int) -> Law:
        steps = steps_for(eta) * q
        if name == "coarse_pyramid":  # blocks of 2, so that 4 tokens make more than one
            S = coarse_pyramid(T, K, steps=steps, slope=lag * steps, block=2)
        else:
            S = make_schedule(name, T, K, steps=steps, slope=lag * steps)
        return sampled_law(denoiser, S, TABLE, 1, causal=causal, eta=eta)

    return extrapolated(law).error(MEAN.reshape(-1), COV)


def walk(stages: list[tuple[int, ...]], tokens: int, rows: int) -> Tensor:
    """Build a matrix in which each stage moves some tokens down their ladder, in ``rows`` rows; the others hold."""
    visits = torch.tensor([sum(t in s for s in stages) for t in range(tokens)])
    done, path = torch.zeros(tokens, dtype=F64), [torch.zeros(tokens, dtype=F64)]
    for stage in stages:
        moving = torch.tensor([float(t in stage) for t in range(tokens)], dtype=F64)
        for _ in range(rows):
            done = done + moving / rows
            path.append(done)
    S = (K * (1 - torch.stack(path) / visits)).round().long()
    check_schedule(S, K)
    return S


# Every token waits at levels in between while others move: what the hold rule is about.
STAGES = [(0,), (0, 1), (1,), (0, 2), (1, 3), (2,), (0, 3), (1, 2, 3), (2,), (0, 1), (2, 3), (3,)]


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_every_schedule_reproduces_the_joint(name: str, eta: float) -> None:
    # Catches: whatever test_sampling_bugs.py plants.
    assert error_of(name, eta) < TOLERANCE[eta]


@pytest.mark.parametrize("hold", ["copy", "resample"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_tokens_that_wait_half_way_keep_the_joint(hold: str, eta: float) -> None:
    # Catches: a hold rule that changes the law of what it holds.
    law = extrapolated(lambda q: sampled_law(DENOISER, walk(STAGES, T, 10 * q), TABLE, 1, causal=False, eta=eta,
                                             hold=hold))  # fmt: skip
    assert law.error(MEAN.reshape(-1), COV) < TOLERANCE[eta]


@settings(max_examples=4)
@given(st.data(), st.sampled_from(["copy", "resample"]))
def test_any_admissible_matrix_reproduces_the_joint(data: st.DataObject, hold: str) -> None:
    # Catches: what only an order of moves nobody thought of shows.
    moves = data.draw(st.permutations([t for t in range(3) for _ in range(4)]))
    stages: list[tuple[int, ...]] = []
    for token in moves:
        if stages and token not in stages[-1] and data.draw(st.booleans()):
            stages[-1] = (*stages[-1], token)
        else:
            stages.append((token,))
    mean, cov = chain(3)
    denoiser = GaussianDenoiser(mean, cov, TABLE)
    law = extrapolated(lambda q: sampled_law(denoiser, walk(stages, 3, 25 * q), TABLE, 1, causal=False, hold=hold))
    assert law.error(mean.reshape(-1), cov) < TOLERANCE[0.0]


def test_tokens_of_two_columns_reproduce_the_joint() -> None:
    # Catches: columns that are mixed up or share noise.
    mean, cov = chain(3, 2)
    denoiser = GaussianDenoiser(mean, cov, TABLE)
    law = extrapolated(
        lambda q: sampled_law(denoiser, make_schedule("pyramid", 3, K, steps=25 * q, slope=8.0 * q), TABLE, 2,
                              causal=False)
    )  # fmt: skip
    assert law.error(mean.reshape(-1), cov) < TOLERANCE[0.0]


def test_error_falls_in_proportion_to_the_step() -> None:
    # Catches: a bias that more steps do not remove; it justifies the extrapolation too.
    errors = []
    for steps in (25, 50, 100, 200):
        S = make_schedule("pyramid", T, K, steps=steps, slope=steps / 4)
        errors.append(sampled_law(DENOISER, S, TABLE, 1, causal=False).error(MEAN.reshape(-1), COV))
    assert errors[-1] < 0.015
    for coarse, fine in pairwise(errors):
        assert 1.85 < coarse / fine < 2.15


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("linear", [False, True])
def test_other_tables_and_uneven_lags(name: str, linear: bool) -> None:
    # Catches: a formula that is right for the cosine table or for even lags only.
    table = alpha_bar_table("linear" if linear else "cosine", K)
    denoiser = GaussianDenoiser(MEAN, COV, table)
    law = extrapolated(
        lambda q: sampled_law(denoiser, make_schedule(name, T, K, steps=40 * q, slope=13.0 * q), table, 1,
                              causal=False)
    )  # fmt: skip
    assert law.error(MEAN.reshape(-1), COV) < (0.03 if linear else 0.006)


def with_context(S: Tensor, columns: int, context: list[int]) -> Tensor:
    """Insert columns of zeros for context tokens."""
    out = torch.zeros(len(S), columns, dtype=torch.int64)
    out[:, [t for t in range(columns) if t not in context]] = S
    return out


@pytest.mark.parametrize("context", [[0], [3], [0, 3], [1]])
@pytest.mark.parametrize("name", ["full_sequence", "pyramid", "autoregressive"])
def test_clean_tokens_give_the_conditional_law(name: str, context: list[int]) -> None:
    # Catches: context that is moved, noised or looked at with a wrong level.
    values = torch.tensor([[1.5], [2.5], [-1.0], [-0.7]], dtype=F64)
    known = torch.tensor([t in context for t in range(T)])
    mean, cov = condition(MEAN.reshape(-1), COV, known, values.reshape(-1)[known])

    def law(q: int) -> Law:
        S = make_schedule(name, T - len(context), K, steps=25 * q, slope=8.0 * q)
        return sampled_law(DENOISER, with_context(S, T, context), TABLE, 1, context=values, causal=False)

    assert extrapolated(law).error(mean, cov) < TOLERANCE[0.0] * 1.5


def test_absent_tokens_are_marginalised() -> None:
    # Catches: positions that are taken for indices into x (cond.tokens ignored).
    tokens = torch.tensor([0, 2, 3])
    law = extrapolated(
        lambda q: sampled_law(DENOISER, make_schedule("pyramid", 3, K, steps=25 * q, slope=8.0 * q), TABLE, 1,
                              causal=False, tokens=tokens, order=tokens)
    )  # fmt: skip
    assert law.error(MEAN.reshape(-1)[tokens], COV[tokens][:, tokens]) < TOLERANCE[0.0]


# ---- causal attention: the joint is reached where a token moves only when everything before it is clean


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_causal_autoregressive_reproduces_the_joint(eta: float) -> None:
    # Catches: a causal mask that hides the token itself or its past.
    assert error_of("autoregressive", eta, causal=True) < TOLERANCE[eta]


def test_causal_with_a_goal_in_its_context_gives_the_bridge() -> None:
    # Catches: an order that is taken from positions; the goal stands last in the layout but first in the order.
    order, values = torch.tensor([0, 1, 2, 0]), torch.tensor([[1.5], [0.0], [0.0], [-0.7]], dtype=F64)
    known = torch.tensor([True, False, False, True])
    mean, cov = condition(MEAN.reshape(-1), COV, known, values.reshape(-1)[known])
    denoiser = GaussianDenoiser(MEAN, COV, TABLE, order)

    def law(q: int) -> Law:
        S = with_context(make_schedule("autoregressive", 2, K, steps=25 * q), T, [0, 3])
        return sampled_law(denoiser, S, TABLE, 1, context=values, causal=True, order=order)

    assert extrapolated(law).error(mean, cov) < TOLERANCE[0.0] * 1.5


def test_causal_overlap_is_not_the_joint_and_lag_repairs_it() -> None:
    # A fact about the method, not a wish: a causal token that moves beside a noisy later one drifts apart from it.
    # Only the full denoiser samples the joint along an overlapping schedule. Catches: causal=True being ignored.
    errors = [error_of("pyramid", causal=True, lag=lag) for lag in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert all(b < 0.75 * a for a, b in pairwise(errors))
    assert errors[0] > 0.3 and errors[-1] < TOLERANCE[0.0]


@pytest.mark.parametrize("name", ["full_sequence", "pyramid"])
def test_causal_first_token_always_has_its_own_marginal(name: str) -> None:
    # Catches: a first token that sees the future in spite of causal attention.
    def law(q: int) -> Law:
        S = make_schedule(name, T, K, steps=25 * q, slope=6.0 * q)
        whole = sampled_law(DENOISER, S, TABLE, 1, causal=True)
        return Law(whole.mean[:1], whole.cov[:1, :1])

    assert extrapolated(law).error(MEAN[0], COV[:1, :1]) < TOLERANCE[0.0]


# ---- with real random numbers


@pytest.mark.parametrize(("eta", "hold"), [(0.0, "copy"), (1.0, "copy"), (0.0, "resample")])
def test_random_draws_follow_the_law_of_the_impulses(eta: float, hold: str) -> None:
    # Catches: draws that are not fresh, not standard normal, or shared between samples, tokens or rows.
    B, S = 20_000, walk(STAGES, T, 8)
    law = sampled_law(DENOISER, S, TABLE, 1, causal=False, eta=eta, hold=hold)
    draw = normal_like(torch.Generator().manual_seed(1))
    x = draw(torch.empty(B, T, 1, dtype=F64))
    tokens = torch.arange(T)
    out = sample(
        DENOISER, S, x, alpha_bar=TABLE, tokens=tokens, order=tokens, causal=False, eta=eta, hold=hold, draw=draw
    )
    found = out.x.squeeze(-1)
    deviation: Callable[[Tensor], Tensor] = lambda v: v - v.mean(0)  # noqa: E731
    cov = deviation(found).T @ deviation(found) / B
    d = law.cov.diagonal()
    assert bool(((found.mean(0) - law.mean).abs() < 5 * (d / B).sqrt()).all())
    assert bool(((cov - law.cov).abs() < 5 * ((d[:, None] * d + law.cov**2) / B).sqrt()).all())
