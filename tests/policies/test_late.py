"""Plans that arrive late: on purpose (`latency_steps`), and from a thread (`asynchronous`)."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dfplan_policies import DFPolicy, PlanView
from dfplan_policies.late import Worker, at_once, joined
from tests.policies.fakes import Ball, FakePlanner, drive

START, GOAL = (1.0, 1.0, 0.0, 0.0), (6.0, 1.0)


class SlowPlanner(FakePlanner):
    """Plan only when the test allows it; may fail."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.gate, self.begun, self.error = threading.Event(), threading.Event(), None
        self.threads: list[str] = []

    def plan(self, obs: Any, goal: Any, **options: Any) -> Any:
        self.threads.append(threading.current_thread().name)
        self.begun.set()
        if not self.gate.wait(20):
            raise TimeoutError("the test never opened the gate")
        if self.error is not None:
            raise self.error
        return super().plan(obs, goal, **options)


def look(state: Any, goal: Any = GOAL) -> dict[str, np.ndarray]:
    return {"observation": np.asarray(state, dtype=float)[None], "desired_goal": np.asarray(goal, dtype=float)[None]}


def eventually(holds: Callable[[], bool]) -> bool:
    for _ in range(400):
        if holds():
            return True
        time.sleep(0.01)
    return False


def threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("dfplan-plan")]


@pytest.mark.parametrize("options", [{}, {"keep_shorter": True}, {"warm_start": True}])
def test_no_delay_is_the_ordinary_policy(options: dict[str, Any]) -> None:
    # Catches: a plan cut or dropped, a stream of random numbers used up, though nothing was late.
    paths = []
    for more in ({}, {"latency_steps": 0}):
        planner = FakePlanner(via=[(3.0, 2.0)], jitter=0.3)
        policy = DFPolicy(planner, replan_every=20, seed=3, **options, **more)  # type: ignore[arg-type]
        paths.append(drive(policy, Ball(START), GOAL, 120)[0])
    assert np.array_equal(*paths)


def test_a_plan_is_used_when_its_delay_is_over() -> None:
    # Catches: a plan used at once, a step early or late, or never; a second one asked for while the first is under
    # way; a first plan that is not there when the episode begins; the next one counted from the arrival.
    planner = FakePlanner()
    policy = DFPolicy(planner, replan_every=20, latency_steps=7)
    ball, state, used, asked = Ball(START), None, [], []
    for _ in range(60):
        action, state = policy.predict(look(ball.state), state)
        memory = state.memories[0]
        assert memory is not None
        used.append(len(memory.plans))
        asked.append(len(planner.calls))
        ball.step(action[0])
    assert asked == [1] * 20 + [2] * 20 + [3] * 20
    assert used == [1] * 27 + [2] * 20 + [3] * 13
    assert [view.step for view in memory.plans] == [0, 20, 40]


def test_a_late_plan_is_joined_where_the_ball_is() -> None:
    # Catches: a ball that turns back to where it was when the plan was asked for.
    policy = DFPolicy(FakePlanner(), replan_every=40, latency_steps=30)
    states, state = drive(policy, Ball(START), GOAL, 71)
    assert len(state.memories[0].plans) == 2
    np.testing.assert_allclose(state.memories[0].track.points[0], states[70, :2], atol=0.05)
    states, _ = drive(policy, Ball(START), GOAL, 130)
    on_the_way = states[states[:, 0] < 5.5, 0]
    assert len(on_the_way) > 60 and float(np.diff(on_the_way).min()) > 0
    assert float(np.hypot(*(states[-1, :2] - GOAL))) < 0.5


def test_joining_cuts_the_plan_at_the_nearest_place() -> None:
    # Catches: states that are not a stride apart any more, an arrival that still counts from the old beginning, a
    # place behind which the ball cannot be, a plan changed although no time has passed.
    x = np.arange(11.0)
    states = np.stack([x, 0 * x, np.full(11, 1 / 0.1), 0 * x], 1)  # a token is 10 steps of 0.01 s and 1 long
    view = PlanView(states, 10, 0.01, arrival_steps=85.0, goal=np.array([8.5, 0.0]), step=3)
    assert joined(view, np.array([2.3, 0.5]), 0) is view
    cut = joined(view, np.array([2.3, 0.5]), 20)
    np.testing.assert_allclose(cut.states[:6, 0], [2.3, 3.3, 4.3, 5.3, 6.3, 7.3], atol=1e-9)
    assert cut.arrival_steps == 62.0 and cut.stride == 10 and cut.step == 3
    np.testing.assert_allclose(cut.states[-1, :2], (8.5, 0.0), atol=1e-9)
    far = joined(view, np.array([9.0, 0.0]), 2)  # out of reach after 2 steps
    assert far.states[0, 0] <= 1.6 + 1e-9 and far.arrival_steps >= 69.0


def test_control_goes_on_while_a_plan_is_made() -> None:
    # Catches: planning in the control loop's thread; an action that waits for the plan; a plan that is there and not
    # used; two at a time.
    planner = SlowPlanner()
    planner.gate.set()
    policy = DFPolicy(planner, replan_every=10, asynchronous=True)
    ball = Ball(START)
    action, state = policy.predict(look(ball.state))
    planner.gate.clear()
    planner.begun.clear()
    for _ in range(30):
        ball.step(action[0])
        action, state = policy.predict(look(ball.state), state)
    assert planner.begun.wait(5)
    assert len(state.memories[0].plans) == 1 and len(planner.threads) == 2  # one under way, and no other asked for
    planner.gate.set()
    assert eventually(lambda: state.memories[0].pending.job.done())
    _, state = policy.predict(look(ball.state), state)
    view = state.memories[0].plans[-1]
    assert len(state.memories[0].plans) == 2 and view.step == 10
    assert all(name.startswith("dfplan-plan") for name in planner.threads)
    policy.close()
    assert eventually(lambda: not threads())


def test_what_goes_wrong_in_the_thread_is_raised() -> None:
    # Catches: a failure that nobody sees, while the old plan is followed for ever.
    planner = SlowPlanner()
    planner.gate.set()
    policy = DFPolicy(planner, replan_every=5, asynchronous=True)
    ball = Ball(START)
    action, state = policy.predict(look(ball.state))
    planner.error = ValueError("planning failed")

    def go_on() -> None:
        now, memory = action, state
        for _ in range(400):
            ball.step(now[0])
            now, memory = policy.predict(look(ball.state), memory)
            time.sleep(0.005)

    with pytest.raises(ValueError, match="planning failed"):
        go_on()
    policy.close()


def test_an_episode_that_begins_drops_the_old_plan() -> None:
    # Catches: the plan of the last episode followed in the next one; a plan begun that nobody wants any more.
    planner = SlowPlanner()
    planner.gate.set()
    policy = DFPolicy(planner, replan_every=2, asynchronous=True)
    two = {"observation": np.tile(np.array(START), (2, 1)), "desired_goal": np.tile(np.array(GOAL), (2, 1))}
    _, state = policy.predict(two)
    planner.gate.clear()
    planner.begun.clear()
    for _ in range(2):
        _, state = policy.predict(two, state)
    assert planner.begun.wait(5)
    assert [m.pending is not None for m in state.memories] == [True, True]  # the first under way, the second waits
    planner.gate.set()
    fresh = dict(two)
    fresh["observation"] = np.array([START, (2.0, 3.0, 0.0, 0.0)])
    old = weakref.ref(state.memories[1].pending.job)
    _, state = policy.predict(fresh, state, np.array([False, True]))
    memory = state.memories[1]
    assert memory.episode == 1 and len(memory.plans) == 1
    np.testing.assert_allclose(memory.plans[0].states[0, :2], (2.0, 3.0))
    gc.collect()
    assert old() is None
    policy.close()


def test_a_waiting_plan_that_nobody_holds_is_not_made() -> None:
    # Catches: a queue of plans for episodes that are over, which the next one has to wait for.
    worker, gate, made = Worker(), threading.Event(), []
    first = worker.submit(lambda: gate.wait(20))
    second = worker.submit(lambda: made.append("second"))
    third = worker.submit(lambda: made.append("third"))
    del second
    gate.set()
    first.result(), third.result()
    assert made == ["third"]
    worker.close()


def test_a_goal_that_moves_gets_a_plan_of_its_own() -> None:
    # Catches: a plan to the old goal used for the new one; a plan that starts when the goal is already held.
    planner = FakePlanner()
    policy = DFPolicy(planner, replan_every=1000, latency_steps=5)
    ball, state = Ball(START), None
    for t in range(30):
        goal = GOAL if t < 10 else (1.0, 6.0) if t < 12 else (6.0, 6.0)
        action, state = policy.predict(look(ball.state, goal), state)
        ball.step(action[0])
    assert [tuple(v.goal) for v in state.memories[0].plans] == [GOAL, (6.0, 6.0)]
    assert [v.step for v in state.memories[0].plans] == [0, 15]


def test_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a thread that outlives its policy, a closed policy that hangs or plans on, a policy that cannot be
    # copied to another process.
    before = len(threads())
    policy = DFPolicy(FakePlanner(), asynchronous=True)
    policy.predict(look(START))
    assert len(threads()) == before + 1
    for other in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert other.worker is not policy.worker and other.worker._pool is None
    del policy, other
    gc.collect()
    assert eventually(lambda: len(threads()) == before)
    closed = DFPolicy(FakePlanner(), asynchronous=True)
    closed.close()
    closed.close()
    with pytest.raises(RuntimeError, match="closed and makes no more plans"):
        closed.predict(look(START))
    DFPolicy(FakePlanner()).close()


def test_options_are_checked() -> None:
    # Catches: a delay of both kinds, a negative one.
    for options in ({"latency_steps": -1}, {"latency_steps": 3, "asynchronous": True}):
        with pytest.raises(ValueError, match="latency_steps must be 0 or more"):
            DFPolicy(FakePlanner(), **options)  # type: ignore[arg-type]
    assert at_once(lambda: 3).done() and at_once(lambda: 3).result() == 3
