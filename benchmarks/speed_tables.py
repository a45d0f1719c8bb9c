"""Tables of the speed benchmarks, for `bench_tables.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bench_tables


def number(value: float) -> str:
    """Write a positive number with three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def difference(value: dict[str, float]) -> str:
    """Write a paired difference with its standard error."""
    return f"{value['mean']:+.1f} ± {value['stderr']:.1f}"


def where(row: dict[str, Any]) -> str:
    """Say where a time was taken."""
    return "GPU" if row["device"] != "cpu" else f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"


def designs() -> str:
    """Seconds per plan of every design, by environments and threads."""
    r = bench_tables.load("speed")
    columns: dict[tuple[str, int], None] = {}
    rows: dict[tuple[str, str, str, str], dict[tuple[str, int], str]] = {}
    for row in r.get("designs", []):
        column = (where(row), row["environments"])
        columns[column] = None
        name = r["settings"].get(row["design"], {}).get("label", f"**{row['design']}**")
        label = (name, row["precision"], str(row["candidates"]), f"{row['parameters'] / 1e6:.2f}")
        rows.setdefault(label, {})[column] = number(1000 * row["seconds_per_plan"])
    head = ("design", "precision", "candidates", "M parameters", *(f"{w}, {b} env., ms" for w, b in columns))
    return bench_tables.table(head, [(*label, *(v.get(c, "-") for c in columns)) for label, v in rows.items()])


def ratios() -> str:
    """How many times as fast ours are as each design, one environment."""
    r = bench_tables.load("speed")
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for row in r.get("ratios", []):
        label = (where(row), str(row["environments"]), row["ours"], row["precision"])
        rows.setdefault(label, {})[row["design"]] = number(row["ratio"])
    names = list(r.get("settings", {}))
    head = ("where", "environments", "ours", "precision", *(r["settings"][n]["label"] for n in names))
    return bench_tables.table(head, [(*label, *(v.get(n, "-") for n in names)) for label, v in rows.items()])


def savings() -> str:
    """Each saving's time before and after."""
    rows = [
        (row["saving"], str(row["candidates"]), number(1000 * row["before_s"]), number(1000 * row["after_s"]),
         f"{row['before_s'] / row['after_s']:.2f}")
        for row in bench_tables.load("speed").get("savings", [])
    ]  # fmt: skip
    return bench_tables.table(("saving", "candidates", "before, ms", "after, ms", "factor"), rows)


def steps() -> str:
    """Executed scores of cheaper plans."""
    r = bench_tables.load("speed-scores")
    rows = []
    for group in ("steps", "others"):
        for name, row in r.get("rows", {}).get(group, {}).items():
            gap = "-" if name == r["careful"] else difference(row["difference"])
            rows.append((name, f"{row['network_evaluations']:.0f}", bench_tables.pm(row["score"], 1), gap,
                         f"{100 * row['success_rate']:.0f}"))  # fmt: skip
    head = ("plans", "network calls", "strict score", "paired difference", "success, %")
    return bench_tables.table(head, rows)


def latency() -> str:
    """Executed scores of late plans."""
    rows = [
        (name, bench_tables.pm(row["score"], 1), difference(row["difference"]), f"{100 * row['success_rate']:.0f}")
        for name, row in bench_tables.load("speed-scores").get("rows", {}).get("latency", {}).items()
    ]
    return bench_tables.table(("plans are used", "strict score", "paired difference", "success, %"), rows)


def loop() -> str:
    """Closed loop: steps a second and the time of a step."""
    rows = [
        (row["setting"], "as fast as it goes" if row["rate_hz"] is None else f"{row['rate_hz']:g} Hz",
         f"{row['steps_per_second']:.0f}", *(f"{row[k]:.2f}" for k in ("median_ms", "p99_ms", "worst_ms")),
         f"{100 * row['share_over_10_ms']:.2f}", f"{row['plan_ms']:.0f}")
        for row in bench_tables.load("speed").get("loop", [])
    ]  # fmt: skip
    head = ("plans", "pace", "steps/s", "median step, ms", "p99, ms", "worst, ms", "over 10 ms, %", "a plan, ms")
    return bench_tables.table(head, rows)


def training() -> str:
    """Training steps a second."""
    rows = [
        (str(row["threads"]), row["precision"], str(row["batch"]), f"{row['steps_per_second']:.2f}",
         f"{row['windows_per_second']:.0f}")
        for row in bench_tables.load("speed").get("training", [])
    ]  # fmt: skip
    return bench_tables.table(("threads", "precision", "batch", "steps/s", "windows/s"), rows)


def to_score() -> str:
    """Scores on the way through a training run."""
    rows = [
        (str(row["step"]), f"{row['seconds'] / 60:.1f}", bench_tables.pm(row["score"], 1),
         f"{100 * row['success_rate']:.0f}")
        for row in bench_tables.load("speed-training").get("rows", [])
    ]  # fmt: skip
    return bench_tables.table(("training steps", "minutes", "strict score", "success, %"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "speed-designs": designs,
    "speed-ratios": ratios,
    "speed-savings": savings,
    "speed-steps": steps,
    "speed-latency": latency,
    "speed-loop": loop,
    "speed-training": training,
    "speed-to-score": to_score,
}
