"""Split the episodes of an evaluation over worker processes."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from dfplan.evaluation.rollout import Clock, EpisodeRecord, OnStep, run_episodes
from dfplan.provenance import cores
from dfplan_policies import Policy


@dataclass(frozen=True)
class Job:
    """Say what a worker does: `run_episodes`' arguments.

    Attributes:
        policy: The policy; it is pickled.
        env_id: A registered id.
        seed: Seed of the run.
        num_envs: Environments side by side in each worker.
        threads: Threads of torch in each worker; None shares the cores out.
        env_kwargs: Passed to ``gymnasium.make``.
        reset_options: Passed to every reset.
    """

    policy: Policy
    env_id: str
    seed: int
    num_envs: int
    threads: int | None = None
    env_kwargs: Mapping[str, Any] | None = None
    reset_options: Mapping[str, Any] | None = None

    def run(self, numbers: Sequence[int], on_step: OnStep | None) -> tuple[list[EpisodeRecord], Clock]:
        """Run episodes in this process."""
        return run_episodes(
            self.policy,
            self.env_id,
            numbers,
            seed=self.seed,
            num_envs=self.num_envs,
            env_kwargs=self.env_kwargs,
            reset_options=self.reset_options,
            on_step=on_step,
        )


def set_threads(threads: int) -> None:
    """Cap torch's threads, if torch is in use at all."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def run_in_workers(job: Job, episodes: int, workers: int, on_step: OnStep | None) -> tuple[list[EpisodeRecord], Clock]:
    """Run episodes 0..episodes-1 in ``workers`` processes; episode n goes to worker n modulo ``workers``.

    Raises:
        RuntimeError: If a worker fails; its traceback is in the text.
    """
    workers = min(workers, episodes)
    context = multiprocessing.get_context("spawn")
    threads = job.threads or max(1, cores() // workers)
    pipes: dict[Connection[Any, Any], BaseProcess] = {}
    records: list[EpisodeRecord] = []
    clock = Clock()
    try:
        with _sigint_waits():
            for w in range(workers):
                ours, theirs = context.Pipe()
                process: BaseProcess = context.Process(
                    target=_work, args=(theirs, job, range(w, episodes, workers), threads), daemon=True
                )
                process.start()
                theirs.close()
                pipes[ours] = process
        _collect(pipes, records, clock, on_step)
    finally:
        for process in pipes.values():
            process.terminate()
            process.join()
    return sorted(records, key=lambda record: record.number), clock


@contextmanager
def _sigint_waits() -> Iterator[None]:
    """Let Ctrl-C wait until the block is over, and processes started in it never see one (they inherit the mask).

    Without it a Ctrl-C in the middle of starting a worker would leave one that nobody knows of.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it is started with the first worker otherwise, and unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _collect(
    pipes: Mapping[Connection[Any, Any], BaseProcess],
    records: list[EpisodeRecord],
    clock: Clock,
    on_step: OnStep | None,
) -> None:
    """Gather what the workers send until all are done."""
    open_ends = list(pipes)
    while open_ends:
        for end in wait(open_ends):
            if not isinstance(end, Connection):
                continue
            try:
                kind, content = end.recv()
            except EOFError as error:
                code = pipes[end].exitcode
                raise RuntimeError(f"an evaluation worker died (exit code {code}); try fewer --workers") from error
            if kind == "steps":
                if on_step is not None:
                    on_step(content)
            elif kind == "failed":
                raise content[0] from RuntimeError(content[1])
            else:
                records += content[0]
                clock.add(content[1])
                open_ends.remove(end)


def _work(end: Connection[Any, Any], job: Job, numbers: Sequence[int], threads: int) -> None:
    """Run a worker's share and send progress about ten times a second's worth of steps, then the records."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business: it ends its workers
    set_threads(threads)
    unsent = 0

    def on_step(steps: int) -> None:
        nonlocal unsent
        unsent += steps
        if unsent >= 100:
            end.send(("steps", unsent))
            unsent = 0

    try:
        result = job.run(numbers, on_step)
        end.send(("steps", unsent))
        end.send(("done", result))
    except Exception as error:  # noqa: BLE001  (sent to the parent, which raises it)
        end.send(("failed", (error, traceback.format_exc())))
    finally:
        end.close()
