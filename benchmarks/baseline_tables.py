"""Tables of the baselines, for `tables.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from baseline_commands import ACTORS, MAZES, OFFLINE
from bench_tables import RESULTS, pm, table

ROOT = RESULTS.parent.parent
PUBLISHED = {
    "bc": "-",
    "iql": "47.4 / 34.9 / 58.6",
    "awac": "82.7 / 52.9 / 209.1",
    "td3_bc": "-",
    "diffuser-path": "113.9 / 121.5 / 123.0",
    "diffuser-diffused": "6.3 / 13.5 / 6.3",
    "mppi": "33.2 / 10.2 / 5.1",
}
ROWS = {
    **OFFLINE,
    "diffuser-path": "full-sequence Diffuser, executor `path`",
    "diffuser-diffused": "full-sequence Diffuser, its own actions",
    "path": "**dfplan**, executor `path`",
    "diffused": "**dfplan**, its own actions",
    "waypoint": "the controller that made the data",
    "mppi": "MPPI in the true simulator",
}


def load(name: str) -> dict[str, Any]:
    """Read a result; an empty dictionary if it has not been made."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def header(path: Path) -> dict[str, Any]:
    """Read an actor's header; an empty dictionary if there is no actor."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(json.loads(file.read(size))["__metadata__"]["dfplan-mlp"])


def baselines() -> str:
    """Strict scores on the same starts, by who acts."""
    rows = []
    for kind, label in ROWS.items():
        found = [load(f"{m}-{kind}") for m in MAZES]
        if not any(found):
            continue
        scores = [pm(r["score"]["strict"], 1) if r else "not run" for r in found]
        success = " / ".join(f"{r['success_rate']:.2f}" if r else "-" for r in found)
        episodes = " / ".join(str(r["episodes"]) if r else "-" for r in found)
        rows.append((label, *scores, success, episodes, PUBLISHED.get(kind, "-")))
    head = ("who", *MAZES, "success, U / M / L", "episodes, U / M / L", "published, U / M / L")
    return table(head, rows)


def latched() -> str:
    """Latched scores of those that leave the goal again."""
    rows = []
    for kind, label in ROWS.items():
        found = [load(f"{m}-{kind}") for m in MAZES]
        if kind in PUBLISHED and any(found):
            rows.append((label, *(pm(r["score"]["latched"], 1) if r else "not run" for r in found)))
    return table(("latched score", *MAZES), rows)


def training() -> str:
    """What the exported actors were trained with."""
    rows = []
    for algorithm, label in OFFLINE.items():
        made = [header(ROOT / ACTORS / f"{m}-{algorithm}.safetensors").get("provenance", {}) for m in MAZES]
        if any(made):
            rows.append((label, *(_effort(p) for p in made)))
    return table(("gradient steps (minutes of one busy core)", *MAZES), rows)


def _effort(provenance: dict[str, Any]) -> str:
    return f"{provenance['steps']:,} ({provenance['cpu_seconds'] / 60:.1f})" if provenance else "not run"


TABLES: dict[str, Callable[[], str]] = {
    "baselines": baselines,
    "baselines-latched": latched,
    "baselines-training": training,
}
