"""What the commands of `dfplan data` share: options, a progress bar, writing and reporting the result."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dfplan.data import Episodes
    from dfplan.data.trajectories import Trajectories

JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON object to standard output and nothing else there.")
]
IdOption = Annotated[
    str | None, typer.Option("--id", help="Id of the Minari dataset, (namespace/)name-vN.", metavar="ID")
]
NpzOption = Annotated[
    Path | None, typer.Option("--npz", help="Also write the compact file that needs NumPy only.", metavar="FILE.npz")
]
MinariFlag = Annotated[
    bool, typer.Option("--minari/--no-minari", help="Write a Minari dataset (needs dfplan[minari]).")
]
OverwriteFlag = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
AuthorOption = Annotated[str, typer.Option(help="Stored in the Minari dataset.")]
EmailOption = Annotated[str | None, typer.Option(help="Stored in the Minari dataset.")]


@contextmanager
def stops_cleanly() -> Iterator[None]:
    """Let a termination signal end the command as Ctrl-C does, so that unfinished files are removed."""
    try:
        before = signal.signal(signal.SIGTERM, _terminate)
    except ValueError:  # not the main thread: signals belong to somebody else
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def say(text: str) -> None:
    typer.echo(text, err=True)


class Advance:
    """Move a progress bar: call it with the amount, and with the total where that was not known before."""

    def __init__(self, bar: Any, pause_s: float) -> None:
        self._bar, self._pause_s, self._shown = bar, pause_s, time.perf_counter()

    def __call__(self, amount: int, found_total: int | None = None) -> None:
        """Advance the bar."""
        self._bar.total = self._bar.total or found_total
        self._bar.update(amount)

    def note(self, text: str) -> None:
        """Show a text behind the bar, no more often than the bar is drawn."""
        self._bar.set_postfix_str(text, refresh=False)
        if time.perf_counter() - self._shown > self._pause_s:
            self._shown = time.perf_counter()
            self._bar.refresh()


@contextmanager
def progress_bar(label: str, total: int | None, unit: str = "steps", after_s: float = 0.0) -> Iterator[Advance]:
    """Show a bar with rate and remaining time on standard error, after so many seconds; yield what advances it."""
    from tqdm import tqdm

    pause_s = 0.2 if sys.stderr.isatty() else 10.0  # a log file wants fewer lines
    shown = {"file": sys.stderr, "mininterval": pause_s, "delay": after_s}
    with tqdm(total=total, desc=label, unit=unit, unit_scale=True, **shown) as bar:
        yield Advance(bar, pause_s)


def authors(author: str, email: str | None) -> dict[str, Any]:
    return {"author": {author}, **({"author_email": {email}} if email else {})}


def check_outputs(
    dataset_id: str, minari: bool, npz: Path | None, overwrite: bool, file_only: str = "--no-minari --npz FILE.npz"
) -> None:
    """Refuse, before any work, what could not be written after it."""
    if not minari and npz is None:
        raise ValueError("nothing to write: --no-minari needs --npz FILE.npz")
    if npz is not None and npz.suffix != ".npz":
        raise ValueError(f"an episode file must be named *.npz, got {npz.name!r}")
    if npz is not None and npz.exists() and not overwrite:
        raise ValueError(f"{npz} exists; pass --overwrite to replace it")
    if minari:
        from dfplan.data.minari_io import check_new, require_minari

        check_new(dataset_id, overwrite)
        try:
            require_minari()
        except ImportError as error:
            raise ImportError(f"{error}; or write the compact file only: {file_only}") from error


def write_outputs(
    episodes: Episodes,
    dataset_id: str,
    minari: bool,
    npz: Path | None,
    overwrite: bool,
    spec: Any,
    about: dict[str, Any],
    native: Trajectories | None = None,
) -> dict[str, str]:
    """Write the compact file and the Minari dataset, each whole or not at all; return where they are.

    The dataset holds `native` where it is given: the same episodes in the environment's own spaces.
    """
    from dfplan.data import save_npz

    written: dict[str, str] = {}
    if npz is not None:
        written["npz"] = str(save_npz(episodes, npz))
    if minari:
        from dfplan.cli.data_make import versions
        from dfplan.data.minari_io import save_minari

        made_with = versions("minari", "mujoco")
        scores = episodes.meta.get("reference_scores", {})
        metadata = {
            "requirements": ["mujoco>=3.1", "gymnasium>=1.0"],
            **about,
            "code_permalink": f"dfplan {made_with['dfplan']}: {episodes.meta['command']}",
            **({"ref_min_score": scores["min"], "ref_max_score": scores["max"]} if scores else {}),
        }
        with progress_bar(f"write {dataset_id}", episodes.steps) as advance:
            folder = save_minari(
                episodes if native is None else native,
                dataset_id,
                meta=episodes.meta,
                env_spec=spec,
                metadata=metadata,
                overwrite=overwrite,
                progress=advance,
            )
        written |= {"id": dataset_id, "path": str(folder)}
    return written


def report(episodes: Episodes, written: dict[str, Any], as_json: bool) -> None:
    """Print what was written."""
    facts = {**written, "episodes": len(episodes), "steps": episodes.steps, "digest": episodes.digest()}
    if as_json:
        typer.echo(json.dumps({**facts, "meta": episodes.meta}))
        return
    typer.echo(
        f"{facts['episodes']} episodes, {facts['steps']} steps, {facts['seconds']:.1f} s, digest {facts['digest']}"
    )
    for key in ("id", "path", "npz"):
        if key in written:
            typer.echo(f"{key}: {written[key]}")
    source = written.get("id", written.get("npz"))
    env = "ENV" if "d4rl-hdf5, " in episodes.meta.get("file_format", "") else episodes.meta.get("env", "ENV")
    typer.echo(f"next: dfplan data show {source}, or train on it: dfplan train --env {env} --data {source}")
