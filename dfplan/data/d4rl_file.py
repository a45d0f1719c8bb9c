"""Read D4RL's HDF5 files, strictly: a broken file is refused with the key, what was found and what is needed."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

REQUIRED = {"observations": 2, "actions": 2, "rewards": 1, "terminals": 1}
OPTIONAL = {"timeouts": 1, "infos/goal": 2, "next_observations": 2}
FLAGS = ("terminals", "timeouts")
NEEDED = "a D4RL file with observations (N, O), actions (N, A), rewards (N,), terminals (N,) and, if cut, timeouts (N,)"
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def read_d4rl(path: str | Path) -> dict[str, NDArray[Any]]:
    """Read and check the arrays of a D4RL file.

    Args:
        path: a file with D4RL's keys, all of N rows.

    Returns:
        observations (N, O), actions (N, A), rewards (N,) float32; terminals (N,) bool; timeouts (N,) bool and
        infos/goal (N, G), next_observations (N, O) float32 where the file has them.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is empty, truncated, no HDF5, wrongly keyed, mis-shaped, not numeric or not finite.
    """
    source = Path(path)
    _check_is_hdf5(source)
    try:
        with h5py.File(source, "r") as file:
            _check_keys(source, file)
            wanted = {**REQUIRED, **{key: ndim for key, ndim in OPTIONAL.items() if key in file}}
            arrays = {key: _read(source, file, key, ndim) for key, ndim in wanted.items()}
    except (OSError, RuntimeError, KeyError, MemoryError) as error:
        found = f"a damaged or truncated file ({error})"
        raise _refusal(source, None, found, "the whole file; fetch it again") from error
    _check_rows(source, arrays)
    return arrays


def _refusal(source: Path, key: str | None, found: str, need: str) -> ValueError:
    where = f"{source}: key {key!r}" if key else f"{source}"
    return ValueError(f"{where}: found {found}; needed: {need}")


def _check_is_hdf5(source: Path) -> None:
    if source.is_dir():
        raise _refusal(source, None, "a folder", "a file")
    if not source.exists():
        raise FileNotFoundError(f"no such file: {source}; `dfplan data fetch maze2d-large` downloads D4RL's")
    with source.open("rb") as file:
        start = file.read(64)
    if not start:
        raise _refusal(source, None, "an empty file", NEEDED)
    if not h5py.is_hdf5(source):
        hint = " (a web page: the download failed)" if start.lstrip()[:1] == b"<" else ""
        what = "a damaged HDF5 file" if start.startswith(HDF5_SIGNATURE) else f"no HDF5 file but bytes {start[:8]!r}"
        raise _refusal(source, None, what + hint, NEEDED)


def _check_keys(source: Path, file: Any) -> None:
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    missing = [key for key in REQUIRED if key not in found]
    if not missing:
        return
    if any(name.startswith("episode_") for name in file):
        raise _refusal(source, None, "Minari's main_data.hdf5", "a dataset id in its place, or D4RL's own file")
    spare = [key for key in found if key not in REQUIRED and key not in OPTIONAL]
    near = {key: difflib.get_close_matches(key, spare, 1) for key in missing}
    named = [f"{key!r} (is it {hits[0]!r}?)" if hits else repr(key) for key, hits in near.items()]
    held = (", ".join(sorted(found)[:12]) + (" ..." if len(found) > 12 else "")) or "nothing"
    raise _refusal(source, None, f"no key {', no key '.join(named)}; it holds {held}", NEEDED)


def _read(source: Path, file: Any, key: str, ndim: int) -> NDArray[Any]:
    dataset = file[key]
    if dataset.shape is None or dataset.dtype.kind not in "fiub":
        raise _refusal(source, key, f"type {dataset.dtype}", "real numbers")
    if dataset.size and not dataset.id.get_storage_size() and not dataset.is_virtual and not dataset.external:
        raise _refusal(source, key, f"shape {dataset.shape} declared but not one row written", "the data")
    shape = dataset.shape[:1] if ndim == 1 and dataset.ndim == 2 and dataset.shape[1] == 1 else dataset.shape
    if len(shape) != ndim or 0 in shape:
        raise _refusal(source, key, f"shape {dataset.shape}", "shape (N, n), n >= 1" if ndim == 2 else "shape (N,)")
    values = np.asarray(dataset[()]).reshape(shape)
    if key in FLAGS:
        if not np.isin(values, (0, 1)).all():
            raise _refusal(source, key, "values other than 0 and 1", "flags")
        return values.astype(bool)
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if bad.size:
        raise _refusal(source, key, f"NaN or infinity in {bad.size} rows, first in row {bad[0]}", "finite numbers")
    return values.astype(np.float32)


def _check_rows(source: Path, arrays: dict[str, NDArray[Any]]) -> None:
    rows = len(arrays["observations"])
    for key, values in arrays.items():
        if len(values) != rows:
            raise _refusal(source, key, f"{len(values)} rows", f"{rows} rows, as in observations")
    following = arrays.get("next_observations")
    if following is not None and following.shape != arrays["observations"].shape:
        need = f"shape {arrays['observations'].shape}, as observations"
        raise _refusal(source, "next_observations", f"shape {following.shape}", need)
    if rows < 2:
        raise _refusal(source, "observations", f"{rows} row", "at least 2 rows")
    unwritten = np.flatnonzero(~arrays["observations"].any(axis=1) & ~arrays["actions"].any(axis=1))
    if unwritten.size:
        raise _refusal(
            source,
            "observations",
            f"{unwritten.size} rows of zeros only (with zero actions), first row {unwritten[0]}",
            "written rows; an early maze2d-umaze-v1 file had this fault, fetch the present one",
        )
