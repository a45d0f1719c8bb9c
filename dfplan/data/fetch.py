"""Download public data: D4RL's files and Minari's remote datasets, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

from dfplan.data.d4rl_file import read_d4rl
from dfplan.data.d4rl_names import FILES, PATHS, ROOT_URL, d4rl_dataset_dir, kind_of, resolve_d4rl
from dfplan.data.files import atomic_path
from dfplan.data.minari_io import check_new, register_namespaces, require_minari, staged_folder
from dfplan.data.ogbench import BASE_URL as OGBENCH_URL
from dfplan.data.ogbench import load_ogbench, ogbench_dir

CHUNK_BYTES = 1 << 18
TIMEOUT_S = 30.0
# The first part of the module name of errors that Minari's download lets through when there is no network.
NETWORK_PACKAGES = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "huggingface_hub", "google")


def fetch_d4rl(
    name: str,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
    base_url: str | None = None,
) -> Path:
    """Download one of D4RL's files into its cache folder, check it, and only then give it its name.

    D4RL publishes no checksums: the size is compared with the server's, and the whole file is read and checked.

    Args:
        name: of a data set, for example "maze2d-large" or "hopper-medium-v2".
        overwrite: download again when the file is there.
        progress: called with (bytes since its last call, bytes in all or None).
        base_url: the folder that has the file; None is D4RL's own.

    Returns:
        The file's path.

    Raises:
        ValueError: for an unknown name, or a file that breaks the format.
        ConnectionError: when the download fails; says what to do without a network.
    """
    env = resolve_d4rl(name)
    target = d4rl_dataset_dir() / FILES[env]
    if target.exists() and not overwrite:
        read_d4rl(target)
        return target
    url = ROOT_URL + PATHS[env] if base_url is None else f"{base_url.rstrip('/')}/{FILES[env]}"
    with atomic_path(target) as temporary:
        try:
            _download(url, temporary, progress)
        except (OSError, HTTPException) as error:
            by_hand = f"save that address as {FILES[env]}; `dfplan data import FILE` reads it"
            raise _no_network(f"{url}: {error}", by_hand, *_instead(env)) from error
        try:
            read_d4rl(temporary)
        except ValueError as error:
            raise ValueError(str(error).replace(str(temporary), f"downloaded from {url}")) from error
    return target


def fetch_ogbench(
    name: str,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
    base_url: str = OGBENCH_URL,
) -> Path:
    """Download one of OGBench's data sets with its validation part into OGBench's folder, and check both.

    Args:
        name: for example "pointmaze-large-stitch-v0".
        overwrite: download again when the file is there.
        progress: called with (bytes since its last call, bytes in all or None).
        base_url: the folder to download from.

    Returns:
        The training file's path; the other is beside it, "-val.npz".

    Raises:
        ValueError: for a file that breaks the format.
        ConnectionError: when the download fails; says what to do without a network.
    """
    target = ogbench_dir() / f"{name}.npz"
    for path in (target, target.with_name(f"{name}-val.npz")):
        if path.exists() and not overwrite:
            load_ogbench(path)
            continue
        url = f"{base_url.rstrip('/')}/{path.name}"
        with atomic_path(path) as temporary:
            try:
                _download(url, temporary, progress)
            except (OSError, HTTPException) as error:
                by_hand = "save that address as FILE.npz; `dfplan data show FILE.npz` reads it"
                raise _no_network(f"{url}: {error}", by_hand, f"dfplan data make {name.removesuffix('-v0')}") from error
            try:
                load_ogbench(temporary)
            except ValueError as error:
                raise ValueError(str(error).replace(str(temporary), f"downloaded from {url}")) from error
    return target


def _download(url: str, target: Path, progress: Callable[[int, int | None], None] | None) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "dfplan"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer, target.open("wb") as file:
        length = answer.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else None
        done = 0
        while chunk := answer.read(CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(len(chunk), total)
    if total is not None and done != total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")


def _instead(env: str) -> tuple[str, ...]:
    """Say how data of the same kind are made here."""
    return () if kind_of(env) == "tour" else ("dfplan data collect --env ID --policy sb3:FILE",)


def _no_network(what: str, by_hand: str, command: str = "dfplan data make maze2d-large") -> ConnectionError:
    return ConnectionError(
        f"cannot download {what}. Without a network here: on a machine that has one, {by_hand}. "
        f"Or make the same kind of data on this machine: `{command}`"
    )


def fetch_minari(dataset_id: str, *, overwrite: bool = False) -> Path:
    """Download a dataset from Minari's remote into the local folder of datasets.

    Args:
        dataset_id: for example "D4RL/pointmaze/large-v2".
        overwrite: download again when the dataset is there.

    Returns:
        The dataset's folder.

    Raises:
        ValueError: for a malformed or unknown id, or one that exists.
        ImportError: without minari or huggingface_hub.
        ConnectionError: when the download fails; says what to do without a network.
    """
    minari = require_minari()
    target = check_new(dataset_id, overwrite)
    with staged_folder(target) as folder, _root_at(folder), contextlib.redirect_stdout(sys.stderr):
        try:
            minari.download_dataset(dataset_id)
        except Exception as error:
            if not _is_network_error(error):
                raise
            by_hand = f"run `minari download {dataset_id}` and copy the folder to {target}"
            raise _no_network(f"{dataset_id} ({type(error).__name__}: {error})", by_hand) from error
        _lift(folder, dataset_id)
    register_namespaces(dataset_id)
    return target


def _is_network_error(error: BaseException) -> bool:
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in NETWORK_PACKAGES


@contextlib.contextmanager
def _root_at(folder: Path) -> Iterator[None]:
    """Let Minari download into `folder`: its root is an environment variable and nothing else."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def _lift(folder: Path, dataset_id: str) -> None:
    """Move `folder`/namespace/name-vN/data up to `folder`/data and drop the rest."""
    data = folder / dataset_id / "data"
    if not (data / "metadata.json").is_file():
        raise ValueError(f"the download of {dataset_id} must hold data/metadata.json, got none; try again")
    parked = folder / ".lifted"
    data.rename(parked)
    for entry in folder.iterdir():
        if entry != parked:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    parked.rename(folder / "data")


def cached_d4rl_files() -> list[dict[str, Any]]:
    """Return the D4RL files in the cache folder, as dicts of env, path and size_bytes."""
    paths = {env: d4rl_dataset_dir() / name for env, name in FILES.items()}
    return [
        {"env": env, "path": str(path), "size_bytes": path.stat().st_size}
        for env, path in paths.items()
        if path.is_file()
    ]
