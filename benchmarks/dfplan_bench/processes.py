"""Processes with known statistics to roll out: Lorenz-63, a noisy pendulum, a ball in a maze."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Process:
    """Hold sequences of a process.

    Attributes:
        name: For figures.
        data: (N, L, D) normalised to zero mean and unit variance.
        mean: (D,) of the raw values.
        std: (D,) of the raw values.
        bound: Largest absolute normalised value in the data; a roll-out beyond 1.5 times it has diverged.
    """

    name: str
    data: Tensor
    mean: Tensor
    std: Tensor

    @property
    def bound(self) -> Tensor:
        """(D,)."""
        return self.data.abs().amax((0, 1))


def _normalised(name: str, raw: Tensor, like: Process | None = None) -> Process:
    """Normalise by the statistics of the sequences, or by those of others."""
    mean, std = (raw.mean((0, 1)), raw.std((0, 1))) if like is None else (like.mean.double(), like.std.double())
    return Process(name, ((raw - mean) / std).float(), mean.float(), std.float())


def lorenz(
    count: int, length: int, seed: int, *, step: float = 0.08, substeps: int = 8, like: Process | None = None
) -> Process:
    """Integrate Lorenz-63 (sigma 10, rho 28, beta 8/3) by Runge-Kutta of fourth order, a token every ``step``.

    Source:
        E. N. Lorenz, J. Atmos. Sci. 20 (1963), Eq. 25-27.
    """
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=g, dtype=torch.float64) * 8 + torch.tensor([0.0, 0.0, 25.0])

    def rate(v: Tensor) -> Tensor:
        a, b, c = v.unbind(-1)
        return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], -1)

    h, rows = step / substeps, []
    for t in range(length + 60):  # the first 60 tokens lead onto the attractor
        for _ in range(substeps):
            k1 = rate(x)
            k2 = rate(x + h / 2 * k1)
            k3 = rate(x + h / 2 * k2)
            k4 = rate(x + h * k3)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        if t >= 60:
            rows.append(x)
    return _normalised("Lorenz-63", torch.stack(rows, 1), like)


def maze_ball(
    count: int, length: int, seed: int, *, maze: str = "umaze", stride: int = 8, like: Process | None = None
) -> Process:
    """Record the ball of a maze on its endless tour (D4RL's controller with its noise), a token every ``stride`` steps.

    Columns are x, y in cells and their velocities.
    """
    from dfplan_envs.maze2d.generate import generate_tour  # the simulator is needed only here

    states = generate_tour(maze, count * length * stride, seed, noisy=True)["observations"]
    raw = torch.from_numpy(states).double().reshape(count, length, stride, 4)[:, :, 0]
    return _normalised("ball in a maze", raw, like)


def in_wall(states: Tensor, maze: str = "umaze") -> Tensor:
    """Tell which positions (..., >= 2), raw, lie in a wall or outside; bool (...)."""
    from dfplan_envs.maze2d.layouts import CELL_OFFSET, as_maze

    layout = as_maze(maze)
    free = torch.zeros(layout.height + 2, layout.width + 2, dtype=torch.bool)
    for i, j in layout.free_cells:
        free[i + 1, j + 1] = True
    cell = (states[..., :2] + CELL_OFFSET + 1).floor().long()
    rows, columns = cell[..., 0].clamp(0, layout.height + 1), cell[..., 1].clamp(0, layout.width + 1)
    return ~free[rows, columns]


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Return ``sqrt(2 E|x - y| - E|x - x'| - E|y - y'|)`` of two samples (n, D) and (m, D); 0 if their laws agree."""
    cross = torch.cdist(x, y).mean()
    within = torch.stack([torch.cdist(v, v).sum() / (len(v) * (len(v) - 1)) for v in (x, y)])
    return float((2 * cross - within.sum()).clamp_min(0).sqrt())
