"""Tables of the reproductions (`dfplan bench`), for `tables.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ros_tables
import speed_tables

RESULTS = Path(__file__).resolve().parent / "results"


def load(name: str) -> dict[str, Any]:
    """Read a result; an empty dictionary if it has not been made."""
    path = RESULTS / f"bench-{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table; "not run" if there is nothing in it."""
    if not rows:
        return "not run"
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def made_by(name: str) -> str:
    """Say what a result was made with."""
    r = load(name)
    if not r:
        return "not run"
    git = (r["git"]["revision"] or "unknown")[:10]
    machine = f"{r['hardware']['cpu']}, {r['hardware']['threads']} thread"
    return f"`{r['command']}` (seed {r['seed']}, revision {git}, {machine})"


def rate(value: dict[str, float]) -> str:
    """Write a share with its 95 % interval, in percent."""
    return f"{100 * value['rate']:.1f} ({100 * value['low']:.1f} to {100 * value['high']:.1f})"


def pm(value: dict[str, float], digits: int = 3) -> str:
    """Write a mean with its standard error."""
    return f"{value['mean']:.{digits}f} ± {value['stderr']:.{digits}f}"


def cross() -> str:
    """Where paths end, by the number of remembered tokens."""
    r = load("cross")
    rows = [
        (f"{n} tokens" if n != "1" else "the last token only", *(rate(row[k]) for k in ("cross", "V", "U", "nowhere")),
         " / ".join(str(c) for c in row["ends_per_corner"]))
        for n, row in r.get("memory", {}).items()
    ]  # fmt: skip
    head = ("memory of the second half", "straight, %", "V, %", "back, %", "no corner, %", "ends in each corner")
    return table(head, rows)


def cross_slopes() -> str:
    """What the slope does when the memory is dropped."""
    r = load("cross")
    rows = [
        (slope, *(rate(row[k]) for k in ("cross", "V", "U", "nowhere")))
        for slope, row in r.get("without_memory_by_slope", {}).items()
    ]
    return table(("slope, rows per token", "straight, %", "V, %", "back, %", "no corner, %"), rows)


def rollout() -> str:
    """Distances from the true law, by method and length."""
    r = load("rollout")
    rows = []
    for process, found in r.get("processes", {}).items():
        for method, row in found["methods"].items():
            cells = row["by_length"]
            last = cells[str(max(r["times"]))]
            walls = f"{100 * last['in_wall']:.1f}" if "in_wall" in last else "-"
            distances = [pm(cells[str(t)]["pairs"]) for t in r["times"]]
            rows.append((process, method, *distances, f"{100 * last['diverged']:.0f}", walls))
        floor = found["data_against_data"]
        walls = f"{100 * floor['in_wall']:.1f}" if "in_wall" in floor else "-"
        rows.append((process, "*data against data*", *[pm(floor["pairs"])] * len(r["times"]), "0", walls))
    times = [f"{t} x" for t in r.get("times", [])]
    return table(("process", "method", *times, "diverged, %", "in walls, %"), rows)


def toy() -> str:
    """The lottery toy by schedule and number of futures."""
    rows = []
    for schedule, row in load("schedules").get("rows", {}).get("toy", {}).items():
        for n, cell in row.items():
            rows.append(
                (schedule, "ordinary" if n == "mean" else n, rate(cell["sure"]),
                 f"{cell['expected_reward']:.3f} ± {cell['expected_reward_stderr']:.3f}",
                 f"{cell['reward_variance']:.3f}", f"{cell['dreamed_reward']:.2f}", f"{cell['ms_per_plan']:.2f}")
            )  # fmt: skip
    head = (
        "schedule",
        "futures N",
        "sure route, %",
        "expected reward",
        "variance",
        "reward in the plan",
        "ms per plan",
    )
    return table(head, rows)


def guided_maze() -> str:
    """The maze whose goal only the guidance knows."""
    rows = []
    for schedule, row in load("schedules").get("rows", {}).get("maze", {}).items():
        for n, cell in row.items():
            rows.append(
                (schedule, "ordinary" if n == "mean" else n, pm(cell["score"], 1), f"{cell['success_rate']:.2f}",
                 f"{cell['plan_ms']:.0f}")
            )  # fmt: skip
    return table(("schedule", "futures N", "score", "success", "ms per plan"), rows)


def forecasting() -> str:
    """CRPS_sum by method."""
    r = load("forecasting")
    gaps = r.get("difference_to_zig_zag", {})
    rows = [
        (name, pm(row["crps_sum"], 4), pm(gaps[name], 4) if name in gaps else "-")
        for name, row in sorted(r.get("methods", {}).items(), key=lambda item: item[1]["crps_sum"]["mean"])
    ]
    return table(("method", "CRPS_sum, lower is better", "minus Diffusion Forcing with a zig-zag, paired"), rows)


def acting_costs() -> str:
    """What a call of predict costs, in microseconds."""
    rows = load("acting").get("rows", {})
    batches = [row["batch"] for row in next(iter(rows.values()), [])]
    head = ("policy", *(f"{n} environment{'s' if n > 1 else ''}, µs" for n in batches))
    return table(head, [(name, *(f"{row['median_us']:.0f}" for row in found)) for name, found in rows.items()])


def cache() -> str:
    """Milliseconds per control step with and without memory."""
    rows = [
        (
            name,
            str(int(c["history"])),
            str(c["batch"]),
            f"{c['memory_ms']:.1f}",
            f"{c['recompute_ms']:.1f}",
            f"{c['ratio']:.1f}",
        )
        for name, found in load("cache").get("rows", {}).items()
        for c in found
    ]
    return table(("network", "tokens of history", "batch", "with memory, ms", "recomputed, ms", "ratio"), rows)


def corrupted() -> str:
    """Scores under missing and noisy observations, labelled and not."""
    r, rows = load("corrupted"), []
    for kind, mover in (("missing", "`path`"), ("missing_own_actions", "`diffused_actions`"), ("noise", "`path`")):
        for amount, cell in r.get(kind, {}).items():
            share = f"{100 * float(amount):.0f} % missing"
            what = f"{share}, {mover}" if kind != "noise" else f"noise of {amount} std, {mover}"
            rows.append((what, *(pm(cell[name], 1) for name in ("labelled", "as_if_clean", "difference"))))
    return table(("observations", "labelled as what they are", "taken for clean", "difference, same starts"), rows)


def world_model() -> str:
    """Errors of the world model by tokens ahead."""
    found = load("five-questions").get("world_model", {}).get("position_error", {})
    some = next(iter(found.values()), [])
    steps = [i for i in (0, 1, 3, 7) if i < len(some)]
    rows = [(name.replace("_", " "), *(pm(v[i]) for i in steps)) for name, v in found.items()]
    other = load("five-questions").get("world_model", {}).get("other_actions_position_error", {})
    names = {"model": "actions of another episode: model", "as_recorded": "actions of another episode: ignored"}
    rows += [(names[name], *(pm(v[i]) for i in steps)) for name, v in other.items()]
    return table(("position error, cells", *(f"{i + 1} token{'s' if i else ''} ahead" for i in steps)), rows)


def inverse_dynamics() -> str:
    """Where inferred actions lead, against the states they were inferred from."""
    found = load("five-questions").get("inverse_dynamics", {}).get("reached_one_token", {})
    return table(("actions executed", "cells from the wanted state, one token"), [(n, pm(v)) for n, v in found.items()])


def acting() -> str:
    """Scores of planner and policies from one checkpoint."""
    found = load("five-questions").get("acting", {})
    rows = [(n, pm(v["score"], 1), rate(v["success"]), str(v["episodes"])) for n, v in found.items()]
    return table(("who acts", "score", "success, %", "episodes"), rows)


def likelihood() -> str:
    """Gaps between bound and exact log-likelihood with the exact denoiser."""
    rows = []
    for levels, found in load("likelihood").get("exact", {}).items():
        for schedule, cell in found.items():
            rows.append((f"exact denoiser, K = {levels}", schedule, pm(cell["gap_nats"]), f"{cell['correlation']:.4f}"))
    for name, found in load("likelihood").get("trained", {}).items():
        for schedule, cell in found.items():
            if isinstance(cell, dict) and "gap_nats" in cell:
                rows.append((name, schedule, pm(cell["gap_nats"]), f"{cell['correlation']:.4f}"))
    return table(("denoiser", "schedule or task", "exact minus bound, nats", "correlation"), rows)


def ogbench() -> str:
    """Success on OGBench's pointmaze, by data set and task."""
    rows = []
    for name, found in load("ogbench").get("datasets", {}).items():
        tasks = [f"{100 * row['success']['rate']:.0f}" for row in found["tasks"].values()]
        steps = found["all"]["steps"]["mean"]
        rows.append((f"`{name}`", *tasks, rate(found["all"]["success"]), "-" if steps is None else f"{steps:.0f}",
                     f"{found['all']['plans_per_episode']:.1f}"))  # fmt: skip
    head = ("data set", *(f"task {n}, %" for n in range(1, 6)), "all, % (95 % interval)", "steps", "plans")
    return table(head, rows)


def returns() -> str:
    """Returns on data of mixed quality, by task."""
    tasks = load("returns").get("tasks", {})
    keys = [key for rows in tasks.values() for key in rows]
    rows = []
    for key in dict.fromkeys(keys):
        label = next(rows[key]["label"] for rows in tasks.values() if key in rows)
        rows.append((label, *(pm(rows[key]["returns"], 0) if key in rows else "-" for rows in tasks.values())))
    return table(("", *(f"`{name}`" for name in tasks)), rows)


def fruit_swap(result: str = "fruit-swap") -> str:
    """The robot arm's fruit swap: success and stages of every row."""
    rows = []
    for row in load(result).get("rows", {}).values():
        stages, steps = row["stages"], row["steps"]["mean"]
        rows.append((
            row["label"], rate(row["success"]), *(f"{100 * stages[stage]['rate']:.0f}" for stage in ("1", "2")),
            "-" if steps is None else f"{steps:.0f}", f"{1e3 * row['predict_seconds']['p95']:.0f}",
        ))  # fmt: skip
    head = ("policy", "success, % (95 % interval)", "stage 1, %", "stage 2, %", "steps", "time per call, p95, ms")
    return table(head, rows)


NAMES = (
    "cross", "rollout", "schedules", "likelihood", "corrupted", "five-questions", "forecasting", "cache", "acting",
    "speed", "speed-scores", "speed-training", "ogbench", "returns", "fruit-swap",
    "fruit-swap-distracted", "ros-faults",
)  # fmt: skip
TABLES: dict[str, Callable[[], str]] = {
    "cross": cross,
    "cross-slopes": cross_slopes,
    "rollout": rollout,
    "toy": toy,
    "guided-maze": guided_maze,
    "forecasting": forecasting,
    "cache": cache,
    "acting-costs": acting_costs,
    "ogbench": ogbench,
    "returns": returns,
    "fruit-swap": fruit_swap,
    "fruit-swap-distracted": lambda: fruit_swap("fruit-swap-distracted"),
    "corrupted": corrupted,
    "world-model": world_model,
    "inverse-dynamics": inverse_dynamics,
    "acting": acting,
    "likelihood": likelihood,
    **speed_tables.TABLES,
    **ros_tables.TABLES,
    **{f"made-by-{name}": (lambda name=name: made_by(name)) for name in NAMES},  # type: ignore[misc]
}
