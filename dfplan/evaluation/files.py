"""Write files so that nobody ever sees half of one."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place if all goes well and vanishes if not."""
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Turn a value into plain JSON: numpy scalars and arrays unpacked, paths as text, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def to_json(value: Any) -> str:
    """Write JSON text without NaN."""
    return json.dumps(plain(value), indent=2, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file at once."""
    text = to_json(value)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write a compressed npz file at once."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **dict(arrays))
