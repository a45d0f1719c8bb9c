"""The perfect path: a planner that knows the map, for the executor's own ceiling."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dfplan.plan import Plan

FINE = 10  # grid points per cell
CLEARANCE = 0.12  # of the ball's centre from a wall, in cells: its radius and a little
OFFSET = 0.7  # position (0, 0) in units of the grid of walls: a ball at q is over the cell floor(q + 0.7)


@dataclass(frozen=True)
class Grid:
    """A fine grid of places where the ball fits.

    Attributes:
        free: bool (n, m), whether it fits at position ``index / FINE - 0.7`` (in cells).
    """

    free: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: tuple[str, ...]) -> Grid:
        """Inflate the walls of a maze by the ball's radius."""
        wall = np.array([[c == "#" for c in row] for row in rows])
        fine = np.kron(wall, np.ones((FINE, FINE), dtype=bool))
        reach = math.ceil(CLEARANCE * FINE)
        grown = fine.copy()
        for di in range(-reach, reach + 1):
            for dj in range(-reach, reach + 1):
                grown |= np.roll(np.roll(fine, di, 0), dj, 1)
        return cls(~grown)

    def distances(self, goal: tuple[int, int]) -> NDArray[np.float64]:
        """Compute the time to the goal in grid steps, at one top speed along each axis; ties: the shorter way."""
        found = np.full(self.free.shape, np.inf)
        found[goal] = 0.0
        queue = [(0.0, goal)]
        moves = [(i, j, 1.0 + 1e-3 * (math.hypot(i, j) - 1)) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
        while queue:
            cost, (i, j) = heapq.heappop(queue)
            if cost > found[i, j]:
                continue
            for di, dj, length in moves:
                a, b = i + di, j + dj
                if self.free[a, b] and self.free[a, j] and self.free[i, b] and cost + length < found[a, b]:
                    found[a, b] = cost + length
                    heapq.heappush(queue, (cost + length, (a, b)))
        return found

    def nearest(self, position: NDArray[np.float64]) -> tuple[int, int]:
        """Find the grid point nearest to a position where the ball fits."""
        at = (position + OFFSET) * FINE - 0.5
        places = np.argwhere(self.free)
        i, j = places[int(((places - at) ** 2).sum(1).argmin())]
        return int(i), int(j)


class PerfectPlanner:
    """Plan along the fastest way through a maze that is known.

    Args:
        rows: The maze.
        spacing: Grid steps between two states of a plan.
    """

    def __init__(self, rows: tuple[str, ...], spacing: int = 3) -> None:
        self.grid, self.spacing = Grid.of(rows), spacing
        self.config = _Defaults()
        self._known: dict[tuple[int, int], NDArray[np.float64]] = {}

    def plan(self, obs: Any, goal: Any, **options: Any) -> Plan:
        """Return the way from an observation (1, 4) to a goal (1, 2)."""
        start, end = np.asarray(obs, dtype=np.float64)[0, :2], np.asarray(goal, dtype=np.float64)[0]
        points = np.vstack([start, self._way(start, end), end])
        states = np.zeros((1, 1, len(points), 4), dtype=np.float32)
        states[0, 0, :, :2] = points
        velocity = np.gradient(points, axis=0)  # the curve through the points is the polyline, nearly
        states[0, 0, :, 2:] = velocity / (self.spacing * 0.01)
        found = torch.from_numpy(states)
        arrival = torch.tensor([[float((len(points) - 1) * self.spacing)]])
        return Plan(
            observations=found[:, 0], actions=None, score=-arrival[:, 0], candidates=found, arrival_steps=arrival,
            feasible=torch.ones(1, 1, dtype=torch.bool), selected=torch.zeros(1, dtype=torch.int64),
            goal=torch.from_numpy(end.astype(np.float32))[None], schedule=torch.zeros(1, 1, dtype=torch.int64),
            trace=None, stride=self.spacing, dt_s=0.01, network_evaluations=0, seconds=0.0,
        )  # fmt: skip

    def first_actions(self, *given: Any, **options: Any) -> Any:
        """Refuse: there is no model."""
        raise ValueError("a perfect path has no actions; use the executor 'path'")

    def _way(self, start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
        goal = self.grid.nearest(end)
        if goal not in self._known:
            self._known[goal] = self.grid.distances(goal)
        left, (i, j) = self._known[goal], self.grid.nearest(start)
        way = [(i, j)]
        while left[i, j] > 0:
            around = [(left[i + a, j + b], i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b]
            allowed = [
                (cost + 1e-3 * (math.hypot(a - i, b - j) - 1), a, b)
                for cost, a, b in around
                if self.grid.free[a, b] and self.grid.free[a, j] and self.grid.free[i, b]
            ]
            _, i, j = min(allowed)
            way.append((i, j))
        kept = np.array(way[:: self.spacing])
        places: NDArray[np.float64] = (kept + 0.5) / FINE - OFFSET
        return places


@dataclass(frozen=True)
class _Defaults:
    """What `DFPolicy` asks of a planner's configuration."""

    samples: int = 1
    action_steps: int = 1
