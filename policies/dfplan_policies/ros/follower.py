"""What a robot does with trajectories: the simulated arm's controller, with joint_trajectory_controller's rules."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@final
class Follower:
    """Follow joint trajectories: straight from the current target through the points, then hold the last one.

    Joints are mapped by name, a new trajectory replaces the old one at once, and nothing is clamped: a real controller
    does not either. What is refused leaves the old trajectory as it was.

    Args:
        names: the joints.
        position: (J,) where they are.
    """

    def __init__(self, names: tuple[str, ...], position: Floats) -> None:
        self.names = names
        self.hold(position)

    def hold(self, position: Floats) -> None:
        """Forget the trajectory and stay."""
        self._times, self._points = np.zeros(1), np.array(position, dtype=np.float64)[None]

    def accept(self, message: Any, now_s: float) -> str:
        """Take a JointTrajectory over at once; returns why not, "" if it was.

        Args:
            message: its stamp is ignored: it means now.
            now_s: when it came.
        """
        names, points = tuple(message.joint_names), list(message.points)
        if sorted(names) != sorted(self.names):
            return f"joints must be {', '.join(self.names)}, got {', '.join(names) or 'none'}"
        if not points:
            return "no points"
        if any(len(point.positions) != len(names) for point in points):
            return f"every point needs {len(names)} positions"
        times = np.array([point.time_from_start.sec + point.time_from_start.nanosec * 1e-9 for point in points])
        if (np.diff(times) <= 0).any() or times[0] < 0:
            return "times must increase"
        places = np.array([np.asarray(point.positions, dtype=np.float64) for point in points])
        if not np.isfinite(places).all():
            return "positions must be finite"
        order = [names.index(name) for name in self.names]
        start = self.target(now_s)
        self._times = np.concatenate([[now_s], now_s + np.maximum(times, 1e-6)])
        self._points = np.concatenate([start[None], places[:, order]])
        return ""

    def target(self, now_s: float) -> Floats:
        """Return where the joints (J,) are to be."""
        return np.array([np.interp(now_s, self._times, column) for column in self._points.T])

    def moving(self, now_s: float) -> bool:
        """Say whether the trajectory goes on."""
        return bool(now_s < self._times[-1])
