"""Draw an evaluation: what environments and plans are to `dfplan.plotting`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfplan.evaluation.metrics import normalise
from dfplan.evaluation.report import Report
from dfplan.evaluation.rollout import EpisodeRecord, make_env
from dfplan.plotting import (
    Line,
    MazeMap,
    Panel,
    PathPanel,
    denoising_gif,
    panels_figure,
    paths_figure,
    plan_figure,
)
from dfplan_envs import list_envs
from dfplan_policies import PlanView

if TYPE_CHECKING:
    from dfplan import DFPlanner, Plan

PANELS = 6
MANY = 20


def maze_map(env_id: str, env_kwargs: Mapping[str, Any] | None = None) -> MazeMap:
    """Return the map of an environment's maze."""
    env: Any = make_env(env_id, env_kwargs)
    try:
        return MazeMap(**env.unwrapped.drawing)
    finally:
        env.close()


def draw_paths(report: Report, path: str | Path, env_kwargs: Mapping[str, Any] | None = None) -> Path:
    """Draw the first episodes: executed paths coloured by time, plans beneath.

    Raises:
        ImportError: If the extra ``viz`` is not installed.
    """
    panels = [
        PathPanel(
            _panel_title(report.env_id, record),
            record.observations[:, :2],
            record.goal,
            [plan.curve() for plan in record.telemetry.plans],
        )
        for record in report.records[:PANELS]
    ]
    maze = maze_map(report.env_id, env_kwargs)
    return paths_figure(
        path, maze, panels, dt_s=_dt_s(report.env_id), title=_title(report), goal_radius=maze.goal_radius
    )


def has_map(env_id: str, env_kwargs: Mapping[str, Any] | None = None) -> bool:
    """Tell whether an environment is a maze that can be drawn."""
    env: Any = make_env(env_id, env_kwargs)
    try:
        return hasattr(env.unwrapped, "drawing")
    finally:
        env.close()


def draw_rewards(report: Report, path: str | Path) -> Path:
    """Draw the sum of rewards over time, episode by episode, and the sorted returns.

    Raises:
        ImportError: If the extra ``viz`` is not installed.
    """
    lines = [Line("", np.arange(1.0, r.steps + 1), np.cumsum(r.rewards)) for r in report.records[:MANY]]
    returns = sorted(r.strict_return for r in report.records)
    share = (np.arange(len(returns)) + 0.5) / len(returns)
    spread = Line("", share, returns)
    return panels_figure(
        path,
        [
            Panel(f"{report.env_id}: {len(lines)} episodes", "control steps", "sum of rewards", lines=lines),
            Panel("all episodes", "share of the episodes", "return at most", lines=[spread]),
        ],
    )


def _dt_s(env_id: str) -> float:
    """Return how long an environment step is."""
    return next(info.dt_s for info in list_envs() if info.id == env_id)


def _title(report: Report) -> str:
    m = report.metrics
    who = " · ".join(str(m[key]) for key in ("policy", "executor") if m.get(key))
    score = m["score"]["strict"]
    text = f"{report.env_id}   {who}"
    if score["mean"] is not None:
        error = "" if score["stderr"] is None else f" ± {score['stderr']:.1f}"
        text += f"   score {score['mean']:.1f}{error} over {m['episodes']} episodes"
    return text


def _panel_title(env_id: str, record: EpisodeRecord) -> str:
    score = normalise(env_id, [record.strict_return])
    value = f"return {record.strict_return:.0f}" if score is None else f"score {score[0]:.0f}"
    seconds = (record.first_reach or 0) * _dt_s(env_id)
    reach = "goal never reached" if record.first_reach is None else f"goal after {seconds:.2f} s"
    return f"episode {record.number}: {value}, {reach}"


def draw_plan(
    plan: Plan,
    view: PlanView,
    maze: MazeMap,
    path: str | Path,
    title: str,
    discs: Sequence[tuple[float, float, float]] = (),
) -> Path:
    """Draw the first environment's plan over its candidates, and forbidden discs (x, y, radius).

    Raises:
        ImportError: If the extra ``viz`` is not installed.
    """
    candidates = plan.candidates[0].numpy()
    return plan_figure(
        path, maze, view.curve(), candidates, view.states, view.goal, title=title, goal_radius=maze.goal_radius,
        discs=discs,
    )  # fmt: skip


def draw_denoising(plan: Plan, maze: MazeMap, path: str | Path, title: str) -> Path:
    """Draw the first environment's plan being denoised; the plan must have been made with ``trace=True``.

    Raises:
        ImportError: If the extra ``viz`` is not installed.
        ValueError: If the plan holds no trace.
    """
    if plan.trace is None:
        raise ValueError("the plan holds no trace; make it with planner.plan(..., trace=True)")
    trace = plan.trace[:, 0].numpy()
    levels = plan.schedule[:, -(trace.shape[2] - 1) :].numpy()
    goal = None if plan.goal is None else plan.goal[0].numpy()
    return denoising_gif(
        path, maze, trace, levels, goal, selected=int(plan.selected[0]), title=title, goal_radius=maze.goal_radius
    )


def longest(records: Sequence[EpisodeRecord]) -> EpisodeRecord:
    """Return the episode whose first plan takes longest to arrive: the one with most to see."""

    def arrival(record: EpisodeRecord) -> float:
        steps = record.telemetry.plans[0].arrival_steps if record.telemetry.plans else 0.0
        return steps if np.isfinite(steps) else 0.0

    return max(records, key=arrival)


def trace_plan(planner: DFPlanner, record: EpisodeRecord, **options: Any) -> Plan:
    """Plan once more from an episode's start, keeping the whole denoising history."""
    import torch

    generator = torch.Generator().manual_seed(record.seed)
    start, goal = record.observations[:1], np.asarray(record.goal, dtype=np.float32)[None]
    return planner.plan(start, goal, generator=generator, trace=True, **options)
