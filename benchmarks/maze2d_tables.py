"""Tables of `dfplan bench maze2d`, for `tables.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench_tables import load, table


def _pm(value: dict[str, Any]) -> str:
    return "-" if value["mean"] is None else f"{value['mean']:.1f} ± {value['stderr']:.1f}"


def _cells(r: dict[str, Any]) -> tuple[str, ...]:
    first = r["first_reach_steps"]["mean"]
    reach = "-" if first is None else f"{first:.0f}"
    return (
        str(r["episodes"]),
        _pm(r["strict"]),
        f"{100 * r['success_rate']:.1f} %",
        reach,
        f"{r['plans_per_episode']:.1f}",
    )


def ladder() -> str:
    """What each part of the planner and its executor is worth."""
    rows = [
        (r["label"], *_cells(r), _pm(r["against_default"]) if "against_default" in r else "")
        for r in load("maze2d").get("rows", {}).values()
        if r["group"] == "ladder"
    ]
    head = ("maze2d-large", "episodes", "strict", "success", "steps to first reach", "plans", "against the default")
    return table(head, rows)


def references() -> str:
    """What is not a planner of this package."""
    rows = [
        (r["label"], r["env"], *_cells(r)[:-1])
        for r in load("maze2d").get("rows", {}).values()
        if r["group"] == "references"
    ]
    return table(("who", "environment", "episodes", "strict", "success", "steps to first reach"), rows)


TABLES: dict[str, Callable[[], str]] = {"ladder": ladder, "references": references}
