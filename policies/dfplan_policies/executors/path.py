"""The ``path`` executor: a plan is a path; chase a point ahead of the ball at full speed, and hold at the goal.

The plan's timing is ignored on purpose: the data are slower than the ball can be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dfplan_policies.executors.base import Outcome, Query
from dfplan_policies.plans import PlanView
from dfplan_policies.protocol import FloatArray

SPACING = 0.02  # distance between two points of the resampled path, in cells
BUMPER = 0.35  # how far before a ball at rest against something that thing is taken to be, in cells


@dataclass(frozen=True)
class PathTrack:
    """Remember where on the path the ball is.

    Attributes:
        points: (n, 2), the path resampled at equal distances.
        arrives: Whether its last point is the goal.
        goal: (2,) or None.
        index: Point nearest to the ball so far; never falls.
        age: Steps since the plan was made.
        moved: (age, x, y) when the ball was last seen to move.
        advanced: (age, index) when it was last seen to get on along the path.
        reached: Whether the ball has been in the goal disc and stayed near.
    """

    points: FloatArray
    arrives: bool
    goal: FloatArray | None = None
    index: int = 0
    age: int = 0
    moved: tuple[int, float, float] | None = None
    advanced: tuple[int, int] = (0, 0)
    reached: bool = False


@dataclass(frozen=True)
class PathExecutor:
    """Chase a point ``lookahead`` further along the path with a PD law.

    Attributes:
        lookahead: Distance of the chased point along the path, in cells.
        gain_p: Action per cell of position error.
        gain_d: Action per cell/s of velocity.
        goal_radius: Distance from the goal that counts as reached.
        leave_radius: Distance at which a reached goal counts as lost again.
        stuck_steps: Steps without motion after which the ball is stuck; three times as many without progress.
        stuck_motion: Motion, and progress along the path, that counts, in cells.
        max_distance: Distance from the path beyond which the plan is given up.
        hold: Whether a goal that is reached is held (and no more plans are made) or the path is followed on.
    """

    lookahead: float = 1.2
    gain_p: float = 10.0
    gain_d: float = 1.0
    goal_radius: float = 0.5
    leave_radius: float = 1.0
    stuck_steps: int = 22
    stuck_motion: float = 0.1
    max_distance: float = 0.5
    hold: bool = True

    def __post_init__(self) -> None:
        for name in (
            "lookahead",
            "gain_p",
            "goal_radius",
            "leave_radius",
            "stuck_motion",
            "max_distance",
            "stuck_steps",
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive, got {value}")

    def start(self, plan: PlanView) -> PathTrack:
        """Lay the path through the plan's states, cut at its arrival."""
        if plan.states.shape[1] < 4:
            raise ValueError(
                f"the path executor needs states (x, y, vx, vy, ...), got width {plan.states.shape[1]}; "
                "use kinematic or diffused_actions"
            )
        return PathTrack(resample(plan.curve(), SPACING), plan.arrives, plan.goal)

    def remaining(self, track: PathTrack) -> float:
        """Return the length of path ahead, in cells."""
        return (len(track.points) - 1 - track.index) * SPACING if track.arrives else math.inf

    def step(self, track: PathTrack, state: FloatArray, query: Query) -> Outcome[PathTrack]:
        """Steer towards the chased point; inside the goal disc that point is the goal."""
        track, distance = self._advance(track, state)
        ahead = track.index + round(self.lookahead / SPACING)
        chased = track.points[min(ahead, len(track.points) - 1)]
        if track.reached and track.goal is not None:
            chased = track.goal[:2]
        action = np.clip(self.gain_p * (chased - state[:2]) - self.gain_d * state[2:4], -1.0, 1.0)
        track, at_rest, lost = self._check(track, state, distance)
        blocked = state[:2] + BUMPER * unit(chased - state[:2]) if at_rest else None
        return Outcome(action, track, settled=track.reached, stuck=at_rest or lost, blocked=blocked)

    def _advance(self, track: PathTrack, state: FloatArray) -> tuple[PathTrack, float]:
        """Move the index to the nearest point, looking forward only and not past twice the lookahead."""
        window = max(2, round(2 * self.lookahead / SPACING))
        offsets = track.points[track.index : track.index + window] - state[:2]
        squared = np.einsum("ij,ij->i", offsets, offsets)
        nearest = int(squared.argmin())
        to_goal = math.inf if track.goal is None else math.dist(track.goal[:2], state[:2])
        reached = self.hold and to_goal <= (self.leave_radius if track.reached else self.goal_radius)
        return replace(track, index=track.index + nearest, age=track.age + 1, reached=reached), math.sqrt(
            float(squared[nearest])
        )

    def _at_goal(self, track: PathTrack, x: float, y: float) -> bool:
        """Tell whether the ball is in the goal disc."""
        return track.goal is not None and math.dist(track.goal[:2], (x, y)) <= self.goal_radius

    def _check(self, track: PathTrack, state: FloatArray, distance: float) -> tuple[PathTrack, bool, bool]:
        """Find out whether the ball is at rest against something, or has lost the path in another way.

        It has if it is far from the path, has got no further for three times ``stuck_steps`` although it moves (it may
        have to turn round first), or is at the end of a path that does not arrive. At the goal none of this counts.
        """
        x, y = float(state[0]), float(state[1])
        here = (track.age, x, y)
        if track.reached or (not self.hold and self._at_goal(track, x, y)):
            return replace(track, moved=here, advanced=(track.age, track.index)), False, False
        moved, advanced = track.moved or here, track.advanced
        if track.index - advanced[1] >= self.stuck_motion / SPACING:
            advanced = (track.age, track.index)
        if math.dist(here[1:], moved[1:]) >= self.stuck_motion:
            moved = here
        settling = track.age < self.stuck_steps // 2  # a new plan is given some steps before it is judged
        at_rest = track.age - moved[0] >= self.stuck_steps
        astray = distance > self.max_distance and not settling
        aimless = track.age - advanced[0] >= 3 * self.stuck_steps
        ended = not track.arrives and (len(track.points) - 1 - track.index) * SPACING < self.lookahead and not settling
        return replace(track, moved=moved, advanced=advanced), at_rest, astray or aimless or ended


def unit(v: FloatArray) -> FloatArray:
    """Scale a vector to length 1; the zero vector stays."""
    return v / max(float(np.linalg.norm(v)), 1e-9)


def resample(points: FloatArray, spacing: float) -> FloatArray:
    """Resample a polyline (n, 2) at equal distances along it; its first and last point are kept."""
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    count = max(1, round(float(length[-1]) / spacing))
    at = np.linspace(0.0, float(length[-1]), count + 1)
    return np.stack([np.interp(at, length, points[:, c]) for c in range(2)], axis=1)
