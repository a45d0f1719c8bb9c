"""The report: what was scored, as JSON, Markdown, HTML and curves."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dfplan.data.files import atomic_path
from dfplan.evaluation.metrics import mean_stderr, normalise
from dfplan_bench.maze2d.rows import GROUPS, Row
from dfplan_envs import list_envs, resolve

TITLES = {
    "own": "Policies of your own",
    "scores": "Scores",
    "ladder": "The ladder (maze2d-large): what each part is worth",
    "references": "References, none of which is a planner of this package",
}
HEAD = ("row", "environment", "episodes", "strict", "latched", "success", "steps to first reach", "plans")
AGAINST = {  # groups with a column more: the entry, its head
    "ladder": ("against_default", "against the default, same starts"),
    "own": ("against_planner", "against the planner (`path`), same starts"),
}
DRAWN = ("ladder-a", "ladder-b", "ladder-d2", "ladder-h")  # the other curves lie on top of these
BOUNDS = {"maze2d-umaze": 175.8, "maze2d-medium": 193.6, "maze2d-large": 257.6}  # mean over starts, at top speed


def summarise(row: Row, episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compute a row's numbers from those of its episodes.

    Raises:
        ValueError: If the score is above what the top speed of the ball allows: something counts wrongly then.
    """
    env_id = resolve(row.env)
    reached = [e["first_reach_steps"] for e in episodes if e["first_reach_steps"] is not None]
    strict = [e["strict_return"] for e in episodes]
    latched = [e["latched_return"] for e in episodes]
    score = mean_stderr(normalise(env_id, strict) or [])
    check_bound(row.env, score, len(episodes))
    return {
        "env": env_id,
        "label": row.label,
        "group": row.group,
        "policy": row.policy,
        "options": dict(row.options),
        "episodes": len(episodes),
        "strict": score,
        "latched": mean_stderr(normalise(env_id, latched) or []),
        "success_rate": len(reached) / len(episodes),
        "first_reach_steps": mean_stderr(reached),
        "plans_per_episode": float(np.mean([e["plans"] for e in episodes])),
        "network_evaluations_per_episode": float(np.mean([e["network_evaluations"] for e in episodes])),
    }


def check_bound(env: str, strict: Mapping[str, float | None], episodes: int) -> None:
    """Refuse a score that is impossible at the ball's top speed (by more than four standard errors)."""
    bound, mean, stderr = BOUNDS.get(env), strict["mean"], strict["stderr"]
    if bound is not None and mean is not None and stderr is not None and episodes >= 30 and mean > bound + 4 * stderr:
        raise ValueError(f"{env}: a score of {mean:.1f} is above the bound of {bound} at top speed; something is wrong")


def difference(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], env: str) -> dict[str, float | None]:
    """Compute the mean difference of strict scores over the starts that both rows have run, with its standard error."""
    theirs = {e["episode"]: e["strict_return"] for e in b}
    pairs = [(e["strict_return"], theirs[e["episode"]]) for e in a if e["episode"] in theirs]
    env_id = resolve(env)
    x, y = (normalise(env_id, [p[side] for p in pairs]) or [] for side in (0, 1))
    return mean_stderr([u - v for u, v in zip(x, y, strict=True)])


def reached_by(episodes: Sequence[Mapping[str, Any]], env: str) -> tuple[list[int], list[float]]:
    """Compute the share of episodes that have reached the goal by each step."""
    limit = next(info.max_episode_steps for info in list_envs() if info.id == resolve(env))
    first = np.array([np.inf if e["first_reach_steps"] is None else e["first_reach_steps"] for e in episodes])
    steps = list(range(0, limit + 1, max(1, limit // 100)))
    return steps, [float((first <= step).mean()) for step in steps]


def draw(path: Path, rows: Sequence[Row], episodes: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draw success curves: one panel per environment of the scores and references, one for the ladder."""
    from dfplan.plotting.panels import Panel, panels_figure

    panels = []
    for env in dict.fromkeys(row.env for row in rows if row.group != "ladder"):
        here = [row for row in rows if row.env == env and row.group != "ladder"]
        panels.append(Panel(env, "environment steps", "share that has reached the goal", lines=_curves(here, episodes)))
    ladder = [row for row in rows if row.group == "ladder" and row.name in DRAWN]
    if ladder:
        title = "ladder, maze2d-large"
        panels.append(
            Panel(title, "environment steps", "share that has reached the goal", lines=_curves(ladder, episodes))
        )
    panels_figure(path, panels)


def _curves(rows: Sequence[Row], episodes: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Any]:
    from dfplan.plotting.panels import Line

    return [Line(row.name, *reached_by(episodes[row.name], row.env)) for row in rows]


def cells(name: str, r: Mapping[str, Any]) -> tuple[str, ...]:
    """Format a row's numbers."""
    first = r["first_reach_steps"]["mean"]
    return (
        f"{r['label']}",
        r["env"],
        str(r["episodes"]),
        pm(r["strict"]),
        pm(r["latched"]),
        f"{100 * r['success_rate']:.1f} %",
        "-" if first is None else f"{first:.0f}",
        f"{r['plans_per_episode']:.1f}",
    )


def against(group: str, r: Mapping[str, Any]) -> tuple[str, ...]:
    """Format the difference that a group's last column shows; nothing for groups without one."""
    if group not in AGAINST:
        return ()
    found = r.get(AGAINST[group][0])
    return (pm(found) if found else "",)


def pm(value: Mapping[str, float | None]) -> str:
    """Write a mean with its standard error."""
    if value["mean"] is None:
        return "-"
    return f"{value['mean']:.1f}" + ("" if value["stderr"] is None else f" ± {value['stderr']:.1f}")


def markdown(result: Mapping[str, Any]) -> str:
    """Write the report as Markdown."""
    lines = [
        "# maze2d",
        "",
        *(f"- {line}" for line in result["headline"]),
        "",
        f"Seed {result['seed']}. Checkpoints: {result['checkpoints']}.",
        "",
    ]
    for group in GROUPS:
        rows = {n: r for n, r in result["rows"].items() if r["group"] == group}
        if not rows:
            continue
        head = (*HEAD, *AGAINST.get(group, ())[1:])
        lines += [f"## {TITLES[group]}", "", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
        for name, r in rows.items():
            lines.append(f"| {' | '.join((*cells(name, r), *against(group, r)))} |")
        lines.append("")
    return "\n".join([*lines, "![success curves](maze2d.png)", ""])


def page(result: Mapping[str, Any], figure: Path | None) -> str:
    """Write the report as one HTML file, the figure inside."""
    body = ["<h1>maze2d</h1>", *(f"<p>{html.escape(line)}</p>" for line in result["headline"])]
    body.append(f"<p>Seed {result['seed']}. Checkpoints: {html.escape(str(result['checkpoints']))}.</p>")
    for group in GROUPS:
        rows = {n: r for n, r in result["rows"].items() if r["group"] == group}
        if not rows:
            continue
        head = (*HEAD, *AGAINST.get(group, ())[1:])
        body.append(f"<h2>{html.escape(TITLES[group])}</h2><table><tr>")
        body += [f"<th>{html.escape(cell)}</th>" for cell in head]
        for name, r in rows.items():
            shown = (cell.replace("**", "").replace("`", "") for cell in (*cells(name, r), *against(group, r)))
            row = "".join(f"<td>{html.escape(cell)}</td>" for cell in shown)
            body.append(f"</tr><tr>{row}")
        body.append("</tr></table>")
    if figure is not None and figure.is_file():
        data = base64.b64encode(figure.read_bytes()).decode()
        body.append(f'<img alt="share of episodes that has reached the goal" src="data:image/png;base64,{data}">')
    style = (
        "body{font-family:sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ccc}"
    )
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>maze2d</title><style>{style}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )


def write(folder: Path, result: Mapping[str, Any]) -> None:
    """Write ``report.md`` and ``report.html``."""
    figure = folder / "maze2d.png"
    for name, text in (("report.md", markdown(result)), ("report.html", page(result, figure))):
        with atomic_path(folder / name) as path:
            path.write_text(text, encoding="utf-8")
