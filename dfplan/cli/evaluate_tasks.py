"""`dfplan eval --tasks`: success of every task of an environment that has several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer


def read_tasks(text: str) -> list[int]:
    """Read "all" or "1,3" as task numbers.

    Raises:
        ValueError: If the text is neither, or there is no such task.
    """
    from dfplan_envs.ogbench import TASKS

    if text == "all":
        return list(TASKS)
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) in TASKS for part in parts):
        raise ValueError(f"--tasks must be 'all' or numbers from 1 to {max(TASKS)}, for example 1,3, got {text!r}")
    return [int(part) for part in parts]


def by_task(policy: Any, env_id: str, tasks: str, folder: Path, json: bool, **options: Any) -> None:
    """Evaluate task by task, keep each task's run folder, print the table."""
    from dfplan.evaluation import evaluate_tasks
    from dfplan.evaluation.files import to_json

    if not env_id.startswith("ogbench-"):
        raise ValueError(f"{env_id} has no tasks; drop --tasks, or take an environment such as ogbench-pointmaze-large")
    found = evaluate_tasks(policy, env_id, read_tasks(tasks), say=lambda text: typer.echo(text, err=True), **options)
    for task, report in found.reports.items():
        report.save(folder / f"task-{task}", {"env": env_id, "task": task})
    rows = found.rows()
    if json:
        typer.echo(to_json({"env": env_id, **rows}), nl=False)
    else:
        from dfplan.cli.lists import _print_table

        cells = [_cells(name, row) for name, row in [*rows["tasks"].items(), ("all", rows["all"])]]
        _print_table(("task", "success", "95 % interval", "steps", "plans"), cells)
    typer.echo(f"run folder: {folder}", err=json)


def _cells(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    rate, steps = row["success"], row["steps"]["mean"]
    return (
        name, f"{rate['rate']:.3f}", f"{rate['low']:.3f} to {rate['high']:.3f}",
        "-" if steps is None else f"{steps:.0f}", f"{row['plans_per_episode']:.1f}",
    )  # fmt: skip
