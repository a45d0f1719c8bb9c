"""A bridge on a simulated arm in virtual time, with an independent judge on its commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan_policies.ros.backends.sim import SimBackend
from dfplan_policies.ros.chunks import Chunk
from dfplan_policies.ros.config import RobotConfig, read_config
from dfplan_policies.ros.core import Core
from dfplan_policies.ros.loop import ControlLoop, VirtualClock
from dfplan_policies.ros.modes import Mode
from dfplan_policies.ros.planner_process import InlinePlanner, PlannerPort
from dfplan_policies.ros.signals import Observation
from dfplan_policies.ros.wire import Setpoint, SwitchSample
from tests.ros.judge import Judge

Floats = NDArray[np.float64]
NAMES = ("a", "b", "c")
LIMITS = {
    "a": {"lower": -2.0, "upper": 2.0, "velocity": 2.0, "acceleration": 8.0},
    "b": {"lower": -1.0, "upper": 1.5, "velocity": 1.0, "acceleration": 5.0},
    "c": {"lower": -0.1, "upper": 0.5, "velocity": 0.5, "acceleration": 4.0},
}
CONFIG: dict[str, Any] = {
    "robot": "test",
    "joints": list(NAMES),
    "limits": {"joints": LIMITS, "margin": 0.02, "velocity_share": 1.0, "acceleration_share": 1.0},
    "topics": {"enable": "/enable", "stop": "/stop", "rearm": "/rearm"},
    "guard": {"ramp_s": 0.3, "hold_s": 0.1},
    "plan": {"every_s": 0.1},
}
HOME = np.array([0.2, 0.1, 0.2])


def config(**changes: Any) -> RobotConfig:
    """Return the test robot; mappings are merged into their section."""
    values = dict(CONFIG)
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, Mapping) else value
    return read_config(values)


def waves(t: Floats) -> Floats:
    """Return a path (n, 3) well within all limits."""
    return np.stack([0.8 * np.sin(1.2 * t), 0.3 + 0.4 * np.sin(0.9 * t), 0.2 + 0.1 * np.sin(1.5 * t)], 1)


class Waves:
    """Plan the path of `waves`, anchored at the observation's time."""

    def __init__(self, horizon_s: float = 1.0, change: Callable[[Chunk, int], Chunk] | None = None) -> None:
        self.horizon_s, self.change, self.count = horizon_s, change, 0
        self.seen: list[Observation] = []

    def chunk(self, seen: Observation) -> Chunk:
        self.seen.append(seen)
        self.count += 1
        times = seen.observed_s + np.arange(0.0, self.horizon_s + 1e-9, 0.05)
        chunk = Chunk(seen.observed_s, times, waves(times))
        return chunk if self.change is None else self.change(chunk, self.count)


class Rig:
    """Run the whole loop in virtual time.

    Args:
        source: Makes chunks; `Waves` by default.
        delay_s: Of the planner.
        planner: In place of both.
        settings: The robot.
    """

    def __init__(
        self, source: Any = None, delay_s: Any = 0.03, planner: PlannerPort | None = None,
        settings: RobotConfig | None = None, start: Floats = HOME, dry: bool = False, log: Any = None,
        clock: Any = None,
    ) -> None:  # fmt: skip
        self.clock: Any = clock or VirtualClock()
        self.config = settings or config()
        self.backend = SimBackend(self.config, self.clock.now, start)
        self.backend.open()
        self.source = source or Waves()
        self.planner = planner or InlinePlanner(self.source, delay_s, self.config.plan.timeout_s)
        self.core = Core(self.config, dry=dry)
        self.loop = ControlLoop(self.core, self.backend, self.planner, self.clock, log)
        columns = [np.array([LIMITS[n][k] for n in NAMES]) for k in ("lower", "upper", "velocity", "acceleration")]
        self.judge = Judge(NAMES, *columns, self.config.period_s)
        self.judge.measured = lambda: self.backend.place(self.clock.now())
        self.backend.heard.append(self._hear)
        self.modes: list[tuple[float, Mode]] = []

    def _hear(self, now_s: float, setpoint: Setpoint) -> None:
        self.judge.hear(now_s, setpoint.names, setpoint.position)

    @property
    def now(self) -> float:
        return self.clock.now()

    @property
    def mode(self) -> Mode:
        return self.core.state.mode

    @property
    def reason(self) -> str:
        return self.core.state.reason

    def run(self, seconds: float) -> Rig:
        """Tick for a time."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.clock.sleep_until(self.now + self.config.period_s)
            self.loop.tick(self.now)
            if not self.modes or self.modes[-1][1] != self.mode:
                self.modes.append((self.now, self.mode))
        return self

    def going(self) -> Rig:
        """Run until the arm follows its path."""
        self.run(2.5)
        assert self.mode == Mode.RUN, (self.mode, self.reason)
        return self

    def press(self, kind: Any, value: bool = True) -> Rig:
        """Send a switch of the operator."""
        self.backend.pending.append(SwitchSample(self.now, kind, value))
        return self

    def held_within(self, since_s: float, seconds: float) -> None:
        """Assert that nothing but braking and staying was commanded from ``seconds`` after a time on."""
        assert self.judge.breaches() == []
        held = self.judge.held_from()
        assert held <= since_s + seconds + self.config.period_s + 1e-6, f"held after {held - since_s:.3f} s"
