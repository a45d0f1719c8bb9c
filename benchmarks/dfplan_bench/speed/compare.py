"""One plan per environment: ours and the three designs, side by side in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from dfplan_bench.speed import ours
from dfplan_bench.speed.clock import seconds, threads
from dfplan_bench.speed.designs import parameters
from dfplan_bench.speed.rivals import RIVALS, Rival

Row = dict[str, Any]


def time_rival(name: str, rival: Rival, environments: int, device: str, repeats: int, rows: int) -> Row:
    """Time some rows of a design's plan, which all cost the same, and scale to the whole plan."""
    torch.manual_seed(0)
    model = rival.build().to(device).eval().requires_grad_(False)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(environments * rival.candidates, *rival.shape, generator=g).to(device)
    rows = min(rows, rival.rows)
    found = seconds(lambda: rival.walk(model, x, rows), repeats, device=device) * rival.rows / rows
    return {
        "design": name, "candidates": rival.candidates, "precision": "fp32", "seconds_per_plan": found / environments,
        "network_evaluations": rival.rows, "rows_timed": rows, "parameters": parameters(model),
    }  # fmt: skip


def time_ours(name: str, environments: int, device: str, repeats: int, precision: str, batched: bool) -> Row:
    """Time whole plans of ours."""
    planner, options = ours.planner(precision, device, batched=batched), ours.VARIANTS[name]
    found = seconds(lambda: ours.plan(planner, environments, **options), repeats, device=device)
    evaluations = ours.plan(planner, **options).network_evaluations
    return {
        "design": f"ours, {name}", "candidates": options.get("samples", planner.config.samples), "precision": precision,
        "seconds_per_plan": found / environments, "network_evaluations": evaluations,
        "parameters": parameters(planner.checkpoint.model), "batched": batched,
    }  # fmt: skip


def time_designs(
    counts: Sequence[int], environments: Sequence[int], devices: Sequence[str], quick: bool, say: Callable[[str], None]
) -> list[Row]:
    """Time everything for every device, number of threads and number of environments."""
    found = []
    settings = [(d, t, b) for d in devices for t in (counts if d == "cpu" else counts[-1:]) for b in environments]
    for device, count, b in settings:
        base = {"device": device, "threads": count, "environments": b}
        with threads(count):
            say(f"designs on {device}, {count} threads, {b} environments")
            for name, rival in RIVALS.items():
                rows = 2 if quick or b > 1 else 16
                found.append(base | time_rival(name, rival, b, device, 1 if b > 1 else 3, rows))
            for name in ours.VARIANTS if not quick else list(ours.VARIANTS)[2:3]:
                if b > 1 and "50" in name:
                    continue  # candidates of an environment fill the batch already
                for precision in ("fp32", "bf16"):
                    found.append(base | time_ours(name, b, device, 1 if b > 1 else 7, precision, b > 1))
    return found


def ratios(rows: Sequence[Row]) -> list[Row]:
    """Divide each design's seconds per plan by those of each of our variants on the same machine and batch."""
    out = []
    key = ("device", "threads", "environments")
    for row in rows:
        for rival in rows if row["design"].startswith("ours") else ():
            if not rival["design"].startswith("ours") and all(row[k] == rival[k] for k in key):
                out.append({
                    **{k: row[k] for k in (*key, "precision", "candidates")}, "ours": row["design"][6:],
                    "design": rival["design"], "ratio": rival["seconds_per_plan"] / row["seconds_per_plan"],
                })  # fmt: skip
    return out
