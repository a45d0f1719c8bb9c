"""Judge a stream of commands by what a robot can bear: numbers only, no wire, nothing shared with the safety filter."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

KEPT = 100  # violations that are told one by one
ROUNDING = 1e-6  # of a limit, for sums of floats
GAP_PERIODS = 3.5  # without a command for longer the arm has stopped by itself
REST_PERIODS = 2.0  # without a command for longer it may have: a command is to be reached within two periods


@dataclass(frozen=True)
class Rules:
    """Say what commands must keep to; one number per joint."""

    names: tuple[str, ...]
    """Exact names."""
    lower: tuple[float, ...]
    """rad or m."""
    upper: tuple[float, ...]
    """rad or m."""
    velocity: tuple[float, ...]
    """rad/s or m/s."""
    acceleration: tuple[float, ...]
    """rad/s^2 or m/s^2."""
    period_s: float
    """Time between two commands."""
    gap_periods: float = GAP_PERIODS
    """Without a command for longer the arm counts as at rest; more where commands get lost on the way to the judge."""

    @property
    def lossy(self) -> bool:
        """Say whether commands get lost on the way to the judge."""
        return self.gap_periods > GAP_PERIODS

    def __post_init__(self) -> None:
        """Check the lengths.

        Raises:
            ValueError: a list of another length than the names.
        """
        for name in ("lower", "upper", "velocity", "acceleration"):
            if len(getattr(self, name)) != len(self.names):
                raise ValueError(
                    f"{name} needs {len(self.names)} numbers, one per joint, got {len(getattr(self, name))}"
                )
        if not self.period_s > 0:
            raise ValueError(f"period_s must be above 0, got {self.period_s!r}")


@dataclass(frozen=True)
class Command:
    """Hold a command as it was on the wire."""

    sent_s: float
    """When the sender's middleware took it."""
    names: tuple[str, ...]
    """Empty if the message has none (an array)."""
    positions: tuple[tuple[float, ...], ...]
    """One list per point."""
    velocities: tuple[tuple[float, ...], ...] = ()
    """One list per point, each may be empty."""
    times: tuple[float, ...] = ()
    """s from start, one per point; empty for an array."""


@dataclass(frozen=True)
class _Reading:
    """Hold one way to read a step: over how many periods it went, what that needs, the largest share of a limit, and
    how late its command then came."""

    count: int
    velocity: tuple[float, ...]
    acceleration: tuple[float, ...] = ()
    share: float = 0.0
    late_s: float = 0.0


@final
class Judge:
    """See commands one after the other.

    A step between two commands may be as long as the velocity limit allows in the time between them, counted in whole
    periods; the change of the step as large as the acceleration limit allows in a period. Whether a command that comes
    late is just late, or others before it were lost, cannot be told from it: every way to read it
    is followed, after more than two periods also that the arm stood still before it; it is a violation if it is one in
    each of them. A command that was late itself leaves less time for the next one. After a gap of more than 3.5
    periods the arm counts as at rest where it was told to be, and the next command may be anywhere within the limits;
    where commands get lost on the way here, nothing is known of how it moves after a longer gap and at the beginning.

    Args:
        rules: what is allowed.

    Attributes:
        counts: violations by kind.
        violations: the first 100 of them.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.counts: Counter[str] = Counter()
        self.violations: list[dict[str, Any]] = []
        self.seen, self.longest_gap_s, self.shortest_s = 0, 0.0, math.inf
        self.first_s = self.last_s = self.last_move_s = 0.0
        self.worst = {"velocity": 0.0, "acceleration": 0.0}
        self._last: tuple[float, ...] | None = None
        self._speeds: list[_Reading] = []

    def see(self, command: Command) -> None:
        """Judge one command."""
        self.seen += 1
        dt_s = command.sent_s - self.last_s if self.seen > 1 else math.inf
        if self.seen == 1:
            self.first_s = self.last_move_s = command.sent_s
        elif dt_s <= 0:
            self._add("order", command, "", dt_s, 0.0)
        else:
            self.longest_gap_s, self.shortest_s = max(self.longest_gap_s, dt_s), min(self.shortest_s, dt_s)
        self.last_s = max(self.last_s, command.sent_s)
        if self._shape(command):
            self._range(command)
            self._motion(command, command.positions[0], dt_s)

    def report(self) -> dict[str, Any]:
        """Return the verdict as plain values."""
        return {
            "ok": not self.counts, "commands": self.seen, "counts": dict(self.counts), "violations": self.violations,
            "worst_share": self.worst, "first_s": self.first_s, "last_s": self.last_s, "last_move_s": self.last_move_s,
            "longest_gap_s": self.longest_gap_s, "shortest_s": 0.0 if math.isinf(self.shortest_s) else self.shortest_s,
        }  # fmt: skip

    def _add(self, kind: str, command: Command, joint: str, value: float, limit: float) -> None:
        self.counts[kind] += 1
        if len(self.violations) < KEPT:
            told = value if math.isfinite(value) else str(value)
            self.violations.append(
                {"kind": kind, "sent_s": command.sent_s, "joint": joint, "value": told, "limit": limit}
            )

    def _shape(self, command: Command) -> bool:
        """Judge names, lengths, times and that all numbers are finite; says whether the rest can be judged."""
        before = self.counts.total()
        rules = self.rules
        if command.names and command.names != rules.names:
            self._add("names", command, ",".join(command.names), 0.0, 0.0)
        if not command.positions or any(len(point) != len(rules.names) for point in command.positions):
            self._add("shape", command, "", len(command.positions), 1.0)
        if any(part and len(part) != len(rules.names) for part in command.velocities):
            self._add("shape", command, "velocities", 0.0, 0.0)
        times = command.times
        if times and (times[0] <= 0 or any(b <= a for a, b in itertools.pairwise(times))):
            self._add("times", command, "", times[0], 0.0)
        for values in (*command.positions, *command.velocities, times):
            for value in values:
                if not math.isfinite(value):
                    self._add("finite", command, "", value, 0.0)
        return self.counts.total() == before

    def _range(self, command: Command) -> None:
        rules = self.rules
        for point in command.positions:
            for joint, value, low, high in zip(rules.names, point, rules.lower, rules.upper, strict=True):
                if not low - ROUNDING <= value <= high + ROUNDING:
                    self._add("position", command, joint, value, low if value < low else high)
        for part in command.velocities:
            for joint, value, limit in zip(rules.names, part, rules.velocity, strict=False):
                if abs(value) > limit * (1 + ROUNDING):
                    self._add("velocity", command, joint, value, limit)

    def _motion(self, command: Command, position: Sequence[float], dt_s: float) -> None:
        here = tuple(position)
        last, period = self._last, self.rules.period_s
        self._last = here
        if last is not None and here != last:
            self.last_move_s = command.sent_s
        rest = _Reading(1, (0.0,) * len(here))
        if last is None or dt_s > self.rules.gap_periods * period:
            # Where commands get lost, nobody knows what it did meanwhile.
            self._speeds = [] if self.rules.lossy else [rest]
            if last is not None and not self.rules.lossy:  # it may begin to move with this command, or with the next
                first = self._read(last, here, 1, rest, 0.0)
                self._speeds += [first] if first.share <= 1 + ROUNDING else []
            return
        speeds = self._speeds + ([rest] if dt_s > REST_PERIODS * period and self._speeds else [])
        readings = [self._read(last, here, count, before, late) for before, count, late in self._ways(speeds, dt_s)]
        best = min(readings, key=lambda reading: reading.share)
        self._limit("velocity", command, best.velocity, self.rules.velocity)
        self._limit("acceleration", command, best.acceleration, self.rules.acceleration)
        fine = [reading for reading in readings if reading.share <= 1 + ROUNDING] or [best]
        self._speeds = list({(one.count, round(4 * one.late_s / period)): one for one in fine}.values())
        if self.rules.lossy and dt_s > (1.0 + REST_PERIODS) * period:  # a lost one may have led here, to rest
            self._speeds.append(rest)

    def _ways(self, speeds: Sequence[_Reading], dt_s: float) -> Iterator[tuple[_Reading | None, int, float]]:
        """List what a step can be read as: after which one, over how many periods, and how late it then came.

        A command that came late leaves less time before one that comes on time; if those after it are as late, the
        sender's clock has just moved, so with each of them half of it is forgotten.
        """
        period = self.rules.period_s
        for before in speeds or (None,):
            late_s = 0.0 if before is None else min(before.late_s, period)
            for count in range(1, max(1, round((dt_s + late_s) / period)) + 1):
                yield before, count, max(0.0, dt_s + late_s / 2 - count * period)

    def _read(
        self, last: Sequence[float], here: Sequence[float], count: int, before: _Reading | None, late_s: float
    ) -> _Reading:
        """Read a step as one of so many periods; where nothing is known of the one before, any change of speed is."""
        now = tuple((b - a) / (count * self.rules.period_s) for a, b in zip(last, here, strict=True))
        change = (0.0,) * len(here)
        if before is not None:  # over several periods the mean speeds of two steps are that much further apart
            apart_s = self.rules.period_s * (before.count + count) / 2
            change = tuple((b - a) / apart_s for a, b in zip(before.velocity, now, strict=True))
        limits = (*self.rules.velocity, *self.rules.acceleration)
        share = max(abs(value) / limit for value, limit in zip((*now, *change), limits, strict=True))
        return _Reading(count, now, change, share, late_s)

    def _limit(self, kind: str, command: Command, values: Sequence[float], limits: Sequence[float]) -> None:
        for joint, value, limit in zip(self.rules.names, values, limits, strict=True):
            self.worst[kind] = max(self.worst[kind], abs(value) / limit)
            if abs(value) > limit * (1 + ROUNDING) + ROUNDING:
                self._add(kind, command, joint, value, limit)
