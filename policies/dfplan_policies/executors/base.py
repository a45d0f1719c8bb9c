"""What an executor is: it turns a plan into actions, one environment at a time, with all memory in a track."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from dfplan_policies.plans import PlanView
from dfplan_policies.protocol import FloatArray

T = TypeVar("T")

Query = Callable[[FloatArray, FloatArray], FloatArray]
"""Asks the model for actions: (measured state (O,), upcoming planned states (n, O)) -> actions (stride, A)."""


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """Say what an executor wants.

    Attributes:
        action: (A,).
        track: The executor's memory for the next step.
        settled: Whether the goal is reached and held, so that no new plan is needed.
        stuck: Whether the plan cannot be followed and a fresh one is needed now.
        blocked: (2,) a place that the ball has run up against and plans had better not lead through, or None.
        evaluations: Network calls that this step took.
    """

    action: FloatArray
    track: T
    settled: bool = False
    stuck: bool = False
    blocked: FloatArray | None = None
    evaluations: int = 0


class Executor(Protocol[T]):
    """Follow plans. Executors are frozen; what changes is in the track."""

    def start(self, plan: PlanView) -> T:
        """Return the track at the beginning of a plan."""
        ...

    def step(self, track: T, state: FloatArray, query: Query) -> Outcome[T]:
        """Choose the next action for the measured state (O,)."""
        ...

    def remaining(self, track: T) -> float:
        """Return how far it still is to the goal, in the executor's own unit; infinite if the plan does not arrive."""
        ...


ExecutorFactory = Callable[..., Executor[Any]]
