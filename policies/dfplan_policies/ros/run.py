"""Run a policy on a robot: what `dfplan ros run` and `python -m dfplan_policies.ros run` do."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from dfplan_policies.ros.backends import make_backend
from dfplan_policies.ros.backends.dry import DryBackend
from dfplan_policies.ros.config import RobotConfig, load_config
from dfplan_policies.ros.core import Core
from dfplan_policies.ros.loop import ControlLoop, RealClock
from dfplan_policies.ros.planner_process import PlannerProcess
from dfplan_policies.ros.record import Recorder, replay
from dfplan_policies.ros.sources import SourceRequest
from dfplan_policies.ros.status import StatusLine
from dfplan_policies.ros.wire import Backend


@dataclass(frozen=True)
class RunOptions:
    """Say what to run.

    Attributes:
        config: File, or name of an example.
        checkpoint: Name, folder or Hub id.
        policy: See `dfplan_policies.ros.sources.SourceRequest`.
        backend: In place of the configuration's.
        dry_run: Whether nothing is sent.
        duration_s: Time after which it stops by itself.
        log: File for the log.
        goal: (G,), where to go, if the policy takes a goal.
        seed: Of the policy's draws.
        device: Where the network runs.
        options: Of the policy.
        quiet: Whether to leave out the status line.
    """

    config: str
    checkpoint: str | None = None
    policy: str = "df"
    backend: str | None = None
    dry_run: bool = False
    duration_s: float | None = None
    log: str | None = None
    goal: tuple[float, ...] | None = None
    seed: int = 0
    device: str = "cpu"
    options: Mapping[str, Any] = field(default_factory=dict)
    quiet: bool = False


def run(options: RunOptions, console: Console | None = None) -> ControlLoop:
    """Load everything, connect, and run until a signal, the end of the time, or an error; the arm is held first.

    Args:
        options: What to run.
        console: Where it says how it stands; standard error by default.

    Returns:
        The loop, for its statistics.

    Raises:
        ValueError: If something in the options or the configuration is wrong.
        ImportError: If an extra is missing.
        RuntimeError: If the planner or the robot cannot be reached, with the remedy.
    """
    config, console = load_config(options.config), console or Console(stderr=True)
    clock = RealClock(config.speed)
    with ExitStack() as stack:
        console.print(f"loading {options.policy} {options.checkpoint or ''}".rstrip(), markup=False)
        planner = start_planner(config, options, clock.now)
        stack.callback(planner.close)
        planner.wait()
        backend: Backend = make_backend(options.backend or config.backend, config, clock.now)
        backend = DryBackend(backend) if options.dry_run else backend
        stack.callback(backend.close)
        backend.open()
        log = None if options.log is None else Recorder(options.log, config, dry=options.dry_run)
        if log is not None:
            stack.callback(log.close)
        loop = ControlLoop(Core(config, dry=options.dry_run), backend, planner, clock, log)
        stack.enter_context(stopped_by_signals(loop))
        if not options.quiet:
            stack.enter_context(StatusLine(loop, console))
        loop.run(options.duration_s)
    if isinstance(backend, DryBackend):
        console.print(f"dry run: {backend.withheld} commands were not sent", markup=False)
    return loop


def start_planner(config: RobotConfig, options: RunOptions, clock: Callable[[], float]) -> PlannerProcess:
    """Start the planner's process."""
    request = SourceRequest(
        config, options.policy, options.checkpoint, options.goal, options.seed, options.device, dict(options.options)
    )
    plan = config.plan
    return PlannerProcess(
        request, clock, timeout_s=plan.timeout_s, start_s=plan.start_s, threads=plan.threads, nicer=plan.nicer
    )  # fmt: skip


@contextmanager
def stopped_by_signals(loop: ControlLoop) -> Iterator[None]:
    """Let SIGINT and SIGTERM stop a loop in good order while it runs; elsewhere than in the main thread do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: loop.stop()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def replay_report(path: str | Path) -> tuple[str, bool]:
    """Replay a log and put the result into words; also whether every command was repeated bit for bit."""
    found = replay(path)
    modes = ", ".join(f"{name} {count}" for name, count in found.modes.items() if count)
    lines = [f"{found.ticks} ticks in {found.seconds:.2f} s, {found.commands} commands ({modes})"]
    lines += [f"fault after {when:.3f} s: {reason}" for when, reason in found.faults]
    lines += list(found.differences)
    lines.append("every command is repeated bit for bit" if found.same else f"{found.different} ticks differ")
    return "\n".join(lines), found.same
