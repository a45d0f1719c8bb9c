"""The bridge alone, and under load: joint states at five times its rate, two cameras, busy cores, and a fifth of all
packets lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dfplan_bench.ros_faults.robot import PERIOD_S, SLOW
from dfplan_bench.ros_faults.scenarios import CAMERAS, lossy
from dfplan_bench.ros_faults.stage import NotSeen, Stage
from dfplan_bench.ros_faults.verdict import Trace, violations

STATES, CAMERA_HZ, LOST = 5.0, 30.0, 200  # states per command, pictures a second at 100 commands a second, of 1000


def run_load(out: Path, minutes: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Run for some minutes with everything that is too much, and a process per core that does nothing but count."""
    states_hz, camera_hz = STATES / PERIOD_S, CAMERA_HZ / SLOW
    changes = {**CAMERAS, "state": {"rate_hz": states_hz, "soft_periods": 25}}
    with Stage(out, _domain(5), changes, environment=lossy(LOST)) as stage, _busy(os.cpu_count() or 1) as busy:

        def start() -> None:
            stage.start_arm(rate_hz=states_hz)
            stage.start_arm(cameras=list(CAMERAS["topics"]["cameras"].values()), camera_hz=camera_hz)

        found = _run(stage, start, 60 * minutes, say, "load")
    return {
        **found, "states_hz": {"wanted": states_hz, "published": found["states_hz"]},
        "camera_hz": {"wanted": camera_hz, "cameras": 2}, "lost_share": LOST / 1000, "busy_processes": busy,
    }  # fmt: skip


def run_quiet(out: Path, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Run with nothing else: how exact the loop is, and what the bridge costs."""
    with Stage(out, _domain(6), {}) as stage:
        return _run(stage, stage.start_arm, seconds, say, "alone")


def _run(
    stage: Stage, start: Callable[[], Any], seconds: float, say: Callable[[str], None], name: str
) -> dict[str, Any]:
    """Move for so long; returns jitter, memory, share of a core, rates that were reached."""
    memory, missed = list[float](), ""
    try:
        stage.start_recorder()
        start()
        stage.start_bridge()
        stage.cruising(seconds=60)
    except NotSeen as error:
        missed = str(error)
    since, cpu_s = time.time(), stage.bridge.cpu_s
    while time.time() < since + seconds and not missed:
        memory.append(stage.bridge.memory_mb)
        time.sleep(min(1.0, seconds))
    until = time.time()
    share = (stage.bridge.cpu_s - cpu_s) / max(until - since, 1e-9)
    found = stage.finish()
    last = [line for _, line in stage.bridge.err if "jitter p99" in line] if hasattr(stage, "bridge") else []
    say(f"{name}: {until - since:.0f} s")
    trace = Trace.of(found)
    inside = (trace.times > since) & (trace.times < until)
    during = Trace(trace.times[inside], trace.places[inside])
    states = sum(since < row[0] < until for row in found["states"])
    quarter = max(1, len(memory) // 4)
    return {
        "seconds": until - since, "missed": missed, "jitter_ms": during.jitter_ms(),
        "bridge_says_jitter_p99_ms": float(last[-1].split("jitter p99 ")[1].split()[0]) if last else None,
        "period_s": PERIOD_S,
        "commands": len(during.times), "expected_commands": (until - since) / PERIOD_S,
        "states_hz": states / max(until - since, 1e-9),
        "rest_share": during.rest_share(since, until) if until - since > 1 else None,
        "memory_mb": {"first": memory[0], "last": memory[-1],
                      "growth": float(np.mean(memory[-quarter:]) - np.mean(memory[quarter : 2 * quarter or None]))}
        if len(memory) > 4 else None,
        "bridge_share_of_a_core": share, "violations": violations(found), "load_average": os.getloadavg(),
    }  # fmt: skip


def _domain(number: int) -> int:
    return 20 + (os.getpid() + number) % 170


@contextmanager
def _busy(processes: int) -> Iterator[int]:
    """Keep cores busy; yields how many processes do."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield processes
    finally:
        for process in running:
            process.kill()
            process.wait()
