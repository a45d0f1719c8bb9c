"""Observations that are missing or noisy: what the policy remembers, what it believes, what it tells the planner."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dfplan.noise import alpha_bar_table
from dfplan_policies import DFPolicy
from dfplan_policies.belief import Believer
from dfplan_policies.past import Past
from tests.policies.fakes import DT, Ball, FakePlanner, drive

F, H, K = 5, 6, 20
NAN = np.full(4, np.nan)


@dataclass
class Oracle(FakePlanner):
    """A planner of interleaved tokens whose imagination is the ball itself and whose estimate is told."""

    stride: int = F
    kind: str = "interleaved"
    told: list[dict[str, Any]] = field(default_factory=list)
    imagined: list[Any] = field(default_factory=list)
    estimated: list[dict[str, Any]] = field(default_factory=list)
    estimate_is: Any = (9.0, 9.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        self.spec = SimpleNamespace(
            kind=self.kind, stride=F, horizon=H, history=2, obs_dim=4, act_dim=2, dt_s=DT, plan_tokens=2 + H
        )
        self.levels, self.norm = K, SimpleNamespace(obs_std=torch.ones(4))
        self.checkpoint = SimpleNamespace(model=SimpleNamespace(alpha_bar=alpha_bar_table("cosine", K)))

    def plan(self, obs: Any, goal: Any, **options: Any) -> Any:
        self.told.append({"obs": np.asarray(obs)[0], "history": options.pop("history"), **options})
        level = options.pop("obs_level")
        known = np.nan_to_num(np.asarray(obs)) if level == K else obs
        return super().plan(known, goal, **options)

    def imagine(self, obs: Any, actions: Any, *, obs_level: Any, history: Any, steps: int, generator: Any) -> Any:
        self.imagined.append((np.asarray(obs)[0], np.asarray(actions)[0], history))
        ball, states = Ball(np.asarray(obs)[0]), [np.asarray(obs)[0]]
        for i, action in enumerate(np.asarray(actions)[0]):
            state = ball.step(action)
            if i % F == F - 1:
                states.append(state)
        return torch.as_tensor(np.array(states))[None]

    def estimate(self, obs: Any, *, obs_level: Any, history: Any, generator: Any) -> Any:
        self.estimated.append({"obs": np.asarray(obs)[0], "obs_level": obs_level, "history": history})
        return torch.tensor([[list(self.estimate_is)]])


def walk(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Drive a ball by random actions: states (n + 1, 4) and actions (n, 2)."""
    rng = np.random.default_rng(seed)
    ball, actions = Ball([0.0, 0, 0, 0]), rng.uniform(-1, 1, (n, 2))
    return np.array([ball.state.copy(), *(ball.step(a) for a in actions)]), actions


def remembered(states: np.ndarray, actions: np.ndarray, missing: Any = (), limit: int = 99) -> Past:
    past = Past.empty(4, 2)
    for i, action in enumerate(actions):
        past = past.after(NAN if i in missing else states[i], action, limit)
    return past


# ---- the past


def test_histories_are_a_stride_apart_counted_from_now() -> None:
    # Catches: tokens aligned with the episode instead of with now, an off-by-one, newest first, actions of other steps.
    states, actions = walk(18)
    past = remembered(states, actions, missing=(13,))  # now is step 18: tokens at 13 and 8
    history = past.history(F, 2, K, 4)
    assert history is not None and history.levels is not None and history.valid is None
    np.testing.assert_allclose(history.obs[0, 0], states[8], rtol=1e-6)
    assert bool(history.obs[0, 1].isnan().all()) and history.levels.tolist() == [[4, K]]
    np.testing.assert_allclose(history.act[0], actions[8:18], rtol=1e-6)
    young = remembered(states[:8], actions[:7]).history(F, 2, K, 0)
    assert young is not None and young.obs.shape == (1, 1, 4)
    np.testing.assert_allclose(young.obs[0, 0], states[2], rtol=1e-6)
    assert remembered(states[:5], actions[:4]).history(F, 2, K, 0) is None


def test_the_past_is_bounded_and_never_changed() -> None:
    # Catches: a memory that grows with the episode, arrays that are appended in place.
    states, actions = walk(12)
    past = remembered(states, actions, limit=7)
    assert len(past) == 7
    np.testing.assert_array_equal(past.obs, states[5:12])
    kept = pickle.dumps(past)
    past.after(states[0], actions[0], 7)
    assert pickle.dumps(past) == kept
    assert past.since_measured() == 1 and past.before(3).obs[-1].tolist() == states[8].tolist()
    assert remembered(states, actions, missing=(9, 10, 11)).since_measured() == 4
    assert remembered(states, actions, missing=range(12)).since_measured() is None


# ---- belief


@pytest.mark.parametrize("ago", [1, 3, F, F + 2, 3 * F])
def test_a_missing_state_is_imagined_from_the_last_one_that_was_seen(ago: int) -> None:
    # Catches: actions of before the measurement, one action too few or too many, the end of the token for now.
    planner = Oracle()
    states, actions = walk(20)
    actions[-1] = actions[-F:].mean(0)
    for i in range(20):
        states[i + 1] = Ball(states[i]).step(actions[i])
    believer = Believer(planner, 0, 1, use_history=True)
    past = remembered(states, actions, missing=range(20 - ago + 1, 20))
    belief = believer.believe(past, NAN, torch.Generator)
    seen, done, history = planner.imagined[0]
    np.testing.assert_allclose(seen, states[20 - ago], rtol=1e-6)
    np.testing.assert_allclose(done[:ago], actions[20 - ago :], rtol=1e-6)
    assert len(done) % F == 0 and len(done) - ago < F and np.allclose(done[ago:], actions[-1])
    np.testing.assert_allclose(history.obs[0, -1], states[20 - ago - F], rtol=1e-6)  # what the measurement came after
    tolerance = 1e-6 if ago % F == 0 else 0.02  # a cubic is not quite the ball's path inside a token
    np.testing.assert_allclose(belief.state[:2], states[20][:2], atol=tolerance)
    assert (belief.level, belief.calls) == (1, -(-ago // F)) and np.array_equal(belief.shown, belief.state)


def test_when_nothing_was_seen_there_is_the_history_alone() -> None:
    # Catches: a crash or a zero state at the start, imagination beyond the model's horizon.
    planner = Oracle()
    believer = Believer(planner, 0, 1, use_history=True)
    states, actions = walk(H * F + 2)
    for past in (Past.empty(4, 2), remembered(states, actions, missing=range(1, H * F + 2))):
        belief = believer.believe(past, NAN, torch.Generator)
        assert belief.state.tolist() == list(planner.estimate_is) and belief.level == K
        assert np.isnan(belief.shown).all() and planner.estimated[-1]["obs_level"] == K
    assert not planner.imagined


def test_a_noisy_observation_is_told_with_its_level_and_followed_by_its_mean() -> None:
    # Catches: a noisy value taken for the state, the estimate told to the plan as if it had been measured.
    planner = Oracle()
    policy = DFPolicy(planner, obs_noise=1.0, replan_every=100)  # a ratio of 1 is half-way in the cosine table
    measured = np.array([0.5, 0.0, 0.0, 0.0])
    policy.predict({"observation": measured[None], "desired_goal": np.zeros((1, 2))})
    assert planner.told[0]["obs_level"] == K // 2 and np.allclose(planner.told[0]["obs"], measured)
    assert planner.estimated[0]["obs_level"] == K // 2 and planner.told[0]["history"] is None
    path = DFPolicy(Oracle(kind="path"), obs_noise=1.0)
    path.predict({"observation": measured[None], "desired_goal": np.zeros((1, 2))})
    assert path.planner.told[0]["obs_level"] == K // 2 and not path.planner.estimated  # type: ignore[attr-defined]


# ---- the policy


def test_the_planner_is_told_what_came_before() -> None:
    # Catches: a history that is not passed on, one that lags a step, unclipped actions.
    planner = Oracle(speed=2.0)
    policy = DFPolicy(planner, replan_every=12)
    states, _ = drive(policy, Ball([0, 0, 0, 0.0]), (6.0, 0.0), 26)
    assert [t["history"] is None for t in planner.told] == [True, False, False]
    for call, step in zip(planner.told[1:], (12, 24), strict=True):
        history = call["history"]
        np.testing.assert_allclose(history.obs[0, -1], states[step - F], rtol=1e-5)
        np.testing.assert_allclose(call["obs"], states[step], rtol=1e-5)
        assert float(history.act.abs().max()) <= 1.0 and call["obs_level"] == 0
    without = Oracle(speed=2.0)
    drive(DFPolicy(without, replan_every=12, history=False), Ball([0, 0, 0, 0.0]), (6.0, 0.0), 26)
    assert all(t["history"] is None for t in without.told)


def test_a_ball_that_is_seen_now_and_then_gets_there() -> None:
    # Catches: a policy that follows the last thing it saw, or stops when it sees nothing.
    goal = (4.0, 3.0)
    policy = DFPolicy(Oracle(tokens=40), replan_every=50)
    ball, state, steps = Ball([0, 0, 0, 0.0]), None, 260
    for t in range(steps):
        seen = ball.state.copy() if t % 20 == 0 else NAN
        action, state = policy.predict({"observation": seen[None], "desired_goal": np.array([goal])}, state)
        ball.step(action[0])
    assert np.linalg.norm(ball.state[:2] - goal) < 0.5
    assert policy.telemetry(state)[0].action_evaluations > steps


def test_who_cannot_do_without_observations_says_so() -> None:
    # Catches: NaN that reaches a network; a row that is partly NaN, which is no missing observation but a fault.
    rows = {"observation": NAN[None], "desired_goal": np.zeros((1, 2))}
    for policy in (DFPolicy(FakePlanner()), DFPolicy(Oracle(kind="path"), obs_noise=0.1)):
        with pytest.raises(ValueError, match="observation must be finite"):
            policy.predict(rows)
    with pytest.raises(ValueError, match="observation must be finite"):
        DFPolicy(Oracle()).predict({**rows, "observation": np.array([[0.0, np.nan, 0, 0]])})
    with pytest.raises(ValueError, match=r"trust is a share of K and must lie in \[0, 1\], got 2"):
        DFPolicy(Oracle(), trust=2)
