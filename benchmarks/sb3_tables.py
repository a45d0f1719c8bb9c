"""Tables of the scripts for stable-baselines3's loops, for `tables.py`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import bench_tables

EXAMPLES = ("sb3-evaluate", "sb3-warm-start", "sb3-residual", "sb3-hierarchy")


def load(name: str) -> dict[str, Any]:
    """Read a script's result; an empty dictionary if it has not been made."""
    path = bench_tables.RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def mean(values: Sequence[float], digits: int = 1) -> str:
    """Write a mean with its standard error."""
    centre = sum(values) / len(values)
    if len(values) < 2:
        return f"{centre:.{digits}f}"
    error = math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1) / len(values))
    return f"{centre:.{digits}f} ± {error:.{digits}f}"


def made_by(name: str) -> str:
    """Say what a result was made with."""
    r = load(name)
    if not r:
        return "not run"
    git, settings = (r["git"]["revision"] or "unknown")[:10], r["settings"]
    return f"`{r['command']}` ({settings['seeds']} seeds, revision {git}, {r['hardware']['cpu']})"


def evaluate() -> str:
    """What `EvalCallback` and `evaluate_policy` say of the pool."""
    r = load("sb3-evaluate")
    rows = [(name, f"{row['mean']:.1f}", f"{row['by_callback']:.1f}") for name, row in r.get("levels", {}).items()]
    if rows:
        rows.append((f"SAC after {r['sac']['steps'][-1]:,} steps", "-", f"{r['sac']['mean'][-1]:.1f}"))
    return bench_tables.table(("who", "`evaluate_policy`", "`EvalCallback`"), rows)


def warm_start() -> str:
    """Steps until the threshold, with and without the planner's episodes."""
    r = load("sb3-warm-start")
    if not r:
        return "not run"

    def steps(values: Sequence[int | None]) -> str:
        return ", ".join(f"more than {r['not_reached_within']:,}" if v is None else f"{v:,}" for v in values)

    rows = [
        ("filled by the planner", steps(r["steps_to_threshold"]["warm"])),
        ("the same, the planner's own steps counted", steps(r["with_planner_steps"])),
        ("from nothing", steps(r["steps_to_threshold"]["scratch"])),
    ]
    return bench_tables.table((f"SAC, steps to a return of {r['threshold']:.0f}", "seed by seed"), rows)


def residual() -> str:
    """The return of the base policy and with corrections."""
    r = load("sb3-residual")
    rows = []
    if r:
        ends = r["ends"]
        rows = [
            ("the planner alone", f"{r['base']['return']:.1f}", ""),
            ("with SAC's corrections, at the end", mean(ends), ", ".join(f"{v:.1f}" for v in ends)),
        ]
    return bench_tables.table(("who", "return", "seed by seed"), rows)


def hierarchy() -> str:
    """Success in mazes that the agent has and has not been trained in."""
    ends = load("sb3-hierarchy").get("ends", {})
    rows = [(size, mean([100 * v for v in values], 0)) for size, values in ends.items()]
    return bench_tables.table(("maze", "success at the end, %"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "sb3-evaluate": evaluate,
    "sb3-warm-start": warm_start,
    "sb3-residual": residual,
    "sb3-hierarchy": hierarchy,
    **{f"made-by-{name}": (lambda name=name: made_by(name)) for name in EXAMPLES},  # type: ignore[misc]
}
