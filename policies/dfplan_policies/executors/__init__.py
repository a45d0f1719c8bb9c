"""Executors by name: ways to turn a plan into actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from dfplan.errors import unknown_name
from dfplan_policies.executors.base import Executor, ExecutorFactory, Outcome, Query
from dfplan_policies.executors.diffused_actions import DiffusedActionsExecutor
from dfplan_policies.executors.kinematic import KinematicExecutor
from dfplan_policies.executors.next_waypoint import NextWaypointExecutor
from dfplan_policies.executors.path import PathExecutor
from dfplan_policies.executors.planned_actions import PlannedActionsExecutor

EXECUTORS: dict[str, ExecutorFactory] = {
    "path": PathExecutor,
    "diffused_actions": DiffusedActionsExecutor,
    "kinematic": KinematicExecutor,
    "next_waypoint": NextWaypointExecutor,
    "planned_actions": PlannedActionsExecutor,
}
DESCRIPTIONS = {
    "path": "treats the plan as a path: chases a point ahead of the ball at full speed, holds at the goal",
    "diffused_actions": "executes the model's own actions towards the next planned states; no controller",
    "kinematic": "follows a plan of positions where an action is the next move and speed does not exist (pointmaze)",
    "next_waypoint": "a PD law to the planned state that is due next, at the plan's own speed: a baseline",
    "planned_actions": "executes the actions that the plan itself holds; for any environment",
}

__all__ = [
    "DESCRIPTIONS",
    "EXECUTORS",
    "DiffusedActionsExecutor",
    "Executor",
    "KinematicExecutor",
    "NextWaypointExecutor",
    "Outcome",
    "PathExecutor",
    "PlannedActionsExecutor",
    "Query",
    "make_executor",
]


def make_executor(name: str, options: Mapping[str, Any] | None = None) -> Executor[Any]:
    """Build an executor by name.

    Args:
        name: A key of ``EXECUTORS``.
        options: Its fields, for example ``{"lookahead": 0.6}``.

    Raises:
        ValueError: If the name or an option is unknown, or a value is out of range.
    """
    if name not in EXECUTORS:
        raise unknown_name("executor", name, EXECUTORS)
    factory: Any = EXECUTORS[name]
    known = [f.name for f in fields(factory)]
    for option in options or {}:
        if option not in known:
            raise unknown_name(f"option of the executor {name!r}", option, known)
    executor: Executor[Any] = factory(**(options or {}))
    return executor
