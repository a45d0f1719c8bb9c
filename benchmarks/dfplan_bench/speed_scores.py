"""What is left of the score when planning is made cheaper, on matched starts, by executed plans.

A plan that looks right can execute badly, so every saving is judged by the strict score of whole episodes on the same
starts as a careful plan (`CAREFUL_PLAN`): fewer reverse steps, steeper and flatter pyramids, fewer candidates, warm
starts, and plans that arrive some control steps after they were asked for. Times are in `speed`; here is nothing that
depends on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dfplan import DFPlanner
from dfplan.evaluation import evaluate
from dfplan.planner_config import PlannerConfig
from dfplan.plotting import Line, Panel, panels_figure
from dfplan_bench.common import CAREFUL_PLAN, mean_interval
from dfplan_bench.parts import kept
from dfplan_envs import get_normalized_score
from dfplan_policies import DFPolicy

MAZE, ENV = "maze2d-large", "maze2d-large-v1"
EPISODES = 24
STEPS: dict[str, Mapping[str, Any]] = {
    "10 steps, slope 0.5": CAREFUL_PLAN,
    **{
        f"{steps} step{'s' if steps > 1 else ''}, slope {slope:g}": {**CAREFUL_PLAN, "steps": steps, "slope": slope}
        for steps, slope in (
            (20, 1.0), (20, 0.5), (10, 1.0), (10, 0.0), (8, 0.5), (8, 0.0), (5, 0.5), (5, 0.25), (5, 0.0), (3, 0.0),
            (1, 0.0),
        )
    },
}  # fmt: skip
OTHERS: dict[str, Mapping[str, Any]] = {
    "8 steps, slope 0.2, 8 candidates: **the default**": {n: getattr(PlannerConfig(), n) for n in CAREFUL_PLAN},
    "5 steps, slope 0.2, 8 candidates": {"steps": 5, "slope": 0.2, "samples": 8},
    "8 steps, slope 0, 8 candidates": {"steps": 8, "slope": 0.0, "samples": 8},
    "8 steps, slope 0, 4 candidates": {"steps": 8, "slope": 0.0, "samples": 4},
    "10 steps, slope 0.5, 8 candidates": {**CAREFUL_PLAN, "samples": 8},
    "10 steps, slope 0.5, warm start": {**CAREFUL_PLAN, "warm_start": True},
}
CAREFUL = "10 steps, slope 0.5"
LATENCIES = (5, 20, 50)


def settings() -> dict[str, dict[str, Mapping[str, Any]]]:
    """List the options of `DFPolicy` by group and name."""
    late: dict[str, Mapping[str, Any]] = {f"{n} steps late": {**CAREFUL_PLAN, "latency_steps": n} for n in LATENCIES}
    return {"steps": STEPS, "others": OTHERS, "latency": late}


def judge(options: Mapping[str, Any], episodes: int, seed: int) -> dict[str, Any]:
    """Run episodes from matched starts; returns each one's strict score, and what a plan cost."""
    policy = DFPolicy(DFPlanner.from_pretrained(MAZE), seed=seed, **options)
    report = evaluate(policy, ENV, episodes, seed)
    scores = [100.0 * get_normalized_score(ENV, r.strict_return) for r in report.records]
    return {
        "scores": scores, "success_rate": report.metrics["success_rate"],
        "plans_per_episode": report.metrics["plans_per_episode"],
        "network_evaluations": report.metrics["network_evaluations"],
    }  # fmt: skip


def against(found: dict[str, Any], careful: dict[str, Any]) -> dict[str, Any]:
    """Summarise: score, paired difference to the careful plan, success, network calls."""
    gap = np.subtract(found["scores"], careful["scores"])
    return {
        "score": mean_interval(found["scores"]), "difference": mean_interval(gap),
        **{name: found[name] for name in ("success_rate", "plans_per_episode", "network_evaluations")},
    }  # fmt: skip


def run(out: Path, *, seed: int = 0, quick: bool = False, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Score every setting on the same starts."""
    episodes = 2 if quick else EPISODES
    groups = settings()
    if quick:
        groups = {group: dict(list(names.items())[:2]) for group, names in groups.items()}
    jobs = [(group, name, options) for group, names in groups.items() for name, options in names.items()]
    found: dict[str, dict[str, Any]] = {}
    for group, name, options in tqdm(jobs, desc="speed-scores", unit="setting"):
        what = {"options": dict(options), "episodes": episodes, "seed": seed, "maze": MAZE}

        def one(options: Mapping[str, Any] = options) -> dict[str, Any]:
            return judge(options, episodes, seed)

        found.setdefault(group, {})[name] = kept(out, "score", what, one)
    careful = found["steps"][CAREFUL]
    rows = {group: {name: against(v, careful) for name, v in names.items()} for group, names in found.items()}
    _figure(out, rows)
    headline = [
        f"{name}: {row['score']['mean']:.1f} ({row['difference']['mean']:+.1f} ± {row['difference']['stderr']:.1f})"
        for names in rows.values()
        for name, row in names.items()
    ]
    return {"headline": headline, "rows": rows, "episodes": episodes, "maze": MAZE, "careful": CAREFUL}


def _figure(out: Path, rows: dict[str, dict[str, Any]]) -> None:
    """Draw the paired difference to the careful plan against the network calls of a plan, and against latency."""

    def line(label: str, group: str, x: Callable[[str, dict[str, Any]], float]) -> Line:
        points = sorted((x(name, row), row["difference"]) for name, row in rows[group].items())
        zero = [p[1]["stderr"] if p[1]["stderr"] == p[1]["stderr"] else 0.0 for p in points]
        return Line(label, [p[0] for p in points], [p[1]["mean"] for p in points], zero)

    panels = [
        Panel("fewer network calls", "network calls per plan", "score minus that of the careful plan",
              lines=[line("steps x slope", "steps", lambda _, row: row["network_evaluations"])]),
        Panel("late plans", "control steps until a plan is there", "score minus that of the careful plan",
              lines=[line("latency", "latency", lambda name, _: float(name.split()[0]))]),
    ]  # fmt: skip
    panels_figure(out / "speed-scores.png", panels)
