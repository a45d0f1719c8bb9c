"""Run the fault table and put each scenario's verdict into a row."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dfplan_bench.ros_faults.plays import NOT_HERE, PLAYS, Played
from dfplan_bench.ros_faults.robot import PERIOD_S
from dfplan_bench.ros_faults.scenarios import SCENARIOS, Scenario
from dfplan_bench.ros_faults.stage import NotSeen, Stage, said
from dfplan_bench.ros_faults.verdict import Trace, violations

Row = dict[str, Any]
DOMAINS = 170
EXPECTED = {
    "fault": "FAULT: brake, hold until re-armed", "hold": "brake, hold until it is over", "goes on": "go on",
    "silent": "not one command",
}  # fmt: skip
SPECIAL = {
    "restart_bridge": "begin again where the arm is", "kill_bridge": "arm at rest within two periods of the last command",
    "interrupt": "brake, hold, end", "terminate": "brake, hold, end", "full_disk": "brake, hold, end",
    "second_bridge": "FAULT; the second one does not begin", "misconfigured": "not one command; `check` says why",
}  # fmt: skip


def run(out: Path, *, seed: int, quick: bool, say: Callable[[str], None], rows: str | None = None, minutes: float | None = None) -> dict[str, Any]:
    """Run the table; ``rows``: numbers of faults, separated by commas."""
    chosen = [s for s in SCENARIOS if rows is None or str(s.number) in rows.split(",")]
    table = [tell(play(s, out, seed, 1 if quick else 3), say) for s in chosen]
    return {"rows": table, "load_average": os.getloadavg(), "period_s": PERIOD_S, "headline": headline(table)}


def tell(row: Row, say: Callable[[str], None]) -> Row:
    """Say how a row came out."""
    say(f"{row['number']:>3} {row['verdict']:<8} {row['fault']}: {row['seen']} {row['violations'] or ''}")
    return row


def headline(table: list[Row]) -> list[str]:
    """Count."""
    counts = {name: sum(row["verdict"] == name for row in table) for name in ("held", "not held", "not run")}
    return [f"{len(table)} rows: " + ", ".join(f"{count} {name}" for name, count in counts.items())]


def play(s: Scenario, out: Path, seed: int, rounds: int) -> Row:
    """Play a scenario, as often as it takes for so many faults; returns its row."""
    if s.play in NOT_HERE:
        return {**head(s), "verdict": "not run", "seen": NOT_HERE[s.play], "violations": {}, "delays_s": []}
    again = rounds if (s.plan or s.play) and s.outcome in ("fault", "hold") or s.play == "kill_bridge" else 1
    found = [_once(s, out, seed + k, rounds) for k in range(again)]
    worst = next((row for row in found if row["verdict"] != "held"), found[-1])
    delays = [delay for row in found for delay in row["delays_s"]]
    return {**worst, "delays_s": delays, "worst_s": max(delays, default=None), "runs": again}


def head(s: Scenario) -> Row:
    """Return what a row says before anything is run."""
    expected = SPECIAL.get(s.play, EXPECTED[s.outcome])
    return {"number": s.number, "fault": s.fault, "expected": expected, "allowed_s": s.allowed_s + PERIOD_S}


def _once(s: Scenario, out: Path, seed: int, rounds: int) -> Row:
    domain = 20 + (os.getpid() + 7 * SCENARIOS.index(s) + seed) % DOMAINS
    folder = out / f"{s.number}-{SCENARIOS.index(s)}"
    rng = np.random.default_rng([seed, SCENARIOS.index(s)])
    with Stage(folder, domain, s.changes, s.far, s.environment) as stage:
        try:
            played, missed = PLAYS[s.play](stage, s, rounds, rng), ""
        except NotSeen as error:
            played, missed = Played(good=False), str(error)
        reasons = said(stage.bridge) if hasattr(stage, "bridge") else []
        found = stage.finish()
    return judge(s, played, found, reasons, missed)


def judge(s: Scenario, played: Played, found: dict[str, Any], reasons: list[str], missed: str = "") -> Row:
    """Put what the recorder has seen into a row."""
    trace = Trace.of(found)
    good, seen, delays = LOOKS[s.outcome](s, played, trace)
    if played.check is not None:
        fine, text, more = played.check(trace)
        good, seen, delays = good and fine, [*seen, text], delays + more
    told = [line for line in reasons if s.says in line] if s.says and s.play != "misconfigured" else []
    good = good and played.good and not found["counts"] and not missed
    good = good and (bool(told) or not s.says or s.play == "misconfigured")
    words = [*seen, *played.notes, *([told[-1]] if told else []), missed]
    if not good:
        words.append(f"the bridge's last words: {reasons[-1] if reasons else 'none'}")
    return {
        **head(s), "verdict": "held" if good else "not held", "seen": "; ".join(word for word in words if word),
        "delays_s": delays, "violations": violations(found), "commands": found["commands"],
        "jitter_ms": trace.jitter_ms(), "worst_share": found["worst_share"], "load_average": os.getloadavg()[0],
        "first_violations": found["violations"][:3],
    }  # fmt: skip


def _held(s: Scenario, played: Played, trace: Trace) -> tuple[bool, list[str], list[float]]:
    """Look how soon each fault was answered, and that nothing moved after that."""
    delays, good, moved = list[float](), True, 0
    for since, until in played.windows:
        held = trace.held_from(since, until)
        good = good and held is not None
        delays.append(max(0.0, (held or until) - since))
        moved = max(moved, trace.moves(since + s.allowed_s, until))
    good = good and (moved <= 1 or max(delays, default=0.0) <= s.allowed_s + PERIOD_S)
    text = [f"{moved} commands moved on"] if moved > 1 else []
    return good, text, delays


def _goes_on(s: Scenario, played: Played, trace: Trace) -> tuple[bool, list[str], list[float]]:
    """Look whether the arm moved all the time."""
    share = max((trace.rest_share(since, until) for since, until in played.windows), default=1.0)
    return share < 0.5, [f"moved {100 * (1 - share):.0f} % of the time"], []


def _silent(s: Scenario, played: Played, trace: Trace) -> tuple[bool, list[str], list[float]]:
    """Look whether nothing was sent, unless the bridge was killed."""
    return s.play.endswith("_bridge") or not len(trace.times), [f"{len(trace.times)} commands"] * (
        not s.play.endswith("_bridge")
    ), []


LOOKS = {"fault": _held, "hold": _held, "goes on": _goes_on, "silent": _silent}
