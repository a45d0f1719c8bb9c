"""Plain JSON without NaN, and files that are never half written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dfplan.data.files import atomic_path


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
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write a compressed npz file at once."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **dict(arrays))
