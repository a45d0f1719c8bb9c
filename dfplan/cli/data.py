"""`dfplan data`: make, collect, import, fetch, mix, filter, export, list and show data. Heavy imports are inside."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from dfplan.cli.data_collect import collect_command
from dfplan.cli.data_common import (
    AuthorOption,
    EmailOption,
    IdOption,
    JsonFlag,
    MinariFlag,
    NpzOption,
    OverwriteFlag,
    authors,
    check_outputs,
    progress_bar,
    report,
    say,
    stops_cleanly,
    write_outputs,
)
from dfplan.cli.data_export import export_command
from dfplan.cli.data_mix import filter_command, mix_command

app = typer.Typer(no_args_is_help=True, help="Make, collect, import, fetch, mix, filter, export, list and show data.")

app.command("collect")(collect_command)
app.command("mix")(mix_command)
app.command("filter")(filter_command)
app.command("export")(export_command)

TEXT_CELLS, PICTURE_CELLS = 2.0, 10.0


@app.command()
def make(
    env: Annotated[str, typer.Argument(help="maze2d-large, pointmaze-large-stitch, fruit-swap ...", metavar="ENV")],
    steps: Annotated[int, typer.Option(min=1, help="Mazes: environment steps to simulate.")] = 1_000_000,
    noisy: Annotated[
        bool,
        typer.Option("--noisy/--clean", help="Add N(0, 0.5^2) to the controller's actions, as D4RL's option does."),
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same data, for any number of workers.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="all cores")] = None,
    maze: Annotated[
        Path | None, typer.Option("--maze", help="Text of a maze of your own, for ENV maze2d.", metavar="FILE.txt")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="fruit-swap: episodes to play.")] = 300,
    obs: Annotated[str, typer.Option(help="fruit-swap: state, image or both.")] = "state",
    image_size: Annotated[int, typer.Option(help="fruit-swap: pixels, 32, 64 or 128.")] = 64,
    camera_every: Annotated[
        int,
        typer.Option(min=1, help="fruit-swap: steps from one picture to the next; a policy of blocks needs no more."),
    ] = 6,
    expert_noise: Annotated[
        float, typer.Option(min=0.0, help="fruit-swap: how far off the expert grips, in m; above 0 it also pauses.")
    ] = 0.004,
    pushed: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="fruit-swap: share of the episodes with --pushes.")
    ] = 0.3,
    pushes: Annotated[
        int, typer.Option(min=1, max=10, help="fruit-swap: pushes of a fruit, or knocks out of the gripper.")
    ] = 1,
    bumps: Annotated[
        float, typer.Option(min=0.0, help="fruit-swap: bumps of the arm per second, so that data show corrections.")
    ] = 0.8,
    misses: Annotated[
        float, typer.Option(min=0.0, help="fruit-swap: probability that a try to grip goes beside the fruit.")
    ] = 0.2,
    distracted: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="fruit-swap: share of the episodes with --distractors.")
    ] = 0.0,
    distractors: Annotated[
        int, typer.Option(min=1, max=8, help="fruit-swap: objects beside the plates that are only seen.")
    ] = 4,
    keep: Annotated[str, typer.Option(help="fruit-swap: success or all.")] = "success",
    out: Annotated[
        Path | None,
        typer.Option(help="fruit-swap: run folder of finished episodes.", show_default="one in runs/, by the options"),
    ] = None,
    dataset_id: IdOption = None,
    npz: NpzOption = None,
    minari: MinariFlag = True,
    overwrite: OverwriteFlag = False,
    author: AuthorOption = "dfplan",
    author_email: EmailOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make maze2d data by D4RL's recipe, pointmaze data by OGBench's, or demonstrations of the robot arm's fruit swap.

    All of it on all cores; demonstrations go on where a stopped run was.
    """
    with stops_cleanly():
        if env.rpartition("-v")[0] == "fruit-swap" or env == "fruit-swap":
            from dfplan.cli.data_fruit_swap import make_command

            options = {"obs": obs, "image_size": image_size, "camera_every": camera_every, "bumps": bumps}
            options |= {"pushes": pushes, "distractors": distractors}
            make_command(
                episodes, seed, options, expert_noise, pushed, misses, distracted, keep, workers or cores(), out,
                dataset_id, npz, minari, overwrite, authors(author, author_email), as_json,
            )  # fmt: skip
            return
        if env.startswith("pointmaze-"):
            _make_pointmaze(
                env, steps, seed, dataset_id, npz, minari, overwrite, authors(author, author_email), as_json
            )
            return
        from dfplan.cli.data_make import describe_env, make_episodes

        begin = time.perf_counter()
        rows = tuple(maze.read_text().split()) if maze is not None else None
        env_id = describe_env(env, rows)[0]
        dataset_id = dataset_id or make_id(env_id, noisy)
        check_outputs(dataset_id, minari, npz, overwrite)
        with progress_bar(f"simulate {env_id}", steps) as advance:
            made, spec = make_episodes(
                env, steps, seed=seed, noisy=noisy, workers=workers or cores(), maze=rows, progress=advance
            )
        command = f"dfplan data make {env} --steps {steps} --{'noisy' if noisy else 'clean'} --seed {seed}"
        made.meta["command"] = command + (f" --maze {maze.name}" if maze is not None else "")
        about = {
            "description": f"{env_id}: {made.meta['recipe']}. Rewards: {made.meta['reward']}.",
            "algorithm_name": "waypoint PD controller" + (" with action noise N(0, 0.5^2)" if noisy else ""),
            **authors(author, author_email),
        }
        written = write_outputs(made, dataset_id, minari, npz, overwrite, spec, about)
        report(made, {**written, "seconds": round(time.perf_counter() - begin, 3)}, as_json)


def _make_pointmaze(
    name: str, steps: int, seed: int, dataset_id: str | None, npz: Path | None, minari: bool, overwrite: bool,
    who: dict[str, Any], as_json: bool,
) -> None:  # fmt: skip
    from dfplan.cli.data_ogbench import make_pointmaze
    from dfplan_envs.ogbench import find_dataset

    begin, base = time.perf_counter(), find_dataset(name).name
    dataset_id = dataset_id or f"ogbench/{base}-v0"
    check_outputs(dataset_id, minari, npz, overwrite)
    with progress_bar(f"simulate {base}", steps) as advance:
        episodes, spec = make_pointmaze(base, steps, seed=seed, progress=advance)
    episodes.meta["command"] = f"dfplan data make {base} --steps {steps} --seed {seed}"
    about = {
        "description": f"{episodes.meta['recipe']}. Rewards: {episodes.meta['reward']}.",
        "algorithm_name": "direction to the next cell's centre with action noise N(0, 0.5^2)",
        **who,
    }
    written = write_outputs(episodes, dataset_id, minari, npz, overwrite, spec, about)
    report(episodes, {**written, "seconds": round(time.perf_counter() - begin, 3)}, as_json)


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="One of D4RL's HDF5 files.", metavar="FILE.hdf5")],
    env: Annotated[
        str | None, typer.Option(help="Environment id, or D4RL's name.", show_default="from D4RL's file name")
    ] = None,
    rewards: Annotated[
        str | None,
        typer.Option(help="Which observation rewards[t] scores: 'same' row or the 'next'.", show_default="by the kind"),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="How rows are read: tour (maze2d), steps (locomotion, adroit), antmaze, kitchen.",
            show_default="by the environment or the file",
        ),
    ] = None,
    relabel: Annotated[bool, typer.Option("--relabel", help="Replace rewards by those of the environment.")] = False,
    dataset_id: IdOption = None,
    npz: NpzOption = None,
    minari: MinariFlag = True,
    overwrite: OverwriteFlag = False,
    author: AuthorOption = "D4RL",
    author_email: EmailOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Turn one of D4RL's HDF5 files into the same form: real transitions, rewards on the state after the step."""
    with stops_cleanly():
        from dfplan.cli.data_import import import_d4rl
        from dfplan.data.d4rl_names import env_of_file, resolve_d4rl

        begin = time.perf_counter()
        known = env if env is not None else env_of_file(file)
        with contextlib.suppress(ValueError):  # not a name of D4RL's
            known = resolve_d4rl(known) if known is not None else None
        dataset_id = dataset_id or f"d4rl-hdf5/{known or import_name(file)}"
        check_outputs(dataset_id, minari, npz, overwrite)
        episodes, spec, warning = import_d4rl(file, known, rewards, relabel, kind)
        if warning:
            say(f"warning: {warning}")
        episodes.meta["command"] = f"dfplan data import {file.name}"
        about = {
            "description": f"D4RL's {file.name}; transitions that are not real left out, "
            "rewards score the state after the step.",
            "algorithm_name": "waypoint PD controller" if episodes.meta["file_format"] == "d4rl-hdf5" else "see D4RL",
            **authors(author, author_email),
        }
        written = write_outputs(episodes, dataset_id, minari, npz, overwrite, spec, about)
        report(episodes, {**written, "seconds": round(time.perf_counter() - begin, 3)}, as_json)


@app.command()
def fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="D4RL's maze2d-large or hopper-medium-v2, OGBench's pointmaze-large-stitch-v0, or a Minari id."
        ),
    ],
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Download public data: one of D4RL's files or OGBench's pointmaze sets, or one from Minari's remote."""
    with stops_cleanly():
        from dfplan.data.d4rl_names import resolve_d4rl
        from dfplan.data.fetch import fetch_d4rl, fetch_minari, fetch_ogbench

        if name.startswith("pointmaze-"):
            with progress_bar(f"fetch {name}", None, "B") as advance:
                path = fetch_ogbench(name, overwrite=overwrite, progress=advance)
            then = f"dfplan data show {path}"
        elif "/" in name:
            path, then = fetch_minari(name, overwrite=overwrite), f"dfplan data show {name}"
        else:
            with progress_bar(f"fetch {resolve_d4rl(name)}", None, "B") as advance:
                path = fetch_d4rl(name, overwrite=overwrite, progress=advance)
            then = f"dfplan data import {path}"
        if as_json:
            typer.echo(json.dumps({"name": name, "path": str(path)}))
        else:
            typer.echo(f"{path}\nnext: {then}")


@app.command("list")
def list_data(as_json: JsonFlag = False) -> None:
    """List the data on this machine: Minari datasets, and D4RL's files in its cache folder."""
    with stops_cleanly():
        from dfplan.data.fetch import cached_d4rl_files
        from dfplan.data.minari_io import list_minari

        try:
            found = list_minari()
        except ImportError as error:
            found = {}
            say(str(error))
        datasets = [_dataset_row(dataset_id, metadata) for dataset_id, metadata in found.items()]
        files = cached_d4rl_files()
        if as_json:
            typer.echo(json.dumps({"minari": datasets, "d4rl": files}))
            return
        from dfplan.cli.data_text import list_text

        typer.echo(list_text(datasets, files), nl=False)


@app.command()
def show(
    source: Annotated[
        str, typer.Argument(help="A Minari id, a .npz or .hdf5 file, or a LeRobot folder.", metavar="ID|FILE|FOLDER")
    ],
    plot: Annotated[Path | None, typer.Option(help="Draw coverage into this picture.", metavar="FILE.png")] = None,
    cells: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Coverage grid cells per unit of x and y.", show_default="2 in text, 10 in pictures"
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print sizes and statistics, and draw which places were visited."""
    with stops_cleanly():
        from dfplan.cli.data_text import show_text
        from dfplan.data import load_episodes
        from dfplan.data.stats import coverage, summary

        episodes = load_episodes(source)
        facts = {"source": source, **summary(episodes)}
        if plot is not None:
            from dfplan.cli.data_make import maze_rows
            from dfplan.plotting.coverage import save_coverage

            fine = cells or PICTURE_CELLS
            counts, corner = coverage(episodes, fine)
            save_coverage(counts, corner, fine, plot, title=source, maze=maze_rows(episodes.meta))
            facts["plot"] = str(plot)
        typer.echo(json.dumps(facts) if as_json else show_text(episodes, facts, cells or TEXT_CELLS), nl=as_json)


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_id(env_id: str, noisy: bool) -> str:
    """Return the default id of made data: maze2d-large-v1 becomes maze2d/large-noisy-v0."""
    name = env_id.removeprefix("maze2d-").rpartition("-v")[0] or "custom"
    return f"maze2d/{name}-{'noisy' if noisy else 'clean'}-v0"


def import_name(file: Path) -> str:
    """Return a dataset name for a file of any name."""
    return re.sub(r"[^-_A-Za-z0-9]+", "-", file.stem).strip("-") + "-v0"


def _dataset_row(dataset_id: str, metadata: dict[str, Any]) -> dict[str, Any]:
    recipe = metadata.get("dfplan") or {}
    env = recipe.get("env")
    if env is None and metadata.get("env_spec"):
        env = json.loads(metadata["env_spec"]).get("id")
    return {
        "id": dataset_id,
        "episodes": metadata["total_episodes"],
        "steps": metadata["total_steps"],
        "size_mb": metadata.get("dataset_size"),
        "env": env,
        "author": sorted(metadata.get("author") or []),
    }
