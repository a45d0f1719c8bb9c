"""`DFPolicy`: functional memory, restarts, independence of the batch, re-planning."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from dfplan_policies import EXECUTORS, DFPolicy, make_executor
from tests.policies.fakes import Ball, FakePlanner, drive

EXECUTOR_NAMES = sorted(EXECUTORS)


def make(executor: str = "path", **options: Any) -> DFPolicy:
    return DFPolicy(FakePlanner(via=[(3.0, 0.0)], jitter=0.2), executor, **options)


def batch(seed: int, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"observation": rng.normal(size=(rows, 4)), "desired_goal": rng.normal(size=(rows, 2)) + 6}


def roll(policy: DFPolicy, rows: int, pick: slice, steps: int = 70) -> np.ndarray:
    """Act in some of ``rows`` environments for some steps; returns actions (steps, rows picked, A)."""
    observation = {k: v[pick] for k, v in batch(0, rows).items()}
    numbers = list(range(rows))[pick]
    balls = [Ball(s) for s in observation["observation"]]
    state, out = policy.start(numbers), []
    for _ in range(steps):
        actions, state = policy.predict(observation, state)
        out.append(actions)
        observation = {**observation, "observation": np.array([b.step(a) for b, a in zip(balls, actions, strict=True)])}
    return np.array(out)


@pytest.mark.parametrize("executor", EXECUTOR_NAMES)
def test_actions_do_not_depend_on_the_batch(executor: str) -> None:
    # Catches: one generator for the whole batch, a re-plan of one environment that advances another's draws.
    together = roll(make(executor), 5, slice(None))
    for i in range(5):
        np.testing.assert_array_equal(roll(make(executor), 5, slice(i, i + 1))[:, 0], together[:, i])


@pytest.mark.parametrize("executor", EXECUTOR_NAMES)
def test_predict_changes_neither_the_state_nor_itself(executor: str) -> None:
    # Catches: memory kept in attributes, a generator or a list in the state that is advanced in place.
    policy, observation = make(executor, replan_every=7), batch(1, 3)
    state = None
    for _ in range(9):
        _, state = policy.predict(observation, state)
    planner = policy.planner
    policy.planner = None  # type: ignore[assignment]
    hidden, kept = copy.deepcopy(vars(policy)), pickle.dumps(state)
    policy.planner = planner
    answers = []
    for _ in range(3):
        first, following = policy.predict(observation, state)
        for _ in range(8):
            second, following = policy.predict(observation, following)
        answers.append(np.concatenate([first, second]))
    assert pickle.dumps(state) == kept
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])
    assert {k: repr(v) for k, v in vars(policy).items() if k != "planner"} == {
        k: repr(v) for k, v in hidden.items() if k != "planner"
    }


def test_episode_start_restarts_only_its_own_environment() -> None:
    # Catches: a restart that clears the whole batch, or none; an episode number that is not counted on.
    policy, observation = make(), batch(2, 3)
    state = None
    for _ in range(5):
        _, state = policy.predict(observation, state, np.array([state is None] * 3))
    assert state is not None
    _, state = policy.predict(observation, state, np.array([False, True, False]))
    assert [m.step for m in state.memories if m] == [6, 1, 6]
    assert state.episodes == (0, 1, 0)
    assert [len(m.plans) for m in state.memories if m] == [1, 1, 1]


def test_first_call_with_episode_start_is_the_first_episode() -> None:
    policy = make()
    _, a = policy.predict(batch(2, 2), None, np.array([True, True]))
    _, b = policy.predict(batch(2, 2), policy.start([0, 0]), np.array([True, True]))
    assert a.episodes == b.episodes == (0, 0)


def test_draws_depend_on_seed_and_episode_number() -> None:
    # Catches: a seed or an episode number that is ignored.
    def path(seed: int, episode: int) -> np.ndarray:
        policy = make(seed=seed)
        _, state = policy.predict(batch(3, 1), policy.start([episode]))
        return policy.telemetry(state)[0].plans[0].states

    np.testing.assert_array_equal(path(0, 4), path(0, 4))
    assert np.abs(path(0, 4) - path(0, 5)).max() > 1e-3
    assert np.abs(path(0, 4) - path(1, 4)).max() > 1e-3


def test_each_plan_of_an_episode_has_its_own_draws() -> None:
    # Catches: every re-plan repeating the first one's noise, so that a bad plan is made again and again.
    policy, observation = make(replan_every=1), batch(3, 1)
    observation["desired_goal"] += 20
    state = None
    for _ in range(3):
        _, state = policy.predict(observation, state)
    assert state is not None
    corners = [plan.states for plan in policy.telemetry(state)[0].plans]
    assert min(np.abs(corners[i] - corners[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-3


def test_replans_on_time_and_when_the_goal_moves() -> None:
    # Catches: an off-by-one in replan_every, a plan kept for a goal that has moved.
    policy, observation = make(replan_every=10), batch(4, 1)
    observation["desired_goal"] += 20
    ball, state = Ball(observation["observation"][0]), None
    for step in range(31):
        goal = observation["desired_goal"] + (step >= 25)
        action, state = policy.predict({"observation": ball.state[None], "desired_goal": goal}, state)
        ball.step(action[0])
    assert [p.step for p in policy.telemetry(state)[0].plans] == [0, 10, 20, 25]


def test_plain_observations_with_a_goal_equal_dict_observations() -> None:
    # Catches: the goal= argument ignored; an unbatched observation answered with a batch.
    observation = batch(5, 2)
    goal = observation["desired_goal"][0]
    plain = make(goal=goal)
    a, _ = plain.predict(observation["observation"])
    b, _ = make().predict({**observation, "desired_goal": np.stack([goal, goal])})
    np.testing.assert_array_equal(a, b)
    one, _ = plain.predict(observation["observation"][0])
    assert one.shape == (2,) and a.shape == (2, 2) and a.dtype == np.float32
    np.testing.assert_array_equal(one, a[0])


def test_warm_start_passes_the_plan_and_its_age() -> None:
    # Catches: a warm start from a plan of unknown age, or after the ball was stuck.
    policy = make(replan_every=10, warm_start=True)
    drive(policy, Ball([0, 0, 0, 0]), (30.0, 0.0), 25)
    calls = policy.planner.calls  # type: ignore[attr-defined]
    assert ["warm_start" in c for c in calls] == [False, True, True]
    assert [int(c["elapsed"]) for c in calls[1:]] == [10, 10]


def test_keep_shorter_keeps_the_nearer_plan() -> None:
    # Catches: a comparison the wrong way round, or one of the new plan with itself.
    planner = FakePlanner(via=[], speed=2.5)
    policy = DFPolicy(planner, replan_every=10, keep_shorter=True)
    observation = {"observation": np.zeros((1, 4)), "desired_goal": np.array([[6.0, 0.0]])}
    state = None
    for step in range(21):
        if step == 10:
            planner.via = [(0.0, 5.0)]  # a detour: longer than what is left
        _, state = policy.predict(observation, state)
    assert state is not None
    memory = state.memories[0]
    assert memory is not None and len(memory.plans) == 3
    assert np.abs(memory.track.points[:, 1]).max() < 1e-6


def test_plan_options_reach_the_planner() -> None:
    policy = make(samples=5, schedule="full_sequence", slope=2.0)
    policy.predict(batch(6, 1))
    call = policy.planner.calls[0]  # type: ignore[attr-defined]
    assert (call["samples"], call["schedule"], call["slope"]) == (5, "full_sequence", 2.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: make("pth"), "unknown executor 'pth'. Did you mean 'path'"),
        (lambda: make_executor("path", {"lookahed": 1}), "Did you mean 'lookahead'"),
        (lambda: make_executor("path", {"lookahead": -1.0}), "lookahead must be positive, got -1.0"),
        (lambda: make_executor("diffused_actions", {"phase": "tim"}), "unknown phase 'tim'. Did you mean 'time'"),
        (lambda: make(replan_every=0), "replan_every must be at least 1, got 0"),
        (lambda: make(seed=-1), "seed must be 0 or more"),
        (lambda: make().predict({"desired_goal": np.zeros((1, 2))}), "needs the key 'observation'"),
        (lambda: make().predict(np.zeros((1, 2, 3))), r"must have shape \(B, O\)"),
        (lambda: make().predict(np.full((1, 4), np.nan)), "must be finite"),
        (lambda: make(goal=np.zeros((3, 2))).predict(np.zeros((2, 4))), "one goal per environment"),
        (lambda: make().predict(batch(0, 2), make().start([0])), "state is for 1 environments, got 2"),
        (lambda: make().predict(batch(0, 2), make().start([0, 1]), np.array([True])), r"must have shape \(2,\)"),
        (
            lambda: make("diffused_actions", executor_options={"requery_every": 16}).predict(batch(0, 1)),
            "at most the plan",
        ),
    ],
)
def test_errors_name_rule_value_and_remedy(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_goal_reached_needs_no_more_plans_and_leaving_it_does() -> None:
    # Catches: planning for ever at the goal; no planning after the ball was kicked away.
    policy = DFPolicy(FakePlanner(), replan_every=10)
    ball = Ball([4.0, 0, 0, 0])
    state: Any = None
    counts = []
    for step in range(220):
        if step == 150:
            ball.state[:2] += 1.0
        action, state = policy.predict({"observation": ball.state[None], "desired_goal": np.array([[6.0, 0.0]])}, state)
        ball.step(action[0])
        counts.append(len(state.memories[0].plans))
    assert counts[149] == counts[100] and counts[-1] > counts[149]
    assert np.linalg.norm(ball.state[:2] - [6, 0]) < 1.0


def test_search_score_and_budget_reach_the_planner() -> None:
    # Catches: an option that the policy keeps to itself, or that does not go with what it passes on its own.
    import torch

    from dfplan.planner import DFPlanner
    from dfplan.tree import TreeConfig
    from tests.core.tiny import tiny_checkpoint

    calls: list[Any] = []

    class Watched(DFPlanner):
        def plan(self, *args: Any, **options: Any) -> Any:
            calls.append(super().plan(*args, **options))
            return calls[-1]

    planner, observation = Watched(tiny_checkpoint()), batch(2, 2)
    search = TreeConfig(scales=(0.0,), copies=2, block=2, expansions=4)
    score = lambda states: -states[:, -1, 0].abs()  # noqa: E731
    actions = [DFPolicy(planner, search=search, score=score, samples=3).predict(observation)[0] for _ in range(2)]
    assert np.array_equal(*actions) and [len(p.search) for p in calls] == [1] * 4
    for p in calls:
        assert p.search[0].expansions == 4 and torch.equal(p.score, score(p.observations))
    DFPolicy(planner, budget_ms=1e-3, score=score, samples=3).predict(observation)
    assert calls[-1].candidates.shape[1] == 3 and calls[-1].search is None


def test_plans_are_pushed_away_from_a_wall_that_stopped_several() -> None:
    # Catches: the same way through a wall tried for ever, a user's guidance replaced, discs where nothing was touched.
    planner = FakePlanner()
    policy = DFPolicy(planner, replan_every=1000)
    drive(policy, Ball([0.5, 0, 0, 0], wall=1.0), (6.0, 0.0), 200)
    asked = [call.get("guidance") for call in planner.calls]
    assert asked[:2] == [None, None] and len(asked) > 3 and all(g is not None for g in asked[2:])
    states = torch.tensor([[0.5, 0.0, 0, 0], [1.3, 0.0, 0, 0], [0.5, 0.0, 0, 0], [0.5, 1.2, 0, 0]])
    into, beside = states[[0, 1]][None], states[[2, 3]][None]
    k = torch.zeros(2, dtype=torch.int64)
    assert float(asked[-1](into, k)) < -0.5 and float(asked[-1](beside, k)) == 0.0

    own = DFPolicy(FakePlanner(), replan_every=1000, guidance=own_guidance)
    drive(own, Ball([0.5, 0, 0, 0], wall=1.0), (6.0, 0.0), 200)
    assert all(call["guidance"] is own_guidance for call in own.planner.calls)


def own_guidance(states: Any, k: Any) -> Any:
    return states[:, 0, 0] * 0
