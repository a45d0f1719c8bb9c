"""A plan as executors see it: states at a fixed spacing, and the curve through them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dfplan_policies.protocol import FloatArray


@dataclass(frozen=True)
class PlanView:
    """Hold one environment's selected plan in numpy.

    Attributes:
        states: (H+1, O) float64, the first is the state the plan was made in; positions in the first G columns,
            velocities in the next G, or positions alone (O below 4).
        stride: Environment steps between two states.
        dt_s: Seconds per environment step.
        arrival_steps: Environment steps until the goal is reached; infinite if the plan does not reach it.
        goal: (G,) or None.
        step: Step of the episode at which the plan was made.
        seconds: Wall-clock seconds that planning took.
        network_evaluations: Calls of the network that planning took.
        stuck: Whether it was asked for because the last plan could not be followed.
        actions: (H*F, A), the plan's own actions, if the executor wants them.
    """

    states: FloatArray
    stride: int
    dt_s: float
    arrival_steps: float = math.inf
    goal: FloatArray | None = None
    step: int = 0
    seconds: float = 0.0
    network_evaluations: int = 0
    stuck: bool = False
    actions: FloatArray | None = None

    @property
    def arrives(self) -> bool:
        """Whether the plan reaches the goal."""
        return self.goal is not None and math.isfinite(self.arrival_steps)

    @property
    def end_steps(self) -> float:
        """Environment steps after which the plan has nothing more to say: at its arrival, or at its last state."""
        last = float((len(self.states) - 1) * self.stride)
        return min(self.arrival_steps, last) if self.arrives else last

    def states_at(self, steps: FloatArray) -> FloatArray:
        """Interpolate the plan with cubic Hermite curves, or in straight lines if it has no velocities.

        After its arrival it is the goal at rest.

        Args:
            steps: (n,) environment steps since the plan was made, at least 0; fractions are allowed.

        Returns:
            (n, O) states; past the last state of a plan that does not arrive, that last state.
        """
        return self._at(steps)

    def positions_at(self, steps: FloatArray) -> FloatArray:
        """Return the positions (n, O//2) of `states_at`, which costs less."""
        return self._at(steps, positions_only=True)

    def _at(self, steps: FloatArray, *, positions_only: bool = False) -> FloatArray:
        places = np.minimum(steps, (len(self.states) - 1) * self.stride) / self.stride
        out = self._between(places, positions_only=positions_only)
        if self.arrives and self.goal is not None and (late := np.asarray(steps) >= self.arrival_steps).any():
            rest = np.zeros(max(out.shape[1], len(self.goal)))
            rest[: len(self.goal)] = self.goal
            out[late] = rest[: out.shape[1]]
        return out

    def curve(self, spacing: float = 1.0) -> FloatArray:
        """Return positions (n, 2) every ``spacing`` steps up to the plan's end, and then the goal if it arrives."""
        steps = np.append(np.arange(0.0, self.end_steps, spacing), self.end_steps)
        at_end = self._between(steps / self.stride)[:, :2]
        return np.vstack([at_end, self.goal[None, :2]]) if self.arrives and self.goal is not None else at_end

    def _between(self, at: FloatArray, *, positions_only: bool = False) -> FloatArray:
        """Interpolate at places (m,) in units of planned states."""
        if self.states.shape[1] < 4:
            knots = np.arange(len(self.states))
            straight = np.stack([np.interp(at, knots, column) for column in self.states.T], axis=1)
            return straight[:, : straight.shape[1] // 2] if positions_only else straight
        return hermite(self.states, at, self.stride * self.dt_s, positions_only=positions_only)


@dataclass(frozen=True)
class Telemetry:
    """Tell what planning and acting have cost in the current episode of one environment.

    Attributes:
        plans: All plans made so far.
        action_evaluations: Network calls for actions, beside those for plans.
    """

    plans: tuple[PlanView, ...] = ()
    action_evaluations: int = 0


def hermite(states: FloatArray, at: FloatArray, spacing_s: float, *, positions_only: bool = False) -> FloatArray:
    """Interpolate states by cubic Hermite curves, which meet positions and velocities at every knot.

    Args:
        states: (n+1, O); positions in columns 0..O//2-1, velocities in the next O//2.
        at: (m,) places in units of knots, 0..n.
        spacing_s: Seconds between two knots.
        positions_only: Leave out all but the positions.

    Returns:
        (m, O) states, or (m, O//2) positions.
    """
    at = np.asarray(at, dtype=np.float64)
    last = max(len(states) - 2, 0)
    knot = np.minimum(np.maximum(at.astype(np.int64), 0), last)  # a fifth of the cost of np.clip on so few numbers
    u = (at - knot)[:, None]
    half = states.shape[1] // 2
    left, right = states[knot], states[knot + 1 if len(states) > 1 else knot]
    p0, v0, p1, v1 = left[:, :half], left[:, half : 2 * half], right[:, :half], right[:, half : 2 * half]
    h = spacing_s
    square, cube = u**2, u**3
    position: FloatArray = (
        (2 * cube - 3 * square + 1) * p0
        + (cube - 2 * square + u) * h * v0
        + (3 * square - 2 * cube) * p1
        + (cube - square) * h * v1
    )
    if positions_only:
        return position
    velocity = (6 * square - 6 * u) / h * (p0 - p1) + (3 * square - 4 * u + 1) * v0 + (3 * square - 2 * u) * v1
    rest = left[:, 2 * half :] + u * (right - left)[:, 2 * half :]
    return np.concatenate([position, velocity, rest], axis=1)
