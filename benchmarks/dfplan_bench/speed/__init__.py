"""Time per plan: ours against three known designs, saving by saving, in a closed loop, by horizon and batch.

Everything that is compared is timed in one run on one machine. The designs have random weights, so nothing is said
here about what they score. The run folder keeps every part: a run that was cut off goes on where it stopped, and
``parts/`` is to be deleted for new times.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dfplan_bench.parts import kept
from dfplan_bench.speed.compare import ratios, time_designs
from dfplan_bench.speed.curves import devices, environment_curve, horizon_curve, training_cost
from dfplan_bench.speed.figure import draw
from dfplan_bench.speed.loop import closed_loop
from dfplan_bench.speed.rivals import RIVALS
from dfplan_bench.speed.switches import savings


def run(out: Path, *, seed: int = 0, quick: bool = False, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Time everything, part by part."""
    counts, environments = ((1,), (1,)) if quick else ((1, 2), (1, 64))
    parts: dict[str, Callable[[], Any]] = {
        "designs": lambda: time_designs(counts, environments, devices(), quick, say),
        "savings": lambda: savings(quick),
        "loop": lambda: closed_loop(quick, seed),
        "horizon": lambda: horizon_curve(quick),
        "environments": lambda: environment_curve(quick),
        "training": lambda: training_cost(quick),
    }
    found: dict[str, Any] = {}
    for name, make in parts.items():
        say(f"part {name}")
        found[name] = kept(out, name, {"quick": quick, "seed": seed}, lambda make=make: {"rows": make()})["rows"]  # type: ignore[misc]
    found["ratios"] = ratios(found["designs"])
    draw(out / "speed.png", found)
    settings = {name: {"label": r.label, "settings": r.settings} for name, r in RIVALS.items()}
    return {"headline": headline(found), "settings": settings, **found}


def headline(found: dict[str, Any]) -> list[str]:
    """Say the most important numbers."""
    lines = [
        f"{r['ours']} ({r['precision']}, {r['threads']} threads): {r['ratio']:.1f} times as fast as {r['design']}"
        for r in found["ratios"]
        if r["environments"] == 1 and r["device"] == "cpu" and r["threads"] == 1
    ]
    for r in found["loop"]:
        pace = "" if r["rate_hz"] is None else f" at {r['rate_hz']:g} Hz"
        speed = f"{r['steps_per_second']:.0f} steps/s, worst step {r['worst_ms']:.1f} ms"
        lines.append(f"closed loop, {r['setting']}{pace}: {speed}")
    for name in ("horizon", "environments"):
        lines += [f"{name}, {k}: exponent {c['exponent']:.2f}" for k, c in found[name].items()]
    return lines
