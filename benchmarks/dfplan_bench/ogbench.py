"""OGBench's pointmaze: navigate and stitch in three mazes, by the stock protocol.

Five tasks, so many episodes each; an episode ends within 1.0 of the goal or after 1000 steps. Each data set has its own
bundled model, which plans and is followed with the settings of the recipe (`dfplan.recipes`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dfplan.checkpoint import list_pretrained
from dfplan.data.files import atomic_path
from dfplan.evaluation import TaskReport, evaluate_tasks
from dfplan.evaluation.figures import maze_map
from dfplan.planner import DFPlanner
from dfplan.plotting import PathPanel, paths_figure
from dfplan.recipes import recipe_for
from dfplan_envs.ogbench import DATASETS, DT_S, TASKS, find_dataset
from dfplan_policies import DFPolicy

EPISODES = 50
TARGETS = {"navigate": 0.97, "stitch": 0.95}
Say = Callable[[str], None]


def run(
    out: Path, *, seed: int = 0, quick: bool = False, say: Say = print, names: Sequence[str] = tuple(DATASETS),
    checkpoints: Mapping[str, str | Path] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate every data set's model; what this run folder holds already is used again.

    Args:
        out: Run folder.
        seed: Decides starts and draws.
        quick: Two tasks of two episodes.
        say: Called with lines of progress.
        names: Data sets.
        checkpoints: A checkpoint for a data set, by name; the bundled one of the same name if none is given.
    """
    known = {row["name"] for row in list_pretrained()} | set(checkpoints or {})
    tasks, episodes = (TASKS[:2], 2) if quick else (TASKS, EPISODES)
    rows: dict[str, Any] = {}
    for name in names:
        if name not in known:
            say(f"{name}: no checkpoint is bundled, so it is left out")
            continue
        source = (checkpoints or {}).get(name, name)
        rows[name] = _kept(out / f"{name}.json", name, source, tasks, episodes, seed, say)
    if not rows:
        raise ValueError(f"there is a checkpoint for none of {', '.join(names)}; train one with `dfplan train`")
    _figure(out / "ogbench.png", rows)
    plain = {name: {k: v for k, v in row.items() if k != "paths"} for name, row in rows.items()}
    return {"headline": [_line(name, row) for name, row in plain.items()], "datasets": plain}


def _kept(
    path: Path, name: str, source: str | Path, tasks: Sequence[int], episodes: int, seed: int, say: Say
) -> dict[str, Any]:  # fmt: skip
    """Evaluate one data set's model, or read what an earlier run with the same weights and settings has found."""
    planner = DFPlanner.from_pretrained(source)
    options = dict(recipe_for(find_dataset(name).env).policy)
    key = {"weights": _digest(planner), "options": options, "tasks": list(tasks), "episodes": episodes, "seed": seed}
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        if found.get("key") == key:
            say(f"{name}: from {path.name}")
            return found
    policy = DFPolicy(planner, seed=seed, **options)
    report = evaluate_tasks(policy, find_dataset(name).env, tasks, episodes, seed, num_envs=10, say=say)
    training = planner.checkpoint.provenance
    size = sum(p.numel() for p in planner.checkpoint.model.parameters())
    row = {
        "key": key, **report.rows(), "seconds": sum(r.metrics["wall_seconds"] for r in report.reports.values()),
        "plan_seconds": _plan_seconds(report), "parameters": size,
        "trained": {"command": training.get("command"), "data": training.get("data", {}).get("id")},
        "paths": {str(t): _path(r.records[0]) for t, r in report.reports.items()},
    }  # fmt: skip
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(row) + "\n")
    return row


def _digest(planner: DFPlanner) -> str:
    from dfplan.checkpoint import tensor_digest

    return tensor_digest(dict(planner.checkpoint.model.named_parameters()))[:16]


def _plan_seconds(report: TaskReport) -> float:
    """Return the median seconds of a plan."""
    seconds = [p.seconds for r in report.reports.values() for e in r.records for p in e.telemetry.plans]
    return float(np.median(seconds))


def _path(record: Any) -> dict[str, Any]:
    """Keep an executed path and its first plan for the figure."""
    plan = record.telemetry.plans[0].curve(4.0)
    points = record.observations[:, :2]
    return {
        "positions": np.round(points, 2).tolist(), "goal": np.round(record.goal, 2).tolist(),
        "plan": np.round(plan, 2).tolist(), "reached": record.first_reach,
    }  # fmt: skip


def _line(name: str, row: dict[str, Any]) -> str:
    rate, target = row["all"]["success"], TARGETS[find_dataset(name).kind]
    return (
        f"{name}: success {100 * rate['rate']:.1f} % [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}] of "
        f"{rate['trials']} episodes (wanted: {100 * target:.0f} %)"
    )


def _figure(path: Path, rows: dict[str, Any]) -> None:
    """Draw one episode of every task in the largest maze there is."""
    name = next(n for n in reversed(list(DATASETS)) if n in rows)
    panels = [
        PathPanel(
            f"task {task}: " + ("goal never reached" if p["reached"] is None else f"goal after {p['reached']} steps"),
            np.array(p["positions"]),
            np.array(p["goal"]),
            [np.array(p["plan"])],
        )
        for task, p in rows[name]["paths"].items()
    ]
    maze = maze_map(find_dataset(name).env)
    title = f"{name}: executed paths, first plan beneath"
    paths_figure(path, maze, panels, dt_s=DT_S, title=title, goal_radius=maze.goal_radius)
