"""OGBench's pointmaze data by the published recipe (its `generate_locomaze`), many episodes side by side.

A ball that touches no wall moves by exactly 0.2 times its action, which NumPy does for all episodes at once; the few
that come near a wall are stepped by the package's own simulator.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan_envs._errors import unknown
from dfplan_envs.ogbench.env import SIZES, SUCCESS_RADIUS, Floats, make_inner

Ints = NDArray[np.int64]
Progress = Callable[[int], None]

NOISE_STD = 0.5
STEP = 0.2  # units that an action of 1 moves the ball
UNIT, OFFSET = 4.0, 4.0  # size of a cell; the centre of cell (0, 0) is (-4, -4)
BALL_RADIUS = 0.7
STITCH_CELLS = 4
MARGIN = 1e-6  # nearer than this to touching counts as touching


@dataclass(frozen=True)
class DatasetInfo:
    """Describe one of OGBench's data sets.

    Attributes:
        name: For example "pointmaze-giant-stitch".
        size: "medium", "large" or "giant".
        kind: "navigate": one random goal after another; "stitch": a goal 4 cells away, then stay.
        episodes: How many (the published set has a tenth more for validation).
        steps: Transitions of an episode; the published file has one row more.
    """

    name: str
    size: str
    kind: str
    episodes: int
    steps: int

    @property
    def env(self) -> str:
        """Return the id of the environment."""
        return f"ogbench-pointmaze-{self.size}-v0"


def _entries() -> list[DatasetInfo]:
    out = []
    for size in SIZES:
        count, steps = (500, 2000) if size == "giant" else (1000, 1000)
        out.append(DatasetInfo(f"pointmaze-{size}-navigate", size, "navigate", count, steps))
        out.append(DatasetInfo(f"pointmaze-{size}-stitch", size, "stitch", 5000, 200))
    return out


DATASETS: dict[str, DatasetInfo] = {info.name: info for info in _entries()}


def find_dataset(name: str) -> DatasetInfo:
    """Look a data set up; the version may stand behind its name ("pointmaze-giant-stitch-v0").

    Raises:
        ValueError: unknown name; the text lists the names and the nearest one.
    """
    base = name.removesuffix("-v0")
    if base not in DATASETS:
        raise unknown("OGBench data set", name, DATASETS)
    return DATASETS[base]


class Mover:
    """Move many balls in one maze as the package's environment does."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.walls = np.array(inner.maze_map) == 1
        self.simulated = 0

    def cells(self, xy: Floats) -> tuple[Ints, Ints]:
        """Return the cells (i, j) of positions (N, 2); row i lies along y."""
        index = np.floor((xy + OFFSET + 0.5 * UNIT) / UNIT).astype(np.int64)
        return index[:, 1], index[:, 0]

    def touching(self, xy: Floats) -> NDArray[np.bool_]:
        """Tell which balls (N,) at positions (N, 2) touch a wall."""
        i, j = self.cells(xy)
        out = np.zeros(len(xy), dtype=bool)
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                a, b = np.clip(i + di, 0, self.walls.shape[0] - 1), np.clip(j + dj, 0, self.walls.shape[1] - 1)
                centre = np.stack([b, a], axis=1) * UNIT - OFFSET
                gap = np.maximum(np.abs(xy - centre) - UNIT / 2, 0.0)
                out |= self.walls[a, b] & (np.hypot(gap[:, 0], gap[:, 1]) < BALL_RADIUS + MARGIN)
        return out

    def step(self, xy: Floats, action: Floats) -> Floats:
        """Move the balls by one step.

        Args:
            xy: (N, 2).
            action: (N, 2) in [-1, 1].

        Returns:
            (N, 2), the new positions.
        """
        moved = xy + STEP * action
        near = np.flatnonzero(self.touching(moved))
        for n in near:
            moved[n] = self.simulate(xy[n], action[n])
        self.simulated += len(near)
        return moved

    def simulate(self, xy: Floats, action: Floats) -> Floats:
        """Move one ball by the package's simulator."""
        data = self.inner.data
        data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = xy, 0.0, 0.0
        return np.array(self.inner.step(action)[0])


def next_cells(walls: NDArray[np.bool_]) -> Ints:
    """Tabulate where the shortest way leads next: (cells, cells) from (cell, goal cell) to a cell, flat row-major.

    Ties go to the neighbour above, left, below, right, in this order, as in the package.
    """
    height, width = walls.shape
    free = [(i, j) for i in range(height) for j in range(width) if not walls[i, j]]
    table = np.tile(np.arange(height * width)[:, None], (1, height * width))
    for goal in free:
        distance = distances(walls, goal)
        for i, j in free:
            best = (i, j)
            for cell in neighbours(walls, (i, j)):
                if distance[cell] < distance[best]:
                    best = cell
            table[i * width + j, goal[0] * width + goal[1]] = best[0] * width + best[1]
    return table


def neighbours(walls: NDArray[np.bool_], cell: tuple[int, int]) -> list[tuple[int, int]]:
    """List the free cells above, left, below and right."""
    i, j = cell
    around = [(i - 1, j), (i, j - 1), (i + 1, j), (i, j + 1)]
    return [c for c in around if 0 <= c[0] < walls.shape[0] and 0 <= c[1] < walls.shape[1] and not walls[c]]


def distances(walls: NDArray[np.bool_], start: tuple[int, int]) -> dict[tuple[int, int], int]:
    """Count the cells between a cell and every cell that can be reached from it."""
    found, queue = {start: 0}, deque([start])
    while queue:
        cell = queue.popleft()
        for other in neighbours(walls, cell):
            if other not in found:
                found[other] = found[cell] + 1
                queue.append(other)
    return found


def goal_cells(walls: NDArray[np.bool_], kind: str) -> list[list[tuple[int, int]]]:
    """List, for each free cell in row-major order, the cells among which a goal is drawn.

    "navigate": every cell that is no plain piece of corridor. "stitch": those 4 cells away, or the cell itself.
    """
    free = [(int(i), int(j)) for i, j in np.argwhere(~walls)]
    if kind == "navigate":
        vertices = [c for c in free if not _corridor(walls, c)]
        return [vertices] * len(free)
    near = [[c for c, d in distances(walls, start).items() if d == STITCH_CELLS] for start in free]
    return [cells or [start] for cells, start in zip(near, free, strict=True)]


def _corridor(walls: NDArray[np.bool_], cell: tuple[int, int]) -> bool:
    i, j = cell
    up, down, left, right = (bool(walls[c]) for c in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)))
    return (not up and not down and left and right) or (not left and not right and up and down)


def generate(
    name: str, seed: int = 0, episodes: int | None = None, progress: Progress | None = None
) -> dict[str, NDArray[Any]]:
    """Make a data set by the published recipe.

    Each step heads for the centre of the next cell on the shortest way with an action of length 1, adds N(0, 0.5^2)
    and clips to [-1, 1]. Start and goal are cell centres moved by U(-1, 1) per axis; "navigate" draws a new goal when
    the old one is reached (within 1.0).

    Args:
        name: see `DATASETS`.
        seed: at least 0; the same seed and number of episodes make the same bits.
        episodes: how many; the published number if None.
        progress: called with the number of steps made since its last call.

    Returns:
        observations (E, T+1, 2) and actions (E, T, 2), float32.

    Raises:
        ValueError: an unknown name, or a number out of range.
        ImportError: without the extra `ogbench`.
    """
    info = find_dataset(name)
    count = info.episodes if episodes is None else episodes
    if count < 1 or seed < 0:
        raise ValueError(f"episodes must be at least 1 and seed at least 0, got {count} and {seed}")
    mover, rng = Mover(make_inner(info.size, terminate_at_goal=False)), np.random.default_rng([seed, len(info.name)])
    width, pools = mover.walls.shape[1], goal_cells(mover.walls, info.kind)
    table, free = next_cells(mover.walls), np.argwhere(~mover.walls)
    start = rng.integers(0, len(free), count)
    xy = _centre(free[start][:, 0], free[start][:, 1]) + rng.uniform(-1, 1, (count, 2))
    goal_cell, goal = _draw_goals(pools, start, width, rng)
    observations = np.empty((count, info.steps + 1, 2), dtype=np.float32)
    actions = np.empty((count, info.steps, 2), dtype=np.float32)
    observations[:, 0] = xy
    for t in range(info.steps):
        i, j = mover.cells(xy)
        following = table[i * width + j, goal_cell]
        way = _centre(following // width, following % width) - xy
        way /= np.linalg.norm(way, axis=1, keepdims=True) + 1e-6
        action = np.clip(way + rng.normal(0.0, NOISE_STD, (count, 2)), -1.0, 1.0)
        xy = mover.step(xy, action)
        observations[:, t + 1], actions[:, t] = xy, action
        if info.kind == "navigate":
            there = np.flatnonzero(np.linalg.norm(xy - goal, axis=1) <= SUCCESS_RADIUS)
            goal_cell[there], goal[there] = _draw_goals(pools, np.zeros_like(there), width, rng)
        if progress is not None:
            progress(count)
    return {"observations": observations, "actions": actions}


def _centre(i: Ints, j: Ints) -> Floats:
    return np.stack([j * UNIT - OFFSET, i * UNIT - OFFSET], axis=1)


def _draw_goals(
    pools: list[list[tuple[int, int]]], start: Ints, width: int, rng: np.random.Generator
) -> tuple[Ints, Floats]:
    """Draw goal cells (N,), flat, and goals (N, 2) for balls that started in free cells ``start`` (N,)."""
    draws = rng.random(len(start))
    cells = np.array(
        [pools[s][int(u * len(pools[s]))] for s, u in zip(start, draws, strict=True)], dtype=np.int64
    ).reshape(-1, 2)
    return cells[:, 0] * width + cells[:, 1], _centre(cells[:, 0], cells[:, 1]) + rng.uniform(-1, 1, (len(start), 2))
