"""Returns of starts, their statistics, the tokens that hold them, and plans that are chosen by them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dfplan import DFPlanner
from dfplan.data.episodes import Episodes
from dfplan.returns import ReturnStats, discounted_returns
from dfplan.tokens import CONTEXT, GOAL, Normalizer, TokenSpec, goal_token, unpack_rewards
from dfplan.value import ValueConfig, ValueModel, start_return
from dfplan.windows import WindowSampler, fit_normalizer
from dfplan_policies.wanted import wanted
from tests.core.tiny import small_spec, some_norm, tiny_checkpoint

STATS = ReturnStats(0.9, 2.0, 4.0, 10.0, 5.0, (0.0, 10.0, 30.0))


def layout(**changes: object) -> TokenSpec:
    return small_spec(**{"kind": "bundle", "rewards": True, "returns": True, "goal_columns": (), "rest_columns": (),
                         **changes})  # fmt: skip


def episodes() -> Episodes:
    """Make an episode of 9 steps and one of 4; reward t of the first is t, of the second 100 + t."""
    rng = np.random.default_rng(0)
    rewards = np.concatenate([np.arange(9.0), 100 + np.arange(4.0)])
    return Episodes(rng.normal(size=(15, 4)), rng.uniform(-1, 1, (13, 2)), rewards, np.array([9, 4]))


def test_returns_by_hand() -> None:
    # Catches: a sum that runs on into the next episode, a time limit that makes late starts worth less, a fall that
    # does not, a discount one step off.
    found = discounted_returns(np.array([1.0, 1, 1, 2, 4]), np.array([3, 2]), None, 0.5)
    np.testing.assert_allclose(found, [1, 1, 1, (2 + 0.5 * 4) / 1.5, 4])
    fallen = discounted_returns(np.array([1.0, 1, 1, 2, 4]), np.array([3, 2]), np.array([True, False]), 0.5)
    np.testing.assert_allclose(fallen, [(1 + 0.5 + 0.25) / 2, 1.5 / 2, 1 / 2, 4 / 1.5, 4])
    with pytest.raises(ValueError, match="discount must lie in \\[0, 1\\), got 1"):
        discounted_returns(np.ones(2), np.array([2]), None, 1.0)
    with pytest.raises(ValueError, match="rewards hold NaN"):
        discounted_returns(np.array([np.nan]), np.array([1]), None, 0.5)


def test_statistics_survive_json_and_refuse_damage() -> None:
    # Catches: quantiles that come back as a list, a spread of 0, a share that is read as a percentage.
    again = ReturnStats.from_dict(json.loads(json.dumps(STATS.to_dict())))
    assert again == STATS and STATS.at(0.75) == 20.0
    norm = replace(some_norm(layout()), returns=STATS)
    assert Normalizer.from_dict(json.loads(json.dumps(norm.to_dict()))).returns == STATS
    assert ReturnStats.fit(np.ones(5), np.ones(5), 0.9).std == 1.0
    with pytest.raises(ValueError, match="out of range"):
        ReturnStats.from_dict({**STATS.to_dict(), "std": 0.0})
    with pytest.raises(ValueError, match="share of the data must lie in"):
        STATS.at(95)


def test_a_window_holds_rewards_and_the_return_of_its_start() -> None:
    # Catches: the return of the window's end, rewards that are not normalised or of other steps, the return written
    # into a column of rewards or actions, windows cut as if there were a goal.
    spec, data = layout(), episodes()
    norm = fit_normalizer(data, spec.stride, discount=0.8)
    windows = WindowSampler(data, spec, norm, no_goal=0.5)
    batch = windows.draw(64, np.random.default_rng(0))
    worth = discounted_returns(data.rewards, data.lengths, None, 0.8)
    rewards = unpack_rewards(spec, norm, batch.x0[:, CONTEXT:])
    starts = [int(np.flatnonzero(data.rewards == round(float(r)))[0]) for r in rewards[:, 0]]
    np.testing.assert_allclose(start_return(spec, norm)(batch), worth[starts], rtol=1e-5)
    ended = ~batch.valid[:, CONTEXT:]
    assert 10 < int(batch.valid[:, GOAL].sum()) < 54  # hidden in a share of the windows
    left = np.where(np.array(starts) < 9, 9 - np.array(starts), 13 - np.array(starts))
    np.testing.assert_array_equal((~ended).sum(1), np.minimum(left // spec.stride, spec.horizon))
    used = spec.column_mask()
    assert int(used[GOAL].sum()) == 1 and bool(used[GOAL, spec.return_column])
    assert not used[CONTEXT:, spec.return_column].any() and spec.width == int(used[CONTEXT].sum()) + 1
    with pytest.raises(ValueError, match="fit the normaliser with discount="):
        WindowSampler(data, spec, some_norm(spec))


def test_old_layouts_are_written_as_before() -> None:
    # Catches: a new entry that keeps the runs and checkpoints of old from being resumed and read.
    assert "returns" not in small_spec().to_dict() and "returns" not in some_norm(small_spec()).to_dict()
    spec = layout(goal_columns=(0, 1))
    assert TokenSpec.from_dict(spec.to_dict()) == spec and spec.goal_width == 3


def planner(**options: object) -> DFPlanner:
    checkpoint = tiny_checkpoint(layout(), planner={"samples": 6, **options})
    return DFPlanner(replace(checkpoint, norm=replace(checkpoint.norm, returns=STATS)))


def test_plans_depend_on_the_return_that_is_asked_for() -> None:
    # Catches: a return that never reaches the network, or reaches it in other units.
    p, obs = planner(), np.zeros((1, 4), dtype=np.float32)
    plans = [p.plan(obs, goal, generator=torch.Generator().manual_seed(0)) for goal in (None, [[0.0]], [[30.0]])]
    seen = [plan.observations for plan in plans]
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
    assert plans[1].goal is None and plans[1].rewards is not None and plans[1].rewards.shape == (1, 15)
    with pytest.raises(ValueError, match=r"goal must have shape \(B=1, 1\), the return that is wanted last"):
        p.plan(obs, [[0.0, 1.0]])


def test_candidates_are_chosen_by_what_they_are_worth() -> None:
    # Catches: the shortest path chosen where there is no goal, the worst instead of the best, rewards not turned back.
    p, obs = planner(), np.zeros((1, 4), dtype=np.float32)
    plan = p.plan(obs, [[10.0]], generator=torch.Generator().manual_seed(0), actions=True)
    alone = [
        p.plan(obs, [[10.0]], score=lambda s, i=i: -(torch.arange(len(s)) - i).abs().float(), actions=True,
               generator=torch.Generator().manual_seed(0))
        for i in range(6)
    ]  # fmt: skip
    worth = [float(a.rewards.mean()) for a in alone if a.rewards is not None]
    assert int(plan.selected[0]) == int(np.argmax(worth)) and plan.rewards is not None
    assert float(plan.score[0]) == pytest.approx(max(worth), rel=1e-4)
    assert plan.actions is not None and torch.equal(plan.actions, alone[int(np.argmax(worth))].actions)


def test_the_learned_return_chooses_and_does_not_see_what_is_asked_for() -> None:
    # Catches: a value that reads the wanted return off its own input, or that is not used at all.
    spec = layout()
    torch.manual_seed(0)
    value = ValueModel(spec, ValueConfig(width=16, levels=20)).eval()
    with torch.no_grad():
        for parameter in value.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.4)
    x, k = torch.randn(3, spec.plan_tokens, spec.width), torch.zeros(3, spec.plan_tokens, dtype=torch.int64)
    other = x.clone()
    other[:, GOAL] = 7.0
    assert torch.equal(value(x, k, torch.arange(spec.plan_tokens)), value(other, k, torch.arange(spec.plan_tokens)))
    checkpoint = tiny_checkpoint(spec, planner={"samples": 6})
    p = DFPlanner(replace(checkpoint, norm=replace(checkpoint.norm, returns=STATS), value=value))
    plan = p.plan(np.zeros((1, 4)), [[10.0]], generator=torch.Generator().manual_seed(0))
    plain = planner().plan(np.zeros((1, 4)), [[10.0]], generator=torch.Generator().manual_seed(0))
    assert torch.equal(plan.candidates, plain.candidates)  # with value_scale 0 it chooses and does not push
    assert float(plan.score[0]) != float(plain.score[0])
    pushed = DFPlanner(p.checkpoint, replace(p.config, value_scale=5.0))
    assert not torch.equal(
        pushed.plan(np.zeros((1, 4)), [[10.0]], generator=torch.Generator().manual_seed(0)).candidates, plain.candidates
    )


def test_a_goal_and_a_return_stand_in_one_token() -> None:
    # Catches: the return read as a coordinate of the goal, or the other way round.
    spec = layout(goal_columns=(0, 1))
    norm = replace(some_norm(spec), returns=STATS)
    token = goal_token(spec, norm, torch.as_tensor(wanted(np.array([3.0, 4.0]), 20.0))[None].float())[0]
    first = spec.obs_columns - spec.obs_dim
    assert token[spec.return_column] == 2.0  # (20 - 10) / 5
    expected = (torch.tensor([3.0, 4.0]) - norm.obs_mean[:2]) / norm.obs_std[:2]
    torch.testing.assert_close(token[first : first + 2], expected)
    assert wanted(None, None) is None and np.array_equal(wanted(None, 2.0), [2.0])  # type: ignore[arg-type]
