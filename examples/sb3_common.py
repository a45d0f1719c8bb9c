"""What the four scripts share: options, parts that stay done, curves, a result as JSON with a figure."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import SAC

from dfplan import DFPlanner
from dfplan.data.files import atomic_path
from dfplan.plotting import Line, Panel, panels_figure
from dfplan_bench.parts import kept
from dfplan_envs.wrappers import GoalObservation
from dfplan_policies import run_episode

NOT_SETTINGS = ("out", "json", "figure", "seeds", "threads", "command")  # what no part depends on
CHEAP = {"samples": 4, "steps": 4}  # plans that cost little: they are made in every episode of training


def options(doc: str | None, name: str, argv: Sequence[str] | None, **defaults: Any) -> argparse.Namespace:
    """Read the command line: --short, --out, --json, --figure, --seeds, --threads and the script's own numbers."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs") / name, help="run folder; parts in it are kept")
    parser.add_argument("--json", type=Path, help="write the result there too")
    parser.add_argument("--figure", type=Path, help="write the learning curve there too")
    parser.add_argument("--seeds", type=int, default=3, help="runs with different seeds")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    for key, value in defaults.items():
        parser.add_argument(f"--{key.replace('_', '-')}", type=type(value), default=value)
    chosen = parser.parse_args(argv)
    given = sys.argv[1:] if argv is None else [str(a) for a in argv]
    chosen.command = shlex.join(["python", f"examples/{name.replace('-', '_')}.py", *given])
    torch.set_num_threads(chosen.threads)
    chosen.out.mkdir(parents=True, exist_ok=True)
    return chosen


def goal_env(env_id: str, steps: int | None = None, **kwargs: Any) -> GoalObservation:
    """Make a maze that shows its goal, with a time limit of one's own if ``steps`` is given."""
    return GoalObservation(gymnasium.make(env_id, max_episode_steps=steps, disable_env_checker=True, **kwargs))


def planner(name: str = "maze2d-umaze") -> DFPlanner:
    """Load a bundled planner."""
    return DFPlanner.from_pretrained(name)


def small_sac(env: Any, seed: int, train_freq: int, learning_starts: int, **options: Any) -> SAC:
    """Build a SAC that is cheap on one core: small networks, two gradient steps for every three of the environment."""
    policy = {"net_arch": [64, 64], **options.pop("policy_kwargs", {})}
    return SAC(
        "MultiInputPolicy", env, seed=seed, device="cpu", train_freq=train_freq, gradient_steps=train_freq // 2 + 1,
        learning_starts=learning_starts, policy_kwargs=policy, **options,
    )  # fmt: skip


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


def judged(policy: Any, env: Any, seeds: Sequence[int]) -> dict[str, float]:
    """Run a policy on given starts: mean return and success."""
    outcomes = [run_episode(policy, env, seed) for seed in seeds]
    totals = np.array([o.total for o in outcomes])
    return {"return": float(totals.mean()), "success": float(np.mean([o.success for o in outcomes]))}


def learn(
    model: Any, judge: Callable[[], dict[str, float]], steps: int, every: int, label: str
) -> list[dict[str, float]]:
    """Train, and judge before it, every so many steps and after it; counted are the steps that were really taken."""
    curve, began = [{"steps": 0, **judge()}], time.perf_counter()
    while (done := int(curve[-1]["steps"])) < steps:
        model.learn(min(every, steps - done), reset_num_timesteps=done == 0, progress_bar=False)
        curve.append({"steps": int(model.num_timesteps), **judge()})
        seconds = time.perf_counter() - began
        left = seconds * max(0, steps - curve[-1]["steps"]) / curve[-1]["steps"]
        found = ", ".join(f"{k} {v:.3g}" for k, v in curve[-1].items())
        say(f"{label}: {found} ({seconds:.0f} s, {left:.0f} s left)")
    return curve


def part(args: argparse.Namespace, name: str, make: Callable[[], Any], **settings: Any) -> Any:
    """Make a part, or take it from the run folder if it is there with the same settings."""
    chosen = {k: v for k, v in vars(args).items() if k not in NOT_SETTINGS}
    return kept(args.out, name, {**chosen, **settings}, lambda: {"value": make()})["value"]


def mean_line(label: str, curves: Sequence[Sequence[dict[str, float]]], key: str, x: str = "steps") -> Line:
    """Average curves that were judged at the same steps, with standard errors."""
    rows = np.array([[point[key] for point in curve] for curve in curves])
    error = rows.std(0, ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else None
    return Line(label, [point[x] for point in curves[0]], rows.mean(0), error)


def level_line(label: str, value: float, steps: float) -> Line:
    """Draw a reference."""
    return Line(label, [0, steps], [value, value], dashed=True)


def finish(args: argparse.Namespace, name: str, result: dict[str, Any], panels: Sequence[Panel]) -> dict[str, Any]:
    """Write the result and its figure to the run folder."""
    from dfplan import provenance

    origin = {part: getattr(provenance, part)() for part in ("git", "versions", "hardware")}
    settings = {k: v for k, v in vars(args).items() if k not in ("out", "json", "figure", "command")}
    head = {"example": name, "command": args.command, "settings": settings}
    text = json.dumps({**head, **result, **origin}, indent=2, allow_nan=False)
    for path in (args.out / f"{name}.json", args.json):
        if path is not None:
            with atomic_path(path) as temporary:
                temporary.write_text(text + "\n")
    for path in (args.out / f"{name}.png", args.figure):
        if path is not None:
            panels_figure(path, panels)
    say(f"{args.out / name}.json and .png")
    return result
