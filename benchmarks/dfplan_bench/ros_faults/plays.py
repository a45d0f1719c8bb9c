"""How a scenario is played: everything is started, the fault is made, taken back, and the operator re-arms."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from dfplan_bench.ros_faults.robot import PERIOD_S, SLOW
from dfplan_bench.ros_faults.scenarios import Scenario
from dfplan_bench.ros_faults.stage import Process, Stage, said, wait
from dfplan_bench.ros_faults.verdict import Trace

DEADLY = ("raises", "dies", "hangs")  # the planner does not come back from it
SETTLE_S = 0.4  # after the fault is gone, in which nothing may move by itself
Check = Callable[[Trace], tuple[bool, str, list[float]]]


@dataclass
class Played:
    """Say what was done.

    Attributes:
        windows: From when to when a fault was there and nobody had asked to go on.
        good: Whether what is no matter of commands was as it must be.
        notes: What was seen beside the commands.
        check: Looks at the recorder's notes in a way of its own: whether all is well, what was seen, delays.
    """

    windows: list[tuple[float, float]] = field(default_factory=list)
    good: bool = True
    notes: list[str] = field(default_factory=list)
    check: Check | None = None


def rest(seconds: float) -> None:
    """Wait for a time that is given at 100 commands a second."""
    time.sleep(seconds * SLOW)


def begin(stage: Stage, s: Scenario, *more: str) -> None:
    """Start recorder, arm and bridge, and wait until the arm moves."""
    stage.start_recorder()
    stage.start_arm(**({"fault": s.arm} if s.early else {}))
    stage.start_bridge(*more)
    if s.outcome != "silent" or s.play.endswith("_bridge"):
        stage.cruising()
        rest(0.3)


def standard(stage: Stage, s: Scenario, rounds: int, rng: np.random.Generator) -> Played:
    """Play a fault of states, of plans, or of the operator, on a stage of its own."""
    begin(stage, s)
    if s.outcome == "silent":
        rest(2.0)
        return Played()
    return enact(stage, s, rounds if s.plan not in DEADLY and not s.early else 1, rng)


def enact(stage: Stage, s: Scenario, rounds: int, rng: np.random.Generator) -> Played:
    """Make a fault and take it back, several times; the arm moves before it, and after it."""
    played = Played()
    for _ in range(rounds):
        rest(float(rng.uniform(0.0, 0.2)))
        since = make(stage, s)
        time.sleep(max(0.0, since - time.time()))
        rest(s.lasts_s)
        if s.plan in DEADLY:
            return Played([(since, time.time())])
        until = time.time()
        undo(stage, s)
        if s.outcome == "goes on":
            played.windows.append((since, until))
            stage.cruising()
        else:
            played.windows.append((since, go_on(stage, s, until)))
    return played


def make(stage: Stage, s: Scenario) -> float:
    """Make the fault; returns when."""
    if s.plan:
        return stage.misplan(s.plan)
    if s.early or not (s.arm or s.order):
        return time.time()
    return stage.order("fault", fault=s.arm) if s.arm else stage.order("switch", **s.order)


def undo(stage: Stage, s: Scenario) -> None:
    """Take the fault back."""
    if s.plan:
        stage.plan_well()
    elif s.arm and not s.early:
        stage.order("fault", fault="")
    elif s.undo:
        stage.order("switch", **s.undo)


def go_on(stage: Stage, s: Scenario, gone: float) -> float:
    """Wait until the arm moves again, after re-arming if that is needed; returns until when it had to stay."""
    if s.outcome == "hold":
        stage.cruising(gone)
        return gone
    rest(SETTLE_S)
    time.sleep(s.clears_s)
    asked = time.time()
    rearm(stage)
    stage.cruising(asked)
    rest(0.2)
    return asked


def rearm(stage: Stage) -> None:
    """Press and let go."""
    stage.order("switch", switch="rearm", value=True)
    rest(0.05)
    stage.order("switch", switch="rearm", value=False)


def kill_arm(stage: Stage, s: Scenario, rounds: int, _: np.random.Generator) -> Played:
    """Kill the far side."""
    begin(stage, s)
    since = stage.arm.signal(signal.SIGKILL)
    rest(s.lasts_s)
    return Played([(since, time.time())])


def restart_arm(stage: Stage, s: Scenario, rounds: int, _: np.random.Generator) -> Played:
    """Kill the far side, start it again, and re-arm."""
    begin(stage, s)
    since = stage.arm.signal(signal.SIGKILL)
    stage.start_arm()
    return Played([(since, go_on(stage, s, time.time()))], notes=["after re-arming it goes on"])


def suspend_arm(stage: Stage, s: Scenario, rounds: int, _: np.random.Generator) -> Played:
    """Stop the far side's process for a while."""
    begin(stage, s)
    played = Played()
    for _round in range(rounds):
        since = stage.arm.signal(signal.SIGSTOP)
        rest(s.lasts_s)
        gone = stage.arm.signal(signal.SIGCONT)
        played.windows.append((since, go_on(stage, s, gone)))
    return played


def restart_bridge(stage: Stage, s: Scenario, rounds: int, _: np.random.Generator) -> Played:
    """Kill the bridge while the arm moves, start it at once, and see where it begins."""
    begin(stage, s)
    killed = stage.bridge.signal(signal.SIGKILL)
    stage.start_bridge()
    stage.cruising(killed + 0.2, 40)
    return Played(check=lambda trace: bumpless(trace, killed + 10 * PERIOD_S))


def bumpless(trace: Trace, since: float) -> tuple[bool, str, list[float]]:
    """Compare the first command after a time with the measured arm."""
    after = np.flatnonzero(trace.times > since)
    if not len(after):
        return False, "no command after the restart", []
    first = int(after[0])
    _, places = trace.measured(trace.times[first] - 10 * PERIOD_S, trace.times[first])
    step = float(np.abs(trace.places[first] - places[-1]).max()) if len(places) else float("inf")
    waited = trace.times[first] - since
    return step < 1e-3, f"first command {waited:.1f} s later, {step:.4f} rad from the arm", []


def second_bridge(stage: Stage, s: Scenario, rounds: int, _: np.random.Generator) -> Played:
    """Start another bridge with the same configuration."""
    begin(stage, s)
    second = stage.start_bridge(name="second")
    wait(lambda: said(stage.bridge, ("FAULT",)), 10, "the first bridge's fault")
    since = time.time()
    rest(1.0)
    refused = [line for line in said(second) if "other writer" in line]
    notes = ["the second one sends nothing"] if refused else ["the second one did not refuse"]
    return Played([(since, time.time())], good=bool(refused), notes=notes, check=one_writer)


def one_writer(trace: Trace) -> tuple[bool, str, list[float]]:
    """Look whether only one of two bridges has sent commands: two of them would come twice as often."""
    gaps = np.diff(trace.times)
    doubled = float((gaps < 0.3 * PERIOD_S).mean()) if len(gaps) else 0.0
    return doubled < 0.3, "", []


def hung_reader(stage: Stage, s: Scenario, rounds: int, _: np.random.Generator) -> Played:
    """Stop a reader of the commands, whose buffer fills."""
    stage.start_recorder()
    file, keep = stage.verdict_file, stage.recorder
    stage.verdict_file = stage.folder / "hung.json"
    hung = stage.start_recorder()
    stage.verdict_file, stage.recorder = file, keep
    stage.start_arm()
    stage.start_bridge()
    stage.cruising()
    since = hung.signal(signal.SIGSTOP)
    rest(s.lasts_s)
    return Played([(since, time.time())])


def cameras(stage: Stage, s: Scenario, rounds: int, _: np.random.Generator) -> Played:
    """Publish pictures that are larger than a socket's buffer."""
    stage.start_recorder()
    stage.start_arm()
    stage.start_arm(cameras=["/scene/image_raw", "/hand/image_raw"], camera_hz=10 / SLOW)
    stage.start_bridge()
    since = stage.cruising()
    rest(s.lasts_s)
    return Played([(since, time.time())])


def interrupt(stage: Stage, s: Scenario, rounds: int, _: np.random.Generator) -> Played:
    """Send SIGINT."""
    return ended(stage, s, lambda bridge: bridge.signal(signal.SIGINT))


def terminate(stage: Stage, s: Scenario, rounds: int, _: np.random.Generator) -> Played:
    """Send SIGTERM."""
    return ended(stage, s, lambda bridge: bridge.signal(signal.SIGTERM))


def ended(stage: Stage, s: Scenario, end: Callable[[Process], float], *more: str, code: int = 0) -> Played:
    """End the bridge, and look at how it goes."""
    begin(stage, s, *more)
    since = end(stage.bridge)
    got = stage.bridge.process.wait(20)
    return Played([(since, time.time() + 0.2)], got == code, [f"exit code {got}"])


def full_disk(stage: Stage, s: Scenario, rounds: int, _: np.random.Generator) -> Played:
    """Let the log's next write fail: an exception in the middle of a tick."""
    log = stage.folder / "run.jsonl"
    log.unlink(missing_ok=True)

    def fill(bridge: Process) -> float:
        resource.prlimit(bridge.process.pid, resource.RLIMIT_FSIZE, (os.stat(log).st_size,) * 2)
        wait(lambda: said(bridge, ("STOPPED",)) or bridge.process.poll() is not None, 10, "the end")
        return os.stat(log).st_mtime

    played = ended(stage, s, fill, "--log", str(log), code=2)
    until = played.windows[0][1]
    played.windows = []
    played.check = lambda trace: (
        (from_s := trace.held_from(until - 5, until)) is not None and trace.count(from_s, until) > 10,
        "braked and held before it ended", []
    )  # fmt: skip
    return played


def rearm_only(stage: Stage, s: Scenario, rounds: int, _: np.random.Generator) -> Played:
    """Ask to re-arm while the stop is pressed, release it, wait, and ask again."""
    begin(stage, s)
    since = stage.order("switch", switch="stop", value=True)
    rest(0.6)
    rearm(stage)
    rest(0.6)
    stage.order("switch", switch="stop", value=False)
    rest(1.0)
    return Played([(since, go_on(stage, s, time.time()))], notes=["goes on when asked after the release"])


def dry(stage: Stage, s: Scenario, rounds: int, _: np.random.Generator) -> Played:
    """Run without writing."""
    begin(stage, s, "--dry-run")
    wait(lambda: said(stage.bridge, ("RUN",)), 20, "the dry run's motion")
    rest(1.0)
    stage.bridge.stop()
    told = [line for _, line in stage.bridge.err if "were not sent" in line]
    return Played(good=bool(told), notes=told)


def kill_bridge(stage: Stage, s: Scenario, rounds: int, _: np.random.Generator) -> Played:
    """Kill the bridge while the arm moves."""
    begin(stage, s)
    killed = stage.bridge.signal(signal.SIGKILL)
    rest(0.5)
    return Played(check=lambda trace: at_rest(trace, killed, killed + 40 * PERIOD_S))


def at_rest(trace: Trace, killed: float, until: float) -> tuple[bool, str, list[float]]:
    """Look when the arm stood still after its last command: it has two periods for each."""
    rested = trace.rested_at(killed - 10 * PERIOD_S, until)
    if rested is None:
        return False, "the arm did not come to rest", []
    last = float(trace.times[trace.times < until].max())
    return (
        rested - last <= 3.0 * PERIOD_S,
        f"at rest {1e3 * (rested - last):.0f} ms after the last command",
        [rested - killed],
    )


def misconfigured(stage: Stage, s: Scenario, rounds: int, _: np.random.Generator) -> Played:
    """Run the bridge, which must stay silent, and the check, which must say why."""
    begin(stage, s)
    since = time.time()
    checked = stage.start("-m", "dfplan_policies.ros", "check", "--config", str(stage.config), "--seconds", "3")
    checked.process.wait(30)
    checked.stop()
    lines = [line for _, line in checked.out if line.startswith("error: ") and s.says in line]
    note = f"`check` says after {time.time() - since:.1f} s: {lines[0][7:]}" if lines else "`check` found nothing"
    return Played(good=bool(lines) and checked.process.returncode == 1, notes=[note])


PLAYS = {
    "": standard, "kill_arm": kill_arm, "restart_arm": restart_arm, "suspend_arm": suspend_arm,
    "restart_bridge": restart_bridge, "second_bridge": second_bridge, "hung_reader": hung_reader, "cameras": cameras,
    "interrupt": interrupt, "terminate": terminate, "full_disk": full_disk, "rearm": rearm_only, "dry": dry,
    "kill_bridge": kill_bridge, "misconfigured": misconfigured,
}  # fmt: skip
NOT_HERE = {
    "not_here": "Fast DDS 3 is not installed here; tests/ros/test_fastdds.py speaks with Fast DDS 2.9 where that is",
}
