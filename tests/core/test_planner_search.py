"""DFPlanner with a score, a budget and a tree search, on small untrained networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import dfplan.searching
from dfplan.best_of import Stopwatch, seeded
from dfplan.guidance import GoalGuidance
from dfplan.montecarlo import MonteCarlo
from dfplan.plan import Plan
from dfplan.planner import DFPlanner
from dfplan.planner_config import PlannerConfig
from dfplan.schedule import make_schedule
from dfplan.steering import Steering
from dfplan.tree import TreeConfig
from tests.core.deceptive import Clock
from tests.core.tiny import small_spec, tiny_checkpoint

KINDS = {kind: DFPlanner(tiny_checkpoint(small_spec(kind=kind))) for kind in ("path", "bundle", "interleaved")}
PLANNER = KINDS["path"]
GUIDANCE = GoalGuidance(torch.tensor([1.0, -1.0]), when="any_time")
TREE: dict[str, Any] = {"expansions": 12, "batch": 4, "block": 2, "scales": (0.0, 1.0, 5.0), "slope": 3.0}


def situation(B: int = 3) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(B, 4, generator=g), torch.randn(B, 2, generator=g)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def reaching(times: float) -> DFPlanner:
    """Build the planner with other limits of what is feasible."""
    norm = replace(PLANNER.norm, max_move=times * PLANNER.norm.max_move)
    return DFPlanner(replace(PLANNER.checkpoint, norm=norm))


def score(states: Tensor) -> Tensor:
    return -((states[:, -1, 0] - 0.3) ** 2)


def timed(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    monkeypatch.setattr(dfplan.searching, "Stopwatch", lambda budget: Stopwatch(budget, Clock(*seconds)))


def plan(*seeds: int, pick: slice = slice(None), planner: DFPlanner = PLANNER, **options: Any) -> Plan:
    obs, goals = situation()
    return planner.plan(obs[pick], goals[pick], generator=generators(*seeds), **options)


def search(*seeds: int, pick: slice = slice(None), planner: DFPlanner = PLANNER, **options: Any) -> Plan:
    obs, goals = situation()
    options = {"guidance": GUIDANCE, **TREE, **options}
    return planner.search(obs[pick], goals[pick], generator=generators(*seeds), **options)


# ---- a score of one's own


@pytest.mark.parametrize("reach", [2.0, 1e-3])
def test_the_score_chooses(reach: float) -> None:
    # Catches: a score that is ignored or minimised, an infeasible choice, the score of another candidate.
    p, usual = (plan(1, 2, 3, planner=reaching(reach), samples=10, score=s) for s in (score, None))
    if reach == 2.0:
        assert 0 < int(p.feasible.sum()) < 30
    assert torch.equal(p.candidates, usual.candidates) and torch.equal(p.feasible, usual.feasible)
    for b in range(3):
        value, possible = score(p.candidates[b]), p.feasible[b]
        pool = possible if bool(possible.any()) else torch.ones(10, dtype=torch.bool)
        assert int(p.selected[b]) == int(value.masked_fill(~pool, float("-inf")).argmax())
        assert float(p.score[b]) == pytest.approx(float(value[p.selected[b]]))
    assert torch.equal(p.observations, p.candidates[torch.arange(3), p.selected])
    with pytest.raises(ValueError, match=r"a score must return one number per candidate, \(10,\), got \(10, 6\)"):
        plan(1, 2, 3, samples=10, score=lambda states: states[..., 0])


# ---- a budget


def test_a_longer_budget_only_adds_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: batches that repeat, a budget per environment that gives them different numbers of candidates, streams
    # that depend on the budget or on the other environments.
    found = []
    for budget in (50.0, 250.0, 1000.0):
        timed(monkeypatch, *[0.1] * 10)
        found.append(plan(1, 2, 3, samples=2, budget_ms=budget, score=score))
    assert [p.candidates.shape[1] for p in found] == [2, 4, 20]
    for short, long in ((found[0], found[1]), (found[1], found[2])):
        n = short.candidates.shape[1]
        assert torch.equal(short.candidates, long.candidates[:, :n])
        for b in range(3):
            ranks = [(bool(p.feasible[b, p.selected[b]]), float(p.score[b])) for p in (short, long)]
            assert ranks[0] <= ranks[1]
    assert len(found[2].candidates[0].unique(dim=0)) == 20
    assert found[1].network_evaluations == 2 * found[0].network_evaluations
    timed(monkeypatch, 0.1, 0.1)
    alone = plan(2, pick=slice(1, 2), samples=2, budget_ms=250.0, score=score)
    torch.testing.assert_close(alone.candidates[0], found[1].candidates[1])


def test_batches_deal_the_scales_on(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: scales that begin anew with every batch; a trace or actions of other candidates.
    obs, goals = situation()
    timed(monkeypatch, 0.1, 0.1)
    steering = Steering(scales=(0.0, 3.0, 9.0))
    options: dict[str, Any] = {"samples": 2, "guidance": GUIDANCE}
    p = plan(1, 2, 3, steering=steering, budget_ms=250.0, actions=True, trace=True, score=score, **options)
    for b in range(3):
        seed = int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(b + 1)))
        for j, scales in enumerate([(0.0, 3.0), (9.0, 0.0)]):
            own = PLANNER.plan(obs[b], goals[b], generator=seeded(seed, j), steering=Steering(scales=scales), **options)
            torch.testing.assert_close(own.candidates[0], p.candidates[b, 2 * j : 2 * j + 2])
        states, chosen = p.candidates[b], int(p.selected[b])
        expected = PLANNER.infer_actions(states[chosen])
        assert p.actions is not None
        torch.testing.assert_close(p.actions[b], expected[0], rtol=1e-4, atol=1e-4)
    assert p.trace is not None and torch.equal(p.trace[-1], p.candidates)


# ---- a tree


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_search_returns_its_best_plans(kind: str) -> None:
    # Catches: candidates in another order or of other nodes, normalised numbers, the context among the states.
    planner = KINDS[kind]
    p = search(1, 2, 3, planner=planner, samples=5, score=score, actions=True)
    obs, _ = situation()
    assert p.candidates.shape == (3, 5, 6, 4) and p.selected.tolist() == [0, 0, 0] and p.search is not None
    torch.testing.assert_close(p.candidates[:, :, 0], obs[:, None].expand(3, 5, 4), atol=1e-5, rtol=1e-5)
    for b, tree in enumerate(p.search):
        assert tree.expansions == 12 and tree.depth >= 2
        own = planner.norm.obs_back(tree.x[tree.chosen, 2 : 2 + 5, planner.spec.obs_slice])
        torch.testing.assert_close(p.observations[b, 1:], own)
        value, possible = score(p.candidates[b]), p.feasible[b]
        rank = [(bool(possible[i]), float(value[i])) for i in range(5)]
        assert rank == sorted(rank, reverse=True)
        assert float(p.score[b]) == pytest.approx(float(tree.value[tree.chosen]))
    assert p.actions is not None and p.actions.shape == (3, 15, 2)
    assert p.network_evaluations == p.search[0].network_evaluations + (0 if kind == "bundle" else 1)


def test_the_usual_order_holds_without_a_score() -> None:
    # Catches: a search that ranks by something else than feasibility and arrival; a score of its own units.
    p = search(1, 2, 3, planner=reaching(2.0), samples=20, expansions=20)
    assert p.candidates.shape[1] == 20 and torch.equal(p.score, -p.arrival_steps[:, 0])
    assert 0 < int(p.feasible.sum()) < 60
    for possible, arrival in zip(p.feasible.tolist(), p.arrival_steps.tolist(), strict=True):
        rank = [(not possible[i], arrival[i]) for i in range(20)]
        assert rank == sorted(rank)
    assert search(1, 2, 3, expansions=20).candidates.shape[1] == PLANNER.config.samples == 3


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("warm", [False, True])
def test_one_child_with_its_parents_noise_is_a_plan(kind: str, warm: bool) -> None:
    # Catches: guidance, context, schedule, goal, noise or a warm start that differ from those of `plan`.
    options: dict[str, Any] = {"guidance": GUIDANCE, "slope": 3.0, "planner": KINDS[kind], "samples": 1}
    if warm:
        options |= {"warm_start": plan(4, 5, 6, planner=KINDS[kind]), "elapsed": 4}
    tree = search(1, 2, 3, **{**options, "scales": (1.0,), "expansions": 1, "block": 9, "renew": False})
    torch.testing.assert_close(tree.candidates, plan(1, 2, 3, **options).candidates, atol=1e-3, rtol=1e-3)


def test_an_environment_searches_alone() -> None:
    # Catches: random numbers or statistics shared over environments; another plan for the same seed.
    together = search(1, 2, 3)
    again = search(1, 2, 3)
    assert torch.equal(together.candidates, again.candidates)
    for b in range(3):
        alone = search(b + 1, pick=slice(b, b + 1))
        torch.testing.assert_close(alone.candidates[0], together.candidates[b])
    assert not torch.equal(search(4, 5, 6).candidates, together.candidates)


def test_the_budget_of_a_search_is_shared() -> None:
    # Catches: a budget per environment; a budget of `plan` that a search ignores; numbers of plans that do not match.
    assert dfplan.searching.shared(TreeConfig(budget_ms=90.0), None, 3) == TreeConfig(budget_ms=30.0)
    assert dfplan.searching.shared(TreeConfig(budget_ms=90.0), 30.0, 3) == TreeConfig(budget_ms=10.0)
    assert dfplan.searching.shared(TreeConfig(), None, 3) == TreeConfig()
    assert dfplan.searching.shared(None, 9.0, 3) is None
    p = search(1, 2, 3, budget_ms=1e-3, samples=99)
    assert p.search is not None and [tree.expansions for tree in p.search] == [
        3,
        3,
        3,
    ]  # one batch: the root's children
    rows = [{"states": torch.zeros(n), "arrival": torch.zeros(n), "possible": torch.zeros(n)} for n in (4, 2, 3)]
    assert [len(row["states"]) for row in dfplan.searching._equally_many(rows)] == [2, 2, 2]


def test_a_missing_state_is_sampled() -> None:
    # Catches: a missing state taken for zeros or for what was passed; a matrix of one's own that is refused.
    planner = KINDS["interleaved"]
    S = make_schedule("autoregressive", 5, planner.levels, steps=2)
    missing = search(1, 2, 3, planner=planner, obs_level=planner.levels, schedule=S)
    zeros = planner.norm.obs_back(torch.zeros(4))
    for other in (situation()[0], zeros.expand(3, 4)):
        assert not torch.allclose(missing.observations[:, 0], other, atol=0.1)
    assert torch.equal(missing.candidates[:, 0, 0], missing.candidates[:, -1, 0])


def test_bad_input_is_refused() -> None:
    for options in ({"trace": True}, {"hold": "resample"}, {"steering": Steering(monte_carlo=MonteCarlo(2))},
                    {"steering": Steering(scales=(1.0,))}):  # fmt: skip
        with pytest.raises(ValueError, match="a tree search keeps no trace"):
            search(1, 2, 3, **options)
    with pytest.raises(ValueError, match="need a guidance to scale; pass one"):
        search(1, 2, 3, guidance=None)
    with pytest.raises(ValueError, match="budget_ms must be above 0, got 0"):
        plan(1, 2, 3, budget_ms=0)
    with pytest.raises(TypeError, match="expansion"):
        search(1, 2, 3, expansion=3)


def test_a_tree_decides_sub_plan_by_sub_plan_by_default() -> None:
    # Catches: the flat default of plain plans, with which a sub-plan's children find nothing left to choose; a slope
    # that was asked for and is overruled.
    planner = DFPlanner(tiny_checkpoint())
    tree = TreeConfig(scales=(0.0,), copies=2, block=2, expansions=6, batch=2)
    start, goal = torch.zeros(1, 4), torch.ones(1, 2)

    def found(**options: Any) -> Any:
        plan = planner.plan(start, goal, search=tree, generator=torch.Generator().manual_seed(0), **options)
        return plan.search[0].expansions, len(plan.schedule)

    assert found(steps=4) == found(steps=4, slope=2.0) and found(steps=4)[0] == 6
    assert found(steps=4, slope=0.0)[0] < 6
    assert PlannerConfig(slope=3.0).lag(None, 4, 2) == 3.0 and PlannerConfig(slope=3.0).lag(None, 4, None) == 3.0
