"""Schedules and Monte Carlo Guidance (arXiv 2407.01392, sections 3.4 and 4.2): on a toy and in a maze.

The toy is a choice between a sure reward and a lottery that pays more at best and less on average, with the exact
denoiser. Guidance that looks at one predicted future dreams of winning; guidance that averages over many futures takes
the sure route. In the maze the goal is known to the guidance only (no goal token), and the plan is executed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dfplan import DFPlanner, Plan
from dfplan.evaluation import evaluate
from dfplan.guidance import GoalGuidance
from dfplan.montecarlo import MonteCarlo
from dfplan.noise import alpha_bar_table, normal_like
from dfplan.plotting import Line, Panel, panels_figure
from dfplan.sampler import sample
from dfplan.schedule import make_schedule
from dfplan.selection import arrival_steps
from dfplan.steering import Steering
from dfplan_bench.common import wilson
from dfplan_bench.toys import true_reward, two_routes
from dfplan_policies import DFPolicy

LEVELS, STEPS = 100, 20
TOY_SCHEDULES = (("full_sequence", 0.0), ("pyramid", 2.0), ("pyramid", 5.0), ("autoregressive", 0.0))
MAZE_SCHEDULES = (("full_sequence", 0.0), ("pyramid", 1.0), ("pyramid", 2.0))
FUTURES = (1, 4, 16, 64)
TOY_SCALE, MAZE_SCALE, MAZE = 4.0, 3.0, "maze2d-umaze"


def label(schedule: str, slope: float) -> str:
    """Name a schedule with its slope."""
    return f"pyramid, slope {slope:g}" if schedule == "pyramid" else schedule.replace("_", " ")


def toy(schedule: str, slope: float, futures: int | None, count: int, seed: int) -> dict[str, Any]:
    """Sample plans of the toy; ``futures`` None is ordinary guidance."""
    table = alpha_bar_table("cosine", LEVELS)
    S = make_schedule(schedule, 2, LEVELS, steps=STEPS, slope=slope)
    generator, order = torch.Generator().manual_seed(seed), torch.arange(2)
    began = time.perf_counter()
    out = sample(
        two_routes(table), S, torch.randn(count, 2, 1, generator=generator, dtype=torch.float64), alpha_bar=table,
        tokens=order, order=order, log_cost=lambda x0_hat, k: TOY_SCALE * x0_hat[:, 1, 0],
        monte_carlo=None if futures is None else MonteCarlo(futures, steps=8), draw=normal_like(generator),
    )  # fmt: skip
    ms = 1000 * (time.perf_counter() - began) / count
    choice = out.x[:, 0, 0]
    expected, variance = true_reward(choice)
    return {
        "sure": wilson(int((choice > 0).sum()), count), "expected_reward": float(expected.mean()),
        "expected_reward_stderr": float(expected.std() / count**0.5), "reward_variance": float(variance),
        "dreamed_reward": float(out.x[:, 1, 0].mean()), "ms_per_plan": ms, "calls": out.network_evaluations,
    }  # fmt: skip


class GoalByGuidance:
    """A planner whose model never sees the goal: guidance alone leads there."""

    def __init__(self, planner: DFPlanner, steering: Steering) -> None:
        self.planner, self.steering, self.config = planner, steering, planner.config
        self.first_actions = planner.first_actions

    def plan(self, obs: torch.Tensor, goal: torch.Tensor, **options: Any) -> Plan:
        """Plan towards a goal (1, G)."""
        guidance = GoalGuidance(goal[0], scale=MAZE_SCALE, when="any_time")
        plan = self.planner.plan(obs, None, guidance=guidance, steering=self.steering, **options)
        spec = self.planner.spec
        arrival = arrival_steps(plan.candidates[0], goal, spec.goal_columns, self.config.goal_radius, spec.stride)
        return replace(plan, arrival_steps=arrival[None], goal=goal, score=-arrival.min()[None])


def maze(schedule: str, slope: float, futures: int | None, episodes: int, seed: int) -> dict[str, Any]:
    """Execute guided plans in the maze, one candidate each, so that no selection helps."""
    mc = None if futures is None else MonteCarlo(futures, steps=4, scope="row")
    planner = GoalByGuidance(DFPlanner.from_pretrained(MAZE), Steering(monte_carlo=mc))
    options: Mapping[str, Any] = {"samples": 1, "schedule": schedule, "slope": slope, "steps": STEPS}
    policy = DFPolicy(planner, replan_every=10_000, seed=seed, **options)
    metrics = evaluate(policy, f"{MAZE}-v1", episodes, seed).metrics
    return {
        "score": metrics["score"]["strict"], "success_rate": metrics["success_rate"],
        "plan_ms": 1000 * metrics["plan_seconds"]["median"], "plans_per_episode": metrics["plans_per_episode"],
    }  # fmt: skip


def run(out: Path, *, seed: int = 0, quick: bool = False, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Sweep schedules and numbers of futures on both."""
    count, episodes = (60, 1) if quick else (500, 6)
    futures: tuple[int | None, ...] = (None, 1, 4) if quick else (None, *FUTURES)
    in_maze: tuple[int | None, ...] = (None, 1) if quick else (None, 1, 4, 16)
    rows: dict[str, dict[str, Any]] = {"toy": {}, "maze": {}}
    jobs = [("toy", s, n) for s in TOY_SCHEDULES for n in futures] + [("maze", s, n) for s in MAZE_SCHEDULES for n in
                                                                     in_maze]  # fmt: skip
    for where, (schedule, slope), n in tqdm(jobs, desc="schedules", unit="setting"):
        run_one = toy if where == "toy" else maze
        found = run_one(schedule, slope, n, count if where == "toy" else episodes, seed)
        rows[where].setdefault(label(schedule, slope), {})["mean" if n is None else str(n)] = found
    _figure(out, rows, futures)
    steep, flat = rows["toy"][label("autoregressive", 0)], rows["toy"]["full sequence"]
    most = str(futures[-1])
    headline = [
        f"toy: sure route, ordinary guidance on the full sequence {flat['mean']['sure']['rate']:.2f}",
        f"toy: sure route, {most} futures, token by token {steep[most]['sure']['rate']:.2f}",
        *(f"maze, {name}: " + ", ".join(f"{n}: {c['score']['mean']:.0f}" for n, c in row.items())
          for name, row in rows["maze"].items()),
    ]  # fmt: skip
    return {"headline": headline, "rows": rows, "toy_plans": count, "maze": MAZE, "maze_episodes": episodes}


def _figure(out: Path, rows: dict[str, Any], futures: tuple[int | None, ...]) -> None:
    """Draw the sure route's share, what plans dream of, and the maze scores, each against the number of futures."""
    counts = [n for n in futures if n is not None]
    at = [0.5, *(float(n) for n in counts)]
    keys = ["mean", *(str(n) for n in counts)]
    lines: dict[str, list[Line]] = {"sure": [], "dream": [], "maze": []}
    for name, row in rows["toy"].items():
        rates = [row[key]["sure"] for key in keys]
        half = [(r["high"] - r["low"]) / 2 for r in rates]
        lines["sure"].append(Line(name, at, [r["rate"] for r in rates], half))
        gap = [row[key]["dreamed_reward"] - row[key]["expected_reward"] for key in keys]
        lines["dream"].append(Line(name, at, gap))
    for name, row in rows["maze"].items():
        known = [key for key in keys if key in row]
        stderr = [row[key]["score"]["stderr"] or 0.0 for key in known]
        lines["maze"].append(Line(name, at[: len(known)], [row[key]["score"]["mean"] for key in known], stderr))
    x = "futures (0.5: ordinary guidance)"
    panels = [
        Panel("toy: the better route is taken", x, "share of plans", lines=lines["sure"], log="x"),
        Panel("toy: dreamed minus true reward", x, "reward", lines=lines["dream"], log="x"),
        Panel(f"{MAZE}, goal by guidance only", x, "score", lines=lines["maze"], log="x"),
    ]
    panels_figure(out / "schedules.png", panels, height_in=3.4)
