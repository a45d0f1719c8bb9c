"""Best of N: scales per sample, value and feasibility, a budget in milliseconds."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from dfplan.best_of import BestOf, Stopwatch, best_of, cycle_scales, seeded
from dfplan.sampler import sample
from dfplan.selection import Judge, arrival_score, arrival_steps, best, feasible, select
from tests.core.deceptive import GOAL, JUDGE, MODEL, ORDER, TABLE, Clock, S, cost, run, start
from tests.core.gaussian import F64

SCALES = (0.0, 0.5, 4.0)


def test_scales_are_dealt_in_turn() -> None:
    # Catches: a set that starts anew with every batch, so that later scales are never tried.
    assert cycle_scales(SCALES, 4).tolist() == [0.0, 0.5, 4.0, 0.0]
    assert cycle_scales(SCALES, 3, 4).tolist() == [0.5, 4.0, 0.0]
    out = best_of(run, JUDGE, seed=0, most=5, batch=2, scales=SCALES)
    assert out.scales.tolist() == [0.0, 0.5, 4.0, 0.0, 0.5] and out.batches == 3
    assert out.network_evaluations == 3 * (len(S) - 1)


def test_the_scale_of_one_sample_changes_no_other_bit() -> None:
    # Catches: a cost averaged over the batch, one scale for all.
    x = torch.randn(3, 4, 1, dtype=F64, generator=torch.Generator().manual_seed(0))

    def walk_down(*scales: float) -> Tensor:
        own = torch.tensor(scales)
        return sample(MODEL, S, x, alpha_bar=TABLE, tokens=ORDER, order=ORDER, log_cost=cost, scales=own).x

    one, two = walk_down(0.0, 1.0, 1.0), walk_down(0.0, 1.0, 8.0)
    assert torch.equal(one[:2], two[:2]) and not torch.allclose(one[2], two[2])
    plain = sample(MODEL, S, x, alpha_bar=TABLE, tokens=ORDER, order=ORDER).x
    torch.testing.assert_close(one[:1], plain[:1])
    alone = sample(MODEL, S, x[1:2], alpha_bar=TABLE, tokens=ORDER, order=ORDER, log_cost=cost).x
    torch.testing.assert_close(one[1:2], alone)


def test_the_best_possible_candidate_is_chosen() -> None:
    # Catches: a wrong sign, an impossible winner, a score of NaN that wins, no winner when all are impossible.
    value, yes = torch.tensor([1.0, 3.0, 2.0, float("-inf")]), torch.tensor([True, False, True, True])
    assert best(value, yes) == 2 and best(value, ~yes) == 1
    assert best(value, torch.zeros(4, dtype=torch.bool)) == 1
    judge = Judge(states=lambda x: x + 1, score=lambda s: s[:, 0, 0].log(), possible=lambda s: s[:, 0, 0] < 5)
    value, possible = judge(torch.tensor([-4.0, 0.0, 1.0, 8.0], dtype=F64).reshape(4, 1, 1))
    assert value[0] == float("-inf") and value.exp().tolist() == pytest.approx([0.0, 1.0, 2.0, 9.0])
    assert possible.tolist() == [True, True, True, False] and best(value, possible) == 2


@pytest.mark.parametrize("seed", range(5))
def test_the_default_score_chooses_as_select_does(seed: int) -> None:
    # Catches: another order of arrival, feasibility and length than without a score.
    g = torch.Generator().manual_seed(seed)
    states = torch.cat([torch.zeros(12, 1, 2), torch.randn(12, 6, 2, generator=g).cumsum(1)], 1)
    goal, limit, columns = torch.tensor([2.0, 1.0]), torch.full((2,), 1.5 + 0.3 * seed), (0, 1)
    arrival = arrival_steps(states, goal, columns, 0.8, 5)
    possible = feasible(states, limit, arrival, 5)
    expected = int(select(arrival[None], possible[None], states[None], columns, 5))
    assert best(arrival_score(goal, columns, 0.8, 5)(states), possible) == expected
    no_goal = arrival_score(None, columns, 0.8, 5)(states)
    length = states.diff(dim=1).norm(dim=-1).sum(-1)
    assert int(no_goal.argmax()) == int(length.argmin())


def with_budget(budget_ms: float | None, *seconds: float, seed: int = 3, most: int = 12) -> BestOf:
    return best_of(run, JUDGE, seed=seed, most=most, batch=3, scales=SCALES, budget_ms=budget_ms, clock=Clock(*seconds))


def test_no_batch_is_begun_that_would_end_too_late() -> None:
    # Catches: a budget in seconds, one that is overrun by a batch, no batch at all, batches after the last sample.
    assert with_budget(1.0, 0.5).batches == 1
    assert with_budget(250.0, 0.1, 0.1, 9.0).batches == 2
    assert with_budget(300.0, 0.1, 0.1, 0.1).batches == 3
    assert with_budget(500.0, 0.2, 0.1, 0.1).batches == 3  # 400 ms have passed; one like the first would end at 600
    assert with_budget(1e9, *[0.01] * 4).batches == 4
    assert with_budget(None, *[9.0] * 4).batches == 4
    assert with_budget(250.0, 0.1, 0.1).milliseconds == pytest.approx(200.0)
    watch = Stopwatch(110.0, Clock(0.04, 0.02, 0.02))
    assert watch.more() and (watch.lap(), watch.more()) == (pytest.approx(40.0), True)
    assert (watch.lap(), watch.longest_ms) == (pytest.approx(60.0), pytest.approx(40.0)) and watch.more()
    assert watch.lap() == pytest.approx(80.0) and not watch.more()


def test_a_longer_budget_only_adds_candidates() -> None:
    # Catches: random numbers that depend on the budget; batches that repeat the one before. Also: same seed, same bits.
    several = [with_budget(ms, *[0.1] * 4) for ms in (100.0, 250.0, None)]
    assert [len(out.x) for out in several] == [3, 6, 12]
    for short, long in pairwise(several):
        n = len(short.x)
        assert torch.equal(short.x, long.x[:n]) and torch.equal(short.value, long.value[:n])
        assert long.value[long.chosen] >= short.value[short.chosen]
    assert len(several[-1].x.unique(dim=0)) == 12
    assert torch.equal(several[-1].x, with_budget(None, *[0.2] * 4).x)
    assert not torch.equal(several[0].x, with_budget(100.0, 0.1, seed=4).x)
    assert int(several[-1].value.argmax()) == several[-1].chosen
    torch.testing.assert_close(several[-1].value, -(several[-1].x[:, -1, 0] - GOAL).abs())


def test_seededs_are_independent() -> None:
    # Catches: paths that run into each other ((1, 23) and (12, 3)), a path that does not count.
    paths = [(0,), (1,), (0, 0), (0, 1), (1, 23), (12, 3), (1, 2, 3), (0, -1), (0, 1, -1)]
    drawn = [torch.rand(4, generator=seeded(*path)) for path in paths]
    assert len(torch.stack(drawn).unique(dim=0)) == len(paths)
    assert torch.equal(drawn[4], torch.rand(4, generator=seeded(1, 23)))


def test_bad_input_is_refused() -> None:
    for scales in ((), (0.0, -1.0), (float("nan"),), (float("inf"),)):
        with pytest.raises(ValueError, match="scales must be one or more finite numbers of at least 0"):
            best_of(run, JUDGE, seed=0, scales=scales)
    with pytest.raises(ValueError, match="most and batch must be at least 1, got 0 and 16"):
        best_of(run, JUDGE, seed=0, most=0)
    with pytest.raises(ValueError, match="budget_ms must be above 0, got 0"):
        best_of(run, JUDGE, seed=0, budget_ms=0)
    with pytest.raises(ValueError, match=r"one number per candidate, \(3,\), got \(3, 4\)"):
        Judge(lambda x: x, lambda s: s[..., 0])(start(3))
    with pytest.raises(ValueError, match=r"one bool per candidate, \(3,\), got \(1,\)"):
        Judge(lambda x: x, lambda s: s[:, 0, 0], lambda s: torch.ones(1, dtype=torch.bool))(start(3))
