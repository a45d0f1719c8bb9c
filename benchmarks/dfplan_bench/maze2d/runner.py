"""Score rows in parts of a few episodes: parts that are done stay done, and any process may take the next."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from dfplan.errors import missing_extra
from dfplan.evaluation.files import plain
from dfplan.evaluation.metrics import episode_details
from dfplan.evaluation.rollout import make_env, run_episodes
from dfplan.evaluation.workers import set_threads
from dfplan_bench.maze2d import own
from dfplan_bench.maze2d.rows import Row
from dfplan_envs import resolve
from dfplan_envs.maze2d import MazeOracle, WaypointController
from dfplan_policies import DFPolicy, load_policy

PART = 25  # episodes


@dataclass(frozen=True)
class Part:
    """Describe a part of a row.

    Attributes:
        row: The row.
        first: Number of its first episode.
        count: Episodes.
        seed: Of the run.
        checkpoint: Folder or name of the checkpoint.
        weights: SHA-256 of its weights and the planner's defaults, or of the file of a policy of one's own; "" if there
            is none. Others make another part.
    """

    row: Row
    first: int
    count: int
    seed: int
    checkpoint: str
    weights: str

    @property
    def file(self) -> str:
        """Name of its result: parts with other settings, seed or weights have another."""
        settings = {**asdict(self.row), "label": "", "seed": self.seed, "weights": self.weights}
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
        return f"{self.row.name}-{key}-{self.first:04d}-{self.count}.json"


def split(row: Row, episodes: int, seed: int, checkpoint: str, weights: str, size: int = PART) -> list[Part]:
    """Split a row into parts."""
    return [
        Part(row, first, min(size, episodes - first), seed, checkpoint, weights) for first in range(0, episodes, size)
    ]


def run_part(part: Part, threads: int = 1) -> list[dict[str, Any]]:
    """Run the episodes of a part in this process; returns the numbers of each."""
    set_threads(threads)
    env_id = resolve(part.row.env)
    described = json.dumps(plain(asdict(part.row)), sort_keys=True)
    policy = _policy(described, part.checkpoint, part.seed, part.weights)
    numbers = range(part.first, part.first + part.count)
    records, clock = run_episodes(policy, env_id, numbers, seed=part.seed, num_envs=8)
    rows = episode_details(env_id, records)
    for row in rows:
        row["control_hz"] = clock.steps / clock.loop_s
    found: list[dict[str, Any]] = plain(rows)
    return found


@lru_cache(maxsize=4)
def _policy(row: str, checkpoint: str, seed: int, weights: str) -> Any:
    """Build a row's policy, once per process."""
    described = json.loads(row)
    env_id, name, options = resolve(described["env"]), described["policy"], dict(described["options"])
    if described["group"] == own.GROUP:
        return own.build_same(name, env_id, seed, weights)
    env: Any = make_env(env_id)
    maze = env.unwrapped.maze
    goal = getattr(maze, "goal_cell", None)
    env.close()
    if name == "perfect":
        from dfplan_bench.maze2d.oracle import PerfectPlanner

        return DFPolicy(PerfectPlanner(tuple(maze.rows)), replan_every=10_000, seed=seed, **options)
    if name != "df":
        return load_policy(name, seed=seed, controller=partial(WaypointController, maze), oracle=MazeOracle(maze))
    strength, futures = options.pop("goal_guidance", None), options.pop("monte_carlo", None)
    if strength is not None:
        from dfplan.guidance import GoalGuidance
        from dfplan.montecarlo import MonteCarlo
        from dfplan.steering import Steering

        options["guidance"] = GoalGuidance(_goal(goal), scale=strength, when="any_time")
        if futures is not None:
            options["steering"] = Steering(monte_carlo=MonteCarlo(futures, steps=1, scope="row"))
    return load_policy("df", seed=seed, checkpoint=checkpoint, **options)


def _goal(cell: tuple[int, int] | None) -> tuple[float, ...]:
    if cell is None:
        raise ValueError("goal guidance needs a maze with a goal of its own; leave goal_guidance out")
    return tuple(float(v) for v in cell)


Answer = tuple[Part, list[dict[str, Any]]]


def locally(parts: Iterable[Part], workers: int) -> Iterator[Answer]:
    """Run parts in processes of this machine, in any order; the first failure ends it."""
    if workers == 1:
        for part in parts:
            yield part, run_part(part)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(run_part, part): part for part in parts}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def on_ray(parts: Iterable[Part], address: str) -> Iterator[Answer]:
    """Run parts on a Ray cluster, in any order; every node needs dfplan installed and the same checkpoints.

    Args:
        parts: The parts.
        address: ``"auto"``, ``"local"`` or ``ray://host:port``.

    Raises:
        ImportError: If Ray is missing.
    """
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "ray", "--ray") from error
    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    try:
        remote = ray.remote(run_part)
        waiting = {remote.remote(part): part for part in parts}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(done), ray.get(done)
    finally:
        ray.shutdown()


def way_of(workers: int, address: str | None) -> Callable[[Iterable[Part]], Iterator[Answer]]:
    """Choose how parts are run."""
    return partial(locally, workers=workers) if address is None else partial(on_ray, address=address)


def read(path: Path) -> list[dict[str, Any]] | None:
    """Read a part that is done; None if it is not.

    Raises:
        ValueError: If the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text())
        complete = all(isinstance(row, Mapping) and "strict_return" in row for row in rows)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to run its episodes again") from error
    if not complete:
        raise ValueError(f"{path} is damaged (it holds no episodes); delete it to run its episodes again")
    return rows
