"""The scripted planner: a path at constant speed with turns, and misbehaviour while a file is there that says how."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan_bench.ros_faults.robot import SHARES, SLOW, SPEED
from dfplan_policies.ros.chunks import Chunk
from dfplan_policies.ros.signals import Observation

Floats = NDArray[np.float64]
TOUR_S, SHARPNESS = 10.0 * SLOW, 10.0  # there and back; a turn takes a tenth of it
FAR = 0.15  # rad from the path at which it begins anew where the arm is
HORIZON_S = 1.0 * SLOW
BURN = "import time; end = time.monotonic() + 4\nwhile time.monotonic() < end: pass"


def along(t: Floats) -> Floats:
    """Return how far the first joint has come (n,): speed 0 at t = 0, then constant, then back, at turns of 1 s."""
    grid = np.linspace(0.0, TOUR_S, 2001)
    quarter = 4.0 * np.mod(grid / TOUR_S, 1.0)
    triangle = np.where(quarter < 1, quarter, np.where(quarter < 3, 2 - quarter, quarter - 4))
    speed = SPEED * np.clip(SHARPNESS * triangle, -1.0, 1.0)
    way = np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) / 2 * np.diff(grid))])
    return np.asarray(np.interp(np.mod(t, TOUR_S), grid, way), dtype=np.float64)


class Cruise:
    """Plan the path, anchored where the arm was when it was started.

    Args:
        request: Option ``trigger`` (a file: what goes wrong while it is there).
    """

    def __init__(self, request: Any) -> None:
        self.trigger = Path(request.options.get("trigger", "/nonexistent"))
        self.anchor_s, self.anchor, self.way, self.episode = 0.0, np.zeros(len(SHARES)), 1.0, -1
        self.kept: list[Chunk] = []
        self.how, self.count, self.told = "", 0, False

    def chunk(self, seen: Observation) -> Chunk:
        """Return the next second of the path, or what goes wrong."""
        here = self.path(np.array([seen.observed_s]))[0]
        if seen.episode != self.episode or np.abs(here - seen.command).max() > FAR:
            self.anchor_s, self.anchor, self.episode = seen.observed_s, seen.command.copy(), seen.episode
            self.way = -1.0 if seen.command[0] > 0 else 1.0
        times = seen.observed_s + np.arange(0.0, HORIZON_S + 1e-9, 0.05 * SLOW)
        chunk = Chunk(seen.observed_s, times, self.path(times))
        self.kept = [*self.kept[-9:], chunk]
        how = self.trigger.read_text() if self.trigger.exists() else ""
        if how != self.how:
            self.how, self.count, self.told = how, 0, False
        return self.misbehave(chunk) if how else chunk

    def path(self, times: Floats) -> Floats:
        """Return positions (n, J)."""
        ways: Floats = self.way * along(times - self.anchor_s)[:, None] * np.array(SHARES)
        return self.anchor + ways

    def tell(self, at: float | None = None) -> None:
        """Write down when it began."""
        if not self.told:
            self.told = True
            done = self.trigger.with_suffix(".part")
            done.write_text(str(time.time() if at is None else at))
            done.rename(self.trigger.with_suffix(".done"))

    def misbehave(self, chunk: Chunk) -> Chunk:
        """Do what the option says."""
        self.count += 1
        how, positions = self.how.partition(" #")[0], chunk.positions
        ends_s = self.kept[-2].times_s[-1] + time.time() - time.monotonic()
        self.tell(ends_s if how == "later than its horizon" else None)
        if how in WAITS:
            time.sleep(WAITS[how])
        elif how == "raises":
            raise ArithmeticError("it broke")
        elif how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "burns":
            burn(self.count == 1)
        elif how == "old" and self.count % 3 == 0:
            return self.kept[-4]
        change = CHANGES.get(how)
        return chunk if change is None else replace(chunk, positions=change(positions, self.count))


def burn(first: bool) -> None:
    """Keep this core busy for a fifth of a second, and another one for 4 s."""
    if first:
        subprocess.Popen([sys.executable, "-c", BURN])
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass


WAITS = {"slower than its period": 0.3 * SLOW, "later than its horizon": 1.6 * SLOW, "hangs": 600.0}
CHANGES: dict[str, Any] = {
    "nan": lambda p, _: np.where(np.arange(len(p))[:, None] == 3, np.nan, p),
    "inf": lambda p, _: np.where(np.arange(len(p))[:, None] == 3, np.inf, p),
    "shape": lambda p, _: p[:, :2],
    "empty": lambda p, _: p[:0],
    "beyond": lambda p, _: p + 4.0 * (np.arange(p.shape[1]) < 2),
    "steps": lambda p, n: p + 0.3 * (-1.0) ** (n // 3),
}


def cruise(request: Any) -> Cruise:
    """Make the source."""
    return Cruise(request)
