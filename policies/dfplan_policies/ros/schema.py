"""Build frozen dataclasses from plain values, by their annotations; every error names the place in the file."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from dfplan.errors import unknown_name

T = TypeVar("T")


def build(kind: type[T], values: Any, place: str) -> T:
    """Build a dataclass from a mapping.

    Args:
        kind: The dataclass; its fields are numbers, text, truth values, tuples, mappings, dataclasses, or any of them
            or None.
        values: As YAML or JSON gives them.
        place: Where they stand, for errors.

    Raises:
        ValueError: If a key is unknown or missing, or a value has another type or is out of range.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{place} must be a table of keys and values, got {values!r}")
    hints, known = get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ValueError(f"{place}: {unknown_name('key', key, known)}")
    for name, item in known.items():
        if name not in values and item.default is item.default_factory is dataclasses.MISSING:
            raise ValueError(f"{place} needs the key {name!r}, got {', '.join(map(str, values)) or 'nothing'}")
    read = {name: convert(hints[name], value, f"{place}.{name}") for name, value in values.items()}
    try:
        return kind(**read)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def convert(kind: Any, value: Any, place: str) -> Any:
    """Convert one value to an annotated type; see `build`."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        others = [part for part in inside if part is not type(None)]
        return None if value is None else convert(others[0], value, place)
    if dataclasses.is_dataclass(kind):
        return build(kind, value, place)  # type: ignore[arg-type]
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{place} must be a list, got {value!r}")
        return tuple(convert(inside[0], item, f"{place}[{k}]") for k, item in enumerate(value))
    if origin is not None:  # a mapping
        if not isinstance(value, Mapping):
            raise ValueError(f"{place} must be a table of names and values, got {value!r}")
        return {str(key): convert(inside[1], item, f"{place}.{key}") for key, item in value.items()}
    return _scalar(kind, value, place)


def _scalar(kind: Any, value: Any, place: str) -> Any:
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if math.isnan(value):
            raise ValueError(f"{place} must be a number, got NaN")
        return float(value)
    if kind in (int, bool, str) and type(value) is kind:
        return value
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    raise ValueError(f"{place} must be {names[kind]}, got {value!r}")


def in_range(owner: object, **ranges: tuple[float, float]) -> None:
    """Check fields of a dataclass against closed ranges.

    Raises:
        ValueError: With name, range and value.
    """
    for name, (low, high) in ranges.items():
        value = getattr(owner, name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"{name} must lie in {low:g}..{high:g}, got {value!r}")


def one_of(kind: str, value: str, options: tuple[str, ...]) -> None:
    """Check a choice by name.

    Raises:
        ValueError: With the options and the nearest one.
    """
    if value not in options:
        raise unknown_name(kind, value, options)
