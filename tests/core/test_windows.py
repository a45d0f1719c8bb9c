"""Windows cut out of two tiny episodes whose numbers say where they come from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dfplan.data.episodes import Episodes
from dfplan.tokens import CONTEXT, GOAL, STATE, Normalizer, TokenSpec
from dfplan.windows import Batch, WindowSampler, fit_normalizer
from tests.core.tiny import fitted, identity_norm, small_spec, walks

LENGTHS = (7, 4)


def episodes(lengths: tuple[int, ...] = LENGTHS) -> Episodes:
    """Make episodes in which observation t of episode e is (100 e + t, 1000 + t, 5), action t is 10 e + t."""
    obs = [[100 * e + t, 1000 + t, 5] for e, length in enumerate(lengths) for t in range(length + 1)]
    act = [[10 * e + t] for e, length in enumerate(lengths) for t in range(length)]
    return Episodes(np.array(obs), np.array(act), np.array(act)[:, 0] + 0.5, np.array(lengths))


def layout(**changes: Any) -> TokenSpec:
    return TokenSpec(**{"obs_dim": 3, "act_dim": 1, "stride": 2, "horizon": 3, "goal_columns": (0,),
                        "rest_columns": (2,), **changes})  # fmt: skip


def sampler(spec: TokenSpec, data: Episodes | None = None, **options: Any) -> WindowSampler:
    return WindowSampler(data or episodes(), spec, identity_norm(spec), **options)


def cut(spec: TokenSpec, start: int, ahead: int, known: bool) -> Batch:
    """Cut one window; transitions 0..6 are the first episode's, 7..10 the second's."""
    return sampler(spec).window(np.array([start]), np.array([ahead]), np.array([known]))


def states(batch: Batch, spec: TokenSpec) -> list[list[float]]:
    return batch.x0[0, [STATE, *range(CONTEXT, spec.plan_tokens)], spec.obs_slice].tolist()


# ---- by hand


def test_a_window_ends_at_goal_contact_and_rests_there() -> None:
    # Catches: a window that goes on after the goal, rest that keeps its velocity, a goal from another step.
    spec = layout()
    b = cut(spec, start=1, ahead=3, known=True)  # states 1, 3, 5, 7 without a goal; the goal is state 4
    assert states(b, spec) == [[1, 1001, 5], [3, 1003, 5], [4, 1004, 0], [4, 1004, 0]]
    assert b.x0[0, GOAL].tolist() == [4, 0, 0, 0, 0]
    assert b.x0[0, spec.plan_tokens :, spec.act_slice].tolist() == [[1, 2], [3, 0], [0, 0]]
    assert b.valid.tolist() == [[True, True, True, True, True, True, False, False]]


def test_contact_on_a_token_is_at_rest_at_once() -> None:
    # Catches: an off-by-one at contact: the token of contact is the goal, and the chunk that led there is valid.
    spec = layout()
    b = cut(spec, start=0, ahead=4, known=True)
    assert states(b, spec) == [[0, 1000, 5], [2, 1002, 5], [4, 1004, 0], [4, 1004, 0]]
    assert b.x0[0, spec.plan_tokens :, spec.act_slice].tolist() == [[0, 1], [2, 3], [0, 0]]
    assert b.valid[0].tolist() == [True] * 5 + [True, True, False]


def test_a_goal_at_the_horizon_cuts_nothing() -> None:
    # Catches: a last token that is taken for padding.
    spec = layout()
    b = cut(spec, start=1, ahead=6, known=True)
    assert states(b, spec) == [[1, 1001, 5], [3, 1003, 5], [5, 1005, 5], [7, 1007, 0]]
    assert b.x0[0, spec.plan_tokens :, spec.act_slice].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert bool(b.valid.all())


def test_a_window_without_a_goal_runs_to_the_end_of_its_episode() -> None:
    # T7. Catches: padding that is marked valid, a window that runs into the next episode, a goal that is shown, rest.
    spec = layout()
    b = cut(spec, start=3, ahead=4, known=False)  # 4 transitions are left in the first episode
    assert states(b, spec) == [[3, 1003, 5], [5, 1005, 5], [7, 1007, 5], [7, 1007, 5]]
    assert b.valid.tolist() == [[True, False, True, True, False, True, True, False]]
    assert b.x0[0, spec.plan_tokens :, spec.act_slice].tolist() == [[3, 4], [5, 6], [0, 0]]


def test_a_token_that_ends_half_way_is_padding() -> None:
    # Catches: a half-filled token that counts as data.
    spec = layout()
    b = cut(spec, start=8, ahead=3, known=False)  # second episode, 3 transitions left: one whole token
    assert states(b, spec)[:2] == [[101, 1001, 5], [103, 1003, 5]]
    assert b.valid.tolist() == [[True, False, True, False, False, True, False, False]]


def test_bundles_pad_by_the_same_rules() -> None:
    # Catches: the rules applied to the kind "path" only.
    spec = layout(kind="bundle", rewards=True)
    b = cut(spec, start=1, ahead=3, known=True)
    assert b.x0[0, CONTEXT].tolist() == [2, 1002, 5, 3, 1003, 5, 1.5, 2.5, 1, 2]
    assert b.x0[0, CONTEXT + 1, :6].tolist() == [4, 1004, 0, 4, 1004, 0]
    assert b.x0[0, CONTEXT + 1, spec.act_slice].tolist() == [3, 0] and bool(b.valid.all())
    assert cut(spec, start=3, ahead=4, known=False).valid.tolist() == [[True, False, True, True, False]]


def test_weights_count_used_columns_of_valid_tokens_and_no_context() -> None:
    # Catches: padding or context in the loss, unused columns that count.
    spec = layout()
    for b in (cut(spec, 1, 3, True), cut(spec, 3, 4, False)):
        expected = spec.column_mask() & b.valid[0][:, None]
        expected[:CONTEXT] = False
        assert torch.equal(b.weight[0], expected.float())


# ---- drawing


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_windows_obey_their_rules(seed: int, end_goal: float, no_goal: float, lengths: list[int]) -> None:
    # Catches: a window across two episodes, valid steps that skip or stand still, goals that are not in the data.
    if max(lengths) < 2:
        return
    spec = layout()
    data = episodes(tuple(lengths))
    batch = sampler(spec, data, end_goal=end_goal, no_goal=no_goal).draw(40, np.random.default_rng(seed))
    for b in range(40):
        valid, x0 = batch.valid[b], batch.x0[b]
        begin = x0[STATE, 0].item()
        episode, t = int(begin) // 100, int(begin) % 100
        length, known = lengths[episode], bool(valid[GOAL])
        goal = x0[GOAL, 0].item() - 100 * episode if known else float("inf")
        assert not known or t < goal <= min(length, t + spec.steps)
        for i in range(spec.horizon):
            token, step = x0[CONTEXT + i, spec.obs_slice], t + 2 * (i + 1)
            if known or valid[CONTEXT + i]:
                at = min(step, goal)
                assert token.tolist() == [100 * episode + at, 1000 + at, 0.0 if step >= goal else 5.0]
            chunk = x0[spec.plan_tokens + i, spec.act_slice].tolist()
            assert bool(valid[CONTEXT + i]) == (known or step <= length)
            assert bool(valid[spec.plan_tokens + i]) == (step <= min(goal, length))
            if valid[spec.plan_tokens + i]:
                assert chunk == [10 * episode + step - 2, 10 * episode + step - 1]


def test_draws_are_uniform_and_keep_their_shares() -> None:
    # Catches: starts that are never drawn, a share of goals that is turned round, goals that favour a distance.
    spec, n = layout(horizon=2), 20_000
    batch = sampler(spec, end_goal=0.0, no_goal=0.4).draw(n, np.random.default_rng(0))
    known = batch.valid[:, GOAL]
    assert float(known.double().mean()) == pytest.approx(0.6, abs=0.02)
    begin = batch.x0[:, STATE, 0]
    for group, starts in ((known, 7 + 4), (~known, 6 + 3)):  # without a goal a whole token must fit
        values, counts = begin[group].unique(return_counts=True)
        share = counts.double() / group.sum() * starts
        assert len(values) == starts and bool(((share - 1).abs() < 0.2).all())
    distance = (batch.x0[:, GOAL, 0] - begin)[known & (begin == 1)]
    values, counts = distance.unique(return_counts=True)
    assert values.tolist() == [1, 2, 3, 4] and bool(((counts / len(distance) * 4 - 1).abs() < 0.25).all())


def test_end_goals_are_where_the_episode_ends_if_that_is_in_reach() -> None:
    # Catches: an end that is cut at the horizon and called the episode's goal.
    spec = layout(horizon=2)
    batch = sampler(spec, end_goal=1.0, no_goal=0.0).draw(500, np.random.default_rng(0))
    begin, goal = batch.x0[:, STATE, 0], batch.x0[:, GOAL, 0]
    near = (begin >= 100) | (begin >= 3)
    end = torch.where(begin >= 100, 104.0, 7.0)
    assert torch.equal(goal[near], end[near])
    assert set((goal - begin)[~near].tolist()) == {1, 2, 3, 4}


def test_layouts_without_a_goal_never_show_one() -> None:
    # Catches: a goal token that is valid without columns.
    spec = layout(goal_columns=())
    batch = sampler(spec, no_goal=0.0).draw(50, np.random.default_rng(0))
    assert not bool(batch.valid[:, GOAL].any()) and not bool(batch.valid[:, CONTEXT : spec.plan_tokens].all())
    assert bool((batch.x0[:, GOAL] == 0).all())


def test_the_same_generator_draws_the_same_windows() -> None:
    # Catches: global random numbers; a start count that ignores the episodes' ends.
    spec = small_spec()
    data = walks()
    s = WindowSampler(data, spec, fitted(spec, data))
    one, two, other = (s.draw(8, np.random.default_rng(i)) for i in (1, 1, 2))
    assert all(torch.equal(getattr(one, n), getattr(two, n)) for n in ("x0", "weight", "valid"))
    assert not torch.equal(one.x0, other.x0) and len(s) == data.steps
    assert one.x0.dtype == torch.float32


def test_windows_are_normalised() -> None:
    # Catches: raw numbers in x0.
    spec, data = small_spec(), walks(60)
    batch = WindowSampler(data, spec, fitted(spec, data), no_goal=1.0).draw(2000, np.random.default_rng(0))
    used = batch.x0[batch.weight > 0]
    assert abs(float(used.mean())) < 0.2 and 0.7 < float(used.std()) < 1.4


# ---- the normaliser of a data set


def test_moves_are_measured_inside_episodes_only() -> None:
    # Catches: the jump from one episode to the next taken for a move; moves over one step instead of a token.
    norm = fit_normalizer(episodes(), 2)
    assert isinstance(norm, Normalizer) and norm.max_move.tolist() == [2, 2, 0]
    assert norm.obs_mean[2] == 5 and norm.obs_std[2] == 1  # a constant column
    assert fit_normalizer(episodes(), 7).max_move.tolist() == [7, 7, 0]


def test_data_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no episode is longer than the stride of 8 steps; the longest has 7"):
        fit_normalizer(episodes(), 8)
    with pytest.raises(ValueError, match="no episode is as long as a token of 8 steps; the longest has 7"):
        sampler(layout(stride=8))
    with pytest.raises(ValueError, match=r"observations must have shape \(n, 4\), got \(13, 3\); the layout and the"):
        sampler(layout(obs_dim=4))
    with pytest.raises(ValueError, match=r"actions must have shape \(n, 2\), got \(11, 1\)"):
        sampler(layout(act_dim=2))


def test_a_share_of_the_windows_begins_where_the_episode_does() -> None:
    """Catches a share that is not kept, or that reaches windows without a goal too."""
    spec, n = layout(stride=1, horizon=4), 4000
    batch = sampler(spec, begin=0.5, no_goal=0.5).draw(n, np.random.default_rng(0))
    known, first = batch.valid[:, GOAL], batch.x0[:, STATE, 0] % 100 == 0
    plain = sampler(spec, begin=0.0, no_goal=0.5).draw(n, np.random.default_rng(0))
    by_chance = float((plain.x0[plain.valid[:, GOAL], STATE, 0] % 100 == 0).float().mean())
    assert float(first[known].float().mean()) == pytest.approx(0.5 + 0.5 * by_chance, abs=0.04)
    assert float(first[~known].float().mean()) < by_chance + 0.1
