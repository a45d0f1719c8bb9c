"""The judge sees every kind of violation, and nothing where there is none; on the wire it hears the bridge."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfplan_policies.ros.judge import Command, Judge, Rules
from dfplan_policies.ros.wire import Setpoint
from tests.ros.far import DOMAIN, Process, until

RULES = Rules(("a", "b"), (-1.0, -2.0), (1.0, 2.0), (0.5, 1.0), (2.0, 4.0), 0.01)


def command(k: float, *position: float, **changes: Any) -> Command:
    given: dict[str, Any] = {"names": ("a", "b"), "velocities": ((),), "times": (0.02,)}
    return Command(100.0 + 0.01 * k, positions=(position,), **given | changes)


def judged(*commands: Command, rules: Rules = RULES) -> dict[str, int]:
    judge = Judge(rules)
    for one in commands:
        judge.see(one)
    found: dict[str, int] = judge.report()["counts"]
    return found


def ramp(steps: list[float], start: float = 0.0) -> list[Command]:
    """Make commands whose steps (of joint a; b does twice as much) are given."""
    places = start + np.cumsum(steps)
    return [command(k, place, 2 * place) for k, place in enumerate(places)]


# Velocity limit 0.5 rad/s: 0.005 a step. Acceleration 2 rad/s^2: steps may differ by 0.0002.
SLOW = [0.0002 * k for k in range(26)]


def test_all_is_well() -> None:
    """Catches: a judge that sees violations in a motion exactly at the limits, or that never says that all is well."""
    whole = [0.0, *SLOW, *[0.005] * 20, *SLOW[::-1], 0.0]
    assert judged(*ramp(whole)) == {}
    report = Judge(RULES)
    for one in ramp(whole):
        report.see(one)
    told = report.report()
    assert told["ok"] and told["commands"] == len(whole)
    assert told["worst_share"]["velocity"] == pytest.approx(1.0) and told["worst_share"][
        "acceleration"
    ] == pytest.approx(1)
    assert told["last_move_s"] == pytest.approx(100 + 0.01 * (len(whole) - 3)) and told["longest_gap_s"] < 0.0101


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        ("finite", command(1, np.nan, 0.0)), ("finite", command(1, 0.0, np.inf)),
        ("finite", command(1, 0.0, 0.0, velocities=((np.nan, 0.0),))),
        ("finite", command(1, 0.0, 0.0, times=(np.nan,))),
        ("position", command(1, 0.0, 2.01)), ("position", command(1, -1.01, 0.0)),
        ("velocity", command(1, 0.0051, 0.0)), ("velocity", command(1, 0.0, -0.0101)),
        ("velocity", command(1, 0.0, 0.0, velocities=((0.6, 0.0),))),
        ("acceleration", command(1, 0.00021, 0.0)), ("acceleration", command(1, 0.0, -0.00041)),
        ("names", command(1, 0.0, 0.0, names=("b", "a"))), ("names", command(1, 0.0, 0.0, names=("a",))),
        ("shape", command(1, 0.0)), ("shape", command(1, 0.0, 0.0, velocities=((0.0,),))),
        ("shape", dataclasses.replace(command(1), positions=())),
        ("times", command(1, 0.0, 0.0, times=(0.0,))),
        ("times", dataclasses.replace(command(1, 0.0, 0.0), positions=((0.0, 0.0),) * 2, times=(0.02, 0.02))),
        ("order", command(-1, 0.0, 0.0)), ("order", command(0, 0.0, 0.0)),
    ],
)  # fmt: skip
def test_every_violation_is_seen(kind: str, bad: Command) -> None:
    """Catches: a rule that is not checked, for one joint, one end, or one field."""
    found = judged(command(-1, 0.0, 0.0), command(0, 0.0, 0.0), bad)
    assert kind in found


def test_late_and_lost_commands_are_no_violation() -> None:
    """Catches: two periods' worth of motion after a lost message, or a fresh start after a pause, called too fast."""
    fast = [*ramp([0.0, *SLOW, 0.005, 0.005])]
    assert judged(*fast[:-2], fast[-1]) == {}
    assert judged(*fast[:10], *fast[11:]) == judged(*fast[:10], *fast[12:]) == {}
    late = [dataclasses.replace(one, sent_s=one.sent_s + 0.003 * (k % 2)) for k, one in enumerate(fast)]
    assert judged(*late) == {}
    assert judged(*fast, command(400, 0.9, 1.8), command(401, 0.9, 1.8)) == {}
    assert "acceleration" in judged(*fast, command(400, 0.9, 1.8), command(401, 0.895, 1.79))


def test_a_command_that_is_just_late_is_no_violation() -> None:
    """Catches: a late command read as one before which others were lost: half the speed, and a harsh brake."""
    fast = ramp([0.0, *SLOW, *[0.005] * 6])
    late = [dataclasses.replace(one, sent_s=one.sent_s + (0.0 if k < 28 else 0.008)) for k, one in enumerate(fast)]
    assert judged(*late) == {}
    hard = ramp([0.0, *SLOW[:20]])  # at the limit all the time; every third command comes late
    late_too = [
        dataclasses.replace(one, sent_s=one.sent_s + (0.007 if k % 3 == 0 else 0.0)) for k, one in enumerate(hard)
    ]
    assert judged(*late_too) == {}
    late[28] = dataclasses.replace(late[28], positions=((0.99, 1.98),))
    assert {"velocity", "acceleration"} <= set(judged(*late))


def test_after_two_periods_the_arm_may_have_come_to_rest() -> None:
    """Catches: a bridge that begins anew from rest after a stall called harsh; a harsh start after it called fine."""
    fast = ramp([0.0, *SLOW, 0.005])
    place = fast[-1].positions[0][0]
    for step, fine in ((0.0002, True), (0.0, True), (0.0021, False)):
        new = command(len(fast) + 1.6, place + step, 2 * (place + step))
        assert (judged(*fast, new) == {}) == fine, step
    soon = command(len(fast) + 0.4, place, 2 * place)
    assert "acceleration" in judged(*fast, soon)


def test_rules_need_a_number_per_joint() -> None:
    """Catches: limits that are not those of the joints."""
    with pytest.raises(ValueError, match="velocity needs 2 numbers"):
        dataclasses.replace(RULES, velocity=(1.0,))
    with pytest.raises(ValueError, match="period_s must be above 0"):
        dataclasses.replace(RULES, period_s=0.0)


def test_on_the_wire(tmp_path: Path) -> None:
    """Catches: a recorder that is not matched, misreads a field, or ends without its verdict."""
    pytest.importorskip("cyclonedds")
    pytest.importorskip("rosbags")
    from dfplan_policies.ros.backends.dds import DdsBackend
    from dfplan_policies.ros.topics import Topics

    rules, out = tmp_path / "rules.json", tmp_path / "verdict.json"
    rules.write_text(json.dumps(dataclasses.asdict(RULES)), encoding="utf-8")
    recorder = Process(
        sys.executable, "-m", "dfplan_policies.ros.recorder", str(rules), "--out", str(out), "--domain", str(DOMAIN),
    )  # fmt: skip
    backend = DdsBackend(Topics(), domain=DOMAIN, interface="lo")
    backend.open()
    assert until(lambda: backend.command_readers() == 1, 60), recorder.stop()
    for k in range(10):
        backend.write(Setpoint(("a", "b"), np.array([0.0, 0.0 if k < 9 else 1.5]), np.zeros(2), 0.02))
        time.sleep(0.01)
    time.sleep(0.2)
    errors = recorder.stop()
    backend.close()
    told = json.loads(out.read_text(encoding="utf-8"))
    assert recorder.process.returncode == 1 and not errors, errors
    assert told["commands"] == 10 and told["writers"] == 1 and len(told["trace"]) == 10
    assert set(told["counts"]) == {"velocity", "acceleration"}
    assert told["trace"][-1][2] == [0.0, 1.5] and told["violations"][0]["joint"] == "b"


def test_where_commands_get_lost_a_gap_need_not_be_rest() -> None:
    """Catches: three lost commands called a harsh start; a step that no lost commands explain called fine."""
    fast, lossy = ramp([0.0, *SLOW, *[0.005] * 12]), dataclasses.replace(RULES, gap_periods=12.5)
    missing = [*fast[:28], *fast[32:]]
    assert "acceleration" in judged(*missing) and judged(*missing, rules=lossy) == {}
    missing[28] = dataclasses.replace(missing[28], positions=((0.3, 0.6),))
    assert "velocity" in judged(*missing, rules=lossy)


def late(commands: list[Command], k: int, by_s: float) -> list[Command]:
    return [dataclasses.replace(one, sent_s=one.sent_s + by_s * (i == k)) for i, one in enumerate(commands)]


def test_a_late_command_leaves_less_time_before_the_next() -> None:
    """Catches: two lost between a late command and one on time called a jump; without a late one or with one more lost,
    called fine; lateness that stays for ever."""
    fast, lossy = ramp([0.0, *SLOW, *[0.005] * 12]), dataclasses.replace(RULES, gap_periods=12.5)
    delayed = late(fast, 28, 0.007)
    assert judged(*delayed[:29], *delayed[31:], rules=lossy) == {}
    assert judged(*fast[:29], *late(fast, 31, -0.007)[31:], rules=lossy) != {}
    assert judged(*delayed[:29], *late(fast, 32, -0.01)[32:], rules=lossy) != {}
    moved = [*fast[:28], *(dataclasses.replace(one, sent_s=one.sent_s + 0.007) for one in fast[28:34])]
    assert judged(*moved, *fast[36:], rules=lossy) != {}


def test_after_a_stall_the_arm_may_begin_with_the_first_command() -> None:
    """Catches: the first step after a stall forgotten, so that the second is called harsh; a harsh one called fine."""
    still = ramp([0.0] * 4)
    for steps, fine in (
        ([0.0002, 0.0004], True),
        ([0.0, 0.0002], True),
        ([0.0002, 0.0006], False),
        ([0.004, 0.004], False),
    ):
        places = np.cumsum(steps)
        after = [command(20 + k, place, 2 * place) for k, place in enumerate(places)]
        assert (judged(*still, *after) == {}) == fine, steps


def test_where_commands_get_lost_nothing_is_known_of_the_beginning() -> None:
    """Catches: the first commands lost called a harsh start, there or after a gap; speed not judged."""
    fast, lossy = ramp([0.0, *SLOW, *[0.005] * 40]), dataclasses.replace(RULES, gap_periods=12.5)
    for seen in (fast[28:], [*fast[:28], *fast[45:]]):
        assert "acceleration" in judged(*seen) and judged(*seen, rules=lossy) == {}
    soon = [*fast[:28], fast[45], *fast[48:]]  # after a gap two more are lost
    assert judged(*soon, rules=lossy) == {}
    place = fast[30].positions[0][0]  # the next one was lost, then the arm stood, then it began anew
    anew = [command(33.5 + k, place + step, 2 * (place + step)) for k, step in enumerate((0.005, 0.0052, 0.0056))]
    assert judged(*fast[:31], *anew, rules=lossy) == {} and "acceleration" in judged(*fast[:31], *anew)
    wild = [command(0, 0.0, 0.0), command(1, 0.0051, 0.0), command(2, 0.0102, 0.0)]
    assert judged(*wild, rules=lossy) == {"velocity": 2}
