"""The faults that need no wire, one by one, on a simulated arm in virtual time.

The verdict is always that of an independent judge, who sees nothing but the commands. The numbers are those of the list
in the documentation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dfplan_policies.ros.chunks import Chunk
from dfplan_policies.ros.core import Core
from dfplan_policies.ros.loop import ControlLoop, RealClock
from dfplan_policies.ros.modes import Mode
from dfplan_policies.ros.planner_process import PlannerProcess
from dfplan_policies.ros.sources import SourceRequest
from dfplan_policies.ros.wire import BackendLost, JointSample, Sample
from tests.ros.rig import HOME, NAMES, Rig, Waves, config, waves

SOFT_S, HARD_S = 0.03, 0.25
Change = Callable[[JointSample], list[Sample]]


def on_joints(change: Change) -> Callable[[float, list[Sample]], list[Sample]]:
    """Apply a change to every message of joint states."""

    def apply(now_s: float, samples: list[Sample]) -> list[Sample]:
        return [new for s in samples for new in (change(s) if isinstance(s, JointSample) else [s])]

    return apply


def with_value(sample: JointSample, joint: int, value: float) -> JointSample:
    position = sample.position.copy()
    position[joint] = value
    return replace(sample, position=position)


def test_0_without_a_fault_the_path_is_followed() -> None:
    # Catches: a breach, a hold, a lag or a clamp in a run in which nothing goes wrong.
    rig = Rig().going()
    rig.run(20)
    assert [mode for _, mode in rig.modes] == [Mode.WAIT_STATE, Mode.READY, Mode.RAMP_IN, Mode.RUN]
    assert rig.judge.breaches() == []
    assert rig.core.state.clamps == {"position": 0, "rate": 0}
    wanted = waves(np.array(rig.judge.times) + rig.config.plan.latency_s)[-1500:]
    assert np.abs(np.array(rig.judge.places)[-1500:] - wanted).max() < 2e-3
    assert rig.core.counts["late"] == rig.core.counts["bad"] == 0


def test_1_no_state_at_start() -> None:
    # Catches: a command without a measurement.
    rig = Rig()
    rig.backend.disturb.append(on_joints(lambda s: []))
    rig.run(3)
    assert rig.mode == Mode.WAIT_STATE and "not all joints" in rig.reason
    assert rig.judge.spoke() == 0


def test_2_state_stops_and_comes_back() -> None:
    # Catches: motion on old states, a fault that clears itself, no way back after re-arming.
    rig = Rig().going()
    since = rig.now
    rig.backend.disturb.append(on_joints(lambda s: []))
    rig.run(1)
    rig.held_within(since, SOFT_S)
    assert rig.mode == Mode.FAULT and "old" in rig.reason
    rig.backend.disturb.clear()
    rig.run(2)
    rig.held_within(since, SOFT_S)
    assert rig.mode == Mode.FAULT
    rig.press("rearm").run(2)
    assert rig.mode == Mode.RUN and rig.judge.breaches() == []


@pytest.mark.parametrize("late_s", [0.05, 0.1, 0.5])
def test_3_state_is_late(late_s: float) -> None:
    # Catches: a delay that is not seen because messages still arrive at their rate.
    rig = Rig().going()
    since, kept = rig.now, []

    def delay(now_s: float, samples: list[Sample]) -> list[Sample]:
        kept.extend(s for s in samples if isinstance(s, JointSample))
        due = [s for s in kept if s.stamp_s is not None and s.stamp_s + late_s <= now_s + 1e-9]
        del kept[: len(due)]
        return [replace(s, received_s=now_s) for s in due] + [s for s in samples if not isinstance(s, JointSample)]

    rig.backend.disturb.append(delay)
    rig.run(1.5)
    rig.held_within(since, SOFT_S)
    assert rig.mode == (Mode.FAULT if late_s > HARD_S else Mode.HOLD)


def test_3_state_is_bursty() -> None:
    # Catches: bursts taken for jumps, or for fresh states: 5 at a time every 50 ms.
    rig = Rig().going()
    kept: list[Sample] = []

    def burst(now_s: float, samples: list[Sample]) -> list[Sample]:
        kept.extend(samples)
        if len(kept) < 5:
            return []
        out = [replace(s, received_s=now_s) for s in kept]
        kept.clear()
        return out

    rig.backend.disturb.append(burst)
    rig.run(3)
    assert rig.judge.breaches() == [] and rig.mode in (Mode.RUN, Mode.HOLD, Mode.RAMP_IN)


def test_4_a_repeated_stamp_refreshes_nothing() -> None:
    # Catches: a driver that sends the same state for ever, taken for a live arm.
    rig = Rig().going()
    since, last = rig.now, []

    def repeat(sample: JointSample) -> list[Sample]:
        last.append(sample)
        return [replace(last[0], received_s=sample.received_s)]

    rig.backend.disturb.append(on_joints(repeat))
    rig.run(1)
    rig.held_within(since, SOFT_S)
    assert rig.mode == Mode.FAULT and rig.core.signals.joints.counts["repeated"] > 50


def test_4_reordered_states_are_passed_over() -> None:
    # Catches: an older state that replaces a newer one.
    rig = Rig().going()
    kept: list[JointSample] = []

    def swap(sample: JointSample) -> list[Sample]:
        kept.append(sample)
        if len(kept) % 2:
            return []
        return [kept[-1], replace(kept[-2], received_s=sample.received_s)]

    rig.backend.disturb.append(on_joints(swap))
    rig.run(3)
    assert rig.mode == Mode.RUN and rig.judge.breaches() == []
    assert rig.core.signals.joints.counts["repeated"] > 100


@pytest.mark.parametrize("skew_s", [-1000.0, 1000.0, -5.0, 5.0])
def test_4_stamps_of_another_clock_are_harmless(skew_s: float) -> None:
    # Catches: stamps compared with our clock; a jump of the robot's clock that stops the run.
    rig = Rig()
    begin = rig.now + 4.0

    def skew(sample: JointSample) -> list[Sample]:
        return [replace(sample, stamp_s=(sample.stamp_s or 0.0) + 3e8 + (skew_s if sample.received_s > begin else 0.0))]

    rig.backend.disturb.append(on_joints(skew))
    rig.going().run(3)
    assert rig.mode == Mode.RUN and [mode for _, mode in rig.modes].count(Mode.RUN) == 1
    assert rig.judge.breaches() == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_5_a_position_that_is_not_finite(value: float) -> None:
    # Catches: NaN compared as if it were small, one bad message forgotten by the next good one.
    rig = Rig().going()
    since, count = rig.now, [0]

    def spoil(sample: JointSample) -> list[Sample]:
        count[0] += 1
        return [with_value(sample, 1, value)] if count[0] == 1 else [sample]

    rig.backend.disturb.append(on_joints(spoil))
    rig.run(1)
    rig.held_within(since, 0.0)
    assert rig.mode == Mode.FAULT and "position of b" in rig.reason


def test_5_velocities_that_are_not_finite_are_normal() -> None:
    # Catches: a fault for what real drivers send.
    rig = Rig()
    rig.backend.disturb.append(on_joints(lambda s: [replace(s, velocity=np.full(3, np.nan))]))
    rig.going()
    assert rig.judge.breaches() == []


def test_6_a_joint_jumps() -> None:
    # Catches: a jump within the tracking error that is believed; one that is forgotten.
    rig = Rig().going()
    since = rig.now
    rig.backend.disturb.append(on_joints(lambda s: [with_value(s, 0, s.position[0] + 0.15)]))
    rig.run(1)
    rig.held_within(since, 0.0)
    assert rig.mode == Mode.FAULT and "a jumped by 0.1" in rig.reason


def permuted(s: JointSample) -> list[Sample]:
    order = [2, 0, 1]
    return [replace(s, names=tuple(s.names[k] for k in order), position=s.position[order])]


def extra(s: JointSample) -> list[Sample]:
    return [replace(s, names=("wheel", *s.names, "finger"), position=np.array([99.0, *s.position, np.nan]))]


@pytest.mark.parametrize("change", [permuted, extra])
def test_7_names_decide_not_the_order(change: Change) -> None:
    # Catches: positions taken by their place in the message; a fault for joints that nobody asked for.
    rig = Rig()
    rig.backend.disturb.append(on_joints(change))
    rig.going().run(2)
    assert rig.mode == Mode.RUN and rig.judge.breaches() == []
    assert np.allclose(rig.judge.places[0], HOME)


def missing(s: JointSample) -> list[Sample]:
    return [replace(s, names=s.names[:2], position=s.position[:2])]


def short(s: JointSample) -> list[Sample]:
    return [replace(s, position=s.position[:2])]


def doubled(s: JointSample) -> list[Sample]:
    return [replace(s, names=("a", "a", "b", "c"), position=np.array([s.position[0] + 0.01, *s.position]))]


@pytest.mark.parametrize("change", [missing, short, doubled])
def test_7_messages_that_do_not_fit(change: Change) -> None:
    # Catches: a joint that is no longer reported, lengths that differ, one of two values of a name taken at random.
    never = Rig()
    never.backend.disturb.append(on_joints(change))
    never.run(2)
    assert never.mode == Mode.WAIT_STATE and never.judge.spoke() == 0
    rig = Rig().going()
    since = rig.now
    rig.backend.disturb.append(on_joints(change))
    rig.run(1)
    rig.held_within(since, SOFT_S)
    assert rig.mode == Mode.FAULT


def test_8_two_publishers_with_parts_of_the_arm_are_merged() -> None:
    # Catches: the last message taken for the whole arm; stamps of one publisher compared with those of the other.
    def parts(s: JointSample) -> list[Sample]:
        stamp = s.stamp_s or 0.0
        return [
            replace(s, names=s.names[:1], position=s.position[:1], source="1", stamp_s=stamp),
            replace(s, names=("wheel", *s.names[1:]), position=np.array([7.0, *s.position[1:]]), source="2",
                    stamp_s=stamp - 0.004),
        ]  # fmt: skip

    rig = Rig()
    rig.backend.disturb.append(on_joints(parts))
    rig.going().run(2)
    assert rig.mode == Mode.RUN and rig.judge.breaches() == []


def test_8_a_phantom_with_a_prefix_is_passed_over() -> None:
    # Catches: names that are matched by their end.
    rig = Rig()
    ghost = tuple(f"left_{name}" for name in NAMES)
    rig.backend.disturb.append(on_joints(lambda s: [s, replace(s, names=ghost, position=s.position + 1, source="x")]))
    rig.going().run(1)
    assert rig.mode == Mode.RUN and rig.judge.breaches() == []


def test_8_two_publishers_of_the_same_joints() -> None:
    # Catches: two arms, or an arm and its simulation, on one topic.
    def rivals(s: JointSample) -> list[Sample]:
        return [replace(s, source="robot"), replace(s, source="ghost")]

    never = Rig()
    never.backend.disturb.append(on_joints(rivals))
    never.run(2)
    assert never.mode == Mode.WAIT_STATE and "two publishers" in never.reason and never.judge.spoke() == 0
    rig = Rig().going()
    since = rig.now
    rig.backend.disturb.append(on_joints(rivals))
    rig.run(1)
    rig.held_within(since, 0.02)
    assert rig.mode == Mode.FAULT


def test_9_a_start_outside_the_limits() -> None:
    # Catches: a start from where the arm must not be, or a jump back into the limits.
    rig = Rig(start=np.array([2.01, 0.0, 0.0])).run(2)
    assert rig.mode == Mode.WAIT_STATE and "outside its limits" in rig.reason and rig.judge.spoke() == 0


@pytest.mark.parametrize("delay_s", [0.15, 0.6])
def test_11_a_planner_slower_than_its_period(delay_s: float) -> None:
    # Catches: a loop that waits; chunks played from their arrival; questions that queue.
    rig = Rig(Waves(horizon_s=1.6), delay_s=delay_s).going()
    rig.run(5)
    assert rig.mode == Mode.RUN and rig.judge.breaches() == []
    asked = [seen.observed_s for seen in rig.source.seen]
    assert (np.diff(asked[5:]) >= delay_s - 1e-9).all()
    wanted = waves(np.array(rig.judge.times) + rig.config.plan.latency_s)[-200:]
    assert np.abs(np.array(rig.judge.places)[-200:] - wanted).max() < 5e-3


def test_12_a_planner_slower_than_its_horizon() -> None:
    # Catches: the end of a plan repeated or extrapolated; a late plan played although it is over.
    rig = Rig(delay_s=lambda now: 0.03 if now < 103 else 1.2).going()
    rig.run(0.5)
    since = 103.0 + 1.0 + 0.1  # the last good plan was asked for before 103
    rig.run(4)
    assert rig.mode == Mode.HOLD and rig.core.counts["late"] >= 1
    rig.held_within(since, 0.0)


def test_13_a_planner_that_raises() -> None:
    # Catches: an exception that stops the loop or is passed over.
    def fail(chunk: Chunk, count: int) -> Chunk:
        if count > 20:
            raise RuntimeError("no more")
        return chunk

    rig = Rig(Waves(change=fail))
    rig.run(1.5)
    assert rig.mode == Mode.RUN
    rig.run(3)
    fault = next(when for when, mode in rig.modes if mode == Mode.FAULT)
    assert "raised RuntimeError: no more" in rig.reason
    rig.held_within(fault, 0.0)


def test_15_a_planner_that_hangs() -> None:
    # Catches: a hang that holds the loop up, or that is waited for without end.
    rig = Rig(delay_s=lambda now: 0.03 if now < 103 else 1e9, settings=config(plan={"timeout_s": 2.0})).going()
    rig.run(5)
    assert rig.mode == Mode.FAULT and "not answered for 2.0 s" in rig.reason
    rig.held_within(103 + 1.0 + 0.1, 0.0)


BAD: dict[str, Any] = {
    "NaN": lambda c: np.where(np.arange(len(c.positions))[:, None] == 3, np.nan, c.positions),
    "infinite": lambda c: np.where(np.arange(len(c.positions))[:, None] == 3, np.inf, c.positions),
    "wrong width": lambda c: c.positions[:, :2],
    "wrong length": lambda c: c.positions[:-1],
    "empty": lambda c: c.positions[:0],
}


@pytest.mark.parametrize("name", BAD)
def test_16_plans_that_are_no_plans(name: str) -> None:
    # Catches: a number that is not finite on its way to the arm; one bad plan that ends the run; bad plans for ever.
    once = Rig(Waves(change=lambda c, n: replace(c, positions=BAD[name](c)) if n == 15 else c)).going()
    assert once.core.counts["bad"] == 1 and once.judge.breaches() == []
    rig = Rig(Waves(change=lambda c, n: replace(c, positions=BAD[name](c)) if n >= 25 else c)).going()
    rig.run(3)
    fault = next(when for when, mode in rig.modes if mode == Mode.FAULT)
    assert "3 plans in a row" in rig.reason
    rig.held_within(fault, 0.0)


def test_17_plans_beyond_the_limits_stop_at_the_margin() -> None:
    # Catches: limits that hold for the target but not on the way, a clamp that is not counted.
    rig = Rig(Waves(change=lambda c, n: replace(c, positions=c.positions + (3.0 if n > 15 else 0.0))))
    rig.run(8)
    assert rig.mode == Mode.RUN and rig.judge.breaches() == []
    assert np.allclose(rig.judge.places[-1], rig.core.filter.limits.upper, atol=1e-6)
    assert rig.core.state.clamps["position"] > 100


def test_18_steps_between_plans() -> None:
    # Catches: a step handed on to the arm.
    rig = Rig(Waves(change=lambda c, n: replace(c, positions=c.positions + 0.3 * (-1.0) ** (n // 3))))
    rig.run(15)
    assert rig.mode in (Mode.RUN, Mode.RAMP_IN) and rig.judge.breaches() == []
    assert rig.core.state.clamps["rate"] > 10


def test_18_noise_for_plans() -> None:
    # Catches: whatever a planner makes of its plans that the steps do not.
    rng = np.random.default_rng(0)
    rig = Rig(Waves(change=lambda c, n: replace(c, positions=rng.normal(0, 2, c.positions.shape))))
    rig.run(15)
    assert rig.judge.moved() and rig.judge.breaches() == []


def test_19_a_plan_from_an_old_observation_is_dropped() -> None:
    # Catches: the last arrival wins.
    kept: list[Chunk] = []

    def old(chunk: Chunk, count: int) -> Chunk:
        kept.append(chunk)
        return kept[-4] if count % 5 == 0 and count > 10 else chunk

    rig = Rig(Waves(change=old)).going()
    rig.run(5)
    assert rig.core.counts["late"] >= 5 and rig.mode == Mode.RUN
    assert rig.judge.breaches() == [] and rig.core.state.clamps["rate"] == 0


def test_24_somebody_else_commands_the_same_arm() -> None:
    # Catches: two bridges on one topic.
    never = Rig()
    never.backend.writers = 1
    never.run(2)
    assert never.mode == Mode.WAIT_STATE and "1 other writer" in never.reason and never.judge.spoke() == 0
    rig = Rig().going()
    since = rig.now
    rig.backend.writers = 1
    rig.run(1)
    rig.held_within(since, 0.0)
    assert rig.mode == Mode.FAULT


def test_23_the_bridge_is_restarted_while_the_arm_moves() -> None:
    # Catches: a start from where the arm was, or while it still moves.
    rig = Rig().going()
    assert np.abs(rig.judge.speeds()[-1]).max() > 0.1
    since = rig.now
    rig.core = Core(rig.config)
    rig.loop = ControlLoop(rig.core, rig.backend, rig.planner, rig.clock)
    rig.run(3)
    assert rig.mode == Mode.RUN and rig.judge.breaches() == []
    first = next(k for k, when in enumerate(rig.judge.times) if when > since)
    assert rig.judge.times[first] > since + rig.config.state.rest_s and rig.judge.starts[first]


@pytest.mark.parametrize("silent", [False, True])
def test_28_enable_drops(silent: bool) -> None:
    # Catches: a button that is let go, or whose cable is cut, and the arm goes on; a start without it.
    rig = Rig().going()
    since = rig.now
    rig.backend.enabled = None if silent else False
    rig.run(1.5)
    rig.held_within(since, 0.2 + 0.05 if silent else 0.05)
    assert rig.mode == Mode.WAIT_STATE
    quiet = rig.judge.spoke()
    rig.run(1)
    assert rig.judge.spoke() == quiet
    rig.backend.enabled = True
    rig.run(2.5)
    assert rig.mode == Mode.RUN and rig.judge.breaches() == []


def test_29_and_31_emergency_stop_and_re_arming() -> None:
    # Catches: a stop that takes more than a tick; any way on but by request, once the stop is released; a button held
    # down that re-arms by itself; an old request that counts.
    rig = Rig().going()
    rig.press("rearm").run(0.05).press("rearm", False).run(0.5)
    since = rig.now
    rig.press("stop").run(1)
    rig.held_within(since, 0.0)
    assert rig.mode == Mode.FAULT and "emergency stop" in rig.reason
    rig.press("rearm").run(0.5)
    assert rig.mode == Mode.FAULT
    rig.press("stop", False).run(1)
    assert rig.mode == Mode.FAULT
    rig.press("rearm", False).run(0.1)
    rig.held_within(since, 0.0)
    rig.press("rearm").run(2)
    assert rig.mode == Mode.RUN
    for _ in range(40):
        rig.press("rearm").run(0.05)
    since = rig.now
    rig.press("stop").run(0.5)
    rig.press("stop", False)
    for _ in range(40):
        rig.press("rearm").run(0.05)
    assert rig.mode == Mode.FAULT
    assert rig.judge.breaches() == []


def test_30_stop_by_request_and_by_error() -> None:
    # Catches: an end in full motion: by a signal, by an exception anywhere in a tick, by a middleware that is gone.
    rig = Rig().going()
    since = rig.now
    rig.clock.sleep_until(since + rig.config.period_s)
    rig.loop.run(each=lambda loop: loop.stop() if rig.now > since + 0.2 else None)
    rig.held_within(since + 0.2, rig.config.period_s)
    assert rig.now < since + 2

    def fail(*_: Any) -> Any:
        raise KeyError("a bug")

    for owner, name in (("backend", "poll"), ("core", "tick"), ("planner", "poll"), ("backend", "diagnose")):
        rig = Rig().going()
        since = rig.now
        rig.clock.sleep_until(since + rig.config.period_s)
        setattr(getattr(rig, owner), name, fail)
        with pytest.raises(KeyError, match="a bug"):
            rig.loop.run(duration_s=3.0)
        rig.held_within(since, 2 * rig.config.period_s + (1.0 if name == "diagnose" else 0.0))
        assert rig.judge.spoke(since) > 10
    rig = Rig().going()
    rig.clock.sleep_until(rig.now + rig.config.period_s)
    rig.backend.lost = True
    with pytest.raises(BackendLost):
        rig.loop.run()
    assert rig.judge.breaches() == []


def test_32_a_dry_run_never_writes() -> None:
    # Catches: a command, or a diagnostic, that gets out; a dry run that stops because the arm does not follow.
    from dfplan_policies.ros.backends.dry import DryBackend

    rig = Rig(dry=True)
    dry = DryBackend(rig.backend)
    rig.loop.backend = dry
    rig.backend.readers = 0
    rig.run(4)
    assert rig.mode == Mode.RUN and dry.withheld > 300 and dry.last is not None
    assert rig.judge.spoke() == 0 and rig.backend.told == []


def test_a_loop_that_stalls_goes_on_from_rest() -> None:
    # Catches: the speed from before a stall given to an arm that has stopped; a burst to catch up.
    rig = Rig().going()
    for pause in (0.025, 0.06, 0.15):
        rig.clock.now_s += pause
        rig.run(2.5)
        assert rig.mode == Mode.RUN and rig.judge.breaches() == []


def test_the_arm_is_held_up() -> None:
    # Catches: a collision that is pushed against without end.
    rig = Rig(settings=config(guard={"tracking_error": 0.1})).going()
    stuck = rig.backend.place(rig.now)
    since = rig.now
    rig.backend.disturb.append(on_joints(lambda s: [replace(s, position=stuck)]))
    rig.run(3)
    assert rig.mode == Mode.FAULT and "away from its command" in rig.reason
    assert np.abs(rig.judge.places[-1] - stuck).max() < 0.2
    assert rig.judge.breaches() == [] and np.isfinite(rig.judge.held_from()) and rig.judge.held_from() > since


@pytest.mark.parametrize(("how", "text"), [("burn", ""), ("die", "exit code -9"), ("hang", "not answered")])
def test_14_15_20_a_planner_of_its_own_in_real_time(how: str, text: str) -> None:
    # Catches: a planner that burns its core and takes the loop's time; a death or a hang that the loop does not see.
    clock, settings = RealClock(), config(plan={"timeout_s": 0.5, "every_s": 0.05})
    request = SourceRequest(settings, "source:tests.ros.plans:slow", options={"how": how})
    planner = PlannerProcess(request, clock.now, timeout_s=0.5)
    try:
        planner.wait()
        rig = Rig(planner=planner, settings=settings, clock=clock)
        rig.loop.run(2.0)
    finally:
        planner.close()
    assert rig.judge.moved() and rig.judge.breaches() == []
    assert rig.core.finished and rig.loop.ticks + rig.loop.missed > 190
    faults = [said for level, said, _ in rig.backend.told if level == 2]
    assert text == "" or any(text in said for said in faults)
