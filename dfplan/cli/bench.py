"""`dfplan bench`: run a reproduction and keep its numbers and its figure."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer


def bench(
    name: Annotated[str | None, typer.Argument(help="Which one; without a name they are listed.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder, by default runs/bench-NAME; models in it are used again.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides all draws, data and weights.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Little data and training: to see that it runs.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here too.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Copy the figure here.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of torch; by default torch decides.")] = None,
    rows: Annotated[
        str | None, typer.Option(help="maze2d, ros-faults, fruit-swap: names of rows, with commas.")
    ] = None,
    episodes: Annotated[int | None, typer.Option(help="maze2d: at most so many episodes per row.")] = None,
    workers: Annotated[int | None, typer.Option(help="maze2d: processes; one per core by default.")] = None,
    retrain: Annotated[bool, typer.Option("--retrain", help="maze2d: train the checkpoints first.")] = False,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="maze2d: a policy of your own, as for dfplan eval: sb3:FILE, py:MODULE:ATTRIBUTE ..."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="ros-faults: commands per second; fewer on a busy computer.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="ros-faults: how long the load lasts.")] = None,
    kills: Annotated[int | None, typer.Option(help="ros-faults: how many there are.")] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="maze2d: run the episodes on this Ray cluster (extra ray).")
    ] = None,
) -> None:
    """Run a benchmark: a claim of the method as a number with an interval, a JSON file and a figure."""
    if name is None:
        _list()
        return
    from dfplan_bench.registry import find_benchmark, folder

    found = find_benchmark(name)
    out = folder(out or Path("runs") / f"bench-{name}{'-quick' if quick else ''}")
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    run, began = found.load(), time.perf_counter()
    options: dict[str, Any] = {
        "rows": rows, "policy": policy or None, "episodes": episodes, "workers": workers, "retrain": retrain or None,
        "ray": ray, "rate": rate, "minutes": minutes, "kills": kills,
    }  # fmt: skip
    options = _accepted(name, run, {option: value for option, value in options.items() if value is not None})
    typer.echo(f"{name}: {found.claim} (about {found.minutes:g} minutes; run folder {out})", err=True)
    result = run(out, seed=seed, quick=quick, say=lambda text: typer.echo(text, err=True), **options)
    _finish(
        name, options, {"seed": seed, "quick": quick, **result}, out, time.perf_counter() - began, json_file, figure
    )


def _accepted(name: str, run: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Check that a benchmark has the options that were given.

    Raises:
        ValueError: If it lacks one.
    """
    known = signature(run).parameters
    for option, value in options.items():
        if option not in known:
            raise ValueError(f"the benchmark {name!r} has no --{option}; leave it out")
        if option in ("episodes", "workers", "rate", "kills") and value < 1:
            raise ValueError(f"--{option} must be at least 1, got {value}")
    return options


def _list() -> None:
    from dfplan.cli.lists import _print_table
    from dfplan_bench.registry import BENCHMARKS

    rows = [(b.name, f"{b.minutes:g}", b.claim) for b in BENCHMARKS.values()]
    _print_table(("name", "minutes", "what it tests"), rows)


def _finish(
    name: str,
    options: dict[str, Any],
    result: dict[str, Any],
    out: Path,
    seconds: float,
    json_file: Path | None,
    figure: Path | None,
) -> None:
    """Write metrics with their provenance, print the headline numbers."""
    from dfplan import provenance
    from dfplan.data.files import atomic_path

    origin: dict[str, Any] = {part: getattr(provenance, part)() for part in ("git", "versions", "hardware")}
    given = "".join(
        f" --{option}" + ("" if one is True else f" {shlex.quote(str(one))}")
        for option, value in options.items()
        for one in (value if isinstance(value, list) else [value])
    )
    origin["command"] = f"dfplan bench {name} --seed {result['seed']}{' --quick' if result['quick'] else ''}{given}"
    text = json.dumps({"benchmark": name, "wall_seconds": seconds, **result, **origin}, indent=2, allow_nan=False)
    for path in (out / "metrics.json", json_file):
        if path is not None:
            with atomic_path(path) as temporary:
                temporary.write_text(text + "\n")
    picture = out / f"{name}.png"
    if figure is not None and picture.is_file():
        with atomic_path(figure) as temporary:
            shutil.copyfile(picture, temporary)
    for line in result.get("headline", []):
        typer.echo(line)
    typer.echo(f"{out}")
