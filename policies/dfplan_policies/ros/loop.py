"""The control loop: a tick at every deadline of a fixed rate; the clock is given."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, final

import numpy as np

from dfplan_policies.ros.core import Core, TickInput
from dfplan_policies.ros.modes import ACTIVE, Mode
from dfplan_policies.ros.planner_process import PlannerPort
from dfplan_policies.ros.safety import Decision
from dfplan_policies.ros.wire import Backend, BackendLost, Setpoint

DIAGNOSE_S = 1.0
REST_PERIODS = 3.5  # without a command for longer the arm has come to rest by itself, and a step begins there
JITTERS = 6000  # ticks that the statistics of punctuality look back


class Clock(Protocol):
    """What tells the time and waits."""

    def now(self) -> float:
        """Return seconds, never going back."""
        ...

    def sleep_until(self, time_s: float) -> None:
        """Return at a time, or at once if it is past."""
        ...


@final
class RealClock:
    """The system's monotonic clock.

    Args:
        speed: Its seconds per real second; below 1 for a simulated robot in slow motion.
    """

    def __init__(self, speed: float = 1.0) -> None:
        self.speed, self._start_s = speed, time.monotonic()

    def now(self) -> float:
        """Return seconds."""
        return self._start_s + (time.monotonic() - self._start_s) * self.speed

    def sleep_until(self, time_s: float) -> None:
        """Sleep."""
        left = time_s - self.now()
        if left > 0:
            time.sleep(left / self.speed)


@final
class VirtualClock:
    """A clock that only sleeping moves.

    Args:
        now_s: Where it begins.
    """

    def __init__(self, now_s: float = 100.0) -> None:
        self.now_s = now_s

    def now(self) -> float:
        """Return seconds."""
        return self.now_s

    def sleep_until(self, time_s: float) -> None:
        """Jump to a time."""
        self.now_s = max(self.now_s, time_s)


class Log(Protocol):
    """What keeps a run."""

    def tick(self, given: TickInput, decision: Decision, setpoint: Setpoint | None) -> None:
        """Keep a tick."""
        ...


@final
class ControlLoop:
    """Run a core against a robot and a planner.

    Deadlines are absolute: a late tick does not shift the next one, and deadlines that were missed are left out, so
    that commands never come in a burst.

    Args:
        core: Decides.
        backend: The robot.
        planner: Makes chunks.
        clock: Tells the time.
        log: Keeps the run, or None.

    Attributes:
        ticks: How many were taken.
        missed: Deadlines that were left out.
        jitter_s: How late the last ticks were.
        asked_s: When the planner was last asked.
        decision: The last one, for whoever shows it.
    """

    def __init__(
        self, core: Core, backend: Backend, planner: PlannerPort, clock: Clock, log: Log | None = None
    ) -> None:
        self.core, self.backend, self.planner, self.clock, self.log = core, backend, planner, clock, log
        self.ticks, self.missed, self.asked_s = 0, 0, -math.inf
        self.jitter_s: deque[float] = deque(maxlen=JITTERS)
        self.decision: Decision | None = None
        self.setpoint: Setpoint | None = None
        self._stopping = False
        self._sent_s = -math.inf  # when the last command had been written
        self._told: tuple[float, Mode | None] = (-math.inf, None)

    def stop(self) -> None:
        """Brake, hold, and then end `run`; may be called from a signal handler or a thread."""
        self._stopping = True

    def run(self, duration_s: float | None = None, each: Callable[[ControlLoop], None] | None = None) -> None:
        """Tick until `stop`, or for a time; whatever ends it, the arm is braked and held first.

        Args:
            duration_s: Time after which it stops by itself.
            each: Called after every tick.

        Raises:
            BackendLost: If the middleware is gone.
        """
        start_s = self.clock.now()
        number, done = 0, False
        try:
            while not self.core.finished:
                deadline = start_s + number * self.core.config.period_s
                self.clock.sleep_until(deadline)
                now_s = self.clock.now()
                if duration_s is not None and now_s - start_s >= duration_s:
                    self.stop()
                self.jitter_s.append(now_s - deadline)
                self.tick(now_s)
                if each is not None:
                    each(self)
                number = self._next(number, start_s)
            done = True
        finally:
            if not done:
                self._wind_down()

    def _next(self, number: int, start_s: float) -> int:
        """Return the number of the next deadline that is not past."""
        passed = math.floor((self.clock.now() - start_s) / self.core.config.period_s)
        self.missed += max(0, passed - number)
        return max(number, passed) + 1

    def tick(self, now_s: float) -> None:
        """Take one tick."""
        given = TickInput(
            now_s, self.backend.poll(now_s), self.planner.poll(now_s), self.backend.command_readers(),
            self.backend.command_writers(), self.planner.problem(now_s), self._stopping, self._silent_s(now_s),
        )  # fmt: skip
        settings, moving, before_s = self.core.filter.settings, self.setpoint is not None, self._sent_s
        self.decision, self.setpoint = self.core.tick(given)
        if moving and self.clock.now() - before_s > settings.stall_s:
            given = replace(given, withdrawn=True)
            self.decision, self.setpoint = self.core.withdraw(self.decision)
        if self.setpoint is not None:
            self.backend.write(self.setpoint)
            self._sent_s = self.clock.now()
            rested = self._sent_s - before_s > REST_PERIODS * settings.period_s
            if moving and rested and not given.withdrawn:  # it was kept back on its way out: one step, out of rest
                self._sent_s = before_s  # so that the next tick begins at rest
        self.ticks += 1
        if self.log is not None:
            self.log.tick(given, self.decision, self.setpoint)
        self._ask(now_s)
        self._tell(now_s, self.decision)

    def _silent_s(self, now_s: float) -> float | None:
        """Return how long the robot has heard nothing; None if it is not being commanded.

        That is not how long ago the last tick was: on a busy computer a command may leave long after its tick began.
        """
        return None if self.setpoint is None else now_s - self._sent_s

    def _ask(self, now_s: float) -> None:
        """Show the planner the newest observation, if it is idle and it is time."""
        if not self.core.wants_plan(now_s) or now_s - self.asked_s < self.core.config.plan.every_s - 1e-6:
            return
        seen = self.core.observation(now_s)
        if seen is not None and self.planner.offer(seen, now_s):
            self.asked_s = now_s

    def _tell(self, now_s: float, decision: Decision) -> None:
        """Publish how it stands: every second, and when the mode changes."""
        when, mode = self._told
        if now_s - when < DIAGNOSE_S and mode == decision.mode:
            return
        self._told = (now_s, decision.mode)
        level = 2 if decision.mode == Mode.FAULT else 0 if decision.mode == Mode.RUN else 1
        self.backend.diagnose(level, f"{decision.mode.name}: {decision.reason or 'running'}", self.details())

    def details(self) -> dict[str, str]:
        """Return the numbers that diagnostics and the status line show."""
        core = self.core
        late = np.percentile(self.jitter_s, [50, 99]) if self.jitter_s else np.zeros(2)
        return {
            "state_age_ms": f"{core.age_s * 1e3:.1f}", "plan_latency_ms": f"{core.stats.latency_s * 1e3:.0f}",
            "plan_left_ms": f"{core.stats.left_s * 1e3:.0f}", "plans_taken": str(core.counts["taken"]),
            "plans_late": str(core.counts["late"]), "plans_bad": str(core.counts["bad"]),
            "clamped_position": str(core.state.clamps["position"]), "clamped_rate": str(core.state.clamps["rate"]),
            "states_repeated": str(core.signals.joints.counts["repeated"]),
            "states_malformed": str(core.signals.joints.counts["malformed"]),
            "jitter_p50_ms": f"{late[0] * 1e3:.2f}", "jitter_p99_ms": f"{late[1] * 1e3:.2f}",
            "deadlines_missed": str(self.missed),
        }  # fmt: skip

    def _wind_down(self) -> None:
        """Brake and hold after an error; it ends early only if nothing can be sent any more."""
        if self.core.state.mode not in ACTIVE and self.core.state.mode not in (Mode.FAULT, Mode.STOPPED):
            return
        deadline = self.clock.now()
        try:
            while (setpoint := self.core.wind_down()) is not None:
                deadline += self.core.config.period_s  # the tick that failed may have sent its command
                self.clock.sleep_until(deadline)
                self.backend.write(setpoint)
        except BackendLost:
            return
