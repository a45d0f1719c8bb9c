"""Chunks of planned positions, indexed by time: late parts are dropped, a new chunk takes over without a step.

A chunk is anchored at the time of the observation it was planned from, not at its arrival. Between its knots it is a
cubic curve that overshoots no knot. When a new chunk takes over, the difference to what was played before (position and
velocity) fades away over a short window, so the target is continuous however often chunks change.

Source: slopes after Fritsch and Carlson, "Monotone piecewise cubic interpolation", 1980, in Fritsch and Butland's form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ARRIVED = 0.005  # rad or m between a command and the end of a chunk


@dataclass(frozen=True, eq=False)
class Chunk:
    """Hold one plan in the loop's clock.

    Attributes:
        observed_s: When what it was planned from was measured.
        times_s: (n,) increasing.
        positions: (n, J) rad or m, where to be at these times.
        gripper: (n,) m, openings of a gripper with a topic of its own, each asked for from its time on, or None.
        done_s: For a policy that lets the arm wait while it thinks: when all has been done and it wants to look again.
            The chunk then begins when it arrives, and goes on to stay where it ends. None: it begins at the
            observation, and the next one may come at any time.
    """

    observed_s: float
    times_s: Floats
    positions: Floats
    gripper: Floats | None = None
    done_s: float | None = None


@dataclass(frozen=True, eq=False)
class Target:
    """Say where to be, and how fast: position (J,), velocity (J,), opening (m) of the gripper or None."""

    position: Floats
    velocity: Floats
    gripper: float | None = None


@dataclass(frozen=True)
class ChunkSettings:
    """Say how chunks are played.

    Attributes:
        joints: J, width of a chunk.
        latency_s: Time from a command to the arm's motion; the chunk is read that far ahead.
        blend_s: Window over which a new chunk takes over.
        longest_age_s: Age of the observation from which on a chunk is not played any more.
    """

    joints: int
    latency_s: float = 0.02
    blend_s: float = 0.1
    longest_age_s: float = 5.0


@dataclass(frozen=True, eq=False)
class _Playing:
    """Hold the chunk in use, the slopes at its knots, and what is left of the difference to the one before."""

    chunk: Chunk
    slopes: Floats
    offset: Floats
    drift: Floats
    from_s: float


@dataclass(frozen=True, eq=False)
class ChunkBuffer:
    """Play the newest chunk; an immutable value, every change returns another one.

    Attributes:
        settings: How chunks are played.
        observed_s: Observation time of the newest chunk that was accepted.
    """

    settings: ChunkSettings
    observed_s: float = -math.inf
    _playing: _Playing | None = field(default=None, repr=False)

    def accept(self, chunk: Chunk, now_s: float) -> tuple[ChunkBuffer, str]:
        """Take a new chunk over, if it is sound, in time and newer than what is played.

        Args:
            chunk: As it came from the planner.
            now_s: Now, in the loop's clock.

        Returns:
            The next buffer, and why the chunk was refused ("" if it was taken).
        """
        start_s = now_s + self.settings.latency_s
        problem = chunk_problem(chunk, self.settings.joints)
        if not problem and chunk.done_s is not None:
            chunk = _shifted(chunk, start_s - float(chunk.times_s[0]))
        problem = problem or self._untimely(chunk, now_s)
        if problem:
            return self, problem
        before, fresh = self.at(start_s), _Playing(chunk, knot_slopes(chunk), *_nothing(self.settings.joints), start_s)
        if before is not None and self.settings.blend_s > 0:
            new = _read(fresh, start_s, self.settings.blend_s)
            fresh = replace(fresh, offset=before.position - new.position, drift=before.velocity - new.velocity)
        return replace(self, observed_s=chunk.observed_s, _playing=fresh), ""

    def _untimely(self, chunk: Chunk, now_s: float) -> str:
        if chunk.observed_s > now_s + 1e-6:
            return f"planned from an observation {chunk.observed_s - now_s:.3f} s in the future"
        if chunk.observed_s <= self.observed_s:
            return "planned from an observation that is not newer than the last chunk's"
        if chunk.times_s[-1] <= now_s + self.settings.latency_s:
            return f"too late: it ended {now_s + self.settings.latency_s - chunk.times_s[-1]:.3f} s ago"
        return ""

    def at(self, time_s: float) -> Target | None:
        """Return where to be at a time; None past the end of the chunk, or if it is too old: nothing is extrapolated.

        Args:
            time_s: A time of the arm, that is now plus ``latency_s``.
        """
        playing = self._playing
        if playing is None or not time_s <= playing.chunk.times_s[-1]:
            return None
        if time_s - playing.chunk.observed_s > self.settings.longest_age_s:
            return None
        return _read(playing, time_s, self.settings.blend_s)

    def now(self, now_s: float) -> Target | None:
        """Return where a command that is sent now is to lead to."""
        return self.at(now_s + self.settings.latency_s)

    def left_s(self, now_s: float) -> float:
        """Return how many seconds of the chunk are left to play, 0 if none."""
        if self.now(now_s) is None or self._playing is None:
            return 0.0
        chunk = self._playing.chunk
        last_s = float(chunk.times_s[-1]) if chunk.done_s is None else chunk.done_s
        end_s = min(last_s, chunk.observed_s + self.settings.longest_age_s)
        return max(0.0, end_s - now_s - self.settings.latency_s)

    def occupied(self, now_s: float, command: Floats | None) -> bool:
        """Tell whether a chunk that wants to be done first has not been: time is left, or the command is behind."""
        if self._playing is None or self._playing.chunk.done_s is None or (target := self.now(now_s)) is None:
            return False
        if now_s < self._playing.chunk.done_s:
            return True
        return command is not None and bool((np.abs(target.position - command) > ARRIVED).any())

    def cleared(self) -> ChunkBuffer:
        """Return the buffer without its chunk; older ones stay refused."""
        return replace(self, _playing=None)


def chunk_problem(chunk: Chunk, joints: int) -> str:
    """Say what is wrong with a chunk: shape, order of times, numbers that are not finite; "" if nothing is."""
    times, positions = chunk.times_s, chunk.positions
    if times.ndim != 1 or positions.shape != (len(times), joints) or not len(times):
        return f"positions must have shape (n, {joints}) and times (n,), n > 0, got {positions.shape}, {times.shape}"
    if chunk.done_s is not None and not times[0] <= chunk.done_s <= times[-1]:
        return f"done_s must lie between the first and the last time, got {chunk.done_s!r}"
    if chunk.gripper is not None and chunk.gripper.shape != times.shape:
        return f"openings of the gripper must have shape {times.shape}, got {chunk.gripper.shape}"
    numbers = (times, positions, np.zeros(0) if chunk.gripper is None else chunk.gripper)
    if not (math.isfinite(chunk.observed_s) and all(np.isfinite(part).all() for part in numbers)):
        return "positions, times or openings are not finite"
    if (np.diff(times) <= 0).any():
        return "times must increase"
    return ""


def knot_slopes(chunk: Chunk) -> Floats:
    """Compute the velocities (n, J) at the knots: zero at turning points, else a weighted harmonic mean of the slopes.

    ``m_i = (w1 + w2) / (w1 / d_{i-1} + w2 / d_i)`` with ``w1 = 2 h_i + h_{i-1}`` and ``w2 = h_i + 2 h_{i-1}``.
    """
    positions = chunk.positions
    if len(positions) == 1:
        return np.zeros_like(positions)
    h = np.diff(chunk.times_s)[:, None]
    d = np.diff(positions, axis=0) / h
    w1, w2 = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    same = d[:-1] * d[1:] > 0
    before, after = np.where(same, d[:-1], 1.0), np.where(same, d[1:], 1.0)
    inner = np.where(same, (w1 + w2) / (w1 / before + w2 / after), 0.0)
    return np.concatenate([d[:1], inner, d[-1:]])


def _shifted(chunk: Chunk, by_s: float) -> Chunk:
    return replace(chunk, times_s=chunk.times_s + by_s, done_s=None if chunk.done_s is None else chunk.done_s + by_s)


def _nothing(joints: int) -> tuple[Floats, Floats]:
    return np.zeros(joints), np.zeros(joints)


def _read(playing: _Playing, time_s: float, blend_s: float) -> Target:
    """Evaluate the curve and what is left of the difference to the chunk before."""
    chunk = playing.chunk
    position, velocity = _curve(chunk, playing.slopes, time_s)
    u = (time_s - playing.from_s) / blend_s if blend_s > 0 else 1.0
    if u < 1.0:
        u = max(u, 0.0)
        position = position + (1 - u) ** 2 * ((1 + 2 * u) * playing.offset + u * blend_s * playing.drift)
        velocity = velocity + (1 - u) * (-6 * u / blend_s * playing.offset + (1 - 3 * u) * playing.drift)
    gripper = None if chunk.gripper is None else float(chunk.gripper[_knot(chunk.times_s, time_s)])
    return Target(position, velocity, gripper)


def _knot(times: Floats, time_s: float) -> int:
    """Return the last knot that is not after a time, the first one before all."""
    return max(0, int(np.searchsorted(times, time_s, side="right")) - 1)


def _curve(chunk: Chunk, slopes: Floats, time_s: float) -> tuple[Floats, Floats]:
    """Evaluate the cubic through the knots; before the first one it rests there."""
    times, positions = chunk.times_s, chunk.positions
    if time_s <= times[0] or len(times) == 1:
        return positions[0].copy(), slopes[0] if time_s == times[0] else np.zeros(positions.shape[1])
    i = min(int(np.searchsorted(times, time_s, side="right")), len(times) - 1) - 1
    h = float(times[i + 1] - times[i])
    u = float(time_s - times[i]) / h
    rise = positions[i + 1] - positions[i]
    m0, m1 = h * slopes[i], h * slopes[i + 1]
    position = positions[i] + u * (m0 + u * (3 * rise - 2 * m0 - m1 + u * (m0 + m1 - 2 * rise)))
    velocity = (m0 + u * (2 * (3 * rise - 2 * m0 - m1) + 3 * u * (m0 + m1 - 2 * rise))) / h
    return position, velocity
