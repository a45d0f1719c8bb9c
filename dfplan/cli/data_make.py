"""Make maze2d data on all cores: fixed shards, one tour each, so that the number of workers changes nothing."""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

import dfplan
import dfplan_envs
from dfplan.data import Episodes, episodes_from_tours
from dfplan_envs.maze2d import Maze, as_maze, generate_tour
from dfplan_envs.maze2d.generate import NOISE_STD
from dfplan_envs.maze2d.task import GOAL_RADIUS

SHARD_STEPS = 100_000
KEPT_KEYS = ("observations", "actions", "rewards", "timeouts")
CUSTOM_ENV = "maze2d-v1"
POLL_S = 0.1

Rows = tuple[str, ...]
Tour = dict[str, NDArray[Any]]
Progress = Callable[[int], None]


class Stopped(Exception):
    """Tell a worker that the parent gave up."""


def describe_env(name: str, rows: Sequence[str] | None = None) -> tuple[str, Rows, str, Any]:
    """Look up what data for an environment needs.

    Args:
        name: an environment id or the name without its version.
        rows: the maze's text, for "maze2d" (a maze of your own) only.

    Returns:
        (id, maze rows, "sparse" or "dense", gymnasium spec).

    Raises:
        ValueError: unknown name; an environment without a goal or a maze of its own; a broken maze.
    """
    env_id = dfplan_envs.resolve(name)
    info = next((info for info in dfplan_envs.list_envs() if info.id == env_id), None)
    if info is None:
        raise ValueError(f"{env_id} is no maze of this package, so no data are made for it; use `dfplan data collect`")
    spec = copy.deepcopy(gymnasium.spec(env_id))
    if rows is None and env_id == CUSTOM_ENV:
        raise ValueError(f"{env_id} is a maze of your own and needs its text; pass --maze FILE.txt")
    if rows is not None and env_id != CUSTOM_ENV:
        raise ValueError(f"{env_id} has its maze; drop --maze, or give maze2d as the environment")
    if "goal" in info.kwargs:
        plain = env_id.replace("-multi", "")
        raise ValueError(
            f"{env_id} draws a goal for every episode, so data has no reward for it; make {plain}, same maze"
        )
    maze = as_maze(rows if rows is not None else info.kwargs["maze"])
    if rows is not None:
        spec.kwargs = {**spec.kwargs, "maze": list(maze.rows)}
    return env_id, maze.rows, str(info.kwargs["reward"]), spec


def shards(steps: int, seed: int) -> list[tuple[int, list[int]]]:
    """Split a run into (rows, seed words) of its shards; a longer run starts with the shorter one's full shards.

    Raises:
        ValueError: for fewer than one step, or a negative seed.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    sizes = [min(SHARD_STEPS, steps - start) for start in range(0, steps, SHARD_STEPS)]
    return [(size, [seed, index]) for index, size in enumerate(sizes)]


def _tour(rows: Rows, steps: int, seed: list[int], noisy: bool, progress: Progress) -> Tour:
    tour = generate_tour(Maze(rows), steps, seed, noisy, progress=progress)
    return {key: tour[key] for key in KEPT_KEYS}


_shared: dict[str, Any] = {}


def _start_worker(counter: Any, stop: Any, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    _shared.update(counter=counter, stop=stop, parent=parent)


def _worker_progress(rows: int) -> None:
    if os.getppid() != _shared["parent"]:
        os._exit(1)  # the parent was killed: nobody will take the result
    if _shared["stop"].is_set():
        raise Stopped
    with _shared["counter"].get_lock():
        _shared["counter"].value += rows


def _work(rows: Rows, steps: int, seed: list[int], noisy: bool) -> Tour:
    return _tour(rows, steps, seed, noisy, _worker_progress)


def generate(
    rows: Rows, steps: int, seed: int, *, noisy: bool, workers: int = 1, progress: Progress | None = None
) -> list[Tour]:
    """Drive the tours of all shards, `workers` at a time.

    Args:
        rows: the maze.
        steps: rows in all, at least 1.
        seed: at least 0; the same seed gives the same bits for any number of workers.
        noisy: add D4RL's action noise.
        workers: processes, at least 1; 1 works in this process.
        progress: called with the number of rows made since its last call.

    Returns:
        One tour per shard, in order.

    Raises:
        ValueError: for a number out of range.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    report = progress if progress is not None else lambda rows: None
    parts = shards(steps, seed)
    if workers == 1 or len(parts) == 1:
        return [_tour(rows, size, words, noisy, report) for size, words in parts]
    context = multiprocessing.get_context("spawn")
    counter, stop = context.Value("q", 0), context.Event()
    pool = ProcessPoolExecutor(
        min(workers, len(parts)), context, initializer=_start_worker, initargs=(counter, stop, os.getpid())
    )
    with pool:
        futures = [pool.submit(_work, rows, size, words, noisy) for size, words in parts]
        try:
            _follow(futures, counter, report)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _follow(futures: list[Future[Tour]], counter: Any, report: Progress) -> None:
    seen, pending = 0, set(futures)
    while pending:
        done, pending = wait(pending, timeout=POLL_S, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        now = int(counter.value)
        report(now - seen)
        seen = now


def score_rewards(episodes: Episodes, rows: Rows, reward: str) -> NDArray[np.float32] | None:
    """Score the state after each step as the environment does, or return None for a maze without a goal.

    Args:
        episodes: in D4RL's frame, (x, y) in columns 0 and 1.
        rows: the maze.
        reward: "sparse" (1 within 0.5 of the goal) or "dense" (exp(-distance)).

    Returns:
        (sum T_i,) float32.
    """
    goal = Maze(rows).goal_cell
    if goal is None:
        return None
    distance = np.linalg.norm(episodes.observations[episodes.next_rows, :2].astype(np.float64) - goal, axis=1)
    values = np.exp(-distance) if reward == "dense" else distance <= GOAL_RADIUS
    return np.asarray(values, dtype=np.float32)


def reward_text(rows: Rows, reward: str) -> str:
    """Say in a line what the stored rewards are."""
    goal = Maze(rows).goal_cell
    if goal is None:
        return "0: the maze has no goal of its own"
    law = f"1 if |(x, y) - goal| <= {GOAL_RADIUS} else 0" if reward == "sparse" else "exp(-|(x, y) - goal|)"
    return f"{law} with goal {goal}, scored on the state after the step, as the environment does"


def make_episodes(
    name: str,
    steps: int,
    *,
    seed: int = 0,
    noisy: bool = True,
    workers: int = 1,
    maze: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> tuple[Episodes, Any]:
    """Make maze2d data by D4RL's recipe.

    Args:
        name: an environment id or the name without its version.
        steps: environment steps to simulate; what follows the last reached target of a shard is not kept.
        seed: at least 0.
        noisy: add N(0, 0.5^2) to the controller's action, then clip again.
        workers: processes.
        maze: rows of a maze of your own, for "maze2d".
        progress: called with the number of rows made since its last call.

    Returns:
        The episodes, and the environment's Gymnasium spec.

    Raises:
        ValueError: for a name or number out of range, or too few steps to reach one target.
    """
    env_id, rows, reward, spec = describe_env(name, maze)
    tours = generate(rows, steps, seed, noisy=noisy, workers=workers, progress=progress)
    meta = {
        "env": env_id,
        "recipe": "D4RL maze2d: one endless tour of random targets per shard, driven by the waypoint controller; "
        "cut where a target was reached",
        "noisy": noisy,
        "action_noise_std": NOISE_STD if noisy else 0.0,
        "seed": seed,
        "simulated_steps": steps,
        "shard_steps": SHARD_STEPS,
        "reward": reward_text(rows, reward),
        "versions": versions("numpy", "mujoco", "gymnasium"),
    }
    if maze is not None:
        meta["maze"] = list(rows)
    with contextlib.suppress(ValueError):  # custom mazes have no reference scores
        meta["reference_scores"] = dict(zip(("min", "max"), dfplan_envs.reference_scores(env_id), strict=True))
    episodes = episodes_from_tours(tours, meta)
    if reward == "dense" and (rewards := score_rewards(episodes, rows, reward)) is not None:
        episodes = Episodes(episodes.observations, episodes.actions, rewards, episodes.lengths, meta)
    return episodes, spec


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of dfplan and of `packages`; those that are missing are left out."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"dfplan": dfplan.__version__}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def maze_rows(meta: dict[str, Any]) -> Rows | None:
    """Return the maze that data with this `meta` was made in, or None when it does not say."""
    if "maze" in meta:
        return tuple(meta["maze"])
    with contextlib.suppress(ValueError, KeyError):
        return describe_env(meta["env"])[1]
    return None
