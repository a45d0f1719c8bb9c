"""`dfplan data mix` and `dfplan data filter`. Heavy imports are inside."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfplan.cli.data_common import (
    AuthorOption,
    EmailOption,
    JsonFlag,
    OverwriteFlag,
    authors,
    check_outputs,
    report,
    stops_cleanly,
    write_outputs,
)

if TYPE_CHECKING:
    from dfplan.data import Episodes

ResultId = Annotated[str | None, typer.Option("--id", help="Write a Minari dataset of this id.", metavar="ID")]
ResultNpz = Annotated[Path | None, typer.Option("--npz", help="Write the compact file.", metavar="FILE.npz")]
Seed = Annotated[int, typer.Option(min=0, help="Of the random choice of episodes.")]


def mix_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Ids or files; ':2' has every episode twice, ':0.25' a random quarter.",
            metavar="SOURCE[:WEIGHT]",
        ),
    ],
    dataset_id: ResultId = None,
    npz: ResultNpz = None,
    seed: Seed = 0,
    overwrite: OverwriteFlag = False,
    author: AuthorOption = "dfplan",
    author_email: EmailOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Put data sets of one environment together."""
    with stops_cleanly():
        from dfplan.data import load_episodes
        from dfplan.data.mixing import mix_episodes

        begin = time.perf_counter()
        _check(dataset_id, npz, overwrite)
        pairs = [split_weight(source) for source in sources]
        parts = [_named(load_episodes(name), name) for name, _ in pairs]
        mixed = mix_episodes(parts, [weight for _, weight in pairs], seed=seed)
        mixed.meta["command"] = f"dfplan data mix {' '.join(_short(source) for source in sources)} --seed {seed}"
        about = {"description": f"A mixture of {', '.join(_short(s) for s in sources)}.", "algorithm_name": "mixture"}
        _write(mixed, begin, dataset_id, npz, overwrite, {**about, **authors(author, author_email)}, as_json)


def filter_command(
    source: Annotated[str, typer.Argument(help="A Minari id or a file.", metavar="ID|FILE")],
    min_return: Annotated[float | None, typer.Option(help="Keep episodes with at least this sum of rewards.")] = None,
    max_return: Annotated[float | None, typer.Option(help="Keep episodes with at most this sum of rewards.")] = None,
    top: Annotated[float | None, typer.Option(help="Of those, keep the best share, in (0, 1].")] = None,
    episodes: Annotated[int | None, typer.Option(help="Of those, keep so many at random.")] = None,
    seed: Seed = 0,
    dataset_id: ResultId = None,
    npz: ResultNpz = None,
    overwrite: OverwriteFlag = False,
    author: AuthorOption = "dfplan",
    author_email: EmailOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Keep some episodes of a data set, by their returns."""
    with stops_cleanly():
        from dfplan.data import load_episodes
        from dfplan.data.mixing import filter_episodes

        begin = time.perf_counter()
        _check(dataset_id, npz, overwrite)
        limits = {"min_return": min_return, "max_return": max_return, "top": top}
        kept = filter_episodes(_named(load_episodes(source), source), **limits, count=episodes, seed=seed)
        given = {**limits, "episodes": episodes, "seed": seed if episodes is not None else None}
        flags = "".join(f" --{key.replace('_', '-')} {value}" for key, value in given.items() if value is not None)
        kept.meta["command"] = f"dfplan data filter {_short(source)}{flags}"
        about = {"description": f"Episodes of {_short(source)}:{flags}.", "algorithm_name": "see the source"}
        _write(kept, begin, dataset_id, npz, overwrite, {**about, **authors(author, author_email)}, as_json)


def split_weight(source: str) -> tuple[str, float | None]:
    """Split "data.npz:0.5" into its name and weight; None without one.

    Raises:
        ValueError: for a weight that is no number above 0.
    """
    name, colon, text = source.rpartition(":")
    if not colon or Path(source).exists():
        return source, None
    try:
        weight = float(text)
    except ValueError as error:
        raise ValueError(f"a weight must be a number, got {text!r} in {source!r}; for example data.npz:0.5") from error
    if not 0 < weight < float("inf"):
        raise ValueError(f"a weight must be above 0 and finite, got {text!r} in {source!r}")
    return name, weight


def _named(episodes: Episodes, source: str) -> Episodes:
    """Let a file's episodes know its name."""
    if Path(source).is_file():
        episodes.meta.setdefault("source", Path(source).name)
    return episodes


def _short(source: str) -> str:
    """Return a source without the folders of a file."""
    name, weight = split_weight(source)
    plain = Path(name).name if Path(name).is_file() else name
    return plain if weight is None else f"{plain}:{weight:g}"


def _check(dataset_id: str | None, npz: Path | None, overwrite: bool) -> None:
    if dataset_id is None and npz is None:
        raise ValueError("name the result: --id ID for a Minari dataset, --npz FILE.npz for a file, or both")
    check_outputs(dataset_id or "", dataset_id is not None, npz, overwrite, "--npz FILE.npz")


def _write(
    episodes: Episodes, begin: float, dataset_id: str | None, npz: Path | None, overwrite: bool, about: dict[str, Any],
    as_json: bool,
) -> None:  # fmt: skip
    written = write_outputs(episodes, dataset_id or "", dataset_id is not None, npz, overwrite, None, about)
    report(episodes, {**written, "seconds": round(time.perf_counter() - begin, 3)}, as_json)
