"""Environments that installed packages offer by entry points."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from dfplan_envs.registry import ENVS, EnvInfo, register_all

GROUP = "dfplan.envs"


def read(offer: Any, name: str) -> list[EnvInfo]:
    """Read what an entry point of the group ``dfplan.envs`` points at.

    Args:
        offer: An `EnvInfo`, a sequence of them, or a function without arguments that returns either.
        name: What the entry point is called, for the error.

    Raises:
        TypeError: If it is something else.
        ValueError: If an id is taken by an environment of dfplan.
    """
    found = offer() if callable(offer) else offer
    infos = [found] if isinstance(found, EnvInfo) else list(found) if isinstance(found, Iterable) else [found]
    for info in infos:
        if not isinstance(info, EnvInfo):
            raise TypeError(
                f"entry point {name!r} of {GROUP} must be an EnvInfo, several of them or a function that returns them, "
                f"got {type(info).__name__}"
            )
        if info.id in ENVS and ENVS[info.id] != info:
            raise ValueError(f"entry point {name!r} of {GROUP} offers {info.id!r}, which there is; choose another id")
    return infos


def register_offered(points: Iterable[EntryPoint] | None = None) -> list[EnvInfo]:
    """Add the environments that installed packages offer to ``list_envs()`` and to Gymnasium.

    A package that cannot be loaded is left out with a warning, so that it does not take the others with it.

    Args:
        points: Entry points; those of the group ``dfplan.envs`` if None.

    Returns:
        What was added.
    """
    added: list[EnvInfo] = []
    for point in entry_points(group=GROUP) if points is None else points:
        try:
            added += read(point.load(), point.name)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            warnings.warn(f"environments of {point.value!r} are left out: {error}", RuntimeWarning, stacklevel=2)
    ENVS.update({info.id: info for info in added})
    register_all()
    return added
