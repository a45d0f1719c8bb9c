"""The ``diffused_actions`` executor: the model's own actions move the ball, as in the paper; no controller.

The plan says which states come next; every ``requery_every`` steps the model is asked for the actions from the
measured state to them. How soon they are asked for is the executor's choice: the data are slower than the ball can be,
and the model knows what a faster way to the same places takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dfplan.errors import unknown_name
from dfplan_policies.executors.base import Outcome, Query
from dfplan_policies.executors.path import BUMPER, unit
from dfplan_policies.plans import PlanView, hermite
from dfplan_policies.protocol import FloatArray

PHASES = ("paced", "nearest", "time")
RESOLUTION = 0.25  # of the search for the nearest planned state, in environment steps


@dataclass(frozen=True)
class ActionTrack:
    """Remember which part of the plan is next.

    Attributes:
        plan: The plan.
        phase: Environment steps into the plan; never falls.
        age: Steps since the plan was made.
        pending: (m, A) actions still to execute before the model is asked again.
        reached: Whether the ball has been in the goal disc and stayed near.
        moved: (age, position) when the ball was last seen to move.
    """

    plan: PlanView
    phase: float = 0.0
    age: int = 0
    pending: FloatArray | None = None
    reached: bool = False
    moved: tuple[int, FloatArray] | None = None


@dataclass(frozen=True)
class DiffusedActionsExecutor:
    """Execute the actions that the model gives for the measured state and the planned state one stride later.

    Attributes:
        requery_every: Steps between two questions to the model; 1 is closed loop, the plan's stride is one whole
            action token.
        phase: ``"paced"``: the plan runs ``pace`` times as fast as it was drawn, and waits for a ball that falls
            ``lag`` behind. ``"nearest"``: the place in the plan is that of the nearest planned state; ``"time"``: it is
            the time since the plan was made; both at the plan's own speed, joined again over ``rejoin`` strides.
        pace: Steps of the plan per step of the environment.
        lag: Strides by which the plan may run ahead of the nearest planned state.
        settle: Strides in which a ball that has reached the goal is asked to be at rest there, counted from every step
            anew; at least 1.
        window: Strides that the search for the nearest planned state looks ahead.
        goal_radius: Distance from the goal that counts as reached; from then on the goal is held.
        leave_radius: Distance at which a reached goal counts as lost again.
        rejoin: Strides in which the ball is to be back on the plan (``nearest`` and ``time``), counted from every step
            anew; at least 1.
        stuck_steps: Steps without motion short of the goal after which the ball is stuck.
        stuck_motion: Motion that counts, environment units.
    """

    requery_every: int = 1
    phase: str = "paced"
    pace: float = 2.5
    lag: float = 1.0
    settle: float = 2.0
    window: float = 1.0
    goal_radius: float = 0.5
    leave_radius: float = 1.0
    rejoin: float = 2.0
    stuck_steps: int = 22
    stuck_motion: float = 0.1

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise unknown_name("phase", self.phase, PHASES)
        for name in (
            "requery_every",
            "pace",
            "lag",
            "window",
            "goal_radius",
            "leave_radius",
            "stuck_steps",
            "stuck_motion",
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive, got {value}")
        for name in ("settle", "rejoin"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} must be at least 1 stride, got {getattr(self, name)}")

    def start(self, plan: PlanView) -> ActionTrack:
        """Begin at the first state of the plan."""
        if self.requery_every > plan.stride:
            raise ValueError(
                f"requery_every must be at most the plan's stride of {plan.stride} steps, got {self.requery_every}"
            )
        return ActionTrack(plan)

    def remaining(self, track: ActionTrack) -> float:
        """Return the environment steps until the plan arrives."""
        return track.plan.arrival_steps - track.phase if track.plan.arrives else math.inf

    def step(self, track: ActionTrack, state: FloatArray, query: Query) -> Outcome[ActionTrack]:
        """Return the next action, asking the model if none is pending."""
        track = self._locate(track, state)
        pending, evaluations, target = track.pending, 0, self._target(track, state)
        if pending is None or not len(pending):
            pending, evaluations = query(state, target)[: self.requery_every], 1
        ended = not track.plan.arrives and track.phase + track.plan.stride > track.plan.end_steps
        lost = ended and track.age >= track.plan.stride and not track.reached
        track, at_rest = self._rest(track, state)
        nxt = replace(track, age=track.age + 1, pending=pending[1:])
        blocked = state[:2] + BUMPER * unit(target[0, :2] - state[:2]) if at_rest else None
        return Outcome(
            pending[0], nxt, settled=track.reached, stuck=at_rest or lost, blocked=blocked, evaluations=evaluations
        )

    def _rest(self, track: ActionTrack, state: FloatArray) -> tuple[ActionTrack, bool]:
        """Find out whether the ball has been at rest for too long: against a wall, say, that the plan leads through."""
        here = (track.age, state[: len(state) // 2].copy())
        moved = track.moved or here
        if track.reached or math.dist(here[1], moved[1]) >= self.stuck_motion:
            moved = here
        return replace(track, moved=moved), track.age - moved[0] >= self.stuck_steps

    def _locate(self, track: ActionTrack, state: FloatArray) -> ActionTrack:
        """Find the place in the plan, and whether the goal is reached or lost again."""
        plan, goal = track.plan, track.plan.goal
        if goal is not None:
            radius = self.leave_radius if track.reached else self.goal_radius
            reached = math.dist(goal, state[: len(goal)]) <= radius
            pending = track.pending if reached == track.reached else None  # what was asked for is out of date
            track = replace(track, reached=reached, pending=pending)
        if self.phase == "time":
            return replace(track, phase=min(float(track.age), plan.end_steps))
        if self.phase == "nearest":
            return replace(track, phase=self._nearest(track, state, track.phase))
        behind = self.lag * plan.stride
        nearest = self._nearest(track, state, max(0.0, track.phase - behind - self.pace))
        ahead = track.phase + (self.pace if track.age else 0.0)
        waits = ahead - nearest > behind
        return replace(track, phase=min(max(track.phase if waits else ahead, nearest), plan.end_steps))

    def _nearest(self, track: ActionTrack, state: FloatArray, first: float) -> float:
        """Search for the planned position nearest to the ball, from ``first`` to a window after the present phase."""
        last = min(track.phase + self.window * track.plan.stride, track.plan.end_steps)
        steps = np.append(np.arange(min(first, last), last, RESOLUTION), last)
        offsets = track.plan.positions_at(steps) - state[: len(state) // 2]
        return float(steps[int((offsets**2).sum(1).argmin())])

    def _target(self, track: ActionTrack, state: FloatArray) -> FloatArray:
        """Return the state (1, O) that the model is to bring about in one stride."""
        plan = track.plan
        if track.reached and plan.goal is not None:
            at_rest = np.zeros_like(state)
            at_rest[: len(plan.goal)] = plan.goal
            span = self.settle if self.phase == "paced" else self.rejoin
            return _on_the_way(plan, state, at_rest, span)
        if self.phase != "paced":
            return _on_the_way(plan, state, self._rejoined(track, state), self.rejoin)
        half, then = len(state) // 2, track.phase + self.pace * plan.stride
        target = plan.states_at(np.array([then]))
        target[:, half : 2 * half] *= self.pace
        return target

    def _rejoined(self, track: ActionTrack, state: FloatArray) -> FloatArray:
        """Return the planned state (O,) at which the ball is to be back on the plan, at the plan's own speed.

        A ball that is slower than the plan rejoins it as far ahead as the mean of both speeds takes it: a state that is
        asked for sooner than the ball can get there is like nothing in the data.
        """
        plan, half, span = track.plan, len(state) // 2, self.rejoin * track.plan.stride
        planned = float(np.linalg.norm(plan.states_at(np.array([track.phase + span]))[0, half : 2 * half]))
        share = 0.5 * (1 + float(np.linalg.norm(state[half : 2 * half])) / planned) if planned > 0 else 1.0
        found: FloatArray = plan.states_at(np.array([track.phase + min(1.0, share) * span]))[0]
        return found


def _on_the_way(plan: PlanView, state: FloatArray, target: FloatArray, strides: float) -> FloatArray:
    """Return the state (1, O) after one stride on the cubic curve that leads to a target in so many strides."""
    return hermite(np.stack([state, target]), np.array([1.0 / strides]), strides * plan.stride * plan.dt_s)
