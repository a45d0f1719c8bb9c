"""The bridge under load: joint states at five times its rate, two cameras, and a fifth of all packets lost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dfplan_bench.ros_faults.robot import PERIOD_S, SLOW
from dfplan_bench.ros_faults.scenarios import CAMERAS, lossy
from dfplan_bench.ros_faults.stage import NotSeen, Stage
from dfplan_bench.ros_faults.verdict import Trace, violations

STATES, CAMERA_HZ, LOST = 5.0, 30.0, 200  # states per command, pictures a second at 100 commands a second, of 1000


def run_load(out: Path, seed: int, minutes: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Run for some minutes; returns jitter, memory, share of a core, rates that were reached."""
    states_hz, camera_hz = STATES / PERIOD_S, CAMERA_HZ / SLOW
    changes = {**CAMERAS, "state": {"rate_hz": states_hz, "soft_periods": 25}}
    memory, missed = list[float](), ""
    with Stage(out, 20 + (os.getpid() + 5) % 170, changes, environment=lossy(LOST)) as stage:
        try:
            stage.start_recorder()
            stage.start_arm(rate_hz=states_hz)
            stage.start_arm(cameras=list(CAMERAS["topics"]["cameras"].values()), camera_hz=camera_hz)
            stage.start_bridge()
            stage.cruising(seconds=60)
        except NotSeen as error:
            missed = str(error)
        since, cpu_s = time.time(), stage.bridge.cpu_s
        while time.time() < since + 60 * minutes and not missed:
            memory.append(stage.bridge.memory_mb)
            time.sleep(1.0)
        until = time.time()
        share = (stage.bridge.cpu_s - cpu_s) / max(until - since, 1e-9)
        found = stage.finish()
        last = [line for _, line in stage.bridge.err if "jitter p99" in line] if hasattr(stage, "bridge") else []
    say(f"load: {until - since:.0f} s")
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
        "states_hz": {"wanted": states_hz, "published": states / max(until - since, 1e-9)},
        "camera_hz": {"wanted": camera_hz, "cameras": 2}, "lost_share": LOST / 1000,
        "rest_share": during.rest_share(since, until) if until - since > 1 else None,
        "memory_mb": {"first": memory[0], "last": memory[-1],
                      "growth": float(np.mean(memory[-quarter:]) - np.mean(memory[quarter : 2 * quarter or None]))}
        if len(memory) > 4 else None,
        "bridge_share_of_a_core": share, "violations": violations(found), "load_average": os.getloadavg(),
    }  # fmt: skip
