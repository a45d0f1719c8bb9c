"""Run the fault table and put each scenario's verdict into a row."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dfplan_bench.ros_faults.kills import run_kills
from dfplan_bench.ros_faults.load import run_load, run_quiet
from dfplan_bench.ros_faults.plays import DEADLY, NOT_HERE, PLAYS, Played, begin, enact
from dfplan_bench.ros_faults.robot import PERIOD_S, SLOW, UPPER
from dfplan_bench.ros_faults.scenarios import SCENARIOS, SHORT, Scenario
from dfplan_bench.ros_faults.stage import NotSeen, Stage, said
from dfplan_bench.ros_faults.verdict import Trace, violations

Row = dict[str, Any]
DOMAINS = 170
EXPECTED = {
    "fault": "FAULT: brake, hold until re-armed", "hold": "brake, hold until it is over", "goes on": "go on",
    "silent": "not one command",
}  # fmt: skip
NOTE = (
    "Delays and jitter were taken beside whatever else the computer did, see load_average: deadlines that were kept "
    "even so, and no statement about an idle computer."
)
SPECIAL = {
    "restart_bridge": "begin again where the arm is", "kill_bridge": "at rest within two periods of the last command",
    "interrupt": "brake, hold, end", "terminate": "brake, hold, end", "full_disk": "brake, hold, end",
    "second_bridge": "FAULT; the second one does not begin", "misconfigured": "not one command; `check` says why",
}  # fmt: skip


def run(
    out: Path, *, seed: int, quick: bool, say: Callable[[str], None], rows: str | None = None,
    minutes: float | None = None, kills: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """See `dfplan_bench.ros_faults.run`."""
    wanted = None if rows is None else rows.split(",")
    chosen = [
        s for s in SCENARIOS if (str(s.number) in wanted if wanted is not None else s.fault in SHORT or not quick)
    ]
    began, rounds = os.getloadavg(), 1 if quick else 2
    result: dict[str, Any] = {}
    if wanted is None or "alone" in wanted:
        result["alone"] = run_quiet(out / "alone", 4.0 if quick else 30.0, say)
    found = session([s for s in chosen if shared(s)], out / "session", seed, rounds, say)
    for s in chosen:
        if s.fault not in found:
            found[s.fault] = tell(play(s, out, seed, rounds), say)
    table = [found[s.fault] for s in chosen]
    if wanted is None or "kills" in wanted:
        result["kills"] = run_kills(out / "kills", seed, kills or (6 if quick else 50), say)
    if wanted is None or "load" in wanted:
        result["load"] = run_load(out / "load", minutes or (0.2 if quick else 1.0), say)
    return {
        "note": NOTE, **result, "rows": table, "period_s": PERIOD_S,
        "load_average": {"before": began, "after": os.getloadavg()}, "headline": headline(table),
    }  # fmt: skip


def shared(s: Scenario) -> bool:
    """Tell whether a scenario can follow others without starting anything anew."""
    own = s.play or s.early or s.changes or s.far or s.environment or s.plan in DEADLY
    return not own and s.outcome != "silent"


def session(
    left: Sequence[Scenario], out: Path, seed: int, rounds: int, say: Callable[[str], None], tries: int = 5
) -> dict[str, Row]:
    """Play scenarios one after the other with the same processes; after one that did not end well they begin anew."""
    found: dict[str, Row] = {}
    while left and tries:
        tries -= 1
        spans, missed = _play_all(left, out, seed, rounds)
        seen = _played(out)
        for s, (since, until, played, reasons) in spans.items():
            text = missed if s is list(spans)[-1] else ""
            found[s.fault] = tell(judge(s, played, cut(seen, since, until), reasons, text), say)
        left = left[len(spans) :]
    return found


def _play_all(
    scenarios: Sequence[Scenario], out: Path, seed: int, rounds: int
) -> tuple[dict[Scenario, tuple[float, float, Played, list[str]]], str]:
    """Play until one does not end well; returns each one's time and words, and what was missing at the last."""
    spans: dict[Scenario, tuple[float, float, Played, list[str]]] = {}
    rng = np.random.default_rng(seed)
    with Stage(out, _domain(seed), {"plan": {"timeout_s": 5.0 * SLOW}}) as stage:
        missed = ""
        for s in scenarios:
            since, played = time.time(), Played(good=False)
            try:
                if not spans:
                    begin(stage, s)
                    since = time.time()
                played = enact(stage, s, rounds, rng)
            except NotSeen as error:
                missed = str(error)
            spans[s] = (since, time.time(), played, said(stage.bridge, since=since))
            if missed:
                break
        stage.finish()
    return spans, missed


def _played(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "verdict.json").read_text(encoding="utf-8"))
    return found


def cut(found: dict[str, Any], since: float, until: float) -> dict[str, Any]:
    """Return what a recorder saw in a span."""
    rows = {key: [row for row in found[key] if since - 1.0 < row[0] < until] for key in ("trace", "states")}
    wrong = [one for one in found["violations"] if since <= one["sent_s"] < until]
    counts = dict(Counter(one["kind"] for one in wrong))
    inside = sum(since <= row[0] < until for row in rows["trace"])
    return {**found, **rows, "violations": wrong, "counts": counts, "commands": inside}


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
    again = rounds if ((s.plan or s.play) and s.outcome in ("fault", "hold")) or s.play == "kill_bridge" else 1
    found = [_once(s, out, seed + k, rounds) for k in range(again)]
    worst = next((row for row in found if row["verdict"] != "held"), found[-1])
    delays = [delay for row in found for delay in row["delays_s"]]
    return {**worst, "delays_s": delays, "worst_s": max(delays, default=None), "runs": again}


def head(s: Scenario) -> Row:
    """Return what a row says before anything is run."""
    expected = SPECIAL.get(s.play, EXPECTED[s.outcome]) if s.share else "go on, or hold while no plan is in time"
    return {"number": s.number, "fault": s.fault, "expected": expected, "allowed_s": s.allowed_s + PERIOD_S}


def _once(s: Scenario, out: Path, seed: int, rounds: int) -> Row:
    domain = _domain(seed + 7 * SCENARIOS.index(s))
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


def _domain(number: int) -> int:
    return 20 + (os.getpid() + number) % DOMAINS


def judge(s: Scenario, played: Played, found: dict[str, Any], reasons: list[str], missed: str = "") -> Row:
    """Put what the recorder has seen into a row."""
    trace = Trace.of(found)
    good, seen, delays = LOOKS[s.outcome](s, played, trace)
    if played.check is not None:
        fine, text, more = played.check(trace)
        good, seen, delays = good and fine, [*seen, text], delays + more
    told = [line for line in reasons if s.says in line] if s.says and s.play != "misconfigured" else []
    good = good and played.good and not found["counts"] and not missed
    fault = [line for line in reasons if line.startswith("FAULT")] if s.outcome == "goes on" else []
    good = good and not fault and (bool(told) or not s.says or s.play == "misconfigured")
    if s.environment:
        seen = [*seen, trace.arrived()]
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
    """Look how soon each fault was answered, and that nothing moved after that.

    In time means within what is allowed and a period, or with the second command that is sent after what is allowed:
    the first one may have been computed before, and on a busy computer it is sent late.
    """
    delays, good, moved = list[float](), True, 0
    for since, until in played.windows:
        held = trace.held_from(since, until)
        delays.append(max(0.0, (held or until) - since))
        late = trace.late(since + s.allowed_s, until)
        good = good and held is not None and (late <= 1 or delays[-1] <= s.allowed_s + PERIOD_S)
        moved = max(moved, late)
    return good, [f"it moved on for {moved} commands"] if moved > 1 else [], delays


def _goes_on(s: Scenario, played: Played, trace: Trace) -> tuple[bool, list[str], list[float]]:
    """Look whether the arm moved all the time."""
    share = max((trace.rest_share(since, until) for since, until in played.windows), default=1.0)
    words = [f"moved {100 * (1 - share):.0f} % of the time"]
    if s.plan == "beyond":
        reached = max((trace.highest(since, until) for since, until in played.windows), default=-np.inf)
        words.append(f"came to {reached:.3f} rad, the limit is {UPPER:g}")
        return share <= 1.0 - s.share and reached > UPPER - 0.1, words, []
    return share <= 1.0 - s.share, words, []


def _silent(s: Scenario, played: Played, trace: Trace) -> tuple[bool, list[str], list[float]]:
    """Look whether nothing was sent, unless the bridge was killed."""
    return (
        s.play.endswith("_bridge") or not len(trace.times),
        [f"{len(trace.times)} commands"] * (not s.play.endswith("_bridge")),
        [],
    )


LOOKS = {"fault": _held, "hold": _held, "goes on": _goes_on, "silent": _silent}
