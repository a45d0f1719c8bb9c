"""`evaluate`: one vectorised evaluator for every policy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dfplan import provenance
from dfplan.evaluation.files import plain
from dfplan.evaluation.metrics import summarise
from dfplan.evaluation.report import Report
from dfplan.evaluation.rollout import OnStep
from dfplan.evaluation.workers import Job, run_in_workers, set_threads
from dfplan_envs import episode_steps, resolve
from dfplan_policies import Policy


def evaluate(
    policy: Policy,
    env_id: str,
    episodes: int = 100,
    seed: int = 0,
    num_envs: int = 8,
    *,
    workers: int = 1,
    threads: int | None = None,
    progress: bool = False,
    env_kwargs: Mapping[str, Any] | None = None,
    reset_options: Mapping[str, Any] | None = None,
    labels: Mapping[str, Any] | None = None,
) -> Report:
    """Judge a policy on matched starts over the environment's full horizon.

    Episode ``i`` is always reset with a seed made of ``(seed, i)``, whatever the policy, ``num_envs`` and
    ``workers``; with a policy whose draws depend on the episode alone (all of `dfplan_policies`) the numbers do not
    depend on them either.

    Args:
        policy: Any policy with stable-baselines3's ``predict``; it must be picklable if ``workers`` is above 1.
        env_id: Any registered id; without its version the newest is taken.
        episodes: How many, at least 1.
        seed: 0 or more.
        num_envs: Environments that act side by side in each process.
        workers: Processes that share the episodes; timings mean something with 1 only.
        threads: Threads of torch in each process; None leaves torch alone, or shares the cores out among the workers.
        progress: Whether to show a bar on standard error.
        env_kwargs: Passed to ``gymnasium.make``.
        reset_options: Passed to every reset, for example ``{"goal": (1, 1)}``.
        labels: Entries for the head of the metrics: ``policy``, ``executor``, ``checkpoint`` ...

    Returns:
        The report: ``metrics``, ``records``, ``save(folder)``.

    Raises:
        ValueError: If a number is out of range or the environment unknown.
    """
    for name, value, least in (
        ("episodes", episodes, 1),
        ("num_envs", num_envs, 1),
        ("workers", workers, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    env_id = resolve(env_id)
    job = Job(policy, env_id, seed, num_envs, threads, env_kwargs, reset_options)
    began = time.perf_counter()
    with _bar(episode_steps(env_id) * episodes, f"{env_id}", progress) as on_step:
        if workers == 1:
            if threads is not None:
                set_threads(threads)
            records, clock = job.run(range(episodes), on_step)
        else:
            records, clock = run_in_workers(job, episodes, workers, on_step)
    metrics = {
        "env": env_id,
        "policy": type(policy).__name__,
        "executor": getattr(policy, "executor_name", None),
        **(labels or {}),
        "episodes": episodes,
        "seed": seed,
        **summarise(env_id, records, clock),
        "num_envs": num_envs,
        "workers": workers,
        "wall_seconds": time.perf_counter() - began,
        "versions": provenance.versions(),
        "git": provenance.git(),
        "hardware": provenance.hardware(),
        "command": provenance.command(),
    }
    return Report(env_id, seed, plain(metrics), records)


@contextmanager
def _bar(total: int, text: str, show: bool) -> Iterator[OnStep | None]:
    """Show a progress bar with the time left on standard error; yields what is to be called with the steps done."""
    if not show:
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(text, total=total)
        yield lambda steps: bar.advance(task, steps)
