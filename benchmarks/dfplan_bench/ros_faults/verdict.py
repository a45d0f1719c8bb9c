"""What the recorder's notes say: when the arm was held, whether it stayed, how long it rested. Numbers only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan_bench.ros_faults.robot import ACCELERATION, JOINTS, PERIOD_S

Floats = NDArray[np.float64]
GAP_S = 3.5 * PERIOD_S  # without a command for longer the arm has stopped by itself
SURE = 0.9  # of the acceleration limit: a joint that brakes loses at least so much speed


@dataclass(frozen=True, eq=False)
class Trace:
    """Hold the commands that were on the wire: when they were sent (n,), and where to (n, J)."""

    times: Floats
    places: Floats
    states: list[Any] = field(default_factory=list)

    @staticmethod
    def of(found: Mapping[str, Any]) -> Trace:
        """Read what the recorder has written."""
        rows = [row for row in found["trace"] if len(row[2]) == len(JOINTS)]
        places = np.array([row[2] for row in rows], dtype=np.float64).reshape(-1, len(JOINTS))
        return Trace(np.array([row[0] for row in rows], dtype=np.float64), places, found["states"])

    def steps(self) -> Floats:
        """Return what each command adds to the one before (n, J); 0 after a gap."""
        if not len(self.times):
            return np.zeros((0, len(JOINTS)))
        steps = np.diff(self.places, axis=0, prepend=self.places[:1])
        steps[np.diff(self.times, prepend=self.times[0]) > GAP_S] = 0.0
        return steps

    def held(self) -> NDArray[np.bool_]:
        """Tell which commands hold (n,): no joint turns round, and each loses speed at its limit or stands."""
        steps = self.steps()
        before = np.vstack([np.zeros((1, len(JOINTS))), steps[:-1]])[: len(steps)]
        lost = np.minimum(np.abs(before), SURE * ACCELERATION * PERIOD_S**2)
        brakes = (np.abs(steps) <= np.abs(before) - lost + 1e-9) & (steps * before >= -1e-12)
        return np.asarray(brakes.all(axis=1))

    def held_from(self, since_s: float, until_s: float) -> float | None:
        """Return when the first command was sent from which on all, up to a time, hold; None if the last one moves.

        A time at which nothing was sent any more counts as held from the last command on.
        """
        inside = (self.times > since_s - 1.0) & (self.times < until_s)
        held, times = self.held()[inside], self.times[inside]
        if not len(times):
            return since_s
        moving = np.flatnonzero(~held)
        if not len(moving):
            return float(times[0])
        last = int(moving[-1])
        if last + 1 < len(times):
            return float(times[last + 1])
        return None

    def late(self, since_s: float, until_s: float) -> int:
        """Return how many commands of a span were sent up to the last one that does not hold; 0 if all hold."""
        inside = (self.times > since_s) & (self.times < until_s)
        moving = np.flatnonzero(~self.held()[inside])
        return int(moving[-1]) + 1 if len(moving) else 0

    def rest_share(self, since_s: float, until_s: float) -> float:
        """Return the share of a span in which the arm was told to stand, or told nothing."""
        inside = (self.times > since_s) & (self.times < until_s)
        moving: NDArray[np.bool_] = np.any(np.abs(self.steps()[inside]) > 1e-6, axis=1)
        since_last = np.minimum(np.diff(self.times, prepend=self.times[:1])[inside], GAP_S)
        return float(1.0 - since_last[moving].sum() / (until_s - since_s)) if len(moving) else 1.0

    def highest(self, since_s: float, until_s: float) -> float:
        """Return the largest position of any joint that was commanded in a span."""
        inside = (self.times > since_s) & (self.times < until_s)
        return float(self.places[inside].max(initial=-np.inf))

    def count(self, since_s: float = -np.inf, until_s: float = np.inf) -> int:
        """Count the commands in a span."""
        return int(((self.times > since_s) & (self.times < until_s)).sum())

    def arrived(self) -> str:
        """Say how many commands came through, and the longest time without one."""
        if len(self.times) < 2:
            return "no commands"
        sent = (self.times[-1] - self.times[0]) / PERIOD_S
        gap = float(np.diff(self.times).max())
        return f"{100 * (len(self.times) - 1) / sent:.0f} % of the commands arrive, {1e3 * gap:.0f} ms without at worst"

    def jitter_ms(self) -> dict[str, float]:
        """Return how far the times between commands are from the period: median, 99th percentile, largest; in ms."""
        gaps = np.diff(self.times)
        off = np.abs(gaps[gaps < 1.0] - PERIOD_S) * 1e3
        if not len(off):
            return {}
        return {"p50": float(np.median(off)), "p99": float(np.percentile(off, 99)), "max": float(off.max())}

    def measured(self, since_s: float, until_s: float) -> tuple[Floats, Floats]:
        """Return the joint states that were published in a span: times (n,), positions (n, J)."""
        rows = [
            (t, [p[name] for name in JOINTS]) for t, p in self.states if since_s <= t <= until_s and JOINTS[-1] in p
        ]
        return np.array([t for t, _ in rows]), np.array([p for _, p in rows]).reshape(-1, len(JOINTS))

    def rested_at(self, since_s: float, until_s: float) -> float | None:
        """Return when the measured arm came to rest for the rest of a span; None if it did not."""
        times, places = self.measured(since_s, until_s)
        if len(times) < 2:
            return None
        moving = np.flatnonzero((np.abs(np.diff(places, axis=0)) > 1e-6).any(axis=1))
        if not len(moving):
            return float(times[0])
        return float(times[moving[-1] + 1]) if moving[-1] + 2 < len(times) else None


def violations(found: Mapping[str, Any]) -> dict[str, int]:
    """Return what the recorder counted, by kind."""
    return {str(kind): int(count) for kind, count in found["counts"].items()}
