"""Error texts that several modules share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(kind: str, name: object, options: Iterable[str], remedy: str = "") -> ValueError:
    """Make the error for a wrong name: it lists the options and the nearest one.

    Args:
        kind: what is being chosen, such as "maze".
        name: what was given.
        options: the names there are.
        remedy: another way out, if there is one.

    Returns:
        The error, to be raised by the caller.
    """
    names = list(options)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(
        f"unknown {kind} {name!r}.{hint} Choose one of: {', '.join(names)}{'; ' + remedy if remedy else ''}"
    )
