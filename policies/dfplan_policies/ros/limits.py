"""Limits of joints, from a table or from a URDF, and the largest step that keeps them.

The step is exact in discrete time: a command is taken only if braking with the joint's acceleration from there still
stops inside the limits. So braking is always possible, whatever the target does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from dfplan.errors import unknown_name

Floats = NDArray[np.float64]
SPARE = 1e-6  # share of speed and acceleration that is left to rounding
ENDLESS = 1e6  # rad; room of a joint that turns without end
FOLLOW_SHARE = 0.5  # share of the acceleration that closes a gap to the target; the rest is for the target's own


@dataclass(frozen=True, eq=False)
class JointLimits:
    """Hold what each joint may do, (J,) each.

    Attributes:
        lower: rad or m; -inf for a joint that turns without end.
        upper: rad or m.
        velocity: rad/s or m/s, positive.
        acceleration: rad/s^2 or m/s^2, positive.

    Raises:
        ValueError: If shapes differ, a number is NaN, bounds are not in order, or a rate is not positive and finite.
    """

    lower: Floats
    upper: Floats
    velocity: Floats
    acceleration: Floats

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, np.atleast_1d(np.asarray(getattr(self, item.name), dtype=np.float64)))
        if len({getattr(self, item.name).shape for item in fields(self)}) != 1:
            raise ValueError("limits must have one number per joint in each field")
        if not (self.lower < self.upper).all():
            raise ValueError(f"lower limits must lie below upper ones, got {self.lower}, {self.upper}")
        for name in ("velocity", "acceleration"):
            values = getattr(self, name)
            if not (np.isfinite(values) & (values > 0)).all():
                raise ValueError(f"limits of {name} must be positive and finite, got {values}; give each joint one")

    def inside(self, position: Floats) -> bool:
        """Tell whether positions (..., J) are finite and within the limits."""
        return bool((np.isfinite(position) & (position >= self.lower) & (position <= self.upper)).all())

    def narrowed(self, margin: float, speed_share: float = 1.0, acceleration_share: float = 1.0) -> JointLimits:
        """Return limits that keep a margin (rad or m) from both ends and use a share of speed and acceleration.

        Raises:
            ValueError: If the margin leaves no room, or a share is not in (0, 1].
        """
        for share in (speed_share, acceleration_share):
            if not 0 < share <= 1:
                raise ValueError(f"a share of the limits must lie in (0, 1], got {share}")
        if margin < 0 or (2 * margin >= self.upper - self.lower).any():
            raise ValueError(f"a margin must be 0 or more and leave room between the limits, got {margin}")
        return JointLimits(
            self.lower + margin,
            self.upper - margin,
            self.velocity * speed_share,
            self.acceleration * acceleration_share,
        )

    def around(self, position: Floats) -> JointLimits:
        """Return limits that are just wide enough for a position (J,) in the margin to be inside."""
        return replace(self, lower=np.minimum(self.lower, position), upper=np.maximum(self.upper, position))


def stoppable_speed(room: Floats, acceleration: Floats, dt_s: float) -> Floats:
    """Compute the largest speed for the next period after which braking still stops within a room.

    With speeds v, v - a dt, v - 2 a dt, ... the way is ``dt ((n + 1) v - a dt n (n + 1) / 2)``, ``n = floor(v / (a
    dt))``; this is its inverse.

    Args:
        room: (..., J) rad or m; what is negative counts as none.
        acceleration: (J,) a.
        dt_s: Seconds of a period.
    """
    step = acceleration * dt_s
    r = np.minimum(np.maximum(room, 0.0), ENDLESS) / (step * dt_s)
    n = np.floor((np.sqrt(1.0 + 8.0 * r) - 1.0) / 2.0)
    return step * (r + n * (n + 1.0) / 2.0) / (n + 1.0)


def brake(velocity: Floats, limits: JointLimits, dt_s: float) -> Floats:
    """Return the velocity (..., J) of the next period if every joint brakes as hard as it may."""
    step = limits.acceleration * (1.0 - SPARE) * dt_s
    return np.sign(velocity) * np.maximum(np.abs(velocity) - step, 0.0)


@dataclass(frozen=True, eq=False)
class Step:
    """Hold the velocity (..., J) of the next period, and which joints (..., J) were held back by which limit."""

    velocity: Floats
    clamped_position: NDArray[np.bool_]
    clamped_rate: NDArray[np.bool_]


def follow(
    position: Floats, velocity: Floats, goal: Floats, goal_velocity: Floats, limits: JointLimits, dt_s: float,
    speed_share: float | Floats = 1.0,
) -> Step:  # fmt: skip
    """Choose the velocity of the next period: towards a moving goal, within all limits.

    Seen from the goal, the joint closes the gap as fast as it can still stop; a gap that one period closes is closed.
    Then the velocity is cut to what acceleration, speed and the room to the limits allow. If the last step kept the
    limits, so does this one.

    Args:
        position: (..., J), the last command.
        velocity: (..., J), of the last period.
        goal: (..., J), where to be after the next period.
        goal_velocity: (..., J), of the goal.
        limits: The limits.
        dt_s: Seconds of a period.
        speed_share: Share of the speed limit in use, 0..1; a speed above it is braked, not cut.
    """
    allowed = np.minimum(np.maximum(goal, limits.lower), limits.upper)
    outside = allowed != goal
    moving = np.where(outside, 0.0, np.minimum(np.maximum(goal_velocity, -limits.velocity), limits.velocity))
    gap = allowed - moving * dt_s - position
    wish = moving + np.sign(gap) * stoppable_speed(np.abs(gap), limits.acceleration * FOLLOW_SHARE, dt_s)
    rate = limits.acceleration * (1.0 - SPARE)
    top = np.maximum(limits.velocity * (1.0 - SPARE) * speed_share, np.abs(velocity) - rate * dt_s)
    highest = np.minimum(velocity + rate * dt_s, top)
    lowest = np.maximum(velocity - rate * dt_s, -top)
    highest = np.minimum(highest, stoppable_speed(limits.upper - position, rate, dt_s))
    lowest = np.maximum(lowest, -stoppable_speed(position - limits.lower, rate, dt_s))
    taken = np.minimum(np.maximum(wish, lowest), highest)
    return Step(taken, outside, np.abs(taken - wish) > 1e-9)


def table_limits(joints: Sequence[str], table: Mapping[str, Mapping[str, float]]) -> JointLimits:
    """Read limits from a table: joint -> ``lower``, ``upper``, ``velocity``, ``acceleration``.

    Raises:
        ValueError: If a joint or a number is missing, or one is there that is unknown.
    """
    names = [item.name for item in fields(JointLimits)]
    for joint, row in table.items():
        if joint not in joints:
            raise unknown_name("joint with limits", joint, joints)
        for name in row:
            if name not in names:
                raise unknown_name(f"limit of {joint}", name, names)
    for joint in joints:
        missing = [name for name in names if name not in table.get(joint, {})]
        if missing:
            raise ValueError(f"the limits of {joint!r} lack {', '.join(missing)}; give every joint its own")
    return JointLimits(*(np.array([float(table[joint][name]) for joint in joints]) for name in names))


def urdf_limits(joints: Sequence[str], urdf: str | Path, acceleration: float | Sequence[float]) -> JointLimits:
    """Read limits from a URDF; it has no accelerations, so these are given.

    Args:
        joints: Names, in order.
        urdf: The file, or its text if it begins with ``<``.
        acceleration: rad/s^2 or m/s^2, one for all or one per joint.

    Raises:
        ValueError: If a joint is not there, cannot move, or has no limits.
    """
    try:
        root = ElementTree.fromstring(urdf) if str(urdf).lstrip().startswith("<") else ElementTree.parse(urdf).getroot()  # type: ignore[arg-type]
    except ElementTree.ParseError as error:
        raise ValueError(f"the URDF cannot be read: {error}; expand xacro files first") from error
    found = {str(item.get("name")): item for item in root.iter("joint")}
    rows = [_urdf_row(joint, found) for joint in joints]
    lower, upper, velocity = (np.array(column) for column in zip(*rows, strict=True))
    return JointLimits(lower, upper, velocity, np.broadcast_to(np.asarray(acceleration, float), len(joints)).copy())


def _urdf_row(joint: str, found: Mapping[str, ElementTree.Element]) -> tuple[float, float, float]:
    if joint not in found:
        raise unknown_name("joint of the URDF", joint, found)
    kind, limit = found[joint].get("type"), found[joint].find("limit")
    if kind not in ("revolute", "prismatic", "continuous"):
        raise ValueError(f"the joint {joint!r} is {kind} in the URDF and cannot be moved; leave it out of joints")
    if limit is None or limit.get("velocity") is None:
        raise ValueError(f"the joint {joint!r} has no limit of velocity in the URDF; give limits.joints in its place")
    velocity = float(limit.get("velocity", "nan"))
    if kind == "continuous":
        return -math.inf, math.inf, velocity
    return float(limit.get("lower", "0")), float(limit.get("upper", "0")), velocity
