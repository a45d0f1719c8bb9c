"""Trajectory stitching in the data: lay pieces of different episodes end to end where their states almost meet.

A window of an episode never shows a goal that is further away than the episode is long. Here a composed episode follows
one episode for a while, jumps to another (or to another time of the same) that passes within ``radius`` of where it has
got to, and goes on there. Where the whole state is compared this is sound up to the radius: every composed transition
is one of the data's with its end moved by at most ``radius``.

A jump prefers the continuation that leads on to a distant state of the data. How far that is, is counted in hops: two
small cells of states are a hop apart if some episode leads from one to the other in ``gap`` steps. So far goals are
reached without doubling back, and nothing is used but the data: no map, no simulator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dfplan.data.episodes import Episodes
from dfplan.windows import EpisodeArrays

Ints = NDArray[np.int64]
FAR = 2**14  # stands for "cannot be reached" in tables of distances


@dataclass(frozen=True)
class StitchConfig:
    """Say how episodes are composed.

    Attributes:
        radius: Largest distance of a jump, Euclidean over all observation columns, environment units.
        steps: Longest composed episode.
        episodes: How many are composed.
        goals: States of the data that composed episodes head for, one each.
        far: How many of them are drawn for an episode; it heads for the furthest.
        detours: Share of the episodes that head for another one, of four times as many: that to which the way is
            longest beyond the straight line, so that what lies on two sides of a wall is not rare.
        gap: Fewest steps between two jumps of a composed episode, and steps of a hop.
        piece: Mean steps that are followed before a jump is tried; one that gets no nearer is left sooner.
        look: Hops ahead at which a continuation is judged.
        choices: Continuations among which a jump chooses.
        columns: Observation columns of the cells.
    """

    radius: float
    steps: int
    episodes: int = 4000
    goals: int = 256
    far: int = 4
    detours: float = 0.5
    gap: int = 20
    piece: int = 80
    look: int = 3
    choices: int = 32
    columns: tuple[int, ...] = (0, 1)

    def __post_init__(self) -> None:
        if not 0 <= self.detours <= 1:
            raise ValueError(f"detours is a share and must lie in [0, 1], got {self.detours}")
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise ValueError(f"radius must be positive, got {self.radius}; it is a distance in environment units")
        for name in ("steps", "episodes", "goals", "far", "gap", "piece", "look", "choices"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class _Places:
    """Sort states into cells so small that two states in one are within the radius in the cells' columns."""

    def __init__(self, obs: NDArray[np.float32], left: Ints, config: StitchConfig) -> None:
        columns = list(config.columns)
        places = obs[:, columns].astype(np.float64)
        index = np.floor((places - places.min(0)) / (config.radius / math.sqrt(len(columns)))).astype(np.int64)
        flat = np.ravel_multi_index(tuple(index.T), tuple(index.max(0) + 1))
        _, self.cell = np.unique(flat, return_inverse=True)  # number only the cells that occur
        self.count = int(self.cell.max()) + 1
        starts = np.flatnonzero(left > 0)
        self._rows = starts[np.argsort(self.cell[starts], kind="stable")]
        self._begin = np.searchsorted(self.cell[self._rows], np.arange(self.count + 1))
        hops = np.flatnonzero(left >= config.gap)
        pairs = np.unique(self.cell[hops + config.gap] * self.count + self.cell[hops])
        self._into, self._from = pairs // self.count, pairs % self.count
        self._edge = np.searchsorted(self._into, np.arange(self.count + 1))

    def draw(self, near: Ints, choices: int, rng: np.random.Generator) -> Ints:
        """Draw transitions (n, choices) that start in the cell of observations (n,); -1 where the cell has none."""
        cell = self.cell[near]
        begin, some = self._begin[cell][:, None], np.diff(self._begin)[cell][:, None]
        at = begin + np.floor(rng.random((len(near), choices)) * some).astype(np.int64)
        return np.where(some > 0, self._rows[np.minimum(at, len(self._rows) - 1)], -1)

    def distances(self, goal: int) -> NDArray[np.int16]:
        """Count the hops from every cell to the cell ``goal``; `FAR` if there is no way."""
        out = np.full(self.count, FAR, dtype=np.int16)
        front, steps = np.array([goal]), 0
        while len(front) and steps < FAR:
            out[front] = steps
            sizes = self._edge[front + 1] - self._edge[front]
            at = np.repeat(self._edge[front + 1] - np.cumsum(sizes), sizes) + np.arange(sizes.sum())
            front = np.unique(self._from[at])
            front, steps = front[out[front] == FAR], steps + 1
        return out


class _Walk:
    """Compose ``n`` episodes side by side.

    ``rows[p, k]`` is the observation from which transition k of composed episode p starts, ``length[p]`` the number of
    transitions, ``now[p]`` the observation it has come to, ``fresh[p]`` the steps since its last jump.
    """

    def __init__(
        self, obs: NDArray[np.float32], left: Ints, places: _Places, config: StitchConfig, rng: np.random.Generator
    ) -> None:
        self.obs, self.left, self.places, self.config, self.rng = obs, left, places, config, rng
        n, goals = config.episodes, rng.integers(0, len(obs), config.goals)
        self.goals = goals
        self.away = np.stack([places.distances(int(places.cell[g])) for g in goals])
        starts = np.flatnonzero(left > 0)
        self.now = starts[rng.integers(0, len(starts), n)]
        drawn = rng.integers(0, config.goals, (4 * config.far, n))
        reach = self.away[drawn, places.cell[self.now]] % FAR  # a goal out of reach counts as the nearest
        extra = np.where(reach > 0, reach - self._straight(goals[drawn]), -FAR)
        reach[config.far :] = -1
        self.goal = drawn[np.where(rng.random(n) < config.detours, extra, reach).argmax(0), np.arange(n)]
        self.rows = np.zeros((n, config.steps), dtype=np.int64)
        self.length = np.zeros(n, dtype=np.int64)
        self.fresh = np.full(n, config.gap, dtype=np.int64)

    def _straight(self, goals: Ints) -> NDArray[np.float64]:
        """Count the hops of the fastest kind that the straight line to observations ``goals`` (m, n) is long."""
        columns, gap = list(self.config.columns), self.config.gap
        hops = np.flatnonzero(self.left >= gap)
        if len(hops) == 0:
            return np.zeros(goals.shape)
        moves = np.linalg.norm(self.obs[hops + gap][:, columns] - self.obs[hops][:, columns], axis=1)
        away = np.linalg.norm(self.obs[goals][..., columns] - self.obs[self.now][:, columns], axis=-1)
        return np.asarray(away / max(float(np.quantile(moves, 0.9)), 1e-9))

    def run(self) -> None:
        """Walk until every episode is at its goal, as long as may be, or at an end with nothing to jump to."""
        p = np.flatnonzero(~self.arrived())
        while len(p):
            self._jump(p)
            p = p[self.left[self.now[p]] > 0]
            self.rows[p, self.length[p]] = self.now[p]
            self.now[p] += 1
            self.fresh[p] += 1
            self.length[p] += 1
            p = p[(self.length[p] < self.config.steps) & ~self._there(p)]

    def arrived(self) -> NDArray[np.bool_]:
        """Tell which have got within two radii of their goals."""
        return self._there(np.arange(len(self.goal)))

    def _there(self, p: Ints) -> NDArray[np.bool_]:
        """Tell which of the walks ``p`` are near their goals, on the way and in space."""
        away = np.linalg.norm(self.obs[self.now[p]].astype(np.float64) - self.obs[self.goals[self.goal[p]]], axis=1)
        return np.asarray((self._to_go(p, self.now[p]) <= 1) & (away <= 2 * self.config.radius))

    def _to_go(self, p: Ints, row: Ints) -> NDArray[np.int16]:
        """Count the hops from observations ``row`` to the walks' goals."""
        return np.asarray(self.away[self.goal[p], self.places.cell[row]])

    def _later(self, p: Ints, row: Ints) -> NDArray[np.int16]:
        """Count the hops to the goal by way of what the data do from ``row`` on."""
        best = np.full(len(p), FAR, dtype=np.int16)
        for hops in range(1, self.config.look + 1):
            there = self._to_go(p, row + np.minimum(self.left[row], hops * self.config.gap))
            lasts = self.left[row] >= hops * self.config.gap
            best = np.where(lasts, np.minimum(best, there + np.int16(hops)), best)
        return best

    def _jump(self, p: Ints) -> None:
        """Jump where an episode is over, where it gets no nearer, and now and then elsewhere."""
        now = self.now[p]
        aimless = self._later(p, now) > self._to_go(p, now)
        wants = aimless | (self.left[now] == 0) | (self.rng.random(len(p)) < 1 / self.config.piece)
        q = p[wants & (self.fresh[p] >= self.config.gap)]
        if len(q) == 0:
            return
        options = self.places.draw(self.now[q], self.config.choices, self.rng)
        best, choice = self._later(q, self.now[q]), np.full(len(q), -1, dtype=np.int64)
        for row in options.T:
            safe = np.maximum(row, 0)
            later = self._later(q, safe)
            better = (row >= 0) & (self._miss(q, safe) <= self.config.radius) & (later < best)
            best, choice = np.where(better, later, best), np.where(better, row, choice)
        q, choice = q[choice >= 0], choice[choice >= 0]
        self.now[q], self.fresh[q] = choice, 0

    def _miss(self, p: Ints, row: Ints) -> NDArray[np.float64]:
        """Measure how far observations ``row`` are from where the walks have got to."""
        away = self.obs[row].astype(np.float64) - self.obs[self.now[p]]
        return np.asarray(np.sqrt(np.einsum("nc,nc->n", away, away)))


def stitch(episodes: EpisodeArrays, config: StitchConfig, seed: int = 0) -> Episodes:
    """Compose episodes that go further than the data's.

    Args:
        episodes: The data.
        config: How; see `StitchConfig`.
        seed: At least 0; the same seed gives the same bits.

    Returns:
        At most ``config.episodes`` episodes: those that came within two radii of their goal in time. A transition
        starts in an observation of the data and has its action and reward; where a jump follows, its end is the
        observation jumped to, at most ``config.radius`` from the true one.

    Raises:
        ValueError: If none did; the data are too sparse for the radius, or the episodes too short for the gap.
    """
    lengths = np.asarray(episodes.lengths, dtype=np.int64)
    obs = np.asarray(episodes.observations, dtype=np.float32)
    episode = np.repeat(np.arange(len(lengths)), lengths + 1)
    left = (np.cumsum(lengths + 1) - 1)[episode] - np.arange(len(obs))
    walk = _Walk(obs, left, _Places(obs, left, config), config, np.random.default_rng([seed, 31]))
    walk.run()
    made = np.flatnonzero((walk.length > 0) & walk.arrived())
    if len(made) == 0:
        raise ValueError(
            f"nothing can be stitched: with jumps of up to {config.radius:g}, at least {config.gap} steps apart, "
            "no composed episode gets near its goal; pass a larger radius, or more data"
        )
    rows = np.concatenate([walk.rows[p, : walk.length[p]] for p in made])
    seen = np.concatenate([np.append(walk.rows[p, : walk.length[p]], walk.now[p]) for p in made])
    action = rows - episode[rows]  # each episode has one observation more than actions
    out = Episodes(obs[seen], episodes.actions[action], episodes.rewards[action], walk.length[made])
    return replace(out, meta={**getattr(episodes, "meta", {}), "stitched": {**vars(config), "seed": seed}})
