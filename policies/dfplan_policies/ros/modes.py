"""The state machine of the safety filter: modes, what is known at a tick, and the table of transitions. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Mode(IntEnum):
    """Where the filter stands.

    ``WAIT_STATE`` (something is missing, silent), ``READY`` (all is there but a plan, silent), ``RAMP_IN`` (follows the
    plan, slowly at first), ``RUN``, ``HOLD`` (brakes and stays, and goes on when the reason is gone), ``FAULT`` (brakes
    and stays, until an operator re-arms), ``STOPPED`` (brakes and ends).
    """

    WAIT_STATE = 0
    READY = 1
    RAMP_IN = 2
    RUN = 3
    HOLD = 4
    FAULT = 5
    STOPPED = 6


MOVING = (Mode.RAMP_IN, Mode.RUN)
ACTIVE = (Mode.RAMP_IN, Mode.RUN, Mode.HOLD)


@dataclass(frozen=True)
class Facts:
    """Hold what decides the next mode.

    Attributes:
        shutdown: The program is to end.
        fault: Something is wrong that only an operator may clear.
        startable: Everything that a start needs is there.
        steady: State, enabling and reader are as they must be while moving.
        planned: There is a target for this tick.
        ramped: The ramp is over.
        resting: The last command stood still, and has been repeated long enough.
        rearm: An operator asks to re-arm.
        enabled: The operator enables motion.
    """

    shutdown: bool = False
    fault: bool = False
    startable: bool = False
    steady: bool = False
    planned: bool = False
    ramped: bool = False
    resting: bool = False
    rearm: bool = False
    enabled: bool = True


def next_mode(mode: Mode, facts: Facts) -> Mode:
    """Return the mode of this tick from that of the last one.

    A fault wins over everything but the end of the program, and is left only by re-arming at rest, when all that a
    start needs is there. Nothing moves again without passing through the ramp, except after a hold that had not come
    to rest.
    """
    if facts.shutdown or mode == Mode.STOPPED:
        return Mode.STOPPED
    if mode == Mode.FAULT:
        return Mode.WAIT_STATE if facts.rearm and facts.resting and facts.startable else Mode.FAULT
    if mode in ACTIVE:
        return Mode.FAULT if facts.fault else _active(mode, facts)
    if not facts.startable:
        return Mode.WAIT_STATE
    return Mode.RAMP_IN if mode == Mode.READY and facts.planned else Mode.READY


def _active(mode: Mode, facts: Facts) -> Mode:
    """Go on, hold, or leave a hold; a hold that the operator asked for ends in silence."""
    if not (facts.steady and facts.planned):
        released = mode == Mode.HOLD and facts.resting and not facts.enabled
        return Mode.WAIT_STATE if released else Mode.HOLD
    return Mode.RUN if facts.ramped else Mode.RAMP_IN
