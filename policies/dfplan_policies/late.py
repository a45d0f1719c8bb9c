"""Plans that arrive later than they were asked for: made in a thread beside the control loop, or late on purpose."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dfplan_policies.plans import PlanView
from dfplan_policies.protocol import FloatArray

FASTER = 3.0  # how many times as fast as planned a ball may have been since the plan was asked for


class Job:
    """Hold a plan that is being made; one that nobody holds any more is not begun.

    Args:
        future: The plan.
    """

    def __init__(self, future: Future[Any]) -> None:
        self._future = future
        weakref.finalize(self, future.cancel)

    def done(self) -> bool:
        """Tell whether the plan is there, or has failed."""
        return self._future.done()

    def result(self) -> Any:
        """Return the plan, waiting for it; raises what planning raised."""
        return self._future.result()

    def __reduce__(self) -> tuple[Callable[..., Job], tuple[Any, BaseException | None]]:
        """Copy the plan, waiting for it: a thread cannot be copied."""
        try:
            return finished, (self.result(), None)
        except (Exception, CancelledError) as error:  # noqa: BLE001  (it is raised where the plan is asked for)
            return finished, (None, error)


def finished(plan: Any, error: BaseException | None = None) -> Job:
    """Return the job of a plan that is there, or that has failed."""
    future: Future[Any] = Future()
    if error is None:
        future.set_result(plan)
    else:
        future.set_exception(error)
    return Job(future)


class Worker:
    """Make plans one after the other in a thread, which begins with the first plan and ends with `close`.

    It also ends when nobody holds the worker any more. A copy, or one that comes from a file, has a thread of its own.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    def submit(self, call: Callable[[], Any]) -> Job:
        """Begin to make a plan.

        Raises:
            RuntimeError: If the worker is closed.
        """
        if self._closed:
            raise RuntimeError("the policy is closed and makes no more plans; build a new one")
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="dfplan-plan")
        return Job(self._pool.submit(call))

    def close(self) -> None:
        """Drop plans that are waiting, wait for the one that is being made, end the thread."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def __reduce__(self) -> tuple[type[Worker], tuple[()]]:
        return Worker, ()


def at_once(call: Callable[[], Any]) -> Job:
    """Make a plan now."""
    return finished(call())


@dataclass(frozen=True)
class Pending:
    """Remember a plan that was asked for.

    Attributes:
        job: Where it will be.
        asked_at: Step of the episode, at which the plan begins.
        due: Step from which it may be used; None as soon as it is there.
        goal: (G,) or None, what it leads to.
        stuck: Whether it was asked for because the last plan could not be followed.
        sticks: Plans in a row that could not be followed, when it was asked for.
    """

    job: Job
    asked_at: int
    due: int | None
    goal: FloatArray | None
    stuck: bool
    sticks: int

    def ready(self, step: int) -> bool:
        """Tell whether the plan can be used at a step."""
        return self.job.done() if self.due is None else step >= self.due


def joined(view: PlanView, position: FloatArray, elapsed: int) -> PlanView:
    """Cut a plan off at the place that is nearest to where the ball is by now.

    The place is looked for in what the plan covers in ``FASTER`` times the time since, and a stride more.

    Args:
        view: The plan, made ``elapsed`` steps ago.
        position: (2,), where the ball is.
        elapsed: Environment steps; with 0 the plan stays as it is.

    Returns:
        The rest of the plan, its states again one stride apart, the first at that place.
    """
    if elapsed == 0:
        return view
    last = min(view.end_steps, FASTER * elapsed + view.stride)
    times = np.arange(0.0, last + 0.5, 0.5)
    offsets = view.states_at(times)[:, :2] - position[:2]
    begin = float(times[int((offsets**2).sum(1).argmin())])
    left = max(1, int(np.ceil(len(view.states) - 1 - begin / view.stride)))
    states = view.states_at(begin + view.stride * np.arange(left + 1))
    return replace(view, states=states, arrival_steps=max(0.0, view.arrival_steps - begin))
