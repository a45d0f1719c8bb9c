"""The ``next_waypoint`` executor: a PD law to the planned state that is due next, at the plan's own speed.

It is how planners without an executor of their own are often run, and what the other executors are measured against.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dfplan_policies.executors.base import Outcome, Query
from dfplan_policies.plans import PlanView
from dfplan_policies.protocol import FloatArray


@dataclass(frozen=True)
class WaypointTrack:
    """Remember the plan and how old it is.

    Attributes:
        plan: The plan.
        age: Steps since it was made.
    """

    plan: PlanView
    age: int = 0


@dataclass(frozen=True)
class NextWaypointExecutor:
    """Steer to the planned state that is due one stride from now.

    Attributes:
        gain_p: Action per cell of position error.
        gain_d: Action per cell/s of velocity.
    """

    gain_p: float = 10.0
    gain_d: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.gain_p) and self.gain_p > 0):
            raise ValueError(f"gain_p must be positive, got {self.gain_p}")

    def start(self, plan: PlanView) -> WaypointTrack:
        """Begin at the first state of the plan."""
        return WaypointTrack(plan)

    def remaining(self, track: WaypointTrack) -> float:
        """Return the environment steps until the plan arrives."""
        return track.plan.arrival_steps - track.age if track.plan.arrives else math.inf

    def step(self, track: WaypointTrack, state: FloatArray, query: Query) -> Outcome[WaypointTrack]:
        """Return the next action; after the plan's arrival the waypoint is the goal."""
        due = track.plan.states_at(np.array([float(track.age + track.plan.stride)]))[0]
        half = len(state) // 2
        velocity = state[half : 2 * half]
        action = np.clip(self.gain_p * (due[:half] - state[:half]) - self.gain_d * velocity, -1.0, 1.0)
        return Outcome(action, replace(track, age=track.age + 1))
