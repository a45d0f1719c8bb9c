"""`dfplan data export`: the data in a format of others. Heavy imports are inside."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfplan.cli.data_common import JsonFlag, OverwriteFlag, progress_bar, stops_cleanly

if TYPE_CHECKING:
    from dfplan.data.lerobot.source import Source

FORMATS = ("lerobot",)
SHOW_AFTER_S = 2.0
RATE_KEYS = ("fps", "rate_hz", "control_hz")


def export_command(
    source: Annotated[str, typer.Argument(help="A Minari id, or a .npz or .hdf5 file.", metavar="DATASET")],
    to: Annotated[str, typer.Option("--to", help="The format: lerobot (its version 3, Parquet and MP4).")] = "lerobot",
    out: Annotated[Path | None, typer.Option(help="Folder to write; it must be new.", metavar="FOLDER")] = None,
    fps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps of the environment per second.", show_default="what the data say, if they do"),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="What is done, in words: 'swap the two fruits'.", metavar="TEXT")
    ] = None,
    robot: Annotated[str | None, typer.Option(help="Name of the robot, stored beside the data.")] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a part of Dict observations there, KEY=NAME; may stand more than once: "
            "--feature joints=observation.state.",
            metavar="KEY=NAME",
        ),
    ] = None,
    pixels: Annotated[
        str,
        typer.Option(
            help="yuv420p plays everywhere; yuv444p keeps the colours of small images; auto: by the size.",
            metavar="FORMAT",
        ),
    ] = "auto",
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Read everything back and compare before it is kept.")
    ] = True,
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Write data in the format of other projects, for example to train lerobot's policies on them.

    Every action becomes a frame: what was seen before it, the action, the reward after it. Images become videos,
    numbers stay exact (float32). `dfplan data show FOLDER` and `dfplan train --data FOLDER` read the result.
    """
    with stops_cleanly():
        from dfplan.data.lerobot import export_lerobot
        from dfplan.data.lerobot.source import open_source
        from dfplan.data.lerobot.tables import require_pyarrow
        from dfplan.data.lerobot.writing import check_target
        from dfplan.errors import unknown_name

        begin = time.perf_counter()
        if to not in FORMATS:
            raise unknown_name("format", to, FORMATS)
        if out is None or task is None:
            lost = "--out FOLDER" if out is None else "--task TEXT, what is done in words"
            raise ValueError(f"an export needs {lost}; for example --out exported --task 'reach the goal'")
        require_pyarrow()
        check_target(out, overwrite)
        features = dict(_pair(text) for text in feature or []) or None
        opened = open_source(source, features)
        rate = fps or _rate(opened)
        options: dict[str, Any] = {"robot_type": robot, "pixels": pixels, "check": check}
        with progress_bar("export", opened.steps * (2 if check else 1), "frames", SHOW_AFTER_S) as advance:
            folder = export_lerobot(opened, out, fps=rate, task=task, overwrite=overwrite, progress=advance, **options)
        _report(folder, out, time.perf_counter() - begin, as_json)


def _pair(text: str) -> tuple[str, str]:
    key, equals, name = text.partition("=")
    if not equals or not name:
        raise ValueError(f"--feature must be KEY=NAME, got {text!r}; for example joints=observation.state")
    return key, name


def _rate(source: Source) -> int:
    """Return the frames per second that the data's own description gives."""
    for key in RATE_KEYS:
        rate = source.meta.get(key)
        if isinstance(rate, (int, float)) and rate >= 1 and float(rate).is_integer():
            return int(rate)
    raise ValueError(
        f"{source.name} does not say how many steps of the environment make a second; pass --fps N, as --fps 10"
    )


def _report(folder: Path, out: Path, seconds: float, as_json: bool) -> None:
    info = json.loads((folder / "meta" / "info.json").read_text(encoding="utf-8"))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    facts = {
        "path": str(folder),
        "episodes": info["total_episodes"],
        "frames": info["total_frames"],
        "fps": info["fps"],
        "features": list(info["features"]),
        "size_bytes": size,
        "seconds": round(seconds, 3),
    }
    if as_json:
        typer.echo(json.dumps(facts))
        return
    typer.echo(
        f"{facts['episodes']} episodes, {facts['frames']} frames at {facts['fps']} per second, {size / 1e6:.1f} MB, "
        f"{seconds:.1f} s\n{out}: {', '.join(facts['features'])}\nnext: dfplan data show {out}"
    )
