"""The ``diffused_actions`` executor: the model's own actions move the ball, as in the paper; no controller.

The plan says which states come next; every ``requery_every`` steps the model is asked for the actions from the
measured state to them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dfplan.errors import unknown_name
from dfplan_policies.executors.base import Outcome, Query
from dfplan_policies.plans import PlanView, hermite
from dfplan_policies.protocol import FloatArray

PHASES = ("nearest", "time")
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
    """

    plan: PlanView
    phase: float = 0.0
    age: int = 0
    pending: FloatArray | None = None
    reached: bool = False


@dataclass(frozen=True)
class DiffusedActionsExecutor:
    """Execute the actions that the model gives for the measured state and the next planned states.

    Attributes:
        requery_every: Steps between two questions to the model; 1 is closed loop, the plan's stride is one whole
            action token.
        phase: ``"nearest"``: the place in the plan is that of the nearest planned state, so that a lag does not add
            up; ``"time"``: it is the time since the plan was made.
        upcoming: Planned states shown to the model, one stride apart.
        window: Strides that the search for the nearest planned state looks ahead.
        goal_radius: Distance from the goal that counts as reached; from then on the goal is held.
        rejoin: Strides in which the ball is to be back on the plan, or at rest at the goal, counted from every step
            anew; at least 1.
        leave_radius: Distance at which a reached goal counts as lost again.
    """

    requery_every: int = 1
    phase: str = "nearest"
    upcoming: int = 1
    window: float = 1.0
    goal_radius: float = 0.5
    leave_radius: float = 1.0
    rejoin: float = 2.0

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise unknown_name("phase", self.phase, PHASES)
        for name in ("requery_every", "upcoming", "window", "goal_radius", "leave_radius"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.rejoin >= 1:
            raise ValueError(f"rejoin must be at least 1 stride, got {self.rejoin}")

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
        pending, evaluations = track.pending, 0
        if pending is None or not len(pending):
            pending, evaluations = query(state, self._upcoming(track, state))[: self.requery_every], 1
        ended = not track.plan.arrives and track.phase + track.plan.stride > track.plan.end_steps
        stuck = ended and track.age >= track.plan.stride and not track.reached
        nxt = replace(track, age=track.age + 1, pending=pending[1:])
        return Outcome(pending[0], nxt, settled=track.reached, stuck=stuck, evaluations=evaluations)

    def _locate(self, track: ActionTrack, state: FloatArray) -> ActionTrack:
        """Find the place in the plan, and whether the goal is reached or lost again."""
        goal = track.plan.goal
        if goal is not None:
            radius = self.leave_radius if track.reached else self.goal_radius
            reached = math.dist(goal, state[: len(goal)]) <= radius
            pending = track.pending if reached == track.reached else None  # what was asked for is out of date
            track = replace(track, reached=reached, pending=pending)
        if self.phase == "time":
            return replace(track, phase=min(float(track.age), track.plan.end_steps))
        last = min(track.phase + self.window * track.plan.stride, track.plan.end_steps)
        steps = np.append(np.arange(track.phase, last, RESOLUTION), last)
        half = len(state) // 2
        offsets = track.plan.states_at(steps)[:, :half] - state[:half]
        return replace(track, phase=float(steps[int((offsets**2).sum(1).argmin())]))

    def _upcoming(self, track: ActionTrack, state: FloatArray) -> FloatArray:
        """Return the states (n, O) that the model is to bring about next, one stride apart.

        They lie on the cubic curve, ``rejoin`` strides long, from the measured state back to the plan (to the goal at
        rest once it is reached). A state that is asked for sooner than the ball can get there
        is like nothing in the data, and the model does not know what to do about it; so a ball that is slower than the
        plan rejoins it as far ahead as the mean of both speeds takes it.
        """
        plan, goal = track.plan, track.plan.goal
        span = self.rejoin * plan.stride
        if track.reached and goal is not None:
            target = np.zeros_like(state)
            target[: len(goal)] = goal
        else:
            half = len(state) // 2
            planned = float(np.linalg.norm(plan.states_at(np.array([track.phase + span]))[0, half : 2 * half]))
            share = 0.5 * (1 + float(np.linalg.norm(state[half : 2 * half])) / planned) if planned > 0 else 1.0
            target = plan.states_at(np.array([track.phase + min(1.0, share) * span]))[0]
        at = np.minimum(np.arange(1, self.upcoming + 1) / self.rejoin, 1.0)
        return hermite(np.stack([state, target]), at, span * plan.dt_s)
