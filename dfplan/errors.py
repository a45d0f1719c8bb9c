"""Errors that name the rule, the value and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, name: object, options: Iterable[str]) -> ValueError:
    """Build the error for a choice by name that does not exist.

    Args:
        kind: What is being chosen, for example ``"schedule"``.
        name: The name that was given.
        options: The names that exist.

    Returns:
        A ``ValueError`` that lists the options and names the nearest one.
    """
    names = sorted(options)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {kind} {name!r}.{hint} Choose one of: {', '.join(names) or '(none)'}")


def missing_extra(package: str, extra: str, purpose: str) -> ImportError:
    """Build the error for an optional package that is not installed.

    Args:
        package: The import name that failed, for example ``"minari"``.
        extra: The extra of dfplan that brings it.
        purpose: What it is needed for, as a noun phrase.

    Returns:
        An ``ImportError`` with the command that installs the extra.
    """
    return ImportError(f"{purpose} needs the package {package!r}: pip install 'dfplan[{extra}]'")
