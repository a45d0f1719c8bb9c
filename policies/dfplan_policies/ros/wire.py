"""What crosses the border between the control loop and a robot: samples in, setpoints out.

A back end (`Backend`) turns the messages of its middleware into these samples and writes the setpoints. It holds no
logic: no clamping, no ages, no state machine. Times are seconds of the loop's monotonic clock; ``stamp_s`` is what the
sender wrote into its header (its own clock), None if it wrote none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class JointSample:
    """One message of joint states as it came: any order, any length, nothing checked.

    Attributes:
        received_s: When the back end took it.
        names: Names of the joints, in the message's order.
        position: (J,) rad or m.
        velocity: (J,) or (0,) if the message has none.
        stamp_s: Header stamp in the sender's clock.
        source: Who published it, if the middleware says so (two publishers on one topic are told apart by it).
        topic: Where it came from, "" for the arm's joint states: places of objects travel on a topic of their own.
    """

    received_s: float
    names: tuple[str, ...]
    position: NDArray[np.float64]
    velocity: NDArray[np.float64]
    stamp_s: float | None = None
    source: str = ""
    topic: str = ""


@dataclass(frozen=True)
class ImageSample:
    """One picture of a camera: uint8 (height, width, 3), RGB."""

    received_s: float
    camera: str
    pixels: NDArray[np.uint8]
    stamp_s: float | None = None


@dataclass(frozen=True)
class SwitchSample:
    """A message of the operator: the enable button, the emergency stop, or a request to re-arm."""

    received_s: float
    kind: Literal["enable", "stop", "rearm"]
    value: bool


Sample = JointSample | ImageSample | SwitchSample


@dataclass(frozen=True)
class Setpoint:
    """One command: go to ``position`` (J,) within ``time_from_start_s``; every number is finite.

    Attributes:
        names: Exact names of the joints, in the configuration's order.
        position: (J,) rad or m.
        velocity: (J,) rad/s or m/s, or None to leave the field empty.
        time_from_start_s: Time to reach it; two periods of the loop by default.
        gripper: Opening (m) of the gripper for a gripper that has a topic of its own, None if there is none.
    """

    names: tuple[str, ...]
    position: NDArray[np.float64]
    velocity: NDArray[np.float64] | None
    time_from_start_s: float
    gripper: float | None = None


@dataclass(frozen=True)
class Peer:
    """One endpoint that a back end sees on the middleware, for `dfplan ros check`."""

    topic: str
    kind: Literal["publisher", "subscriber"]
    type_name: str
    qos: Mapping[str, str] = field(default_factory=dict)
    name: str = ""


@runtime_checkable
class Backend(Protocol):
    """The way to one robot. All calls return at once; none raises after `open` except `BackendLost`."""

    def open(self) -> None:
        """Connect; raise ``RuntimeError`` with the remedy if that cannot work."""

    def poll(self, now_s: float) -> Sequence[Sample]:
        """Return everything that came since the last call, in order, stamped ``received_s`` by the back end."""

    def write(self, setpoint: Setpoint) -> None:
        """Send one command; never blocks."""

    def command_readers(self) -> int:
        """Return how many readers listen to the commands."""

    def command_writers(self) -> int:
        """Return how many writers *other than this one* write commands to the same topic."""

    def diagnose(self, level: int, text: str, values: Mapping[str, str]) -> None:
        """Publish a status (0 ok, 1 warn, 2 error, 3 stale) with details; never blocks."""

    def peers(self) -> Sequence[Peer]:
        """Return every endpoint that can be seen."""

    def close(self) -> None:
        """Disconnect; safe to call twice."""


class BackendLost(RuntimeError):
    """The middleware is gone: the loop must stop."""
