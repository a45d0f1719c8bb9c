"""`dfplan bench maze2d`: the whole table of maze2d, from checkpoints or from nothing, resumable, over all cores."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dfplan.checkpoint import locate, read_config
from dfplan.data.files import atomic_path
from dfplan.planner_config import PlannerConfig
from dfplan.provenance import cores
from dfplan_bench.maze2d import own, report
from dfplan_bench.maze2d.rows import MAZES, Row, all_rows, choose
from dfplan_bench.maze2d.runner import Part, read, split, way_of
from dfplan_policies import policies

QUICK_STEPS = 20  # of training, to see that it runs


def run(
    out: Path, *, seed: int, quick: bool, say: Callable[[str], None], rows: str | None = None,
    episodes: int | None = None, workers: int | None = None, retrain: bool = False, ray: str | None = None,
    policy: Sequence[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score the rows that are not scored yet, and write the report.

    Args:
        out: Run folder; what it holds is not run again.
        seed: Of all starts and draws.
        quick: Two episodes per row.
        say: Where messages go.
        rows: Groups and names of rows, separated by commas; all if None.
        episodes: Per row, instead of each row's own number.
        workers: Processes; one per core if None.
        retrain: Train the checkpoints first, by ``dfplan train``, in ``out``.
        ray: Address of a Ray cluster that runs the episodes.
        policy: Policies of one's own, as for ``dfplan eval --policy``: each gets a row for every environment of the
            others, on the same starts.

    Returns:
        The result: rows, their paired differences, headline.
    """
    wanted = choose(all_rows(mppi="mppi" in policies()), rows)
    mine = own.own_rows(policy or (), wanted)
    files = {row.policy: own.fingerprint(row.policy) for row in mine}
    own.try_out(mine, seed)
    wanted = [*mine, *wanted]
    names = {row.maze for row in wanted if row.policy == "df"}
    checkpoints = {m: _trained(out, m, seed, quick, say) if retrain else f"maze2d-{m}" for m in MAZES if m in names}
    parts = _parts(wanted, checkpoints, seed, 2 if quick else episodes, files)
    missing = [part for part in parts if read(out / "parts" / part.file) is None]
    say(f"{len(wanted)} rows, {sum(p.count for p in parts)} episodes; {sum(p.count for p in missing)} still to run")
    with tqdm(total=sum(p.count for p in missing), desc="episodes", file=sys.stderr, dynamic_ncols=True) as bar:
        for part, found in way_of(workers or cores(), ray)(missing):
            with atomic_path(out / "parts" / part.file) as path:
                path.write_text(json.dumps(found) + "\n")
            bar.update(part.count)
    return _result(out, wanted, parts, seed, retrain, files)


def _parts(
    wanted: list[Row], checkpoints: dict[str, str], seed: int, episodes: int | None, files: Mapping[str, str]
) -> list[Part]:
    weights = {m: planner_key(read_config(locate(c))) for m, c in checkpoints.items()}
    return [
        part
        for row in wanted
        for part in split(
            row, min(row.episodes, episodes or row.episodes), seed, checkpoints.get(row.maze, ""),
            weights[row.maze] if row.policy == "df" else files.get(row.policy, ""),
        )
    ]  # fmt: skip


def planner_key(config: Mapping[str, Any]) -> str:
    """Name what a planner's results depend on: its weights and its defaults."""
    defaults = asdict(PlannerConfig.from_dict(dict(config["planner"])))
    return f"{config['weights_sha256']} {json.dumps(defaults, sort_keys=True)}"


def _trained(out: Path, maze: str, seed: int, quick: bool, say: Callable[[str], None]) -> str:
    """Train a maze's checkpoint by the command that made the bundled one, or go on with it; returns its folder."""
    folder = out / f"train-{maze}"
    command = ["dfplan", "train", "--env", f"maze2d-{maze}", "--seed", str(seed), "--out", str(folder)]
    if quick:
        command += ["--steps", str(QUICK_STEPS), "--batch", "8"]
    say(" ".join(command))
    start = "from dfplan.cli import main; main()"
    subprocess.run([sys.executable, "-c", start, *command[1:]], check=True, stdout=subprocess.DEVNULL)
    return str(folder / "checkpoint")


def _result(
    out: Path, wanted: list[Row], parts: list[Part], seed: int, retrain: bool, files: Mapping[str, str]
) -> dict[str, Any]:
    """Summarise, draw, write the report."""
    episodes: dict[str, list[dict[str, Any]]] = {row.name: [] for row in wanted}
    for part in parts:
        episodes[part.row.name] += read(out / "parts" / part.file) or []
    rows = {row.name: report.summarise(row, episodes[row.name]) for row in wanted}
    for row in wanted:
        if row.group == "ladder" and row.name != "ladder-d2" and "ladder-d2" in rows:
            rows[row.name]["against_default"] = report.difference(
                episodes[row.name], episodes["ladder-d2"], row.env
            )  # fmt: skip
    for row in wanted:
        planner = row.env.removeprefix("maze2d-") + "-path"
        if row.group == own.GROUP and planner in rows:
            rows[row.name]["against_planner"] = report.difference(episodes[row.name], episodes[planner], row.env)
    headline = [
        f"{r['label'].replace('**', '')}, {r['env']}: {report.pm(r['strict'])}, success {r['success_rate']:.3f}"
        for r in rows.values()
        if r["group"] in ("scores", own.GROUP) or not any(row.group == "scores" for row in wanted)
    ]
    result = {
        "seed": seed,
        "checkpoints": "trained in this run" if retrain else "bundled",
        **({"policies": dict(files)} if files else {}),
        "rows": rows,
        "headline": headline,
    }
    try:
        report.draw(out / "maze2d.png", wanted, episodes)
    except ImportError as error:
        headline.append(f"no figure: {error}")
    report.write(out, result)
    return result
