"""An independent judge of commands in virtual time: it looks only at what was written, not at who wrote it.

There is another one in `dfplan_policies.ros.judge`, on purpose. That one hears a wire, on which commands come late or
not at all, so it follows every reading that explains them; it ships with the recorder, and `test_recorder.py` tests it.
This one hears every command when it is sent and excuses nothing; it also knows where the simulated arm is, and asks
that a start be there. Neither shares code with the other or with the safety filter: a mistake in one is not repeated in
the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TOLERANCE = 1e-6  # relative to a limit
REST_PERIODS = 2.5  # a longer silence, and the arm has come to rest by itself


@dataclass
class Judge:
    """Collect commands and find what they break.

    Args:
        names: The arm's joints, in order.
        lower, upper, velocity, acceleration: (J,), the arm's limits.
        period_s: Seconds between two commands.
        measured: Where the arm is (J,): a start, after a silence, must be there within ``start_error``.
        start_error: rad or m.
    """

    names: tuple[str, ...]
    lower: Floats
    upper: Floats
    velocity: Floats
    acceleration: Floats
    period_s: float
    measured: Callable[[], Floats] | None = None
    start_error: float = 1e-3
    times: list[float] = field(default_factory=list)
    said: list[tuple[str, ...]] = field(default_factory=list)
    places: list[Floats] = field(default_factory=list)
    starts: list[bool] = field(default_factory=list)

    def hear(self, time_s: float, names: Any, position: Any) -> None:
        """Take one command down."""
        place = np.array(position, dtype=np.float64)
        silent = not self.times or time_s - self.times[-1] > REST_PERIODS * self.period_s
        near = self.measured is None or bool((np.abs(place - self.measured()) <= self.start_error).all())
        self.starts.append(silent and near)
        self.times.append(float(time_s))
        self.said.append(tuple(names))
        self.places.append(place)

    def breaches(self) -> list[str]:
        """List everything that was wrong with the commands, however it came about."""
        found = []
        for when, names, place in zip(self.times, self.said, self.places, strict=True):
            if names != self.names:
                found.append(f"{when:.3f}: names {names}")
            elif place.shape != (len(names),) or not np.isfinite(place).all():
                found.append(f"{when:.3f}: not {len(names)} finite numbers")
            elif (place < self.lower - 1e-9).any() or (place > self.upper + 1e-9).any():
                found.append(f"{when:.3f}: outside the limits: {place}")
        if self.starts and not self.starts[0]:
            found.append(f"{self.times[0]:.3f}: does not start where the arm is: {self.places[0]}")
        return found or self._too_much()

    def _too_much(self) -> list[str]:
        """Find commands that are too fast or change speed too hard."""
        found, speeds = [], self.speeds()
        for k, (when, speed) in enumerate(zip(self.times, speeds, strict=True)):
            if k and when <= self.times[k - 1]:
                found.append(f"{when:.3f}: times do not increase")
            if (np.abs(speed) > self.velocity * (1 + TOLERANCE)).any():
                found.append(f"{when:.3f}: too fast: {speed}")
            hard = np.abs(speed - self._before(k, speeds)) / self.period_s
            if (hard > self.acceleration * (1 + TOLERANCE)).any():
                found.append(f"{when:.3f}: too hard: {hard}")
        return found

    def _before(self, k: int, speeds: list[Floats]) -> Floats:
        """Return the speed before command k; after a silence the arm rests."""
        if k == 0 or self.times[k] - self.times[k - 1] > REST_PERIODS * self.period_s:
            return np.zeros(len(self.names))
        return speeds[k - 1]

    def speeds(self) -> list[Floats]:
        """Return the speed (J,) that each command asks for; 0 for one that starts where the arm is."""
        return [
            np.zeros_like(place) if start else (place - self.places[k - 1]) / self.period_s
            for k, (place, start) in enumerate(zip(self.places, self.starts, strict=True))
        ]

    def held_from(self, until_s: float = np.inf) -> float:
        """Return the time of the first command from which on every one, up to a time, brakes or stays.

        Braking means that no joint turns round and each loses speed at (almost) its acceleration. Infinite if the last
        one still moves on; minus infinity if none was heard.
        """
        speeds, since = self.speeds(), -np.inf
        for k, (when, speed) in enumerate(zip(self.times, speeds, strict=True)):
            if when > until_s:
                break
            before = self._before(k, speeds)
            lost = np.minimum(np.abs(before), 0.99 * self.acceleration * self.period_s)
            brakes = (np.abs(speed) <= np.abs(before) - lost + 1e-9).all() and (speed * before >= -1e-9).all()
            since = np.inf if not brakes else when if not np.isfinite(since) else since
        return float(since)

    def moved(self, from_s: float = -np.inf, until_s: float = np.inf) -> bool:
        """Tell whether any command in a span differs from the first one in it."""
        inside = [p for t, p in zip(self.times, self.places, strict=True) if from_s <= t <= until_s]
        return any(not np.array_equal(p, inside[0]) for p in inside)

    def spoke(self, from_s: float = -np.inf, until_s: float = np.inf) -> int:
        """Count the commands in a span."""
        return sum(from_s <= t <= until_s for t in self.times)
