"""Starts the processes of a scenario, passes orders on, and collects what they said."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dfplan_bench.ros_faults.robot import TOPICS, configuration, rules

READY_S = 60.0


class Process:
    """A process whose lines are kept, each with the time at which it was read."""

    def __init__(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **(environment or {})},
        )  # fmt: skip
        self.out: list[tuple[float, str]] = []
        self.err: list[tuple[float, str]] = []
        streams = ((self.process.stdout, self.out), (self.process.stderr, self.err))
        self._readers = [threading.Thread(target=self._read, args=part, daemon=True) for part in streams]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: Any, lines: list[tuple[float, str]]) -> None:
        for line in stream:
            lines.append((time.time(), line.rstrip("\n")))

    def say(self, **order: Any) -> None:
        """Send a line of JSON."""
        if self.process.stdin is not None:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()

    def signal(self, number: int) -> float:
        """Send a signal; returns when."""
        at = time.time()
        self.process.send_signal(number)
        return at

    def stop(self) -> None:
        """End it in order, or else by force."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)
        for reader in self._readers:
            reader.join(2)

    def events(self, kind: str, since: float = 0.0) -> list[float]:
        """Return when something happened, by what the arm has said."""
        told = [json.loads(line) for _, line in list(self.out) if line.startswith("{")]
        return [one["at"] for one in told if one["event"] == kind and one["at"] >= since]

    @property
    def cpu_s(self) -> float:
        """Return the processor time that it has used."""
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return float("nan")

    @property
    def memory_mb(self) -> float:
        """Return how much memory it holds."""
        with contextlib.suppress(OSError):
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        return float("nan")


class NotSeen(RuntimeError):
    """Something did not happen in time."""


def wait(true: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait for something.

    Raises:
        NotSeen: If it does not happen in time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.005)
    raise NotSeen(f"{what} was not seen within {seconds:g} s")


class Stage:
    """Hold the processes of one scenario.

    Args:
        folder: For files.
        domain: Of DDS.
        changes: Of the bridge's configuration.
        arm: Of the far side, see `dfplan_bench.ros_faults.arm.Arm`.
        environment: Of arm and bridge, such as CYCLONEDDS_URI.
    """

    def __init__(
        self, folder: Path, domain: int, changes: Mapping[str, Any] | None = None,
        arm: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.domain, self.arm_options = folder, domain, dict(arm or {})
        self.environment = dict(environment or {})
        folder.mkdir(parents=True, exist_ok=True)
        self.config, self.verdict_file = folder / "robot.yaml", folder / "verdict.json"
        self.config.write_text(json.dumps(configuration(domain, changes or {})), encoding="utf-8")  # JSON is YAML
        lossy = "XmitLossiness" in self.environment.get("CYCLONEDDS_URI", "")
        (folder / "rules.json").write_text(json.dumps(rules(lossy)), encoding="utf-8")
        self.trigger = folder / "trigger"
        for file in (self.trigger, self.trigger.with_suffix(".done"), self.verdict_file):
            file.unlink(missing_ok=True)
        self.processes: list[Process] = []
        self.faults = 0
        self.lines: list[tuple[float, str]] = []

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.stop()

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Process:
        """Start a Python process that ends with the scenario."""
        process = Process(sys.executable, *arguments, environment=environment)
        self.processes.append(process)
        return process

    def start_recorder(self) -> Process:
        """Start the judge, and wait until it listens."""
        self.recorder = self.start(
            "-m", "dfplan_policies.ros.recorder", str(self.folder / "rules.json"), "--out", str(self.verdict_file),
            "--domain", str(self.domain), "--topic", TOPICS["command"], "--states", TOPICS["joint_states"],
        )  # fmt: skip
        wait(lambda: self.recorder.out, READY_S, "the recorder")
        return self.recorder

    def start_arm(self, **options: Any) -> Process:
        """Start the far side, and wait until it publishes."""
        given = json.dumps({**self.arm_options, **options})
        arm = self.start("-m", "dfplan_bench.ros_faults.arm", str(self.domain), given, environment=self.environment)
        wait(lambda: arm.events("ready"), READY_S, "the arm")
        if "cameras" not in options:
            self.arm = arm
        return arm

    def start_bridge(self, *more: str, name: str = "bridge") -> Process:
        """Start a bridge as a user does, and wait until it speaks."""
        bridge = self.start(
            "-m", "dfplan_policies.ros", "run", "--config", str(self.config), "--policy",
            "source:dfplan_bench.ros_faults.plans:cruise", "--option", f"trigger={self.trigger}",
            *more, environment=self.environment,
        )  # fmt: skip
        if name == "bridge":
            self.bridge = bridge
        wait(lambda: said(bridge) or bridge.process.poll() is not None, READY_S, "the bridge")
        return bridge

    def cruising(self, since: float = 0.0, seconds: float = 20.0) -> float:
        """Wait until the arm moves at the path's speed; returns since when."""

        def now() -> float:
            started, rested = self.arm.events("cruising"), self.arm.events("resting")
            moving = started and started[-1] >= since and (not rested or rested[-1] < started[-1])
            return started[-1] if moving else 0.0

        return float(wait(now, seconds, "motion"))

    def order(self, event: str, **order: Any) -> float:
        """Give the arm an order; returns when it took effect."""
        before = len(self.arm.events(event))
        self.arm.say(**order)
        return float(wait(lambda: self.arm.events(event)[before:], 5, f"the arm's {event}")[0])

    def misplan(self, how: str) -> float:
        """Let the planner misbehave from now on; returns since when it does."""
        part, done = self.trigger.with_suffix(".new"), self.trigger.with_suffix(".done")
        self.faults += 1  # the same fault again is another one, even if no sound plan was made in between
        part.write_text(f"{how} #{self.faults}")
        part.rename(self.trigger)
        wait(done.exists, 10, "the planner's fault")
        return float(done.read_text())

    def plan_well(self) -> None:
        """Let the planner behave again."""
        for file in (self.trigger, self.trigger.with_suffix(".done")):
            file.unlink(missing_ok=True)

    def finish(self) -> dict[str, Any]:
        """End everything, the recorder last; returns what it found."""
        for process in self.processes:
            if process is not self.recorder:
                process.stop()
        self.recorder.stop()
        found: dict[str, Any] = json.loads(self.verdict_file.read_text(encoding="utf-8"))
        return found


MODES = ("WAIT_STATE", "READY", "RAMP_IN", "RUN", "HOLD", "FAULT", "STOPPED")


def said(bridge: Process, modes: Sequence[str] = MODES, since: float = 0.0) -> list[str]:
    """Return the lines of a bridge's status: mode and reason."""
    found = []
    for at, line in list(bridge.err):
        mode = line.split(" ", 1)[0]
        if mode in modes and at >= since:
            parts = line.split(" | ")
            found.append(f"{mode}: {parts[4]}" if len(parts) > 4 else mode)
    return found
