"""Executors drive a point mass along known plans."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from dfplan_policies import DFPolicy
from dfplan_policies.executors import DiffusedActionsExecutor
from dfplan_policies.executors.path import resample
from tests.policies.fakes import Ball, FakePlanner, drive


def distance_to_path(points: np.ndarray, path: np.ndarray) -> np.ndarray:
    dense = resample(path, 0.01)
    return np.linalg.norm(points[:, None] - dense[None], axis=-1).min(1)


CURVE = np.stack([np.linspace(0, 6, 25)[1:-1], np.sin(np.linspace(0, 6, 25)[1:-1])], 1)


def test_path_is_faster_than_its_plan_on_a_straight_line() -> None:
    # Catches: following the plan's timing; chasing a point behind the ball; no lookahead.
    states, _ = drive(DFPolicy(FakePlanner(speed=2.0)), Ball([0, 0, 0, 0]), (8.0, 0.0), 400)
    away = np.linalg.norm(states[:, :2] - [8, 0], axis=1)
    first = int(np.argmax(away <= 0.5))
    assert first < 200  # the plan needs 375 steps, full speed 171
    assert (away[first:] <= 0.5).all(), "the goal must be held"
    assert away[-1] < 0.02 and np.abs(states[-1, 2:]).max() < 0.05
    assert np.abs(states[:, 1]).max() < 1e-3


def test_path_stays_on_a_curve() -> None:
    # Catches: a projection that jumps ahead, a straight line between tokens.
    states, _ = drive(DFPolicy(FakePlanner(via=CURVE), replan_every=1000), Ball([0, 0, 0, 0]), (6.0, np.sin(6.0)), 350)
    path = np.vstack([[0, 0], CURVE, [6, np.sin(6.0)]])
    assert distance_to_path(states[:, :2], path).max() < 0.3
    assert np.linalg.norm(states[-1, :2] - path[-1]) < 0.02


def test_larger_lookahead_cuts_corners_more() -> None:
    # Catches: a lookahead that is ignored.
    worst = []
    for lookahead in (0.3, 1.2):
        policy = DFPolicy(FakePlanner(via=[(3, 0)]), executor_options={"lookahead": lookahead}, replan_every=1000)
        states, _ = drive(policy, Ball([0, 0, 0, 0]), (3.0, 3.0), 120)
        worst.append(((3 - states[:, 0]).clip(0) * states[:, 1].clip(0)).max())
    assert worst[1] > 2 * worst[0]


def test_projection_does_not_jump_to_a_later_branch() -> None:
    # Catches: the nearest point of the whole path in place of the next one (a hairpin's two arms lie 0.3 apart).
    policy = DFPolicy(FakePlanner(via=[(4, 0), (4, 0.3), (-1, 0.3)], tokens=64), replan_every=1000)
    ball, state, furthest = Ball([0, 0, 0, 0]), None, 0.0
    for step in range(300):
        if step == 20:
            ball.state[1] = 0.22  # nearer to the way back
        action, state = policy.predict(
            {"observation": ball.state[None], "desired_goal": np.array([[-1.0, 0.9]])}, state
        )
        furthest = max(furthest, float(ball.step(action[0])[0]))
    assert furthest > 3.5


def test_a_ball_at_a_wall_is_noticed_and_plans_again_with_more_samples() -> None:
    # Catches: waiting for replan_every while pressed against a wall; never drawing more samples.
    planner = FakePlanner()
    policy = DFPolicy(planner, replan_every=1000, samples=10)
    _, state = drive(policy, Ball([0, 0, 0, 0], wall=1.0), (6.0, 0.0), 250)
    plans = policy.telemetry(state)[0].plans
    assert [p.stuck for p in plans] == [False] + [True] * (len(plans) - 1)
    assert 40 <= plans[1].step <= 90
    assert [c["samples"] for c in planner.calls][:4] == [10, 10, 20, 40]
    assert max(c["samples"] for c in planner.calls) == 40


def test_a_new_route_frees_a_stuck_ball() -> None:
    # Catches: a ball that stays pressed against a wall although the next plan leads round it.
    class WrongOnce(FakePlanner):
        def plan(self, *args: Any, **options: Any) -> Any:
            self.via = [(3.0, 0.0)] if not self.calls else []
            return super().plan(*args, **options)

    policy = DFPolicy(WrongOnce(), replan_every=1000)
    states, _ = drive(policy, Ball([0, 0, 0, 0], wall=1.0), (0.0, 4.0), 300)
    assert states[:, 0].max() == 1.0
    assert np.linalg.norm(states[-1, :2] - [0, 4]) < 0.1


def test_plans_avoid_the_place_where_the_ball_ran_into_something() -> None:
    # Catches: choosing the same way into the wall again, because it looks shortest.
    class Stubborn(FakePlanner):
        """Always prefers the way through the wall; one candidate leads round it."""

        def plan(self, *args: Any, **options: Any) -> Any:
            self.via = [(0.0, 3.0), (4.0, 3.0)]
            around = super().plan(*args, **options)
            self.via = []
            through = super().plan(*args, **options)
            through.candidates[0, 3] = around.candidates[0, 3]
            through.arrival_steps[0, 3] = around.arrival_steps[0, 3]
            return through

    class Gate(Ball):
        def step(self, action: Any) -> np.ndarray:
            self.wall = 1.0 if self.state[1] < 2.0 and self.state[0] <= 1.0 else math.inf
            return super().step(action)

    policy = DFPolicy(Stubborn(), replan_every=1000)
    states, state = drive(policy, Gate([0, 0, 0, 0]), (4.0, 0.0), 500)
    memory = state.memories[0]
    assert len(memory.blocked) == 1 and np.linalg.norm(memory.blocked[0] - [1.35, 0]) < 0.05
    assert np.linalg.norm(states[-1, :2] - [4, 0]) < 0.1
    assert len(memory.plans) == 2


def test_starting_at_full_speed_backwards_is_not_stuck() -> None:
    # Catches: taking the time that turning round needs for being stuck; every such plan would be wasted.
    policy = DFPolicy(FakePlanner(), replan_every=1000, executor_options={"max_distance": 1.0})
    states, state = drive(policy, Ball([0, 0, -5, 0]), (6.0, 0.0), 250)
    assert len(policy.telemetry(state)[0].plans) == 1
    assert np.linalg.norm(states[-1, :2] - [6, 0]) < 0.05


def test_a_ball_far_from_the_path_plans_again() -> None:
    policy = DFPolicy(FakePlanner(), replan_every=1000)
    ball, state = Ball([0, 0, 0, 0]), None
    for step in range(40):
        if step == 30:
            ball.state[1] += 0.8
        action, state = policy.predict({"observation": ball.state[None], "desired_goal": np.array([[9.0, 0.0]])}, state)
        ball.step(action[0])
    assert [p.step for p in policy.telemetry(state)[0].plans] == [0, 30]


@pytest.mark.parametrize("tokens", [1, 4])
def test_a_plan_that_does_not_arrive_is_followed_and_then_made_anew(tokens: int) -> None:
    # Catches: stopping for ever at the end of a plan that does not reach the goal; planning at every step there.
    planner = FakePlanner(arrives=False, tokens=tokens)
    policy = DFPolicy(planner, replan_every=1000)
    states, _ = drive(policy, Ball([0, 0, 0, 0]), (9.0, 0.0), 300)
    assert states[-1, 0] > (5 if tokens == 1 else 8)
    assert 3 <= len(planner.calls) <= 35


# --- diffused_actions -------------------------------------------------------------------------------------------------


def diffused_policy(planner: FakePlanner, replan_every: int = 1000, **options: Any) -> DFPolicy:
    known = {f.name for f in fields(DiffusedActionsExecutor)}
    chosen = {name: value for name, value in options.items() if name in known}
    return DFPolicy(planner, "diffused_actions", replan_every, executor_options=chosen)


def test_diffused_actions_follow_the_plan() -> None:
    # Catches: asking for the wrong planned state (the model then drives too fast, too slow or not at all).
    states, _ = drive(diffused_policy(FakePlanner(via=CURVE, speed=2.0)), Ball([0, 0, 0, 0]), (6.0, np.sin(6.0)), 480)
    path = np.vstack([[0, 0], CURVE, [6, np.sin(6.0)]])
    assert distance_to_path(states[:, :2], path).max() < 0.3
    assert np.linalg.norm(states[-1, :2] - path[-1]) < 0.05


@pytest.mark.parametrize("phase", ["paced", "nearest", "time"])
def test_without_a_controller_too_a_ball_at_a_wall_plans_again(phase: str) -> None:
    # Catches: waiting for routine plans, or the episode's end, while the model pushes against a wall; more samples that
    # are never drawn; a place that is blocked somewhere else than in front of the ball.
    planner = FakePlanner(speed=2.0)
    states, state = drive(diffused_policy(planner, phase=phase), Ball([0, 0, 0, 0], wall=1.0), (6.0, 0.0), 250)
    memory = state.memories[0]
    assert states[-1, 0] == 1.0 and [p.stuck for p in memory.plans] == [False] + [True] * (len(memory.plans) - 1)
    hit = int(np.argmax(states[:, 0] == 1.0))
    assert 15 <= memory.plans[1].step - hit <= 30 and len(memory.plans) >= 4
    assert [c["samples"] for c in planner.calls][2:4] == [
        2 * planner.calls[0]["samples"],
        4 * planner.calls[0]["samples"],
    ]
    assert np.linalg.norm(np.array(memory.blocked) - [1.35, 0], axis=1).max() < 0.05


def test_a_ball_that_moves_or_rests_at_the_goal_is_not_at_a_wall() -> None:
    # Catches: a slow start, or holding the goal, taken for being stuck.
    _, state = drive(diffused_policy(FakePlanner(speed=2.0)), Ball([0, 0, 0, 0]), (1.0, 0.0), 200)
    assert [p.stuck for p in state.memories[0].plans] == [False] and not state.memories[0].blocked


@pytest.mark.parametrize("phase", ["time", "nearest"])
def test_the_next_state_asked_for_is_one_stride_ahead_of_the_phase(phase: str) -> None:
    # Catches: an off-by-one stride, a phase that does not advance, missing rest after arrival.
    planner = FakePlanner(speed=2.0)
    policy = diffused_policy(planner, phase=phase, rejoin=1.0)
    state: Any = None
    x = 0.0
    for step in range(60):  # the ball moves exactly as planned: 2 cells/s
        x = 2.0 * 0.01 * step
        observation = {"observation": np.array([[x, 0, 2, 0]]), "desired_goal": np.array([[1.8, 0.0]])}
        _, state = policy.predict(observation, state)
    asked = np.array([q[1][0, 0] for q in planner.queries])
    np.testing.assert_allclose(asked[:50, 0], 0.02 * np.arange(50) + 0.3, atol=0.03)
    np.testing.assert_allclose(asked[:50, 2], 2.0, atol=0.2)


def test_nearest_phase_waits_for_a_ball_that_lags_and_time_does_not() -> None:
    # Catches: the two phases being the same thing.
    asked = {}
    for phase in ("time", "nearest"):
        planner = FakePlanner(speed=2.0)
        policy = diffused_policy(planner, phase=phase, rejoin=1.0, stuck_steps=1000)
        state: Any = None
        for _ in range(50):
            observation = {"observation": np.array([[0.2, 0, 2, 0]]), "desired_goal": np.array([[6.0, 0.0]])}
            _, state = policy.predict(observation, state)
        asked[phase] = planner.queries[-1][1][0, 0, 0]
    np.testing.assert_allclose(asked["nearest"], 0.2 + 0.3, atol=0.02)
    np.testing.assert_allclose(asked["time"], 0.2 + (49 + 15) * 0.02, atol=0.25)


def test_a_paced_plan_runs_faster_and_waits_for_a_ball_that_lags() -> None:
    # Catches: a pace that is not applied to places or to speeds, a reference that runs away from a ball that is held.
    planner = FakePlanner(speed=2.0)
    policy = diffused_policy(planner, pace=1.5, lag=1.0)
    state: Any = None
    for step in range(60):  # the ball moves one and a half times as fast as planned: 3 cells/s
        observation = {"observation": np.array([[0.03 * step, 0, 3, 0]]), "desired_goal": np.array([[6.0, 0.0]])}
        _, state = policy.predict(observation, state)
    asked = np.array([q[1][0, 0] for q in planner.queries])
    np.testing.assert_allclose(asked[:, 0], 0.03 * np.arange(60) + 0.45, atol=0.03)
    np.testing.assert_allclose(asked[5:, 2], 3.0, atol=0.1)

    planner = FakePlanner(speed=2.0)
    policy, state = diffused_policy(planner, pace=1.5, lag=1.0), None
    for _ in range(60):
        observation = {"observation": np.array([[0.2, 0, 2, 0]]), "desired_goal": np.array([[6.0, 0.0]])}
        _, state = policy.predict(observation, state)
    at = planner.queries[-1][1][0, 0, 0]  # the plan's state one paced stride after at most one stride of lead
    assert 0.2 + 0.3 + 0.45 - 0.06 < at <= 0.2 + 0.3 + 0.45 + 0.01


def test_a_paced_plan_arrives_before_its_own_time() -> None:
    # Catches: following the data's timing although a faster way is asked for.
    goal, reached = np.array([6.0, 0.0]), {}
    for pace in (1.0, 1.7):
        states, _ = drive(diffused_policy(FakePlanner(speed=2.0), pace=pace), Ball([0, 0, 0, 0]), (6.0, 0.0), 400)
        away = np.linalg.norm(states[:, :2] - goal, axis=1)
        reached[pace] = int(np.argmax(away <= 0.5))
        assert (away[reached[pace] :] <= 0.5).all(), "the goal must be held"
    assert reached[1.7] < 0.7 * reached[1.0]


def test_phase_never_goes_back() -> None:
    planner = FakePlanner(speed=2.0)
    policy = diffused_policy(planner, phase="nearest", rejoin=1.0)
    state: Any = None
    for x in (0.0, 0.2, 0.4, 0.3, 0.1):
        observation = {"observation": np.array([[x, 0, 2, 0]]), "desired_goal": np.array([[6.0, 0.0]])}
        _, state = policy.predict(observation, state)
    np.testing.assert_allclose([q[1][0, 0, 0] for q in planner.queries], [0.3, 0.5, 0.7, 0.7, 0.7], atol=0.02)


def test_requery_every_executes_the_next_actions_of_one_answer() -> None:
    # Catches: asking every step whatever the setting; repeating the first action of an answer.
    class Counting(FakePlanner):
        def first_actions(self, obs: Any, plan_states: Any, **kwargs: Any) -> Any:
            out = super().first_actions(obs, plan_states, **kwargs)
            out[0, :, 0] = 0.01 * len(self.queries) + 0.001 * torch.arange(self.stride)
            return out

    planner = Counting(speed=2.0)
    policy = diffused_policy(planner, requery_every=3)
    state: Any = None
    got = []
    for _ in range(7):
        observation = {"observation": np.zeros((1, 4)), "desired_goal": np.array([[6.0, 0.0]])}
        action, state = policy.predict(observation, state)
        got.append(float(action[0, 0]))
    np.testing.assert_allclose(got, [0.010, 0.011, 0.012, 0.020, 0.021, 0.022, 0.030], atol=1e-6)
    assert policy.telemetry(state)[0].action_evaluations == 3


def test_goal_reached_asks_for_rest_at_the_goal() -> None:
    planner = FakePlanner(speed=2.0)
    policy = diffused_policy(planner, replan_every=10)
    states, _ = drive(policy, Ball([0, 0, 0, 0]), (2.0, 0.0), 400)
    np.testing.assert_allclose(planner.queries[-1][1][0], [[2, 0, 0, 0]], atol=0.02)
    assert np.linalg.norm(states[-1, :2] - [2, 0]) < 0.1
    assert len(planner.calls) < 20


def test_at_the_goal_the_model_is_asked_for_a_gentle_stop() -> None:
    # Catches: a goal that is left because the next state asked for is still one of the plan's
    planner = FakePlanner(speed=2.0)
    policy = diffused_policy(planner)
    observation = {"observation": np.array([[1.8, 0, 2, 0]]), "desired_goal": np.array([[2.0, 0.0]])}
    policy.predict(observation)
    upcoming = planner.queries[-1][1][0]
    assert upcoming.shape == (1, 4) and upcoming[0, 0] > 1.9 and 0 < abs(upcoming[0, 2]) < 2
    policy = diffused_policy(planner, settle=1.0)
    policy.predict(observation)
    np.testing.assert_allclose(planner.queries[-1][1][0], [[2, 0, 0, 0]], atol=1e-6)


def test_there_is_no_controller_in_diffused_actions() -> None:
    # Catches: a hand-written feedback law slipped in: whatever the model says is what is executed.
    class Constant(FakePlanner):
        def first_actions(self, obs: Any, plan_states: Any, **kwargs: Any) -> Any:
            return super().first_actions(obs, plan_states, **kwargs) * 0 + 0.123

    policy = diffused_policy(Constant(), replan_every=20)
    observation, state = {"observation": np.zeros((1, 4)), "desired_goal": np.array([[0.3, 0.0]])}, None
    for _ in range(50):
        action, state = policy.predict(observation, state)
        np.testing.assert_allclose(action, 0.123, atol=1e-6)


# --- next_waypoint ----------------------------------------------------------------------------------------------------


def test_next_waypoint_keeps_the_plans_own_time() -> None:
    # Catches: a look-ahead slipped into the baseline, the present state for the next, a goal that is passed.
    policy = DFPolicy(FakePlanner(speed=2.0), "next_waypoint", 1000)
    states, _ = drive(policy, Ball([0, 0, 0, 0]), (6.0, 0.0), 500)
    away = np.linalg.norm(states[:, :2] - [6, 0], axis=1)
    first = int(np.argmax(away <= 0.5))
    assert 260 < first < 310  # the plan takes 275 steps to the disc; one stride ahead of it is 260
    assert (away[first:] <= 0.5).all() and away[-1] < 0.02
    half_way = states[100]  # the state due one stride later is at 2.3: it lags that one by v gain_d / gain_p
    np.testing.assert_allclose(half_way[:3], [2.3 - 0.2, 0, 2.0], atol=0.06)


def test_a_goal_that_is_not_held_is_planned_for_on_and_on() -> None:
    # Catches: a hold that cannot be switched off, so that the ladder's row without it is the same as with it.
    calls = {}
    for hold in (True, False):
        planner = FakePlanner(speed=2.0)
        policy = DFPolicy(planner, "path", 20, executor_options={"hold": hold})
        drive(policy, Ball([0, 0, 0, 0]), (2.0, 0.0), 300)
        calls[hold] = len(planner.calls)
    assert calls[True] < 6 and calls[False] == 15


def test_rest_at_a_goal_that_is_not_held_is_not_being_stuck() -> None:
    # Catches: a ball at the goal that is taken for one against a wall, so that one plan follows the other.
    planner = FakePlanner(speed=2.0)
    drive(DFPolicy(planner, "path", 100, executor_options={"hold": False}), Ball([0, 0, 0, 0]), (2.0, 0.0), 400)
    assert len(planner.calls) == 4


# --- planned_actions --------------------------------------------------------------------------------------------------


def test_planned_actions_are_executed_as_they_stand() -> None:
    # Catches: an action skipped or repeated, a plan made without actions, the first action again after a re-plan.
    planner = FakePlanner(tokens=2, stride=5)
    policy = DFPolicy(planner, "planned_actions", 4)
    state, taken = None, []
    for _ in range(6):
        action, state = policy.predict({"observation": np.zeros((1, 4)), "desired_goal": np.ones((1, 2))}, state)
        taken.append(action[0, 0])
    np.testing.assert_allclose(taken, [0.1, 0.2, 0.3, 0.4, 0.1, 0.2], atol=1e-6)
    assert all(call["actions"] is True for call in planner.calls) and len(planner.calls) == 2


def test_planned_actions_that_run_out_ask_for_a_plan() -> None:
    # Catches: an index past the end, or the old plan's last action while a new plan is there.
    policy = DFPolicy(FakePlanner(tokens=2, stride=2), "planned_actions", 100)
    state, taken = None, []
    for _ in range(6):
        action, state = policy.predict({"observation": np.zeros((1, 4)), "desired_goal": np.ones((1, 2))}, state)
        taken.append(action[0, 0])
    np.testing.assert_allclose(taken, [0.25, 0.5, 0.75, 1.0, 0.25, 0.5], atol=1e-6)
