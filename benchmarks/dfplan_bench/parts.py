"""Parts of a benchmark that are kept in the run folder, so that a run that was cut off goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dfplan.data.files import atomic_path


def kept(out: Path, name: str, settings: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Make a part, or read the one that this run folder holds with the same settings.

    Args:
        out: Run folder.
        name: What the part is called.
        settings: What it depends on, plain JSON.
        make: Makes it; the result must be plain JSON.
    """
    key = json.dumps([name, dict(settings)], sort_keys=True)
    path = out / "parts" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    found = make()
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    return found
