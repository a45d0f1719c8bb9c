"""How every benchmark ends: the result with its provenance, printed and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dfplan import provenance
from dfplan.data.files import atomic_path


def finish(result: dict[str, Any], path: Path | None) -> None:
    """Add command, revision, versions and hardware; print the JSON and write it if a path is given."""
    full = result | {name: getattr(provenance, name)() for name in ("command", "git", "versions", "hardware")}
    text = json.dumps(full, indent=2) + "\n"
    if path is not None:
        with atomic_path(path) as temporary:
            temporary.write_text(text)
    print(text, end="")
