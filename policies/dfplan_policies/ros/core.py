"""One tick of the bridge without a clock, a robot or a planner: what came in, and the command that goes out.

The same inputs give the same commands, bit for bit; a log of the inputs is therefore enough to repeat a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from dfplan_policies.ros.chunks import ChunkBuffer, chunk_problem
from dfplan_policies.ros.config import RobotConfig
from dfplan_policies.ros.limits import brake
from dfplan_policies.ros.modes import ACTIVE, Mode
from dfplan_policies.ros.observe import collect
from dfplan_policies.ros.planner_process import Reply
from dfplan_policies.ros.safety import Decision, SafetyFilter, SafetyState, Seen
from dfplan_policies.ros.signals import Observation, Signals
from dfplan_policies.ros.wire import Sample, Setpoint


@dataclass(frozen=True, eq=False)
class TickInput:
    """Hold everything that a tick depends on.

    Attributes:
        now_s: In the loop's clock.
        samples: What came from the robot since the last tick, in order.
        reply: What came from the planner, or None.
        readers: Who listens to the commands.
        writers: Who else writes commands.
        planner: What is wrong with the planner, "" if nothing.
        shutdown: Whether the program is to end.
        silent_s: How long the robot has heard nothing, None if it is as long as since the last tick.
        withdrawn: Whether the command came about so late that the last one was repeated in its place.
    """

    now_s: float
    samples: Sequence[Sample] = ()
    reply: Reply | None = None
    readers: int = 0
    writers: int = 0
    planner: str = ""
    shutdown: bool = False
    silent_s: float | None = None
    withdrawn: bool = False


@dataclass(frozen=True)
class PlanStats:
    """Tell how planning keeps up.

    Attributes:
        latency_s: From the last chunk's observation to its arrival.
        left_s: What was left of the chunk before when it arrived.
        refused: Why the last reply was no good, "" if it was.
    """

    latency_s: float = 0.0
    left_s: float = 0.0
    refused: str = ""


@final
class Core:
    """Decide what to send.

    Args:
        config: Of the robot.
        dry: Whether nothing will be sent.

    Attributes:
        state: The safety filter's.
        chunks: What is played.
        counts: Chunks ``taken``, ``late`` (or of old observations) and ``bad``.
    """

    def __init__(self, config: RobotConfig, *, dry: bool = False) -> None:
        self.config, self.dry = config, dry
        self.signals = Signals(config)
        self.filter = SafetyFilter(config.joint_limits(), config.used_limits(), config.safety(dry=dry))
        self.state, self.chunks = SafetyState(), ChunkBuffer(config.chunks())
        self.stats, self.counts, self.episode = PlanStats(), Counter[str](), 0
        self._bad, self._before = 0, self.state
        self.age_s = float("inf")

    def tick(self, given: TickInput) -> tuple[Decision, Setpoint | None]:
        """Take one tick; returns the decision, and the command to send, if any."""
        self.signals.take(given.samples)
        joints = self.signals.joints.read(given.now_s)
        self.age_s = joints.age_s
        if given.reply is not None:
            self._take(given.reply, given.now_s)
        seen = Seen(
            joints.position, joints.age_s, joints.broken, joints.still, given.readers, given.writers,
            self.signals.enabled(given.now_s), self.signals.switches.stop, self.signals.switches.asked_to_rearm(),
            given.planner or self._planner(), given.shutdown, given.silent_s,
        )  # fmt: skip
        self._before = self.state
        self.state, decision = self.filter.step(given.now_s, self.state, seen, self.chunks.now(given.now_s))
        self._follow_mode(self._before.mode, decision.mode)
        if given.withdrawn:
            return self.withdraw(decision)
        return decision, self._setpoint(decision)

    def withdraw(self, decision: Decision) -> tuple[Decision, Setpoint | None]:
        """Take the last tick's step back, as the arm has stopped by itself before it could be sent: stay at the command
        before, at rest.
        """
        command = self._before.command
        if command is None or self.state.command is None or decision.command is None:
            return decision, self._setpoint(decision)
        rest = np.zeros_like(command)
        self.state = replace(self.state, command=command, velocity=rest, ramp=0.0)
        decision = replace(decision, command=command, velocity=rest)
        return decision, self._setpoint(decision)

    def _follow_mode(self, before: Mode, now: Mode) -> None:
        """Forget plans from before a fault or a release; every start begins an episode."""
        if now in (Mode.WAIT_STATE, Mode.FAULT, Mode.STOPPED) and now != before:
            self.chunks, self._bad = self.chunks.cleared(), 0
        if now == Mode.READY and before == Mode.WAIT_STATE:
            self.episode += 1
            self.chunks = self.chunks.cleared()

    def _take(self, reply: Reply, now_s: float) -> None:
        """Take a planner's answer; only what is sound and new is played."""
        if reply.chunk is None:
            self.counts["none"] += 1
            self.stats = replace(self.stats, refused=reply.problem)
            return
        left = self.chunks.left_s(now_s)
        self.chunks, problem = self.chunks.accept(reply.chunk, now_s)
        if not problem:
            self._bad = 0
            self.stats = PlanStats(now_s - reply.chunk.observed_s, left)
            self.counts["taken"] += 1
            return
        bad = bool(chunk_problem(reply.chunk, len(self.config.joints)))
        self._bad += bad
        self.counts["bad" if bad else "late"] += 1
        self.stats = replace(self.stats, refused=problem)

    def _planner(self) -> str:
        if self._bad < self.config.plan.bad_chunks:
            return ""
        return f"{self._bad} plans in a row were refused: {self.stats.refused}"

    def _setpoint(self, decision: Decision) -> Setpoint | None:
        if decision.command is None:
            return None
        velocity = decision.velocity if self.config.send_velocity else None
        grip, gripper = decision.gripper, self.config.gripper
        opening = None if grip is None or gripper is None else float(np.clip(grip, 0.0, gripper.open_m))
        lead_s = self.config.lead_periods * self.config.period_s
        return Setpoint(self.config.joints, decision.command.copy(), velocity, lead_s, opening)

    def wants_plan(self, now_s: float) -> bool:
        """Tell whether a plan would be of use: not while one is played that wants to be done first."""
        if self.state.mode != Mode.READY and self.state.mode not in ACTIVE:
            return False
        return not self.chunks.occupied(now_s, self.state.command)

    def observation(self, now_s: float) -> Observation | None:
        """Return what the planner is to be shown."""
        return collect(self.signals, now_s, self.state.command, self.state.gripper, self.episode)

    def wind_down(self) -> Setpoint | None:
        """Brake from the last command, looking at nothing else; None once it has been at rest long enough.

        For the end after an error: it does not depend on what raised it.
        """
        state, settings = self.state, self.filter.settings
        if state.command is None or state.limits is None or state.rested_s >= settings.hold_s:
            return None
        velocity = brake(state.velocity, state.limits, settings.period_s)
        rested = state.rested_s + settings.period_s if not velocity.any() else 0.0
        command = state.command + velocity * settings.period_s
        self.state = replace(state, mode=Mode.STOPPED, command=command, velocity=velocity, rested_s=rested)
        lead_s = self.config.lead_periods * self.config.period_s
        return Setpoint(self.config.joints, command.copy(), None, lead_s, None)

    @property
    def finished(self) -> bool:
        """Tell whether the end has been reached and repeated."""
        state = self.state
        rested = state.command is None or state.rested_s >= self.filter.settings.hold_s
        return state.mode == Mode.STOPPED and rested
