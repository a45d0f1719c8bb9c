"""Five questions, one set of weights: with the exact denoiser every answer is the exact conditional of one Gaussian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dfplan.noise import alpha_bar_table
from dfplan.planner import DFPlanner, History
from tests.core.gaussian import Law, extrapolated
from tests.core.interleaved import NORM, SPEC, World, answered_law, exact_planner, world

K = 48
PLANNER, COARSE = exact_planner(K), exact_planner(K // 2)
WORLD, e = world(), World.entry
H, F = SPEC.horizon, SPEC.stride
OBS, GOAL = 0.9, -0.4  # normalised
PAST_O, PAST_A = (1.3, -0.8), (0.5, -0.6, 0.2, 0.9)
FUTURE_O, FUTURE_A = (0.4, 1.6, -0.3), (1.1, -0.2, 0.3, 0.8, -0.7, 0.1)
HISTORY = {
    e("o", -2): PAST_O[0], e("o", -1): PAST_O[1],
    **{e("a", i, p): PAST_A[2 * (i + 2) + p] for i in (-2, -1) for p in (0, 1)},
}  # fmt: skip
ACTIONS = [e("a", i, p) for i in range(1, H + 1) for p in (0, 1)]
STATES = [e("o", i) for i in range(1, H + 1)]
Ask = Callable[[DFPlanner, int], Tensor]


def obs(values: Any, B: int) -> Tensor:
    """Turn normalised observations into environment units, repeated B times."""
    return NORM.obs_back(torch.tensor(values).reshape(-1, 1)).expand(B, -1, -1)


def act(values: Any, B: int) -> Tensor:
    return NORM.act_back(torch.tensor(values).reshape(-1, 1)).expand(B, -1, -1)


def past(B: int, **changes: Any) -> History:
    return History(**{"obs": obs(PAST_O, B), "act": act(PAST_A, B), **changes})


def law(monkeypatch: pytest.MonkeyPatch, ask: Ask) -> Law:
    """Return the law of a question's normalised answer, the error of finite steps extrapolated away."""
    planners = {1: COARSE, 2: PLANNER}
    return extrapolated(lambda q: answered_law(monkeypatch, lambda B: ask(planners[q], B)))


def check(found: Law, expected: Law, tolerance: float = 1.2e-2) -> None:
    assert found.error(expected.mean, expected.cov) < tolerance


def levels(p: DFPlanner) -> int:
    return p.levels


# ---- the questions


@pytest.mark.parametrize("goal", [True, False])
@pytest.mark.parametrize("history", [True, False])
def test_act_is_the_policy(monkeypatch: pytest.MonkeyPatch, goal: bool, history: bool) -> None:
    # Catches: another chunk than the next, a state, goal or history that is not seen, values that are not normalised.
    def ask(p: DFPlanner, B: int) -> Tensor:
        answer = p.act(obs([OBS], B)[:, 0], obs([GOAL], B)[:, 0] if goal else None,
                       history=past(B) if history else None, steps=levels(p))  # fmt: skip
        return NORM.act(answer).flatten(1)

    known = {e("o"): OBS, **({e("g"): GOAL} if goal else {}), **(HISTORY if history else {})}
    check(law(monkeypatch, ask), WORLD.given(known, ACTIONS[:2]))


@pytest.mark.parametrize("n", [1, 3])
def test_imagine_is_the_world_model(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    # Catches: actions in another chunk or not seen, a step that sees the chunk after it, a history left out.
    def ask(p: DFPlanner, B: int) -> Tensor:
        answer = p.imagine(obs([OBS], B)[:, 0], act(FUTURE_A[: n * F], B), history=past(B), steps=levels(p))
        torch.testing.assert_close(answer[:, 0], obs([OBS], B)[:, 0])
        return NORM.obs(answer[:, 1:]).flatten(1)

    # Causally a state knows the actions before it only, which is all that matters: what follows is no cause.
    known = {e("o"): OBS, **HISTORY, **dict(zip(ACTIONS[: n * F], FUTURE_A, strict=False))}
    found = law(monkeypatch, ask)
    mean, values = OBS, []
    for i in range(n):
        mean = 0.9 * mean + 0.4 * FUTURE_A[2 * i] - 0.3 * FUTURE_A[2 * i + 1] + 0.2
        values.append(mean)
    noise = torch.tensor([[0.3**2 * sum(0.9 ** (abs(i - j) + 2 * m) for m in range(min(i, j) + 1))
                           for j in range(n)] for i in range(n)])  # fmt: skip
    check(found, Law(torch.tensor(values), noise))
    if n == 1:
        check(found, WORLD.given(known, STATES[:1]))


@pytest.mark.parametrize("n", [1, 3])
def test_infer_actions_is_the_inverse_dynamics(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    # Catches: causal attention, under which a chunk does not see what it led to; chunks denoised one by one.
    def ask(p: DFPlanner, B: int) -> Tensor:
        return NORM.act(p.infer_actions(obs((OBS, *FUTURE_O[:n]), B), steps=levels(p))).flatten(1)

    known = {e("o"): OBS, **dict(zip(STATES[:n], FUTURE_O, strict=False))}
    check(law(monkeypatch, ask), WORLD.given(known, ACTIONS[: n * F]))


@pytest.mark.parametrize("attention", ["causal", "full"])
def test_prior_is_the_joint_law(monkeypatch: pytest.MonkeyPatch, attention: str) -> None:
    # Catches: a state that is held, actions that are left out or drawn apart from their states.
    def ask(p: DFPlanner, B: int) -> Tensor:
        found = p.prior(B, steps=levels(p), attention=attention)
        return torch.cat([NORM.obs(found.observations).flatten(1), NORM.act(found.actions).flatten(1)], 1)

    check(law(monkeypatch, ask), WORLD.given({}, [e("o"), *STATES, *ACTIONS]))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("attention", ["causal", "full"])
def test_plans_of_any_length_have_the_marginal_law(monkeypatch: pytest.MonkeyPatch, n: int, attention: str) -> None:
    # Catches (C2): a horizon that is ignored, or tokens beyond it that are there as if they were known.
    def ask(p: DFPlanner, B: int) -> Tensor:
        plan = p.plan(obs([OBS], 1)[:, 0], history=past(1), samples=B, horizon=n, steps=levels(p), attention=attention)
        assert plan.candidates.shape == (1, B, n + 1, 1)
        return NORM.obs(plan.candidates[0, :, 1:]).flatten(1)

    check(law(monkeypatch, ask), WORLD.given({e("o"): OBS, **HISTORY}, STATES[:n]))


# ---- observations that are noisy or missing (C5)


@pytest.mark.parametrize("history", [True, False])
def test_without_the_observation_actions_follow_from_the_rest(monkeypatch: pytest.MonkeyPatch, history: bool) -> None:
    # Catches: a missing observation taken for its placeholder (0, the mean of the data).
    def ask(p: DFPlanner, B: int) -> Tensor:
        answer = p.act(torch.full((B, 1), float("nan")), obs([GOAL], B)[:, 0], obs_level=levels(p), steps=levels(p),
                       history=past(B) if history else None)  # fmt: skip
        return NORM.act(answer).flatten(1)

    known = {e("g"): GOAL, **(HISTORY if history else {})}
    check(law(monkeypatch, ask), WORLD.given(known, ACTIONS[:2]))


def test_at_level_K_an_observation_says_nothing_at_all() -> None:
    # Catches: content that leaks at level K. Exact: the same bits.
    def ask(value: float) -> Tensor:
        g = torch.Generator().manual_seed(0)
        return PLANNER.act([[value]], [[0.3]], obs_level=K, steps=5, history=past(1), generator=g)

    assert torch.equal(ask(float("nan")), ask(0.0)) and torch.equal(ask(0.0), ask(7.0))


@pytest.mark.parametrize("k", [K // 8, K // 2])
def test_a_noisy_observation_counts_as_much_as_it_is_worth(monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    # Catches: a measured value that is not scaled to its level, a level of another noise.
    table = alpha_bar_table("cosine", K)
    sigma = float(((1 - table[k]) / table[k]).sqrt())

    def ask(p: DFPlanner, B: int) -> Tensor:
        answer = p.act(obs([OBS], B)[:, 0], obs([GOAL], B)[:, 0], obs_noise=sigma * 1.5, steps=levels(p))
        return NORM.act(answer).flatten(1)

    expected = WORLD.given({e("o"): OBS, e("g"): GOAL}, ACTIONS[:2], noise={e("o"): sigma**2})
    check(law(monkeypatch, ask), expected)


@pytest.mark.parametrize("missing", [True, False])
def test_plans_begin_at_a_sample_of_the_state(monkeypatch: pytest.MonkeyPatch, missing: bool) -> None:
    # Catches: all candidates beginning at one estimate, or a future that does not belong to its beginning.
    k = K // 4
    table = alpha_bar_table("cosine", K)
    sigma = float(((1 - table[k]) / table[k]).sqrt())

    def ask(p: DFPlanner, B: int) -> Tensor:
        level = {"obs_level": levels(p)} if missing else {"obs_noise": sigma * 1.5}
        plan = p.plan(obs([OBS], 1)[:, 0], history=past(1), samples=B, steps=levels(p), **level)
        return NORM.obs(plan.candidates[0]).flatten(1)

    joint = WORLD.given(HISTORY, [e("o"), *STATES])
    if not missing:  # the observation is a fact about the first entry, with noise
        gain = joint.cov[:, 0] / (joint.cov[0, 0] + sigma**2)
        joint = Law(joint.mean + gain * (OBS - joint.mean[0]), joint.cov - gain[:, None] * joint.cov[0])
    check(law(monkeypatch, ask), joint, 1.2e-2 if missing else 8e-2)  # random steps have a larger error


def test_estimates_are_the_conditional_mean() -> None:
    # Catches: an estimate that forgets the history or the measurement.
    k = K // 4
    table = alpha_bar_table("cosine", K)
    variance = float((1 - table[k]) / table[k])
    joint = WORLD.given(HISTORY, [e("o")])
    for noise, expected in (
        (None, joint.mean),
        (variance, joint.mean + joint.cov[0] / (joint.cov[0, 0] + variance) * (OBS - joint.mean)),
    ):
        level = {"obs_level": K} if noise is None else {"obs_level": k}
        found = PLANNER.estimate(obs([OBS], 1)[:, 0], history=past(1), **level)
        torch.testing.assert_close(NORM.obs(found).flatten(), expected.float(), atol=1e-4, rtol=0)
    clean = PLANNER.estimate([[0.37]], history=past(1), samples=2)
    torch.testing.assert_close(clean, torch.full((1, 2, 1), 0.37))


def test_a_history_may_have_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a missing past observation taken for its placeholder, its actions dropped with it or kept without it.
    hole = past(1, obs=torch.full((1, 2, 1), float("nan")), levels=torch.tensor([[K, K]]))
    begun = past(1, valid=torch.tensor([[False, True]]))
    no_obs = {index: v for index, v in HISTORY.items() if index not in (e("o", -1), e("o", -2))}
    late = {index: v for index, v in HISTORY.items() if index in (e("o", -1), e("a", -1, 0), e("a", -1, 1))}
    blind = past(1, valid=torch.tensor([[False, True]]), levels=torch.tensor([[0, K]]))  # what came first would matter
    acted = {index: v for index, v in HISTORY.items() if index in (e("a", -1, 0), e("a", -1, 1))}
    for history, known in ((hole, no_obs), (begun, late), (blind, acted)):
        found = PLANNER.estimate([[0.0]], history=history, obs_level=K)
        expected = WORLD.given(known, [e("o")]).mean.float()
        torch.testing.assert_close(NORM.obs(found).flatten(), expected, atol=1e-4, rtol=0)
    newest = History(past(1).obs[:, 1:], past(1).act[:, F:])
    found = PLANNER.estimate([[0.0]], history=newest, obs_level=K)
    torch.testing.assert_close(NORM.obs(found).flatten(), WORLD.given(late, [e("o")]).mean.float(), atol=1e-4, rtol=0)


# ---- batches


def test_rows_with_other_levels_do_not_disturb_each_other() -> None:
    # Catches: one level for the whole batch, answers in the order of the groups, a neighbour's generator.
    B, k = 4, torch.tensor([0, K, 10, 0])
    values = torch.tensor([[0.2], [9.0], [0.5], [-0.7]])
    history = past(B, levels=torch.tensor([[0, 0], [0, K], [3, 0], [K, 0]]))

    def alone(b: int) -> History:
        assert history.levels is not None
        return History(history.obs[b : b + 1], history.act[b : b + 1], history.levels[b : b + 1])

    def g(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(s) for s in seeds]

    chunk = act(FUTURE_A, B)
    asks: list[Callable[..., Tensor]] = [
        lambda o, h, a, k, g: PLANNER.act(o, history=h, obs_level=k, steps=4, generator=g),
        lambda o, h, a, k, g: PLANNER.imagine(o, a, history=h, obs_level=k, steps=4, samples=3, generator=g),
        lambda o, h, a, k, g: PLANNER.estimate(o, history=h, obs_level=k, steps=4, samples=3, generator=g),
        lambda o, h, a, k, g: PLANNER.plan(o, history=h, obs_level=k, steps=4, samples=3, generator=g).candidates,
    ]
    for ask in asks:
        together = ask(values, history, chunk, k, g(0, 1, 2, 3))
        for b in range(B):
            one = ask(values[b : b + 1], alone(b), chunk[b : b + 1], k[b : b + 1], g(b))
            torch.testing.assert_close(together[b : b + 1], one, atol=1e-5, rtol=1e-5)
