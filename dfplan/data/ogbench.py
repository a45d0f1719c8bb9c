"""Read OGBench's own .npz files: rows end to end, the last row of an episode marked in `terminals`.

An episode of N rows has N - 1 transitions: the action of its last row leads nowhere that the file shows. Rewards are
not in the file; they are 0 here.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan.data.episodes import Episodes

KEYS = ("observations", "actions", "terminals")
STATE_KEYS = ("qpos", "qvel")
BASE_URL = "https://rail.eecs.berkeley.edu/datasets/ogbench"


def ogbench_dir() -> Path:
    """Return the folder of OGBench's files: $OGBENCH_DATA_DIR, or the package's own default."""
    return Path(os.environ.get("OGBENCH_DATA_DIR", "~/.ogbench/data")).expanduser()


def is_ogbench(path: str | Path) -> bool:
    """Tell whether a .npz archive has OGBench's keys and not those of `save_npz`."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return False
    return "terminals" in names and "lengths" not in names


def load_ogbench(path: str | Path) -> Episodes:
    """Read one of OGBench's files.

    Args:
        path: for example "pointmaze-large-stitch-v0.npz", or its "-val.npz".

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is truncated, wrongly keyed, mis-shaped, holds a non-finite value, or ends inside an
            episode; names what was found and what is needed.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no such file: {source}; `dfplan data fetch pointmaze-large-stitch-v0` downloads one")
    try:
        arrays = _read(source)
        return _cut(arrays, {"file": source.name, "format": "OGBench"})
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{source} is not a readable OGBench file: {error}; needed: a whole .npz with keys {', '.join(KEYS)}"
        ) from error


def _read(source: Path) -> dict[str, NDArray[Any]]:
    with np.load(source, allow_pickle=False) as archive:
        missing = [key for key in KEYS if key not in archive.files]
        if missing:
            raise ValueError(f"keys {', '.join(missing)} are missing; it holds {', '.join(sorted(archive.files))}")
        arrays = {key: archive[key] for key in (*KEYS, *STATE_KEYS) if key in archive.files}
    rows = {key: len(array) for key, array in arrays.items() if array.ndim}
    if len(rows) != len(arrays) or len(set(rows.values())) != 1:
        raise ValueError(f"all keys must have equally many rows, got {rows}")
    return arrays


def _cut(arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Episodes:
    """Cut rows into episodes at `terminals`."""
    last = np.asarray(arrays["terminals"]) > 0
    if last.ndim != 1 or len(last) == 0 or not last[-1]:
        raise ValueError("terminals must be one flag per row and mark the last row; the file ends inside an episode")
    rows = np.diff(np.concatenate([[-1], np.flatnonzero(last)]))
    if rows.min() < 2:
        raise ValueError(f"an episode must have at least 2 rows, got {rows.min()}")
    return Episodes(
        arrays["observations"],
        arrays["actions"][~last],
        np.zeros(int((~last).sum()), dtype=np.float32),
        (rows - 1).astype(np.int64),
        {**meta, "reward": "0: the data have no rewards"},
    )
