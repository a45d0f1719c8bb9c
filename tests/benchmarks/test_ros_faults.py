"""The fault table's own verdicts: streams whose fault is planted are found out, sound ones are not."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dfplan_bench.ros_faults import table
from dfplan_bench.ros_faults.kills import summary
from dfplan_bench.ros_faults.plans import CHANGES, WAITS, Cruise
from dfplan_bench.ros_faults.plays import DEADLY, NOT_HERE, PLAYS, Played, at_rest, bumpless, one_writer
from dfplan_bench.ros_faults.robot import ACCELERATION, JOINTS, PERIOD_S, SPEED, rules
from dfplan_bench.ros_faults.scenarios import SCENARIOS, SHORT, Scenario
from dfplan_bench.ros_faults.spoil import FAULTS, Spoiler, State
from dfplan_bench.ros_faults.stage import Stage, said
from dfplan_bench.ros_faults.verdict import GAP_S, Trace
from dfplan_policies.ros.judge import Command, Judge, Rules

Floats = NDArray[np.float64]
FAULT_S = 1.0  # commands begin at 0; the arm moves on until then


def places(moving: int = 100, held: int = 60, harsh: float = 0.98) -> Floats:
    """Return positions (n, J): up to speed, on at it, then down, each joint at a share of its limit."""
    change, speed = ACCELERATION * PERIOD_S**2, SPEED * PERIOD_S * np.linspace(1.0, 0.3, len(JOINTS))
    up = np.minimum(0.9 * change * np.arange(moving)[:, None], speed)
    down = np.maximum(speed - harsh * change * np.arange(1, held + 1)[:, None], 0.0)
    return np.cumsum(np.vstack([up, down]), axis=0)


def found(where: Floats, times: Floats | None = None, states: list[Any] | None = None) -> dict[str, Any]:
    """Return what a recorder would have written of commands that were sent every period."""
    when = np.arange(1, len(where) + 1) * PERIOD_S if times is None else times
    judge = Judge(Rules(**{k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in rules().items()}))
    for t, place in zip(when, where, strict=True):
        judge.see(Command(float(t), JOINTS, (tuple(place.tolist()),), times=(2 * PERIOD_S,)))
    trace = [[float(t), float(t), p.tolist()] for t, p in zip(when, where, strict=True)]
    return {**judge.report(), "trace": trace, "states": states or []}


STOPS = Scenario(2, "states stop", "fault", allowed_s=5 * PERIOD_S, says="old")
WINDOW = Played([(FAULT_S, 1.6)])
OLD = ["RUN", "FAULT: the state is old"]


def row(
    s: Scenario, what: dict[str, Any], played: Played = WINDOW, words: Any = OLD, missed: str = ""
) -> dict[str, Any]:
    return table.judge(s, played, what, list(words), missed)


def late_by(commands: int) -> Floats:
    """Return a stream that moves on for so many commands after the fault."""
    return places(100 + commands)


def test_a_stop_in_time_is_held() -> None:
    """Catches: a verdict that is never good, a delay that is not the first hold command's."""
    for commands in (0, 3, 5, 6):
        got = row(STOPS, found(late_by(commands)))
        assert got["verdict"] == "held" and got["violations"] == {}, got
        assert got["delays_s"] == [pytest.approx((commands + 1) * PERIOD_S)]


@pytest.mark.parametrize("commands", [7, 8, 30])
def test_a_stop_that_comes_too_late_is_found(commands: int) -> None:
    """Catches: motion after what is allowed taken for a stop in time."""
    got = row(STOPS, found(late_by(commands)))
    assert got["verdict"] == "not held" and got["delays_s"] == [pytest.approx((commands + 1) * PERIOD_S)]


def test_a_single_motion_long_after_the_stop_is_found() -> None:
    """Catches: a stray command, small enough for every limit, in the middle of a hold."""
    where = places(100)
    where[140:] += 0.9 * ACCELERATION * PERIOD_S**2
    what = found(where)
    assert what["counts"] == {} and row(STOPS, what)["verdict"] == "not held"
    assert row(STOPS, found(places(100)))["verdict"] == "held"


def test_a_brake_that_is_too_weak_is_no_hold() -> None:
    """Catches: slowing down a little taken for braking."""
    assert row(STOPS, found(places(100, harsh=0.5)))["verdict"] == "not held"


def test_turning_round_is_no_hold() -> None:
    """Catches: a joint that goes back, however slowly, taken for one that brakes."""
    where = np.cumsum([0.0, 1.0, 1.0, -0.1, -0.05, 0.0])[:, None] * np.ones(len(JOINTS)) * ACCELERATION * PERIOD_S**2
    assert Trace(np.arange(6) * PERIOD_S, where).held().tolist() == [True, False, False, False, False, True]


def test_nothing_sent_is_nothing_moved() -> None:
    """Catches: a fault in a pause, long after the last command, that could never be answered in time."""
    trace = Trace.of(found(places(20)))
    assert trace.held_from(3.0, 4.0) == 3.0 and trace.rest_share(3.0, 4.0) == 1.0 and trace.late(3.0, 4.0) == 0
    assert trace.rest_share(0.1, 1.1) == pytest.approx(1 - 0.1 - 8 * PERIOD_S, abs=2 * PERIOD_S)


def test_plans_beyond_the_limits_must_reach_them() -> None:
    """Catches: a row on limits in which the arm never comes near one."""
    beyond, whole = Scenario(17, "", "goes on", plan="beyond"), Played([(0.1, 1.6)])
    where = places(160)
    assert row(beyond, found(where), whole, ["RUN"])["verdict"] == "not held"
    assert row(beyond, found(where + 2.88 - where.max()), whole, ["RUN"])["verdict"] == "held"


def test_an_arm_that_never_stops_is_found() -> None:
    """Catches: a stream without any hold command counted as answered."""
    got = row(STOPS, found(places(180)))
    assert got["verdict"] == "not held" and got["delays_s"] == [pytest.approx(0.6)]


def test_silence_counts_as_held_only_after_a_command_that_holds() -> None:
    """Catches: a bridge that dies while the arm moves, called a hold."""
    assert row(STOPS, found(places(105, held=0)))["verdict"] == "not held"


@pytest.mark.parametrize("planted", ["velocity", "acceleration", "position", "finite", "names", "order"])
def test_a_planted_violation_makes_the_row_bad(planted: str) -> None:
    """Catches: a violation on the wire that does not reach the row's verdict."""
    where, times = places(100), np.arange(1, 161) * PERIOD_S
    if planted == "velocity":
        where[120:] += 3 * PERIOD_S
    elif planted == "acceleration":
        where[120:] += 1.2 * ACCELERATION * PERIOD_S**2
    elif planted == "position":
        where += 3.0
    elif planted == "finite":
        where[120, 3] = np.nan
    elif planted == "order":
        times[120] = times[119]
    what = found(where, times)
    if planted == "names":
        judge = Judge(Rules(**{k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in rules().items()}))
        judge.see(Command(1.0, JOINTS[::-1], (tuple(where[0].tolist()),)))
        what |= judge.report()
    assert planted in what["counts"]
    got = row(Scenario(2, "", "goes on"), what, Played([(0.1, 1.0)]), [])
    assert got["verdict"] == "not held" and planted in got["violations"] and got["first_violations"]


def test_what_else_makes_a_row_bad() -> None:
    """Catches: a fault for another reason, something that was not seen, or a failed play, called held."""
    sound = found(late_by(3))
    assert row(STOPS, sound)["verdict"] == "held"
    assert row(STOPS, sound, words=["FAULT: the arm is on fire"])["verdict"] == "not held"
    assert row(STOPS, sound, words=[])["verdict"] == "not held"
    assert row(STOPS, sound, missed="motion was not seen")["verdict"] == "not held"
    assert row(STOPS, sound, replace(WINDOW, good=False))["verdict"] == "not held"
    assert row(STOPS, sound, replace(WINDOW, check=lambda _: (False, "", [])))["verdict"] == "not held"


def test_goes_on() -> None:
    """Catches: an arm that stands, or is in a fault, called moving; one that moves called standing."""
    on, whole = Scenario(3, "", "goes on"), Played([(0.2, 1.5)])
    assert row(on, found(places(160)), whole, ["RUN"])["verdict"] == "held"
    assert row(on, found(places(40, held=120)), whole, ["RUN"])["verdict"] == "not held"
    assert row(on, found(np.zeros((0, len(JOINTS)))), whole, ["RUN"])["verdict"] == "not held"
    assert row(on, found(places(160)), whole, ["RUN", "FAULT: x", "RUN"])["verdict"] == "not held"


def test_silent() -> None:
    """Catches: one command where there must be none."""
    silent = Scenario(1, "", "silent", says="not all")
    words = ["WAIT_STATE: not all joints were seen"]
    assert row(silent, found(places()[:0]), Played(), words)["verdict"] == "held"
    assert row(silent, found(places()[:1]), Played(), words)["verdict"] == "not held"


def test_a_span_has_its_own_violations() -> None:
    """Catches: a violation that is counted for the scenario before or after."""
    where = places(100, held=400)
    where[300:] += 0.1
    what = found(where)
    assert table.cut(what, 0.5, 2.0)["counts"] == {} and what["counts"]
    assert table.cut(what, 2.5, 3.5)["counts"] == what["counts"]
    assert table.cut(what, 0.505, 1.005)["commands"] == 50


def states(times: Floats, where: Floats) -> list[Any]:
    return [[float(t), dict(zip(JOINTS, p.tolist(), strict=True))] for t, p in zip(times, where, strict=True)]


@pytest.mark.parametrize(("periods", "fine"), [(1.9, True), (2.9, True), (3.6, False), (30.0, False)])
def test_at_rest_after_a_kill(periods: float, fine: bool) -> None:
    """Catches: an arm that moves on after its last command, called at rest."""
    where = places(100, held=0)
    killed = 1.0 + 0.3 * PERIOD_S
    times = np.arange(0.0, 1.5, PERIOD_S / 2)
    moved = np.outer(np.minimum(times, 1.0 + periods * PERIOD_S - PERIOD_S / 2), np.ones(len(JOINTS)))
    good, _, delays = at_rest(Trace.of(found(where, states=states(times, moved))), killed, 1.4)
    assert good == fine
    assert not delays or delays[0] == pytest.approx((periods - 0.3) * PERIOD_S, abs=PERIOD_S / 2 + 1e-6)


def test_bumpless() -> None:
    """Catches: a first command after a restart that is not where the arm is."""
    times = np.concatenate([np.arange(1, 101), np.arange(400, 500)]) * PERIOD_S
    where = np.vstack([places(100, held=0), np.tile(places(100, held=0)[-1:], (100, 1))])
    measured = states(np.arange(0.0, 6.0, PERIOD_S / 2), np.tile(where[-1], (1200, 1)))
    assert bumpless(Trace.of(found(where, times, measured)), 1.5)[0]
    where[100:] += 0.002
    assert not bumpless(Trace.of(found(where, times, measured)), 1.5)[0]
    assert not bumpless(Trace.of(found(where[:100], times[:100], measured)), 1.5)[0]


def test_one_writer() -> None:
    """Catches: two bridges that send at the same time."""
    where = places()
    assert one_writer(Trace.of(found(where)))[0]
    both = np.sort(np.concatenate([np.arange(1, 161), np.arange(1, 161) + 0.1])) * PERIOD_S
    assert not one_writer(Trace.of(found(np.repeat(where, 2, axis=0), both)))[0]


def test_a_gap_ends_motion() -> None:
    """Catches: the way between two runs of a bridge taken for one great step."""
    times = np.concatenate([np.arange(1, 101), np.arange(400, 460)]) * PERIOD_S
    trace = Trace.of(found(np.vstack([places(100, held=0), np.full((60, len(JOINTS)), 0.5)]), times))
    assert GAP_S < 3.0 and np.abs(trace.steps()).max() < 2 * SPEED * PERIOD_S


def test_the_bridges_words_are_read() -> None:
    """Catches: another form of the bridge's status line, of which no reason is read any more."""
    from dfplan_policies.ros.modes import Mode
    from dfplan_policies.ros.status import status_text

    details = dict.fromkeys(
        ("clamped_position", "clamped_rate", "state_age_ms", "plan_latency_ms", "plan_left_ms", "plans_taken",
         "plans_late", "plans_bad", "jitter_p99_ms"), 0,
    )  # fmt: skip
    loop: Any = SimpleNamespace(
        decision=SimpleNamespace(mode=Mode.FAULT, reason="the | state"), details=lambda: details
    )
    bridge: Any = SimpleNamespace(err=[(1.0, "loading"), (2.0, status_text(loop)), (3.0, status_text(loop))])
    assert said(bridge)[0].startswith("FAULT: the") and len(said(bridge)) == 2
    assert len(said(bridge, since=2.5)) == 1
    loop.decision.reason = ""
    assert said(SimpleNamespace(err=[(1.0, status_text(loop))])) == ["FAULT"]  # type: ignore[arg-type]


def test_the_table_is_whole() -> None:
    """Catches: a fault of the list without a row, and rows that name what does not exist."""
    assert {s.number for s in SCENARIOS} == set(range(34))
    assert len({s.fault for s in SCENARIOS}) == len(SCENARIOS)
    assert set(SHORT) <= {s.fault for s in SCENARIOS}
    for s in SCENARIOS:
        assert s.arm in FAULTS and (s.play in PLAYS or s.play in NOT_HERE)
        assert not s.plan or s.plan in {*WAITS, *CHANGES, *DEADLY, "burns", "old"}
        assert s.says or s.outcome in ("goes on", "silent") or s.play in ("full_disk",)


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_spoiled_state_is_spoiled(name: str) -> None:
    """Catches: a fault that is none: what is published is what would have been."""
    spoiler, good, bad = Spoiler(name), list[str](), list[str]()
    for k in range(20):
        state = State(time.time() + 1e-3 * k, JOINTS, np.arange(7.0) + k, np.zeros(7))
        good.append(str([(0, asdict(state))]))
        bad.append(str([(writer, asdict(sent)) for writer, sent in spoiler(state)]))
    assert (good == bad) == (name == "")
    assert bool(spoiler.began) == bool(name)


def test_kills_are_counted() -> None:
    """Catches: a kill after which the arm moved on, or a restart with a step, counted as fine."""
    where = places(100, held=0)
    times = np.concatenate([np.arange(1, 101), np.arange(400, 500)]) * PERIOD_S
    whole = np.vstack([where, np.tile(where[-1:], (100, 1))])
    at = np.arange(0.0, 6.0, PERIOD_S / 2)
    measured = np.vstack([where[np.minimum((t / PERIOD_S).astype(int), 99)] for t in at[None]])
    trace = Trace.of(found(whole, times, states(at, measured)))
    kills = [("bridge", 1.0 + 0.3 * PERIOD_S, 3.9)]
    assert summary(trace, kills).items() >= {"kills": 1, "stopped": 1, "bumpless": 1}.items()
    whole[100:] += 0.01
    measured[120:] += 0.01 * np.arange(len(measured) - 120)[:, None]
    trace = Trace.of(found(whole, times, states(at, measured)))
    assert summary(trace, kills).items() >= {"kills": 1, "stopped": 0, "bumpless": 0}.items()
    braked = Trace.of(found(late_by(4)))
    assert summary(braked, [("planner", FAULT_S, 1.6)])["stopped"] == 1
    assert summary(Trace.of(found(late_by(9))), [("arm", FAULT_S, 1.6)])["stopped"] == 0


def test_a_planner_misbehaves_each_time_it_is_told_to(tmp_path: Path) -> None:
    """Catches: the same fault a second time, before a sound plan was made, of which nothing is told."""
    stage, trigger = Stage(tmp_path, 7), tmp_path / "trigger"
    planner = Cruise(SimpleNamespace(options={"trigger": str(trigger)}))
    seen: Any = SimpleNamespace(observed_s=time.monotonic(), command=np.zeros(len(JOINTS)), episode=0)
    bad: list[Any] = []
    assert np.isfinite(planner.chunk(seen).positions).all()
    for k in range(2):
        told = threading.Timer(0.05, lambda: bad.append(planner.chunk(seen)))
        told.start()
        assert stage.misplan("nan") > 0
        told.join()
        assert np.isnan(bad[k].positions).any()
        stage.plan_well()
    assert np.isfinite(planner.chunk(seen).positions).all()


@pytest.mark.slow
def test_a_handful_over_the_wire(tmp_path: Path) -> None:
    """Catches: processes that do not find each other, orders that have no effect, a file that is not written."""
    pytest.importorskip("cyclonedds")
    pytest.importorskip("rosbags")
    told: list[str] = []
    result = table.run(tmp_path, seed=0, quick=True, say=told.append, rows="1,29,33")
    assert [(r["number"], r["verdict"]) for r in result["rows"]] == [(1, "held"), (29, "held"), (33, "held")], told
