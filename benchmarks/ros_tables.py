"""Tables of the faults of the robot's wire (`dfplan bench ros-faults`), for `tables.py`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

RESULT = Path(__file__).resolve().parent / "results" / "bench-ros-faults.json"


NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # of a writer on the wire, new in every run


def _load() -> dict[str, Any]:
    return json.loads(RESULT.read_text()) if RESULT.is_file() else {}


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else "not run"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.0f}"


def _count(violations: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in violations.items()) or "0"


def faults() -> str:
    """One row per fault: expected, seen, the worst delay, violations."""
    rows = []
    for row in _load().get("rows", []):
        delays = row["delays_s"]
        rows.append((
            str(row["number"]), row["fault"], row["expected"], f"**{row['verdict']}**" if row["verdict"] != "held" else
            "held", NAME.sub("...", row["seen"]).replace("|", "/") or "-", str(len(delays)) if delays else "-",
            _ms(max(delays, default=None)), _ms(row["allowed_s"]) if delays else "-", str(row.get("commands", "-")),
            _count(row["violations"]),
        ))  # fmt: skip
    head = (
        "",
        "fault",
        "expected",
        "verdict",
        "seen",
        "times",
        "worst delay, ms",
        "allowed, ms",
        "commands",
        "violations",
    )
    return _table(head, rows)


def kills() -> str:
    """Kills at random moments, by whom."""
    found = _load().get("kills", {})
    rows = []
    for name, row in found.get("rows", {}).items():
        step = "-" if row["worst_step_rad"] is None else f"{1e3 * row['worst_step_rad']:.2f}"
        rows.append((
            name, str(row["kills"]), str(row["stopped"]), _ms(row["worst_s"]), _ms(row["allowed_s"]),
            str(row["bumpless"]), step,
        ))  # fmt: skip
    head = ("killed", "times", "stopped in time", "worst, ms", "allowed, ms", "bumpless restarts", "largest step, mrad")
    return _table(head, rows)


def load() -> str:
    """The run under load."""
    found = _load().get("load", {})
    if not found:
        return "not run"
    memory, states = found["memory_mb"] or {}, found["states_hz"]
    rested = "-" if found["rest_share"] is None else f"{100 * found['rest_share']:.0f} % of the time"
    rows = [
        ("length", f"{found['seconds']:.0f} s"),
        ("joint states published, wanted", f"{states['published']:.0f} Hz, {states['wanted']:.0f} Hz"),
        ("cameras, 640 x 480", f"{found['camera_hz']['cameras']} at {found['camera_hz']['wanted']:.0f} Hz"),
        ("packets lost", f"{100 * found['lost_share']:.0f} %"),
        ("processes that keep the cores busy", str(found["busy_processes"])),
        ("commands that the recorder saw, due", f"{found['commands']}, {found['expected_commands']:.0f}"),
        *_exact(found),
        ("the arm was told to stand", rested),
        ("memory of the bridge: at first, at last, growth of the last quarter's mean",
         ", ".join(f"{memory[key]:.1f}" for key in ("first", "last", "growth")) + " MB" if memory else "-"),
        ("violations", _count(found["violations"])),
    ]  # fmt: skip
    return _table(("under load", ""), rows)


def alone() -> str:
    """The run with nothing else."""
    found = _load().get("alone", {})
    rows = [("length", f"{found['seconds']:.0f} s"), *_exact(found)] if found else []
    return _table(("alone", ""), rows)


def _exact(found: dict[str, Any]) -> list[tuple[str, str]]:
    jitter, own = found["jitter_ms"], found["bridge_says_jitter_p99_ms"]
    return [
        ("time between commands, off the period: median, 99th percentile, largest",
         ", ".join(f"{jitter[key]:.2f}" for key in ("p50", "p99", "max")) + " ms" if jitter else "-"),
        ("late ticks, 99th percentile, by the bridge's own count", "-" if own is None else f"{own} ms"),
        ("bridge without its planner", f"{100 * found['bridge_share_of_a_core']:.0f} % of a core"),
    ]  # fmt: skip


def machine() -> str:
    """Say on what, and how busy it was."""
    found = _load()
    if not found:
        return "not run"
    before, after = (found["load_average"][key][0] for key in ("before", "after"))
    return (
        f"{1 / found['period_s']:.0f} commands a second. The load of the computer, in busy processes, was {before:.1f} "
        f"before and {after:.1f} after."
    )


def swap() -> str:
    """The fruit swap over the wire and in process."""
    rows = []
    for name, policy in (("ros-swap", "bundled policy from states"), ("ros-swap-expert", "scripted expert")):
        path = RESULT.with_name(f"{name}.json")
        if not path.is_file():
            continue
        found = json.loads(path.read_text())
        rates = [found[where]["success"] for where in ("dds", "in_process")]
        told = [f"{100 * r['rate']:.0f} ({100 * r['low']:.0f} to {100 * min(r['high'], 1.0):.0f})" for r in rates]
        rows.append((policy, str(found["episodes"]), *told, f"{found['speed']:g}"))
    return _table(("", "episodes", "over DDS, %", "in one process, %", "robot's seconds per second"), rows)


TABLES = {
    "ros-alone": alone,
    "ros-faults": faults,
    "ros-kills": kills,
    "ros-load": load,
    "ros-machine": machine,
    "ros-swap": swap,
}
