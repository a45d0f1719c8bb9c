"""Evaluate task by task, as OGBench's protocol does: so many episodes of each fixed task, success as a rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dfplan.evaluation.evaluator import evaluate
from dfplan.evaluation.metrics import mean_stderr, wilson
from dfplan.evaluation.report import Report
from dfplan_policies import Policy


@dataclass(frozen=True)
class TaskReport:
    """Hold one report per task.

    Attributes:
        env_id: The environment.
        reports: Reports by task number.
    """

    env_id: str
    reports: dict[int, Report]

    def rows(self) -> dict[str, Any]:
        """Return success with its 95 % Wilson interval per task and in all, steps to the goal, plans per episode."""
        by_task = {str(task): _row([report]) for task, report in self.reports.items()}
        return {"tasks": by_task, "all": _row(list(self.reports.values()))}


def _row(reports: Sequence[Report]) -> dict[str, Any]:
    records = [record for report in reports for record in report.records]
    reached = [r.first_reach for r in records if r.first_reach is not None]
    return {
        "success": wilson(len(reached), len(records)),
        "steps": mean_stderr(reached),
        "plans_per_episode": sum(len(r.telemetry.plans) for r in records) / len(records),
        "contact_steps": mean_stderr([int(r.contact.sum()) for r in records]),
    }


def evaluate_tasks(
    policy: Policy,
    env_id: str,
    tasks: Sequence[int] = (1, 2, 3, 4, 5),
    episodes: int = 50,
    seed: int = 0,
    num_envs: int = 8,
    *,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> TaskReport:
    """Run ``episodes`` episodes of every task.

    Episode i of task n starts from a seed made of (``seed``, n, i), so tasks do not share their noise.

    Args:
        policy: Any policy.
        env_id: An environment whose reset takes the option ``task_id``.
        tasks: Task numbers, at least one.
        episodes: Of each task.
        seed: 0 or more.
        num_envs: Environments side by side.
        say: Called with a line after each task.
        options: Passed to `evaluate`.

    Raises:
        ValueError: If a number is out of range, there is no task, or the environment has no such task.
    """
    if not tasks:
        raise ValueError("at least one task is needed, got none; pass tasks=(1, 2, 3, 4, 5)")
    reports = {}
    for task in tasks:
        report = evaluate(
            policy, env_id, episodes, 1000 * seed + task, num_envs, reset_options={"task_id": task}, **options
        )
        reports[task] = report
        if say is not None:
            rate = _row([report])["success"]
            say(f"{env_id} task {task}: success {rate['rate']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]")
    return TaskReport(next(iter(reports.values())).env_id, reports)
