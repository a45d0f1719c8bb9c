"""The compact file: episodes as one .npz archive that needs nothing but NumPy to read."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan.data.episodes import Episodes
from dfplan.data.files import atomic_path

NPZ_FORMAT = "dfplan-episodes-1"
NPZ_KEYS = ("observations", "actions", "rewards", "lengths", "meta")
NPZ_OPTIONAL = ("terminated",)


def save_npz(episodes: Episodes, path: str | Path) -> Path:
    """Write episodes to one compressed .npz file (float32, no pickle), atomically.

    Keys: the four arrays of `Episodes`; `terminated` if the environment ended any of them; and `meta`, the bytes of a
    JSON object.

    Args:
        episodes: what to write.
        path: a name that ends in .npz.

    Returns:
        The path written.

    Raises:
        ValueError: for another suffix, or meta with the key "format", which is the file's own.
        TypeError: for meta that is not JSON.
    """
    target = Path(path)
    if target.suffix != ".npz":
        raise ValueError(f"an episode file must be named *.npz, got {target.name!r}")
    if "format" in episodes.meta:
        raise ValueError(f"meta must not hold the key 'format', got {episodes.meta['format']!r}; name it otherwise")
    text = json.dumps({"format": NPZ_FORMAT, **episodes.meta}, sort_keys=True)
    ends: dict[str, Any] = {"terminated": episodes.terminated} if episodes.terminated.any() else {}
    with atomic_path(target) as temporary:
        np.savez_compressed(
            temporary,
            observations=episodes.observations,
            actions=episodes.actions,
            rewards=episodes.rewards,
            lengths=episodes.lengths,
            meta=np.frombuffer(text.encode(), dtype=np.uint8),
            **ends,
        )
    return target


def load_npz(path: str | Path) -> Episodes:
    """Read a file of `save_npz`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is truncated, wrongly keyed, mis-shaped or holds a non-finite value.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no such file: {source}; make one with `dfplan data make ... --npz {source.name}`")
    try:
        arrays = _read_arrays(source)
        meta = json.loads(arrays.pop("meta").tobytes().decode())
        if not isinstance(meta, dict) or meta.pop("format", None) != NPZ_FORMAT:
            raise ValueError(f"its meta does not name the format {NPZ_FORMAT!r}")
        return Episodes(**arrays, meta=meta)
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise ValueError(
            f"{source} is not a readable episode file: {error}; needed: a whole file written by save_npz, "
            f"with keys {', '.join(NPZ_KEYS)}"
        ) from error


def _read_arrays(source: Path) -> dict[str, NDArray[Any]]:
    with source.open("rb") as file:
        start = file.read(4)
    if start != b"PK\x03\x04":
        raise ValueError("it is empty" if not start else "it is not a zip archive")
    with np.load(source, allow_pickle=False) as archive:
        missing = [key for key in NPZ_KEYS if key not in archive.files]
        if missing:
            raise ValueError(f"keys {', '.join(missing)} are missing; it holds {', '.join(sorted(archive.files))}")
        return {key: archive[key] for key in (*NPZ_KEYS, *NPZ_OPTIONAL) if key in archive.files}
