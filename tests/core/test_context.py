"""What a planner is given: levels for noise, histories, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dfplan.context import check_level, level_of_noise
from dfplan.noise import alpha_bar_table
from dfplan.planner import DFPlanner, History
from tests.core.tiny import small_spec, some_norm, tiny_checkpoint

K = 20
SPEC = small_spec(kind="interleaved", history=2)
PLANNER = DFPlanner(tiny_checkpoint(SPEC))
OTHERS = {kind: DFPlanner(tiny_checkpoint(small_spec(kind=kind))) for kind in ("path", "bundle")}
TABLE = alpha_bar_table("cosine", K)
NORM = some_norm(SPEC)
F = SPEC.stride


def past(B: int = 2, h: int = 2) -> dict[str, Any]:
    return {"obs": torch.zeros(B, h, 4), "act": torch.zeros(B, h * F, 2)}


# ---- levels


@pytest.mark.parametrize("k", [0, 1, 7, K - 1, K])
def test_noise_becomes_the_level_with_that_noise(k: int) -> None:
    # Catches: a ratio of variances for one of deviations, a table read from the wrong end, units of the environment
    # taken for normalised ones.
    sigma = ((1 - TABLE[k]) / TABLE[k]).sqrt() * NORM.obs_std.double()
    assert level_of_noise(SPEC, NORM, TABLE, sigma, 3).tolist() == [k] * 3
    below = sigma * 0.99
    assert level_of_noise(SPEC, NORM, TABLE, below, 1).tolist() == [k]  # never a level of less noise
    if 0 < k < K:
        assert level_of_noise(SPEC, NORM, TABLE, sigma * 1.01, 1).tolist() == [k + 1]


def test_the_worst_column_decides_and_rows_are_apart() -> None:
    # Catches: the mean over columns, the worst of the whole batch.
    one = torch.zeros(2, 4)
    one[1, 2] = float(NORM.obs_std[2])
    found = level_of_noise(SPEC, NORM, TABLE, one, 2).tolist()
    assert found == [0, K // 2]  # a ratio of 1 lies half-way in the cosine table
    assert level_of_noise(SPEC, NORM, TABLE, float(NORM.obs_std.min()), 2).tolist() == [K // 2] * 2
    assert check_level(SPEC, NORM, TABLE, None, None, 2).tolist() == [0, 0]
    assert check_level(SPEC, NORM, TABLE, torch.tensor([3, K]), None, 2).tolist() == [3, K]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"obs_level": K + 1}, ValueError, r"obs_level must lie in 0..20, got 21..21; 20 is missing"),
        ({"obs_level": [0, 1, 2]}, ValueError, r"obs_level must be one level or have shape \(2,\), got \(3,\)"),
        ({"obs_level": 0.5}, TypeError, r"obs_level must be an integer or an integer tensor, got torch.float32"),
        ({"obs_noise": -0.1}, ValueError, "obs_noise is a standard deviation and must be at least 0"),
        ({"obs_noise": [0.1, 0.2]}, ValueError, r"obs_noise must be a number or have shape \(4,\) or \(2, 4\)"),
        ({"obs_noise": 0.1, "obs_level": 3}, ValueError, "pass obs_level or obs_noise, not both"),
        ({"obs": torch.full((2, 4), float("nan"))}, ValueError, "obs holds NaN.+Say that .+ missing by obs_level=20"),
        ({"obs": torch.full((2, 4), float("nan")), "obs_level": K - 1}, ValueError, "obs holds NaN"),
        ({"history": History(**past(1))}, ValueError, r"history must hold obs \(B=2, h in 1..2, 4\) and act"),
        ({"history": History(**past(2, 3))}, ValueError, r"h in 1..2.+got \(2, 3, 4\) and \(2, 9, 2\)"),
        ({"history": History(past()["obs"], torch.zeros(2, F, 2))}, ValueError, "history must hold obs"),
        ({"history": History(**past(), levels=torch.zeros(2, 1))}, ValueError, r"history.levels must have shape"),
        ({"history": History(**past(), levels=torch.full((2, 2), 21))}, ValueError, "history.levels must lie in 0..20"),
        ({"history": History(**past(), valid=torch.ones(2))}, ValueError, r"history.valid must have shape \(2, 2\)"),
        ({"history": History(past()["obs"] * torch.nan, past()["act"])}, ValueError, "history holds NaN or infinity"),
        ({"history": History(past()["obs"], past()["act"] + torch.inf)}, ValueError, "history holds NaN or infinity"),
    ],
)  # fmt: skip
def test_bad_context_is_refused(change: dict[str, Any], error: type[Exception], match: str) -> None:
    arguments: dict[str, Any] = {"obs": torch.zeros(2, 4), **change}
    obs = arguments.pop("obs")
    for ask in (PLANNER.act, PLANNER.plan, PLANNER.estimate, lambda o, **a: PLANNER.imagine(o, past()["act"], **a)):
        with pytest.raises(error, match=match):
            ask(obs, **arguments)


@pytest.mark.parametrize(
    ("actions", "match"),
    [
        (torch.zeros(2, F + 1, 2), r"actions must have shape \(B=2, n\*3 with n in 1..5, A=2\), got \(2, 4, 2\)"),
        (torch.zeros(2, 6 * F, 2), "with n in 1..5"),
        (torch.zeros(2, F, 3), "actions must have shape"),
        (torch.full((2, F, 2), torch.nan), "actions hold NaN or infinity; pass finite ones"),
    ],
)
def test_bad_actions_are_refused(actions: torch.Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        PLANNER.imagine(torch.zeros(2, 4), actions)


# ---- what other layouts can and cannot


def test_layouts_without_visible_actions_say_so() -> None:
    # Catches: an answer that silently ignores the actions.
    for kind, reason in (("path", "in path tokens no state sees an action"), ("bundle", "actions share the level")):
        planner = OTHERS[kind]
        with pytest.raises(ValueError, match=f"{reason}.+--tokens interleaved"):
            planner.imagine(torch.zeros(2, 4), torch.zeros(2, F, 2))
        with pytest.raises(ValueError, match=r"trained with the state given.+--tokens interleaved"):
            planner.prior(2)
        with pytest.raises(ValueError, match="trained with the state given"):
            planner.plan(torch.zeros(2, 4), obs_level=K)
        with pytest.raises(
            ValueError, match=r"takes no history; pass history=None, or train with --tokens interleaved"
        ):
            planner.plan(torch.zeros(2, 4), history=History(**past()))
    with pytest.raises(ValueError, match=r"use plan\(actions=True\)"):
        OTHERS["bundle"].infer_actions(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match=r"horizon must lie in 1..5, the length of training, got 6"):
        PLANNER.plan(torch.zeros(2, 4), horizon=6)
    with pytest.raises(ValueError, match=r"states must have shape \(B=2, n\+1 with n in 1..5, O=4\), got \(2, 7, 4\)"):
        PLANNER.infer_actions(torch.zeros(2, 7, 4))


@pytest.mark.parametrize("kind", ["path", "bundle"])
def test_other_layouts_act_and_keep_a_noisy_state(kind: str) -> None:
    # Catches: an answer from another token; a measured state that comes back scaled to its level.
    planner, obs = OTHERS[kind], torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    a = planner.act(obs, torch.zeros(2, 2), steps=3, generator=torch.Generator().manual_seed(0))
    assert a.shape == (2, F, 2)
    plan = planner.plan(obs, obs_level=5, horizon=2, generator=torch.Generator().manual_seed(0), trace=True)
    assert plan.candidates.shape == (2, 3, 3, 4) and int(plan.schedule[-1, 0]) == 5
    torch.testing.assert_close(plan.candidates[:, :, 0], obs[:, None].expand(2, 3, 4), atol=1e-5, rtol=1e-5)
    assert plan.trace is not None and torch.equal(plan.trace[-1], plan.candidates)
    other = planner.plan(obs, obs_level=0, horizon=2, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(plan.candidates, other.candidates)


def test_first_actions_are_the_first_of_the_inferred() -> None:
    # Catches: another chunk, a goal among the states, causal attention on interleaved tokens.
    states = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    for planner in (PLANNER, OTHERS["path"]):
        whole = planner.infer_actions(states, steps=1, attention="full")
        assert whole.shape == (2, 3 * F, 2)
        first = planner.first_actions(states[:, 0], states[:, 1:], steps=1, attention="full")
        torch.testing.assert_close(first, whole[:, :F], atol=1e-5, rtol=1e-5)
    for planner in (PLANNER, OTHERS["path"]):
        causal, full = (planner.first_actions(states[:, 0], states[:, 1:], attention=a) for a in ("causal", "full"))
        assert torch.equal(causal, full) == (planner is PLANNER)


def test_plans_carry_their_own_actions() -> None:
    # Catches: actions denoised causally, or along another candidate, or for the whole horizon of training.
    obs = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    plan = PLANNER.plan(obs, horizon=2, actions=True, generator=torch.Generator().manual_seed(0))
    assert plan.actions is not None and plan.actions.shape == (2, 2 * F, 2)
    expected = PLANNER.infer_actions(plan.observations, steps=PLANNER.config.action_steps)
    torch.testing.assert_close(plan.actions, expected, atol=1e-4, rtol=1e-4)


def test_guidance_sees_the_states_of_a_plan_with_history() -> None:
    # Catches: history tokens among the states that guidance gets.
    seen = []

    def log_c(states: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        seen.append((states.detach(), k))
        return -(states[:, -1] ** 2).sum(-1)

    obs = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))
    PLANNER.plan(obs, [[0.0, 0.0]], history=History(**past(1)), samples=2, horizon=3, guidance=log_c)
    for states, k in seen:
        assert states.shape == (2, 4, 4) and k.shape == (4,) and int(k[0]) == 0
        torch.testing.assert_close(states[:, 0], obs.expand(2, 4), atol=1e-5, rtol=1e-5)
