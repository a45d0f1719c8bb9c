"""Write the tables of README and docs from the committed results.

    python benchmarks/tables.py          # rewrite what stands between the markers
    python benchmarks/tables.py --check  # fail if a page is out of date

A table stands between ``<!-- table: NAME -->`` and ``<!-- end table -->``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import baseline_tables
import bench_tables
import maze2d_tables
import sb3_tables

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MAZES = ("umaze", "medium", "large")
MARKER = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- end table -->)", re.S)


def load(name: str) -> dict[str, Any]:
    """Read a result; an empty dictionary if it has not been made."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def pm(value: dict[str, Any] | None) -> str:
    """Write a mean with its standard error."""
    return "not run" if not value else f"{value['mean']:.1f} ± {value['stderr']:.1f}"


def score(result: dict[str, Any], kind: str = "strict") -> str:
    """Write a score."""
    return pm(result["score"][kind]) if result else "not run"


PUBLISHED = (
    ("IQL", "47.4 / 34.9 / 58.6", "strict", "its actions; arXiv 2407.01392"),
    ("Diffuser", "113.9 / 121.5 / 123.0", "strict", "a hand-written controller; arXiv 2407.01392"),
    ("Diffuser, own actions", "6.3 / 13.5 / 6.3", "strict", "its actions; arXiv 2407.01392"),
    ("Diffusion Forcing with MCG", "116.7 / 149.4 / 159.0", "strict", "its actions; arXiv 2407.01392"),
    ("Diffusion Veteran", "136.6 / 150.7 / 203.6", "latched", "see its paper"),
    ("HorizonFlow", "137.5 / 154.8 / 205.2", "holding the goal", "see its paper"),
)


PUBLISHED_MULTI = (
    ("Diffuser", "128.9 / 127.2 / 132.1", "strict", "a hand-written controller; arXiv 2407.01392"),
    ("Diffusion Forcing with MCG", "119.1 / 152.3 / 167.1", "strict", "its actions; arXiv 2407.01392"),
    ("HorizonFlow", "145.1 / 170.5 / 216.5", "holding the goal", "see its paper"),
)


def scores() -> str:
    """Strict scores of ours and of the references, and what others have published."""
    ours = (
        ("**dfplan**, executor `path`", "path", "a PD controller chasing a point on the plan"),
        ("**dfplan**, executor `diffused_actions`", "diffused", "the model's own actions"),
        ("the controller that made the data", "waypoint", "itself (`--policy waypoint`)"),
        ("random actions", "random", "`--policy random`"),
    )
    return _scores(ours, "", PUBLISHED)


def multi_scores() -> str:
    """The same where the goal is drawn at every reset."""
    ours = (
        ("**dfplan**, executor `path`", "path", "a PD controller chasing a point on the plan"),
        ("the controller that made the data", "waypoint", "itself (`--policy waypoint`)"),
    )
    return _scores(ours, "multi-", PUBLISHED_MULTI)


def _scores(
    ours: tuple[tuple[str, str, str], ...], prefix: str, published: tuple[tuple[str, str, str, str], ...]
) -> str:
    rows = [
        "| who | umaze | medium | large | counted | episodes | who moves the ball |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for label, kind, mover in ours:
        found = [load(f"{prefix}{m}-{kind}") for m in MAZES]
        counts = sorted({str(r["episodes"]) for r in found if r}) or ["-"]
        rows.append(f"| {label} | {' | '.join(score(r) for r in found)} | strict | {', '.join(counts)} | {mover} |")
    for label, values, counted, mover in published:
        rows.append(f"| {label} | {' | '.join(values.split(' / '))} | {counted} | published | {mover} |")
    return "\n".join(rows)


def details() -> str:
    """Everything the evaluator measured, one line per result."""
    rows = [
        "| result | episodes | strict | latched | success | steps to first reach | plans | network calls per plan |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind in ("path", "diffused", "waypoint", "multi-path", "multi-waypoint"):
        for maze in MAZES:
            multi, _, last = kind.rpartition("-")
            name = f"{multi}-{maze}-{last}" if multi else f"{maze}-{last}"
            r = load(name)
            if not r:
                continue
            first = r["first_reach_steps"]["mean"]
            cells = (
                name,
                str(r["episodes"]),
                score(r),
                score(r, "latched"),
                f"{r['success_rate']:.3f}",
                "-" if first is None else f"{first:.0f}",
                f"{r['plans_per_episode']:.1f}",
                f"{r['network_evaluations']:.0f}",
            )
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def robotics() -> str:
    """Gymnasium-Robotics' PointMaze, acted in by the models of maze2d."""
    rows = ["| environment | episodes | return | success | steps to first reach |", "| --- | --- | --- | --- | --- |"]
    for maze in MAZES:
        r = load(f"robotics-{maze}-path")
        if r:
            total, first = r["return"]["strict"], r["first_reach_steps"]["mean"]
            rows.append(
                f"| `{r['env']}` | {r['episodes']} | {total['mean']:.1f} ± {total['stderr']:.1f} | "
                f"{100 * r['success_rate']:.0f} % | {'-' if first is None else f'{first:.0f}'} |"
            )
    return "\n".join(rows) if len(rows) > 2 else "not run"


def default_run() -> str:
    """What the README's first command prints, and where it was run."""
    r = load("large-default")
    if not r:
        return "not run"
    plan, first, hardware = r["plan_seconds"], r["first_reach_steps"], r["hardware"]
    rows = (
        ("episodes", f"{r['episodes']} (seed {r['seed']})"),
        ("strict score", score(r)),
        ("latched score", score(r, "latched")),
        ("success rate", f"{r['success_rate']:.2f}"),
        ("steps to first reach", f"{first['mean']:.0f} ± {first['stderr']:.0f}"),
        ("seconds per plan", f"median {plan['median']:.2f}, p95 {plan['p95']:.2f}"),
        ("control steps per second", f"{r['control_hz']:.0f}"),
        (
            "whole evaluation",
            f"{r['wall_seconds'] / 60:.1f} minutes on {hardware['usable_cores']} cores ({hardware['cpu']})",
        ),
    )
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def speed() -> str:
    """Seconds per plan."""
    result = load("plan-speed-large")
    rows = [
        "| samples | threads | precision | schedule | median, s | p95, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in result.get("rows", []):
        rows.append(
            f"| {r['samples']} | {r['threads']} | {r['precision']} | {r['schedule']} "
            f"| {r['median_s']:.3f} | {r['p95_s']:.3f} |"
        )
    return "\n".join(rows)


def gap() -> str:
    """Distance between ball and plan."""
    result = load("open-loop-gap-large")
    rows = ["| steps | open loop, cells | asked again every step, cells |", "| --- | --- | --- |"]
    for a, b in zip(result.get("open_loop", []), result.get("requery", []), strict=True):
        rows.append(
            f"| {a['steps']} | {a['mean']:.2f} ± {a['stderr']:.2f} (p90 {a['p90']:.2f}) "
            f"| {b['mean']:.2f} ± {b['stderr']:.2f} (p90 {b['p90']:.2f}) |"
        )
    return "\n".join(rows)


TABLES: dict[str, Callable[[], str]] = {
    "scores": scores,
    "multi-scores": multi_scores,
    "robotics": robotics,
    "default-run": default_run,
    "details": details,
    "speed": speed,
    "gap": gap,
    **bench_tables.TABLES,
    **sb3_tables.TABLES,
    **baseline_tables.TABLES,
    **maze2d_tables.TABLES,
}


def render(text: str) -> str:
    """Fill all tables of a page.

    Raises:
        KeyError: If a marker names an unknown table.
    """
    return MARKER.sub(lambda m: f"{m[1]}{TABLES[m['name']]()}\n{m[4]}", text)


def main() -> int:
    """Rewrite or check the pages; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        old = page.read_text(encoding="utf-8")
        new = render(old)
        if new != old:
            stale.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(new, encoding="utf-8")
    print(f"{'out of date' if check else 'rewritten'}: {', '.join(stale) or 'none'}", file=sys.stderr)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
