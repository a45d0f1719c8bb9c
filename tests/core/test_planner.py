"""DFPlanner with a small untrained network: what goes in, what comes out, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dfplan.guidance import GoalGuidance
from dfplan.models.base import Cond
from dfplan.noise import alpha_bar_table
from dfplan.plan import Plan
from dfplan.planner import DFPlanner, PlannerConfig
from dfplan.plausibility import penalty
from dfplan.selection import arrival_steps, feasible, select
from dfplan.tokens import goal_token
from tests.core.tiny import small_spec, tiny_checkpoint

K = 20
SPECS = {"path": small_spec(), "bundle": small_spec(kind="bundle")}
PLANNERS = {kind: DFPlanner(tiny_checkpoint(spec)) for kind, spec in SPECS.items()}
H, F = 5, 3
kinds = pytest.mark.parametrize("kind", ["path", "bundle"])


def situation(B: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(B, 4, generator=g), torch.randn(B, 2, generator=g)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def make(kind: str = "path", B: int = 3, seed: int = 0, goal: bool = True, **options: Any) -> Plan:
    obs, goals = situation(B)
    options = {"generator": torch.Generator().manual_seed(seed), **options}
    return PLANNERS[kind].plan(obs, goals if goal else None, **options)


# ---- what comes out


@kinds
@pytest.mark.parametrize("goal", [True, False])
def test_shapes_and_units(kind: str, goal: bool) -> None:
    # Catches: axes in another order, normalised numbers, the current state lost, a goal token among the states.
    p = make(kind, goal=goal, samples=4, actions=True, trace=True, schedule="pyramid", slope=2.0, steps=5)
    obs, goals = situation()
    rows = 5 + 2 * (H - 1)
    assert p.observations.shape == (3, H + 1, 4) and p.candidates.shape == (3, 4, H + 1, 4)
    assert p.actions is not None and p.actions.shape == (3, H * F, 2)
    assert p.score.shape == (3,) and p.arrival_steps.shape == p.feasible.shape == (3, 4) and p.selected.shape == (3,)
    assert p.trace is not None and p.trace.shape == (rows + 1, 3, 4, H + 1, 4)
    context = 2 if goal else 1
    assert p.schedule.shape == (rows + 1, H + context) and bool((p.schedule[:, :context] == 0).all())
    assert (p.stride, p.dt_s, len(p)) == (F, 0.01, 3) and p.seconds > 0
    assert p.network_evaluations == rows + (1 if kind == "path" else 0) + 2  # two for the plausibility
    torch.testing.assert_close(p.candidates[:, :, 0], obs[:, None].expand(3, 4, 4), atol=1e-5, rtol=1e-5)
    assert torch.equal(p.trace[-1], p.candidates)
    assert p.goal is None if not goal else torch.equal(p.goal, goals)
    assert not bool((p.candidates[:, 0] == p.candidates[:, 1])[:, 1:].any())  # every sample has noise of its own


def test_the_selected_candidate_follows_the_rule() -> None:
    # Catches: a score of another candidate, a selection that ignores feasibility, limits on the wrong columns.
    planner = PLANNERS["path"]
    obs, goals = situation(8)
    p = planner.plan(obs, goals, samples=12, generator=torch.Generator().manual_seed(0))
    index = torch.arange(8)
    arrival = arrival_steps(p.candidates, goals[:, None], (0, 1), planner.config.goal_radius, F)
    limit = torch.cat([planner.norm.max_move[:2], torch.full((2,), float("inf"))])
    possible = feasible(p.candidates, limit, arrival, F)
    assert torch.equal(p.arrival_steps, arrival) and torch.equal(p.feasible, possible)
    surprises = p.surprise
    assert surprises is not None and surprises.shape == (8, 12, H) and bool((surprises > 0).all())
    late = torch.stack([penalty(s, a, F, planner.config.plausibility) for s, a in zip(surprises, arrival, strict=True)])
    rows = [
        select(*(v[b : b + 1] for v in (arrival, possible, p.candidates)), (0, 1), F, penalty=late[b : b + 1])
        for b in range(8)
    ]
    assert torch.equal(p.selected, torch.cat(rows))
    assert not torch.equal(p.selected, select(arrival, possible, p.candidates, (0, 1), F))  # it decides something
    assert torch.equal(p.observations, p.candidates[index, p.selected])
    assert torch.equal(p.score, -arrival[index, p.selected])
    assert bool(arrival.isfinite().any()) and len(p.selected.unique()) > 1  # the example decides something


@kinds
def test_one_environment_does_not_know_the_others(kind: str) -> None:
    # Design 15, to the bit. Catches: environments batched into one network call, one stream of noise for all.
    obs, goals = situation()
    options: dict[str, Any] = {"samples": 4, "actions": True, "eta": 0.5, "hold": "resample"}
    together = PLANNERS[kind].plan(obs, goals, generator=generators(1, 2, 3), **options)
    for b in range(3):
        alone = PLANNERS[kind].plan(obs[b], goals[b], generator=generators(b + 1), **options)
        for name in ("observations", "candidates", "actions", "score", "arrival_steps", "selected"):
            assert torch.equal(getattr(together, name)[b : b + 1], getattr(alone, name)), name


def test_same_seed_same_bits() -> None:
    # Catches: global random numbers in spite of a generator, a seed that is set inside.
    one, two, other = make(seed=1), make(seed=1), make(seed=2)
    assert torch.equal(one.candidates, two.candidates) and not torch.equal(one.candidates, other.candidates)
    torch.manual_seed(0)
    first = make(generator=None)
    torch.manual_seed(0)
    assert torch.equal(first.candidates, make(generator=None).candidates)
    assert not torch.equal(first.candidates, make(generator=None).candidates)


def test_inputs_may_be_lists_or_arrays_and_stay_as_they_are() -> None:
    # Catches: a caller's array that is normalised in place; a single goal that is not shared.
    obs, goals = (v.numpy().astype(np.float64) for v in situation())
    before = obs.copy()
    array = PLANNERS["path"].plan(obs, goals[:1], generator=generators(1, 2, 3))
    lists = PLANNERS["path"].plan(obs.tolist(), np.repeat(goals[:1], 3, 0).tolist(), generator=generators(1, 2, 3))
    assert torch.equal(array.candidates, lists.candidates) and np.array_equal(obs, before)


@pytest.mark.parametrize("option", ["schedule", "slope", "steps", "attention", "samples"])
def test_options_reach_the_sampler(option: str) -> None:
    # Catches: an option that is accepted and ignored.
    change = {"schedule": "trapezoid", "slope": 3.0, "steps": 4, "attention": "full", "samples": 5}[option]
    base, other = make(slope=0.5), make(**{"slope": 0.5, option: change})
    assert base.candidates.shape != other.candidates.shape or not torch.equal(base.candidates, other.candidates)
    options = {"precision": "fp32", "samples": 3, "steps": 6, "slope": 0.5, option: change}
    configured = DFPlanner(tiny_checkpoint(), PlannerConfig(**options))
    p = configured.plan(*situation(), generator=torch.Generator().manual_seed(0))
    assert torch.equal(p.candidates, other.candidates)


def test_noise_options_reach_the_sampler() -> None:
    # Catches: eta or hold dropped on the way. Only a matrix with waiting tokens tells the hold rules apart.
    S = torch.tensor([[20] * 5, [10, 20, 20, 20, 20], [10, 0, 0, 0, 0], [0] * 5])
    plans = [make(schedule=S, **o) for o in ({}, {"eta": 1.0}, {"hold": "resample"})]
    assert all(torch.equal(p.schedule[:, 2:], S) for p in plans)
    assert not torch.equal(plans[0].candidates, plans[1].candidates)
    assert not torch.equal(plans[0].candidates, plans[2].candidates)


def test_a_goal_steers_and_no_goal_is_no_token() -> None:
    # Catches: a goal that is not shown to the network; an unknown goal shown as 0.
    seen: list[tuple[Tensor, Tensor, Cond]] = []
    planner = DFPlanner(tiny_checkpoint())
    real = planner._model
    planner._model = lambda x, k, cond: seen.append((x, k, cond)) or real(x, k, cond)  # type: ignore[func-returns-value]
    obs, goals = situation(1)
    with_goal = planner.plan(obs, goals, generator=generators(0))
    x, k, cond = seen[0]
    assert cond.tokens is not None and cond.tokens.tolist()[:2] == [0, 1] and k[:, :2].tolist() == [[0, 0]] * 3
    torch.testing.assert_close(x[:, 1], goal_token(planner.spec, planner.norm, goals).expand(3, -1))
    torch.testing.assert_close(x[:, 0, :4], planner.norm.obs(obs).expand(3, -1))
    seen.clear()
    without = planner.plan(obs, generator=generators(0))
    assert all(1 not in c.tokens.tolist() for _, _, c in seen if c.tokens is not None)
    assert not torch.equal(with_goal.candidates, without.candidates)
    assert bool(without.arrival_steps.isinf().all()) and bool(without.score.isinf().all())


def test_guidance_gets_environment_units_and_moves_the_plan() -> None:
    # Catches: normalised states, the goal token among them, levels that do not belong to the states.
    obs, goals = situation(2)
    calls: list[tuple[Tensor, Tensor]] = []

    def log_c(states: Tensor, k: Tensor) -> Tensor:
        calls.append((states.detach(), k))
        return GoalGuidance(torch.tensor([3.0, 3.0]), scale=0.05)(states, k)

    plain = PLANNERS["path"].plan(obs, goals, generator=generators(1, 2), plausibility=0)
    guided = PLANNERS["path"].plan(obs, goals, generator=generators(1, 2), plausibility=0, guidance=log_c)
    assert len(calls) == 2 * plain.network_evaluations and plain.network_evaluations == guided.network_evaluations
    for i, (states, k) in enumerate(calls):
        assert states.shape == (3, H + 1, 4) and k.shape == (H + 1,)
        b, row = divmod(i, plain.network_evaluations)
        torch.testing.assert_close(states[:, 0], obs[b].expand(3, 4), atol=1e-5, rtol=1e-5)
        assert torch.equal(k, guided.schedule[row][[0, *range(2, H + 2)]])
    gap = [(p.candidates[:, :, -1, :2] - 3.0).norm(dim=-1).mean() for p in (plain, guided)]
    assert float(gap[1]) < float(gap[0])


# ---- warm start


def test_warm_start_needs_fewer_evaluations_and_begins_half_way() -> None:
    # Catches: a warm start that starts from pure noise, or that does not drop the rows above its level.
    cold = make()
    warm = make(warm_start=cold, elapsed=4)
    assert warm.network_evaluations < cold.network_evaluations
    assert int(warm.schedule[0].max()) == K // 2 and bool((warm.schedule[0, 2:] == K // 2).all())
    other = DFPlanner(tiny_checkpoint(), PlannerConfig(precision="fp32", warm_level=0.25))
    assert int(other.plan(*situation(), warm_start=cold).schedule[0].max()) == K // 4


@pytest.mark.parametrize("B", [1, 2])
def test_warm_start_is_the_old_plan_shifted_by_the_time_that_passed(B: int) -> None:
    # Catches: a shift in tokens instead of steps, no shift, one environment's plan given to another, no noise.
    planner, N = DFPlanner(tiny_checkpoint()), 4000
    planner._model = lambda x, k, cond: torch.zeros_like(x)
    old = make(B=2)
    old = Plan(**{**vars(old), "observations": old.observations[:B]})
    obs, goals = situation(B)
    elapsed = torch.tensor([4.0, 1.5])[:B]
    warm = planner.plan(obs, goals, samples=N, warm_start=old, elapsed=elapsed, trace=True,
                        generator=torch.Generator().manual_seed(0))  # fmt: skip
    assert warm.trace is not None
    a = float(alpha_bar_table("cosine", K)[K // 2])
    times = elapsed[:, None] + F * (torch.arange(H) + 1)
    start = planner.norm.obs(warm.trace[0][:, :, 1:])
    expected = a**0.5 * planner.norm.obs(old.states_at(times))
    torch.testing.assert_close(start.mean(1), expected, atol=5 * ((1 - a) / N) ** 0.5, rtol=0)
    torch.testing.assert_close(start.std(1), torch.full_like(expected, (1 - a) ** 0.5), atol=0.05, rtol=0)


# ---- actions


def test_actions_of_a_path_are_the_networks_answer_along_the_plan() -> None:
    # Catches: actions of another candidate, of another chunk, normalised, or denoised from a goal that is not there.
    planner = PLANNERS["path"]
    p = make(samples=4, actions=True, attention="full")
    spec, norm, model = planner.spec, planner.norm, planner.checkpoint.model
    tokens = torch.tensor([0, *range(2, 2 + 2 * H)])
    x = torch.zeros(3, len(tokens), spec.width)
    x[:, : H + 1, :4] = norm.obs(p.observations)
    k = torch.tensor([0] * (H + 1) + [K] * H).expand(3, -1)
    answer = model(x, k, Cond(False, tokens))[:, H + 1 :, spec.act_slice].reshape(3, H * F, 2)
    torch.testing.assert_close(p.actions, norm.act_back(answer).detach(), atol=1e-5, rtol=1e-4)


def test_actions_of_a_bundle_are_in_its_tokens() -> None:
    # Catches: separate action tokens looked for where there are none.
    planner = PLANNERS["bundle"]
    p = make("bundle", actions=True, trace=True)
    again = make("bundle")
    assert again.actions is None and torch.equal(p.candidates, again.candidates)
    assert p.actions is not None and bool(torch.isfinite(p.actions).all())
    with pytest.raises(ValueError, match=r"bundle tokens carry their actions; use plan\(actions=True\)"):
        planner.first_actions(situation()[0], torch.zeros(3, 2, 4))


def test_first_actions_are_the_conditional_mean() -> None:
    # Catches: states in the wrong token, the measured state forgotten, another chunk than the first.
    planner, (obs, _) = PLANNERS["path"], situation()
    spec, norm = planner.spec, planner.norm
    future = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(5))
    found = planner.first_actions(obs, future, steps=1, attention="full")
    assert found.shape == (3, F, 2)
    x = torch.zeros(3, 4, spec.width)
    x[:, :3, :4] = norm.obs(torch.cat([obs[:, None], future], 1))
    k, tokens = torch.tensor([0, 0, 0, K]).expand(3, -1), torch.tensor([0, 2, 3, spec.plan_tokens])
    answer = planner.checkpoint.model(x, k, Cond(False, tokens))[:, 3, spec.act_slice].reshape(3, F, 2)
    torch.testing.assert_close(found, norm.act_back(answer).detach(), atol=1e-5, rtol=1e-4)
    other = planner.first_actions(obs, future, steps=1, attention="full", generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(found, other)  # one step starts from noise that says nothing
    one = planner.first_actions(obs[0], future[0], steps=1, attention="full")
    torch.testing.assert_close(one, found[:1], atol=1e-5, rtol=1e-4)


def test_first_actions_draw_if_asked_and_look_ahead_only_if_full() -> None:
    # Catches: steps and attention that are ignored.
    planner, (obs, _) = PLANNERS["path"], situation()
    future = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(5))
    far = torch.cat([future[:, :1], future[:, 1:] + 1], 1)
    draws = [planner.first_actions(obs, future, steps=5, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    for attention, same in (("full", False), ("causal", True)):
        a, b = (planner.first_actions(obs, v, attention=attention, steps=1) for v in (future, far))
        assert torch.allclose(a, b, atol=1e-6) == same
    several = planner.first_actions(obs, future, steps=5, generator=generators(1, 2, 3))
    alone = planner.first_actions(obs[1], future[1], steps=5, generator=generators(2))
    torch.testing.assert_close(several[1:2], alone, atol=1e-5, rtol=1e-4)


# ---- what is refused


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"obs": torch.zeros(2, 3)}, ValueError, r"obs must have shape \(B, 4\) or \(4,\), got \(2, 3\)"),
        ({"obs": torch.zeros(1, 2, 4)}, ValueError, r"obs must have shape \(B, 4\) or \(4,\), got \(1, 2, 4\)"),
        ({"obs": [float("nan")] * 4}, ValueError, "obs holds NaN or infinity; a plan from an unknown state is no plan"),
        ({"goal": torch.zeros(2, 2)}, ValueError, r"goal must have shape \(B=3, 2\), got \(2, 2\)"),
        ({"goal": torch.zeros(3, 4)}, ValueError, r"goal must have shape \(B=3, 2\), got \(3, 4\)"),
        ({"goal": [float("inf"), 0.0]}, ValueError, "goal holds NaN or infinity; pass None if no goal is known"),
        ({"samples": 0}, ValueError, "samples must be at least 1, got 0"),
        ({"attention": "casual"}, ValueError, r"unknown attention 'casual'\. Did you mean 'causal'\?"),
        ({"schedule": "piramid"}, ValueError, r"unknown schedule 'piramid'\. Did you mean 'pyramid'\?"),
        ({"schedule": torch.zeros(2, 4, dtype=torch.int64)}, ValueError, "S must have 5 columns, one per token, got 4"),
        ({"steps": 21}, ValueError, r"steps must lie in 1..20 \(K\), got 21"),
        ({"steps": 0}, ValueError, r"steps must lie in 1..20 \(K\), got 0"),
        ({"slope": -1.0}, ValueError, "slope must be at least 0"),
        ({"hold": "keep"}, ValueError, "unknown hold rule 'keep'"),
        ({"eta": 2.0}, ValueError, r"eta must lie in \[0, 1\], got 2.0"),
        ({"generator": generators(1, 2)}, ValueError, r"pass one generator, or one per environment \(3\), got 2"),
        ({"warm_start": make(B=2)}, ValueError, r"warm_start must hold one plan per environment \(3\), got 2"),
        ({"warm_start": make(B=3), "elapsed": [1, 2]}, ValueError, r"elapsed must be a number or have shape \(3,\)"),
    ],
)  # fmt: skip
def test_bad_plans_are_refused(change: dict[str, Any], error: type[Exception], match: str) -> None:
    obs, goal = situation()
    arguments: dict[str, Any] = {"obs": obs, "goal": goal, **change}
    with pytest.raises(error, match=match):
        PLANNERS["path"].plan(arguments.pop("obs"), arguments.pop("goal"), **arguments)


def test_a_plan_of_several_is_no_warm_start_for_one() -> None:
    # Catches: plans of 3 environments taken for 3 candidates of one: no error, wrong plan.
    obs, goal = situation(1)
    with pytest.raises(ValueError, match=r"warm_start must hold one plan per environment \(1\), got 3"):
        PLANNERS["path"].plan(obs, goal, samples=3, warm_start=make(B=3))


def test_goals_need_a_layout_with_goals() -> None:
    planner = DFPlanner(tiny_checkpoint(small_spec(goal_columns=())))
    assert planner.plan(situation()[0]).candidates.shape == (3, 3, H + 1, 4)
    with pytest.raises(TypeError, match="trained without goals; pass goal=None and use guidance"):
        planner.plan(*situation())


@pytest.mark.parametrize("shape", [(3, 6, 4), (3, 0, 4), (2, 2, 4), (3, 2, 3)])
def test_bad_planned_states_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"plan_states must have shape \(B=3, n in 1..5, O=4\), got"):
        PLANNERS["path"].first_actions(situation()[0], torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"attention": "ful"}, "unknown attention 'ful'.+Did you mean 'full'"),
        ({"precision": "fp16"}, "unknown precision 'fp16'.+Did you mean 'bf16'|fp32"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"warm_level": 0.0}, r"warm_level must lie in \(0, 1\], got 0.0"),
    ],
)
def test_bad_defaults_are_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        PlannerConfig(**change)


def test_planners_survive_their_folder(tmp_path: Path) -> None:
    # Catches: defaults that are lost, options that are ignored, a typo that silently becomes a default.
    folder = DFPlanner(tiny_checkpoint(planner={"slope": 3.0, "goal_radius": 0.7})).save_pretrained(tmp_path / "a")
    loaded = DFPlanner.from_pretrained(folder, samples=2)
    assert (loaded.config.slope, loaded.config.goal_radius, loaded.config.samples) == (3.0, 0.7, 2)
    assert (loaded.name, loaded.spec, loaded.horizon_steps) == ("tiny", SPECS["path"], 15)
    again = DFPlanner.from_pretrained(loaded.save_pretrained(tmp_path / "b"))
    assert again.config == loaded.config
    plans = [p.plan(*situation(), generator=generators(1, 2, 3)) for p in (loaded, again)]
    assert torch.equal(plans[0].candidates, plans[1].candidates)
    with pytest.raises(ValueError, match=r"unknown planner option 'sampels'\. Did you mean 'samples'\?"):
        DFPlanner.from_pretrained(folder, sampels=4)
