"""The text that `dfplan data list` and `dfplan data show` print."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dfplan.data import Episodes
from dfplan.data.stats import coverage_text

AXES = ("x", "y", "vx", "vy")
WIDTH = 120


def _print(*parts: Any) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=WIDTH, highlight=False)
    for part in parts:
        console.print(part)
    return stream.getvalue()


def list_text(datasets: list[dict[str, Any]], files: list[dict[str, Any]]) -> str:
    """Return the tables of Minari datasets and of D4RL's files."""
    parts: list[Any] = []
    if datasets:
        table = Table("Minari dataset", "episodes", "steps", "MB", "environment", "author")
        for row in datasets:
            cells = (row["id"], f"{row['episodes']:,}", f"{row['steps']:,}", str(row["size_mb"]), row["env"] or "-")
            table.add_row(*map(escape, cells), escape(", ".join(row["author"]) or "-"))
        parts.append(table)
    if files:
        table = Table("D4RL file of", "MB", "path")
        for row in files:
            table.add_row(row["env"], f"{row['size_bytes'] / 1e6:.1f}", escape(row["path"]))
        parts.append(table)
    return _print(*parts) if parts else "no data on this machine; make some: dfplan data make maze2d-large\n"


def show_text(episodes: Episodes, facts: dict[str, Any], cells_per_unit: float) -> str:
    """Return sizes, statistics and the coverage map of one data set."""
    lengths = facts["episode_steps"]
    head = [
        f"{escape(facts['source'])}: {facts['episodes']:,} episodes, {facts['steps']:,} steps, "
        f"digest {facts['digest']}",
        "steps per episode: "
        + ", ".join(f"{key} {lengths[key]:.4g}" for key in ("min", "p05", "median", "mean", "p95", "max")),
        f"reward: mean {facts['reward']['mean']:.4g}, not 0 in {facts['reward']['nonzero_share']:.2%} of the steps; "
        f"return per episode: mean {facts['episode_return']['mean']:.4g}, std {facts['episode_return']['std']:.4g}, "
        f"min {facts['episode_return']['min']:.4g}, max {facts['episode_return']['max']:.4g}"
        + (f"; normalised mean {facts['normalized_return']:.4f}" if facts["normalized_return"] is not None else ""),
        f"ended by the environment: {facts['terminated_share']:.1%} of the episodes",
        *(f"{escape(str(key))}: {escape(str(value))}" for key, value in facts["meta"].items()),
    ]
    table = Table("column", "mean", "std", "min", "max")
    for group in ("observation", "action"):
        for index in range(len(facts[group]["mean"])):
            named = group == "observation" and len(facts[group]["mean"]) == len(AXES) and _is_place(episodes.meta)
            name = f" {AXES[index]}" if named else ""
            numbers = (f"{facts[group][key][index]:.4f}" for key in ("mean", "std", "min", "max"))
            table.add_row(escape(f"{group}[{index}]{name}"), *numbers)
    text = _print(*head, table)
    if "plot" in facts:
        text += f"coverage drawn in {facts['plot']}\n"
    if episodes.observations.shape[1] >= 2 and _is_place(episodes.meta):
        text += f"visits, x down and y to the right, {cells_per_unit:g} cells per unit (darker: more often)\n"
        text += coverage_text(episodes, cells_per_unit) + "\n"
    return text


def _is_place(meta: dict[str, Any]) -> bool:
    """Tell whether columns 0 and 1 are a place: in mazes, and in data that do not say where they are from."""
    return "maze" in meta.get("env", "maze").lower()
