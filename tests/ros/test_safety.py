"""The safety filter: its table of modes in full, and its commands against random worlds."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfplan_policies.ros.chunks import Target
from dfplan_policies.ros.limits import JointLimits, brake, follow
from dfplan_policies.ros.modes import ACTIVE, MOVING, Facts, Mode, next_mode
from dfplan_policies.ros.safety import Decision, SafetyFilter, SafetySettings, SafetyState, Seen
from tests.ros.judge import Judge

DT = 0.01
HARD = JointLimits(np.array([-2.0, -1.0]), np.array([2.0, 1.0]), np.array([2.0, 1.0]), np.array([10.0, 4.0]))
SETTINGS = SafetySettings(period_s=DT, ramp_s=0.2, hold_s=0.05)
FILTER = SafetyFilter(HARD, HARD.narrowed(0.05), SETTINGS)
EVERY = [Facts(*values) for values in itertools.product((False, True), repeat=len(fields(Facts)))]
FINE = Seen(np.zeros(2), 0.005, "", True, readers=1)


def judge() -> Judge:
    return Judge(("a", "b"), HARD.lower, HARD.upper, HARD.velocity, HARD.acceleration, DT)


class World:
    """Run the filter on a perfect arm; the test changes what is seen."""

    def __init__(self, filter_: SafetyFilter = FILTER) -> None:
        self.filter, self.state, self.now = filter_, SafetyState(), 0.0
        self.at, self.target, self.judge = np.zeros(2), Target(np.zeros(2), np.zeros(2)), judge()
        self.judge.measured = lambda: self.at

    def tick(self, target: Target | str | None = "own", **seen: object) -> Decision:
        self.now += DT
        chosen = self.target if isinstance(target, str) else target
        known = Seen(**{**FINE.__dict__, "position": self.at.copy(), **seen})
        self.state, decision = self.filter.step(self.now, self.state, known, chosen)
        if decision.command is not None:
            self.judge.hear(self.now, ("a", "b"), decision.command)
            self.at = decision.command.copy()
        return decision

    def run(self, ticks: int, **seen: object) -> Decision:
        for _ in range(ticks):
            decision = self.tick(**seen)  # type: ignore[arg-type]
        return decision

    def going(self) -> World:
        """Run towards a far target until the arm moves at full speed."""
        self.target = Target(np.array([1.5, 0.7]), np.zeros(2))
        assert self.run(60).mode == Mode.RUN
        assert np.abs(self.state.velocity).min() > 0.5
        return self


def test_the_whole_table_of_modes() -> None:
    # Catches: any way out of FAULT but re-arming at rest with all that a start needs; a motion without its facts; a
    # fault that something else outranks; an end that is taken back. Every mode with every combination is tried.
    for mode, facts in itertools.product(Mode, EVERY):
        after = next_mode(mode, facts)
        if facts.shutdown or mode == Mode.STOPPED:
            assert after == Mode.STOPPED
            continue
        assert after != Mode.STOPPED
        if mode == Mode.FAULT:
            assert after in (Mode.FAULT, Mode.WAIT_STATE)
            assert (after == Mode.WAIT_STATE) == (facts.rearm and facts.resting and facts.startable)
        if mode in ACTIVE and facts.fault:
            assert after == Mode.FAULT
        if after in MOVING:
            assert facts.planned
            assert (mode in ACTIVE and facts.steady) or (mode == Mode.READY and facts.startable)
            assert (after == Mode.RAMP_IN) or (facts.ramped and mode in ACTIVE)
        if mode in ACTIVE and after == Mode.WAIT_STATE:
            assert mode == Mode.HOLD and facts.resting and not facts.enabled
        if after == Mode.READY:
            assert facts.startable and mode in (Mode.WAIT_STATE, Mode.READY)


def test_a_million_ticks_of_random_modes_keep_the_limits() -> None:
    # Catches: a limit that is broken where following and braking meet, a fault that moves on, a speed limit that
    # falls faster than the arm can brake. The table of modes and the step run for many arms side by side.
    rng, runs, ticks = np.random.default_rng(1), 1000, 1100
    table = np.array([[next_mode(mode, facts) for facts in EVERY] for mode in Mode])
    weight = np.array([0.02 if f.fault else 1.0 for f in EVERY]) * np.array([0.0 if f.shutdown else 1.0 for f in EVERY])
    weight *= np.array([1.0 if f.steady and f.planned else 0.05 for f in EVERY])
    mode, at, v = np.zeros(runs, dtype=int), rng.uniform(-0.9, 0.9, (runs, 2)), np.zeros((runs, 2))
    goal, seen = rng.uniform(-3, 3, (runs, 2)), np.zeros(7, dtype=int)
    facts = rng.choice(len(EVERY), (ticks, runs), p=weight / weight.sum())
    for k in range(ticks):
        mode = table[mode, facts[k]]
        seen += np.bincount(mode, minlength=7)
        goal = np.where(rng.random((runs, 1)) < 0.01, rng.uniform(-3, 3, (runs, 2)), goal)
        moving = np.isin(mode, MOVING)[:, None]
        silent = np.isin(mode, (Mode.WAIT_STATE, Mode.READY))[:, None]
        new = np.where(moving, follow(at, v, goal, np.zeros(2), HARD, DT).velocity, brake(v, HARD, DT))
        new = np.where(silent, 0.0, new)
        hard = np.abs(new - v) / DT
        assert (np.where(silent, 0.0, hard) <= HARD.acceleration).all() and (np.abs(new) <= HARD.velocity).all()
        fault = (mode == Mode.FAULT)[:, None]
        assert (np.where(fault, np.abs(new) - np.abs(v), 0.0) <= 0).all()
        at, v = at + new * DT, new
        assert (at >= HARD.lower - 1e-9).all() and (at <= HARD.upper + 1e-9).all()
    assert (seen[:6] > 5000).all()


def test_a_start_is_where_the_arm_is_and_slow() -> None:
    # Catches: a first command at the target, a ramp that begins at full speed, commands before all is there.
    world = World()
    world.at, world.target = np.array([0.4, -0.3]), Target(np.array([1.5, 0.9]), np.zeros(2))
    assert world.tick().command is None and world.state.mode == Mode.READY
    first = world.tick()
    assert first.mode == Mode.RAMP_IN and first.command is not None
    assert first.command.tolist() == [0.4, -0.3]
    speeds = [np.abs(world.tick().velocity) for _ in range(20)]  # type: ignore[arg-type]
    for k, speed in enumerate(speeds):
        assert (speed <= HARD.velocity * (k + 1) / 20 + 1e-12).all()
    assert world.run(200).mode == Mode.RUN
    assert np.allclose(world.at, [1.5, 0.9]) and world.judge.breaches() == []


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        ({"position": None}, "not all joints"),
        ({"age_s": 0.2}, "0.200 s old"),
        ({"age_s": float("nan")}, "nan s old"),
        ({"position": np.array([0.0, np.nan])}, "outside its limits"),
        ({"position": np.array([0.0, 1.01])}, "outside its limits"),
        ({"readers": 0}, "nobody listens"),
        ({"writers": 1}, "1 other writer"),
        ({"enabled": False}, "not enabled"),
        ({"stop": True}, "emergency stop"),
        ({"still": False}, "moving"),
        ({"broken": "two publishers"}, "two publishers"),
        ({"planner": "it died"}, "it died"),
    ],
)
def test_nothing_starts_unless_all_is_well(seen: dict[str, object], reason: str) -> None:
    # Catches: each condition of a start left out.
    world = World()
    decision = world.run(50, **seen)
    assert decision.mode == Mode.WAIT_STATE and reason in decision.reason
    assert not world.judge.times
    assert world.run(3).mode == Mode.RAMP_IN


FAULTS = {
    "old state": {"age_s": 0.3},
    "NaN age": {"age_s": float("nan")},
    "broken state": {"broken": "joint a jumped"},
    "NaN position": {"position": np.array([np.nan, 0.0])},
    "tracking": {"position": np.array([9.0, 0.0])},
    "emergency stop": {"stop": True},
    "another writer": {"writers": 2},
    "planner": {"planner": "the planner died"},
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_brakes_at_once_and_stays_until_it_is_re_armed(name: str) -> None:
    # Catches: a fault that is not seen, or not latched; commands after it that move on; one that never falls silent
    # or repeats an old place when the program ends; re-arming while the fault is there.
    world = World().going()
    when = world.now + DT
    decision = world.tick(**FAULTS[name])  # type: ignore[arg-type]
    assert decision.mode == Mode.FAULT and decision.reason
    reason = decision.reason
    assert world.run(100).mode == Mode.FAULT and world.state.reason == reason
    assert world.judge.held_from() == pytest.approx(when)
    quiet = len(world.judge.times)
    assert world.run(50).command is None
    world.run(20, rearm=True, **FAULTS[name])
    assert world.state.mode == Mode.FAULT and world.state.reason.startswith(f"{reason}; re-arming was refused: ")
    assert world.state.reason.count("refused") == 1
    world.now += 1.0  # a stall must not make it speak again
    assert world.tick().command is None
    assert len(world.judge.times) == quiet
    assert world.run(1, rearm=True).mode == Mode.WAIT_STATE
    assert world.run(60).mode == Mode.RUN
    assert world.judge.breaches() == []


def test_re_arming_waits_for_rest() -> None:
    # Catches: a request that is honoured in full motion.
    world = World().going()
    world.tick(stop=True)
    assert world.run(3, rearm=True).mode == Mode.FAULT
    assert world.state.reason.endswith("; re-arming was refused: the arm is not at rest yet")


HOLDS = {
    "soft age": {"age_s": 0.05},
    "no plan": {"target": None},
    "no reader": {"readers": 0},
    "not enabled": {"enabled": False},
    "NaN plan": {"target": Target(np.array([np.nan, 0]), np.zeros(2))},
}


@pytest.mark.parametrize("name", HOLDS)
def test_a_hold_brakes_at_once_and_goes_on_by_itself(name: str) -> None:
    # Catches: a transient reason that is latched or that is passed over; a plan that is extrapolated; a start after
    # rest without the ramp; a full ramp after a hold of one tick.
    world = World().going()
    when = world.now + DT
    assert world.tick(**HOLDS[name]).mode == Mode.HOLD  # type: ignore[arg-type]
    assert world.judge.held_from() == pytest.approx(when)
    assert world.tick().mode == Mode.RUN
    world.run(6, **HOLDS[name])
    world.target = Target(np.array([-1.5, -0.7]), np.zeros(2))
    world.run(100, **HOLDS[name])
    assert np.allclose(world.state.velocity, 0)
    modes = [world.tick().mode for _ in range(30)]
    assert Mode.RAMP_IN in modes and modes[-1] == Mode.RUN
    assert world.judge.breaches() == []


def test_letting_go_of_enable_falls_silent_and_begins_anew() -> None:
    # Catches: an old command repeated for ever while somebody guides the arm by hand, or sent again afterwards.
    world = World().going()
    assert world.run(120, enabled=False).mode == Mode.WAIT_STATE
    count = len(world.judge.times)
    world.at = world.at + 0.2
    world.run(50, enabled=False)
    assert len(world.judge.times) == count
    world.run(80)
    assert world.state.mode == Mode.RUN and world.judge.breaches() == []


def test_the_end_brakes_and_falls_silent() -> None:
    # Catches: an end in full motion, commands after it, an end that can be taken back.
    world = World().going()
    when = world.now + DT
    world.run(100, shutdown=True)
    assert world.judge.held_from() == pytest.approx(when) and world.tick(stop=True).mode == Mode.STOPPED
    count = len(world.judge.times)
    assert world.run(20).command is None and len(world.judge.times) == count
    quiet = World()
    assert quiet.run(20, shutdown=True).command is None


def test_after_a_stall_the_arm_is_taken_to_rest() -> None:
    # Catches: the speed from before a stall commanded to an arm that has stopped meanwhile.
    world = World().going()
    world.now += 0.5
    before = world.at.copy()
    decision = world.tick()
    assert decision.mode == Mode.HOLD and decision.command is not None
    assert np.array_equal(decision.command, before)
    world.run(60)
    assert world.judge.breaches() == []


def test_a_start_in_the_margin_is_not_pulled_out_at_once_and_goes_no_further() -> None:
    # Catches: a first step out of the margin that breaks every rate; a margin that refuses the arm for ever.
    world = World()
    world.at, world.target = np.array([1.98, 0.0]), Target(np.array([5.0, 0.0]), np.zeros(2))
    assert world.run(30).mode == Mode.RUN
    assert np.array_equal(world.at, [1.98, 0.0])
    world.target = Target(np.array([0.0, 0.0]), np.zeros(2))
    world.run(200)
    assert np.allclose(world.at, 0) and world.judge.breaches() == []
    assert world.state.clamps["position"] > 0


def test_a_dry_run_needs_no_reader_and_no_arm_that_follows() -> None:
    # Catches: a dry run that faults because the arm does not move.
    dry = replace(SETTINGS, tracking_error=float("inf"), needs_reader=False)
    world = World(SafetyFilter(HARD, HARD.narrowed(0.05), dry))
    world.target = Target(np.array([1.5, 0.7]), np.zeros(2))
    assert world.run(100, readers=0, writers=1, position=np.zeros(2)).mode == Mode.RUN


ODD = {**FAULTS, **HOLDS, "rearm": {"rearm": True}, "stop": {"stop": True}}


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_random_worlds(seed: int) -> None:
    # Catches: whatever the cases above do not: any mixture of faults, holds, jumps of the target and re-arming.
    rng, world = np.random.default_rng(seed), World()
    odd, left = {}, 0
    for _ in range(400):
        if left == 0 and rng.random() < 0.05:
            odd, left = ODD[str(rng.choice(list(ODD)))], int(rng.integers(1, 40))
        left, odd = max(left - 1, 0), odd if left else {}
        if rng.random() < 0.03:
            world.target = Target(rng.uniform(-3, 3, 2), rng.normal(0, 2, 2))
        faulty = world.state.mode == Mode.FAULT
        v = np.abs(world.state.velocity)
        world.tick(**odd)  # type: ignore[arg-type]
        if faulty and world.state.mode == Mode.FAULT:
            assert (np.abs(world.state.velocity) <= v).all()
        if rng.random() < 0.005:
            world.now += float(rng.uniform(0.02, 0.5))
    assert world.judge.breaches() == []
