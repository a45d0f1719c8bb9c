"""The safety filter: a pure step from what is known to at most one command. No clock, no input, no output.

Whatever comes in, the commands of one run keep the limits of position, speed and acceleration from one to the next,
and after a fault they only brake and stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dfplan_policies.ros.chunks import Target
from dfplan_policies.ros.limits import JointLimits, brake, follow
from dfplan_policies.ros.modes import ACTIVE, MOVING, Facts, Mode, next_mode

Floats = NDArray[np.float64]
REFUSED = "; re-arming was refused: "


@dataclass(frozen=True)
class SafetySettings:
    """Say what the filter puts up with.

    Attributes:
        period_s: Seconds between two ticks.
        soft_age_s: Age of the joint states from which on the arm is held.
        hard_age_s: Age from which on it is a fault.
        tracking_error: rad or m; distance between command and measurement that is a fault; infinite for a dry run.
        ramp_s: Time in which the speed limit grows from 0 to its value.
        hold_s: How long a command at rest is repeated before it counts as rest, and before a fault falls silent.
        stall_periods: Periods without a command after which the arm has come to rest by itself.
        needs_reader: Whether somebody must listen to the commands; not in a dry run.
    """

    period_s: float = 0.01
    soft_age_s: float = 0.03
    hard_age_s: float = 0.25
    tracking_error: float = 0.3
    ramp_s: float = 1.5
    hold_s: float = 0.5
    stall_periods: float = 2.5
    needs_reader: bool = True

    @property
    def stall_s(self) -> float:
        """Return the time without a command after which the arm has come to rest by itself."""
        return self.stall_periods * self.period_s


@dataclass(frozen=True, eq=False)
class Seen:
    """Hold what is known at a tick.

    Attributes:
        position: (J,), the newest of every joint, or None until all have been seen.
        age_s: Age of the oldest of them.
        broken: What is wrong with the joint states, "" if nothing.
        still: Whether the arm stands still.
        readers: Who listens to the commands.
        writers: Who else writes commands.
        enabled: Whether the operator enables motion, and has said so lately.
        stop: Whether the emergency stop is pressed.
        rearm: Whether the operator asks to re-arm at this tick.
        planner: What is wrong with the planner, "" if nothing.
        shutdown: Whether the program is to end.
        silent_s: How long the robot has heard nothing, None if it is as long as since the last tick.
    """

    position: Floats | None = None
    age_s: float = math.inf
    broken: str = ""
    still: bool = False
    readers: int = 0
    writers: int = 0
    enabled: bool = True
    stop: bool = False
    rearm: bool = False
    planner: str = ""
    shutdown: bool = False
    silent_s: float | None = None


@dataclass(frozen=True, eq=False)
class SafetyState:
    """Remember what the filter did.

    Attributes:
        mode: Of the last tick.
        command: (J,), the last command, None before the first.
        velocity: (J,), of the last command.
        gripper: Last opening in m, if any.
        limits: In use since the start; they reach out to a start that was in the margin.
        ramp: Progress of the ramp, 0..1.
        rested_s: How long the command has stood still.
        tick_s: Time of the last tick.
        reason: Why it is not running, "" if it is.
        clamps: How often a joint was held back while running, by the kind of limit.
    """

    mode: Mode = Mode.WAIT_STATE
    command: Floats | None = None
    velocity: Floats = field(default_factory=lambda: np.zeros(0))
    gripper: float | None = None
    limits: JointLimits | None = None
    ramp: float = 0.0
    rested_s: float = 0.0
    tick_s: float = -math.inf
    reason: str = "no tick yet"
    clamps: Mapping[str, int] = field(default_factory=lambda: {"position": 0, "rate": 0})


@dataclass(frozen=True, eq=False)
class Decision:
    """Say what to do at a tick: the command (J,) to send, or None to stay silent, and the gripper's opening."""

    mode: Mode
    command: Floats | None
    velocity: Floats | None
    gripper: float | None
    reason: str


@dataclass(frozen=True, eq=False)
class SafetyFilter:
    """Decide at every tick what is sent.

    Attributes:
        hard: The arm's own limits; a start outside of them is refused.
        limits: The narrower ones that commands keep.
        settings: What is put up with.
    """

    hard: JointLimits
    limits: JointLimits
    settings: SafetySettings

    def step(self, now_s: float, state: SafetyState, seen: Seen, target: Target | None) -> tuple[SafetyState, Decision]:
        """Take one tick.

        Args:
            now_s: Now, in the loop's clock.
            state: What the last call returned.
            seen: What is known.
            target: Where to be at the next tick, None if there is no plan for it.

        Returns:
            The next state, and what to send.
        """
        silent_s = now_s - state.tick_s if seen.silent_s is None else seen.silent_s
        stalled = silent_s > self.settings.stall_s
        if stalled:  # the arm has reached the last command and stands there
            state = replace(state, velocity=np.zeros_like(state.velocity), ramp=0.0)
        if target is not None and not _finite(target):
            target = None
        fault, start, steady = self.fault(seen, state), self.start_problem(seen), self.unsteady(seen, stalled)
        facts = Facts(
            seen.shutdown, bool(fault), not start, not steady, target is not None, state.ramp >= 1.0,
            state.command is None or state.rested_s >= self.settings.hold_s, seen.rearm, seen.enabled,
        )  # fmt: skip
        mode = next_mode(state.mode, facts)
        reason = _reason(mode, state, fault, start, steady, facts)
        state = replace(state, mode=mode, reason=reason, tick_s=now_s)
        state = self._command(state, seen, target)
        silent = state.command is None or (mode in (Mode.FAULT, Mode.STOPPED) and facts.resting)
        if silent:
            return state, Decision(mode, None, None, None, reason)
        return state, Decision(mode, state.command, state.velocity, state.gripper, reason)

    # ---- what is wrong, in the order in which it is looked at

    def fault(self, seen: Seen, state: SafetyState) -> str:
        """Say what is so wrong that only an operator may clear it, "" if nothing."""
        if seen.stop:
            return "the emergency stop is pressed"
        if not seen.age_s <= self.settings.hard_age_s:
            return f"joint states are {seen.age_s:.3f} s old, more than {self.settings.hard_age_s} s"
        if seen.broken:
            return seen.broken
        if seen.position is None or not np.isfinite(seen.position).all():
            return "a position is not finite"
        if state.command is not None:
            error = float(np.abs(state.command - seen.position).max())
            if error > self.settings.tracking_error:
                return f"the arm is {error:.3f} away from its command, more than {self.settings.tracking_error}"
        if seen.writers and self.settings.needs_reader:
            return f"{seen.writers} other writer(s) command the same topic"
        return seen.planner

    def start_problem(self, seen: Seen) -> str:
        """Say what keeps the arm from being started, "" if nothing."""
        if seen.position is None:
            return "not all joints have been seen"
        if seen.stop:
            return "the emergency stop is pressed"
        if not seen.age_s <= self.settings.soft_age_s:
            return f"joint states are {seen.age_s:.3f} s old"
        if seen.broken:
            return seen.broken
        if not self.hard.inside(seen.position):
            return f"the arm stands outside its limits: {np.round(seen.position, 3).tolist()}"
        if seen.planner:
            return seen.planner
        if seen.writers and self.settings.needs_reader:
            return f"{seen.writers} other writer(s) command the same topic"
        if not seen.readers and self.settings.needs_reader:
            return "nobody listens to the commands"
        if not seen.enabled:
            return "not enabled"
        return "" if seen.still else "the arm is moving"

    def unsteady(self, seen: Seen, stalled: bool) -> str:
        """Say why the arm must be held for now, "" if it need not."""
        if stalled:
            return "the loop has stalled"
        if not seen.age_s <= self.settings.soft_age_s:
            return f"joint states are {seen.age_s:.3f} s old, more than {self.settings.soft_age_s} s"
        if not seen.enabled:
            return "not enabled"
        if not seen.readers and self.settings.needs_reader:
            return "nobody listens to the commands"
        return ""

    # ---- what is sent

    def _command(self, state: SafetyState, seen: Seen, target: Target | None) -> SafetyState:
        """Choose the next command."""
        if state.mode in (Mode.WAIT_STATE, Mode.READY):
            return replace(state, command=None, limits=None, ramp=0.0, rested_s=0.0)
        if state.command is None or state.limits is None:
            return self._begin(state, seen) if state.mode in MOVING else state
        if state.mode in MOVING and target is not None:
            return self._follow(state, state.command, state.limits, target)
        velocity = brake(state.velocity, state.limits, self.settings.period_s)
        resting = not state.velocity.any()
        rested = state.rested_s + self.settings.period_s if resting else 0.0
        return self._moved(replace(state, ramp=0.0 if resting else state.ramp, rested_s=rested), velocity)

    def _begin(self, state: SafetyState, seen: Seen) -> SafetyState:
        """Send the measured position first."""
        if seen.position is None:
            return state
        return replace(
            state, command=seen.position.copy(), velocity=np.zeros_like(seen.position), ramp=0.0, rested_s=0.0,
            limits=self.limits.around(seen.position),
        )  # fmt: skip

    def _follow(self, state: SafetyState, command: Floats, limits: JointLimits, target: Target) -> SafetyState:
        period, mode = self.settings.period_s, state.mode
        ramp = min(1.0, state.ramp + period / self.settings.ramp_s) if mode == Mode.RAMP_IN else 1.0
        step = follow(command, state.velocity, target.position, target.velocity, limits, period, ramp)
        clamps = state.clamps
        if mode == Mode.RUN and (step.clamped_position.any() or step.clamped_rate.any()):
            held = {"position": step.clamped_position, "rate": step.clamped_rate}
            clamps = {kind: count + int(held[kind].sum()) for kind, count in clamps.items()}
        gripper = state.gripper if target.gripper is None else target.gripper
        return self._moved(replace(state, ramp=ramp, gripper=gripper, rested_s=0.0, clamps=clamps), step.velocity)

    def _moved(self, state: SafetyState, velocity: Floats) -> SafetyState:
        """Apply a velocity; if arithmetic failed after all, stay where the last command was."""
        command = state.command if state.command is None else state.command + velocity * self.settings.period_s
        if command is None or not np.isfinite(command).all():
            return replace(state, velocity=np.zeros_like(state.velocity))
        return replace(state, command=command, velocity=velocity)


def _finite(target: Target) -> bool:
    gripper = 0.0 if target.gripper is None else target.gripper
    return bool(np.isfinite(target.position).all() and np.isfinite(target.velocity).all() and math.isfinite(gripper))


def _reason(mode: Mode, state: SafetyState, fault: str, start: str, steady: str, facts: Facts) -> str:
    """Say why the arm is not running; after a refusal to re-arm also why that was refused."""
    if mode == Mode.FAULT:
        if state.mode != Mode.FAULT or not facts.rearm:
            return state.reason if state.mode == Mode.FAULT else fault
        return f"{state.reason.partition(REFUSED)[0]}{REFUSED}{start or 'the arm is not at rest yet'}"
    if mode in ACTIVE:
        return (steady or "no plan") if mode == Mode.HOLD else ""
    if mode == Mode.STOPPED:
        return "stopped"
    return start if mode == Mode.WAIT_STATE else "no plan yet"
