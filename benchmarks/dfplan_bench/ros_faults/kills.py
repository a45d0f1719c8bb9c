"""Kill bridge, planner or arm at random moments: the arm comes to rest, and the next start is bumpless."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dfplan_bench.ros_faults.plays import at_rest, bumpless, rearm, rest
from dfplan_bench.ros_faults.robot import PERIOD_S, SOFT_S
from dfplan_bench.ros_faults.stage import NotSeen, Stage, wait
from dfplan_bench.ros_faults.verdict import Trace, violations

TARGETS = ("bridge", "planner", "arm")
# A killed bridge is taken for another writer until its lease has run out: 10 s unless it is told otherwise.
LEASE = {"CYCLONEDDS_URI": "<Discovery><LeaseDuration>3s</LeaseDuration></Discovery>"}
Kill = tuple[str, float, float]  # whom, when, and from when on it went on


def run_kills(out: Path, seed: int, count: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Kill so many times; returns a row per target and what went wrong."""
    rng, done, missed = np.random.default_rng(seed), list[Kill](), ""
    with Stage(out, 20 + (os.getpid() + 3) % 170, environment=LEASE) as stage:
        try:
            stage.start_recorder()
            stage.start_arm()
            stage.start_bridge()
            for k in range(count):
                stage.cruising()
                rest(float(rng.uniform(0.2, 1.5)))
                done.append(kill(stage, TARGETS[k % len(TARGETS)]))
                say(f"kill {k + 1} of {count}: {done[-1][0]}")
            stage.cruising()
        except NotSeen as error:
            missed = str(error)
        found = stage.finish()
    trace = Trace.of(found)
    rows = {target: summary(trace, [one for one in done if one[0] == target]) for target in TARGETS}
    return {
        "count": len(done), "wanted": count, "rows": rows, "violations": violations(found), "missed": missed,
        "lease_s": 3.0, "period_s": PERIOD_S, "load_average": os.getloadavg(),
    }  # fmt: skip


def kill(stage: Stage, target: str) -> Kill:
    """Kill one of the three, wait, and start it again; returns when the arm may move again."""
    if target == "arm":
        at = stage.arm.signal(signal.SIGKILL)
        rest(0.6)
        stage.start_arm()
        rest(0.2)
        again = time.time()
        rearm(stage)
    else:
        at = stage.bridge.signal(signal.SIGKILL) if target == "bridge" else kill_planner(stage.bridge.process.pid)
        rest(0.6)
        stage.bridge.stop()
        again = time.time()
        stage.start_bridge()
    stage.cruising(again, 60)
    return target, at, again


def kill_planner(bridge: int) -> float:
    """Kill the planner's process of a bridge; returns when."""

    def found() -> list[int]:
        children = Path(f"/proc/{bridge}/task/{bridge}/children").read_text().split()
        return [int(one) for one in children if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]

    at = time.time()
    os.kill(wait(found, 5, "the planner's process")[0], signal.SIGKILL)
    return at


def summary(trace: Trace, kills: list[Kill]) -> dict[str, Any]:
    """Put the kills of one target into a row."""
    stopped, started, delays, steps = 0, 0, list[float](), list[float]()
    for target, at, again in kills:
        fine, delay = _stopped(trace, target, at, again)
        stopped += fine
        delays += delay
        smooth, text, _ = bumpless(trace, again)
        started += smooth
        steps.append(float(text.split("later, ")[1].split(" rad")[0]) if "later, " in text else float("nan"))
    return {
        "kills": len(kills), "stopped": stopped, "bumpless": started, "worst_s": max(delays, default=None),
        "allowed_s": (3.0 if kills and kills[0][0] == "bridge" else SOFT_S / PERIOD_S + 1.0) * PERIOD_S,
        "worst_step_rad": max((step for step in steps if np.isfinite(step)), default=None),
    }  # fmt: skip


def _stopped(trace: Trace, target: str, at: float, again: float) -> tuple[bool, list[float]]:
    """Look whether the arm stopped: at rest after its last command, or by commands that brake and hold."""
    if target == "bridge":
        fine, _, _ = at_rest(trace, at, again)
        rested, sent = trace.rested_at(at - 10 * PERIOD_S, again), trace.times[trace.times < again]
        return fine, [] if rested is None or not len(sent) else [rested - float(sent.max())]
    held = trace.held_from(at, again)
    late = trace.late(at + SOFT_S, again)
    return held is not None and late <= 1, [] if held is None else [max(0.0, held - at)]
