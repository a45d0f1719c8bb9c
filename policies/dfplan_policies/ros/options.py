"""Read what is typed on a command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def read_numbers(text: str | None) -> tuple[float, ...] | None:
    """Read numbers separated by commas; None stays None.

    Raises:
        ValueError: If a part is no number.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"a goal must be numbers separated by commas, got {text!r}; for example 0.4,0.1,0.2") from None


def read_options(pairs: Sequence[str] | None) -> dict[str, Any]:
    """Read NAME=VALUE pairs; values are JSON, or else text.

    Raises:
        ValueError: If there is no ``=``.
    """
    found: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"an option is written NAME=VALUE, got {pair!r}; for example samples=8")
        try:
            found[name.replace("-", "_")] = json.loads(text)
        except json.JSONDecodeError:
            found[name.replace("-", "_")] = text
    return found
