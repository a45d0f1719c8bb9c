"""The ``kinematic`` executor: follow a plan of positions with a system whose action is its next move.

An action of 1 moves an axis by ``reach`` units and nothing is left of it afterwards, so there is no speed to brake: aim
at a point ahead on the path, as fast as the slower axis allows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np

from dfplan_policies.executors.base import Outcome, Query
from dfplan_policies.executors.path import resample
from dfplan_policies.plans import PlanView
from dfplan_policies.protocol import FloatArray


@dataclass(frozen=True)
class KinematicTrack:
    """Remember where on the path the system is.

    Attributes:
        points: (n, 2), the path resampled at equal distances.
        arrives: Whether its last point is the goal.
        goal: (2,) or None.
        index: Point nearest to the system so far; never falls.
        idle: Steps since it last got on along the path.
        reached: Whether it is within the goal's radius.
    """

    points: FloatArray
    arrives: bool
    goal: FloatArray | None = None
    index: int = 0
    idle: int = 0
    reached: bool = False


@dataclass(frozen=True)
class KinematicExecutor:
    """Aim at a point ``lookahead`` further along the path.

    Attributes:
        lookahead: Distance of that point along the path, environment units, as all distances here.
        reach: How far an action of 1 moves an axis.
        spacing: Distance between two points of the resampled path.
        goal_radius: Distance from the goal that counts as reached.
        stuck_steps: Steps without progress along the path after which a new plan is asked for.
        max_distance: Distance from the path beyond which the plan is given up.
    """

    lookahead: float = 0.8
    reach: float = 0.2
    spacing: float = 0.1
    goal_radius: float = 0.5
    stuck_steps: int = 25
    max_distance: float = 3.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{field.name} must be positive, got {value}")

    def start(self, plan: PlanView) -> KinematicTrack:
        """Lay the path through the plan's positions, cut at its arrival."""
        return KinematicTrack(resample(plan.curve(), self.spacing), plan.arrives, plan.goal)

    def remaining(self, track: KinematicTrack) -> float:
        """Return the length of path ahead."""
        return (len(track.points) - 1 - track.index) * self.spacing if track.arrives else math.inf

    def step(self, track: KinematicTrack, state: FloatArray, query: Query) -> Outcome[KinematicTrack]:
        """Aim at the point ahead; within the goal's radius that point is the goal."""
        track, away = self._advance(track, state[:2])
        ahead = min(track.index + round(self.lookahead / self.spacing), len(track.points) - 1)
        target = track.goal[:2] if track.reached and track.goal is not None else track.points[ahead]
        offset = target - state[:2]
        action = offset / max(float(np.abs(offset).max()), self.reach)
        stalled = track.idle >= self.stuck_steps and not track.reached
        lost = away > self.max_distance and not track.reached
        way = offset / max(float(np.linalg.norm(offset)), 1e-9)
        blocked = state[:2] + self.lookahead * way if stalled else None
        return Outcome(action, track, settled=track.reached, stuck=stalled or lost, blocked=blocked)

    def _advance(self, track: KinematicTrack, position: FloatArray) -> tuple[KinematicTrack, float]:
        """Move the index to the nearest point, looking forward only; returns the distance from the path too."""
        window = max(2, round(2 * self.lookahead / self.spacing))
        away = np.linalg.norm(track.points[track.index : track.index + window] - position, axis=1)
        nearest = int(away.argmin())
        to_goal = math.inf if track.goal is None else math.dist(track.goal[:2], position)
        idle = 0 if nearest else track.idle + 1
        track = replace(track, index=track.index + nearest, idle=idle, reached=to_goal <= self.goal_radius)
        return track, float(away[nearest])
