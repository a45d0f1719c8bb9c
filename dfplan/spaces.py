"""Gymnasium's spaces as columns: what an environment shows and takes, as rows of float numbers and back.

Served are observations that are a `Box` (any shape, flattened), a `Discrete` (one-hot) or a goal `Dict` of
``observation``, ``achieved_goal`` and ``desired_goal``, and actions that are a `Box` (bounded ones scaled to [-1, 1])
or a `Discrete` (one-hot, +1 for the chosen action and -1 for the others; back by the largest column).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Columns = NDArray[np.float64]

GOAL_KEYS = ("observation", "achieved_goal", "desired_goal")
IMAGE_BYTES = np.uint8
OBSERVATIONS_SERVED = "a Box, a Discrete, or a Dict of observation, achieved_goal and desired_goal"
ACTIONS_SERVED = "a Box or a Discrete"


@dataclass(frozen=True)
class ObservationCodec:
    """Turn observations into columns.

    Attributes:
        kind: ``"box"``, ``"discrete"`` or ``"goal"``.
        shape: Shape of an observation (of the entry ``observation`` for goals).
        start: First value of a Discrete.
        count: Values of a Discrete, 0 for the others.
        goal_width: G, numbers of a goal.
        goal_columns: Where the achieved goal stands among the columns; behind the observation if nowhere else.
        keep: Of a Box, the numbers of a flattened observation that become columns; empty for all.
        differences: Of a Box, pairs of such numbers; a column behind those holds the first less the second. What
            matters to the millimetre between things that move by metres is then there to be seen.
    """

    kind: str
    shape: tuple[int, ...]
    start: int = 0
    count: int = 0
    goal_width: int = 0
    goal_columns: tuple[int, ...] = ()
    keep: tuple[int, ...] = ()
    differences: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        named = (*self.keep, *(c for pair in self.differences for c in pair))
        if named and (self.kind != "box" or not all(0 <= c < math.prod(self.shape) for c in named)):
            raise ValueError(f"keep must name numbers of a Box of shape {self.shape}, got {named} of a {self.kind}")

    def keeping(self, columns: Sequence[int], differences: Sequence[tuple[int, int]] = ()) -> ObservationCodec:
        """Return the codec that makes columns of some numbers of a Box only, and of differences of its numbers.

        Raises:
            ValueError: If the space is no Box, there is no such number, or there are differences already.
        """
        if self.differences:
            raise ValueError("columns were chosen already, with differences; choose once")
        if not columns or not all(0 <= c < self.width for c in columns):
            raise ValueError(f"columns must be some of 0 to {self.width - 1}, got {list(columns)}")
        kept = tuple(self.keep[c] for c in columns) if self.keep else tuple(int(c) for c in columns)
        return replace(self, keep=kept, differences=tuple((int(a), int(b)) for a, b in differences))

    def pick(self, flat: Array) -> Array:
        """Return the columns (..., O) out of the flattened numbers of a Box (..., n)."""
        kept = flat[..., list(self.keep)] if self.keep else flat
        if not self.differences:
            return kept
        first, second = (list(numbers) for numbers in zip(*self.differences, strict=True))
        return np.concatenate([kept, flat[..., first] - flat[..., second]], axis=-1)

    @classmethod
    def from_space(cls, space: Any, samples: Mapping[str, Array] | None = None) -> ObservationCodec:
        """Read a space.

        Args:
            space: The observation space.
            samples: Of a goal Dict, observations from the environment, each entry (n, ...): the columns of
                ``observation`` that always equal the achieved goal are then its columns. Without samples, or if there
                are no such columns, the achieved goal is appended.

        Raises:
            ValueError: If the space is not served; the text says what is and what to do.
        """
        from gymnasium import spaces

        if isinstance(space, spaces.Dict) and set(GOAL_KEYS) <= set(space.spaces):
            return _goal_codec(space, samples)
        if isinstance(space, spaces.Box):
            return cls("box", _vector_shape(space, "observation"))
        if isinstance(space, spaces.Discrete):
            return cls("discrete", (), int(space.start), int(space.n))
        raise ValueError(
            f"the observation space {_name(space)} is not served; served are {OBSERVATIONS_SERVED}: wrap the "
            "environment, for example with gymnasium.wrappers.FlattenObservation or FilterObservation"
        )

    @property
    def appended(self) -> bool:
        """Whether the achieved goal stands behind the observation, in columns of its own."""
        return bool(self.goal_width) and self.goal_columns[0] >= math.prod(self.shape)

    @property
    def width(self) -> int:
        """O, number of columns."""
        if self.kind == "discrete":
            return self.count
        if self.keep:
            return len(self.keep) + len(self.differences)
        return math.prod(self.shape) + (self.goal_width if self.appended else 0)

    def encode(self, values: Any) -> Columns:
        """Turn observations (..., *shape), or a goal Dict of them, into columns (..., O).

        Raises:
            ValueError: If a key is missing or a shape or a value does not fit.
        """
        if self.kind == "discrete":
            return _one_hot(values, self.start, self.count, 0.0, "observation")
        if self.kind == "box":
            flat = _flat(values, self.shape, "observation")
            return self.pick(flat)
        _check_keys(values, ("observation", "achieved_goal") if self.appended else ("observation",))
        measured = _flat(values["observation"], self.shape, "observation")
        if not self.appended:
            return measured
        achieved = np.asarray(values["achieved_goal"], dtype=np.float64)
        return np.concatenate([measured, achieved.reshape(*measured.shape[:-1], self.goal_width)], axis=-1)

    def goal(self, values: Any) -> Columns | None:
        """Return the desired goals (..., G) of a goal Dict; None for the other kinds.

        Raises:
            ValueError: If the key is missing.
        """
        if self.kind != "goal":
            return None
        _check_keys(values, ("desired_goal",))
        return np.asarray(values["desired_goal"], dtype=np.float64)

    def batched(self, values: Any) -> bool:
        """Tell whether observations come as a batch."""
        own = values["observation"] if self.kind == "goal" else values
        return bool(np.ndim(own) > len(self.shape))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; where all numbers are kept there is no entry for that."""
        values = asdict(self)
        return {name: value for name, value in values.items() if value or name not in ("keep", "differences")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ObservationCodec:
        """Rebuild from ``to_dict``."""
        own = {**values, "shape": tuple(values["shape"]), "goal_columns": tuple(values.get("goal_columns", ()))}
        own["keep"] = tuple(values.get("keep", ()))
        own["differences"] = tuple((int(a), int(b)) for a, b in values.get("differences", ()))
        return cls(**own)


@dataclass(frozen=True)
class ActionCodec:
    """Turn actions into columns and back.

    Attributes:
        kind: ``"box"`` or ``"discrete"``.
        shape: Shape of an action.
        low: Lower bounds of a Box, flattened; -inf where it has none.
        high: Upper bounds.
        start: First value of a Discrete.
        count: Values of a Discrete, 0 for a Box.
    """

    kind: str
    shape: tuple[int, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    start: int = 0
    count: int = 0

    @classmethod
    def from_space(cls, space: Any) -> ActionCodec:
        """Read a space.

        Raises:
            ValueError: If the space is not served; the text says what is and what to do.
        """
        from gymnasium import spaces

        if isinstance(space, spaces.Discrete):
            return cls("discrete", (), start=int(space.start), count=int(space.n))
        if isinstance(space, spaces.Box):
            shape = _vector_shape(space, "action")
            low, high = (np.asarray(v, dtype=np.float64).reshape(-1) for v in (space.low, space.high))
            return cls("box", shape, tuple(low.tolist()), tuple(high.tolist()))
        raise ValueError(
            f"the action space {_name(space)} is not served; served are {ACTIONS_SERVED}: wrap the environment so that "
            "it takes one of them (a MultiDiscrete can be numbered through as one Discrete)"
        )

    @property
    def width(self) -> int:
        """A, number of columns."""
        return self.count if self.kind == "discrete" else math.prod(self.shape)

    def _scale(self) -> tuple[Columns, Columns]:
        """Return centre and half width of each column; 0 and 1 where a bound is missing."""
        low, high = np.array(self.low), np.array(self.high)
        bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
        low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        return (low + high) / 2, (high - low) / 2

    def encode(self, values: Any) -> Columns:
        """Turn actions (..., *shape) into columns (..., A).

        Raises:
            ValueError: If a shape or a value does not fit.
        """
        if self.kind == "discrete":
            return _one_hot(values, self.start, self.count, -1.0, "action")
        centre, half = self._scale()
        scaled: Columns = (_flat(values, self.shape, "action") - centre) / half
        return scaled

    def decode(self, columns: Array) -> Array:
        """Turn columns (..., A) into actions (..., *shape) inside the bounds, float32 or int64."""
        columns = np.asarray(columns, dtype=np.float64)
        if self.kind == "discrete":
            return np.asarray(self.start + columns.argmax(-1))
        centre, half = self._scale()
        # rounded to float32 first, and then clipped: rounding must not carry an action over a bound
        low, high = np.array(self.low, dtype=np.float32), np.array(self.high, dtype=np.float32)
        flat: Array = np.clip((columns * half + centre).astype(np.float32), low, high)
        return flat.reshape(*columns.shape[:-1], *self.shape)

    def limit(self, columns: Array) -> Columns:
        """Clip columns (..., A) to what the environment takes: [-1, 1] where there are bounds."""
        columns = np.asarray(columns, dtype=np.float64)
        if self.kind == "discrete":
            return np.clip(columns, -1.0, 1.0)
        bounded = np.isfinite(self.low) & np.isfinite(self.high)
        return np.where(bounded, np.clip(columns, -1.0, 1.0), columns)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; a missing bound is None."""
        values = asdict(self)
        for name in ("low", "high"):
            values[name] = [float(v) if math.isfinite(v) else None for v in values[name]]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ActionCodec:
        """Rebuild from ``to_dict``."""
        bounds = {
            name: tuple(sign * math.inf if v is None else float(v) for v in values.get(name, ()))
            for name, sign in (("low", -1), ("high", 1))
        }
        return cls(**{**values, "shape": tuple(values["shape"]), **bounds})


@dataclass(frozen=True)
class Spaces:
    """Hold both codecs of an environment."""

    observation: ObservationCodec
    action: ActionCodec

    @classmethod
    def from_env(cls, env: Any, samples: Mapping[str, Array] | None = None) -> Spaces:
        """Read an environment's spaces; a vector environment's single ones.

        Args:
            env: Anything with Gymnasium's spaces.
            samples: See `ObservationCodec.from_space`.
        """
        observation = getattr(env, "single_observation_space", env.observation_space)
        action = getattr(env, "single_action_space", env.action_space)
        return cls(ObservationCodec.from_space(observation, samples), ActionCodec.from_space(action))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"observation": self.observation.to_dict(), "action": self.action.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Spaces:
        """Rebuild from ``to_dict``.

        Raises:
            ValueError: If an entry is missing or unknown.
        """
        try:
            return cls(ObservationCodec.from_dict(values["observation"]), ActionCodec.from_dict(values["action"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"spaces are damaged ({error}); make the data set or the checkpoint again") from error


def _goal_codec(space: Any, samples: Mapping[str, Array] | None) -> ObservationCodec:
    from gymnasium import spaces

    own, achieved, desired = (space.spaces[key] for key in GOAL_KEYS)
    for key, part in zip(GOAL_KEYS, (own, achieved, desired), strict=True):
        if not isinstance(part, spaces.Box):
            raise ValueError(f"the entry {key!r} of a goal Dict must be a Box, got {_name(part)}")
    shape, width = _vector_shape(own, "observation"), math.prod(achieved.shape)
    if achieved.shape != desired.shape:
        raise ValueError(f"achieved_goal and desired_goal must have one shape, got {achieved.shape}, {desired.shape}")
    columns = None if samples is None else _matching(samples, math.prod(shape), width)
    if columns is None:
        columns = tuple(range(math.prod(shape), math.prod(shape) + width))
    return ObservationCodec("goal", shape, goal_width=width, goal_columns=columns)


def _matching(samples: Mapping[str, Array], width: int, goals: int) -> tuple[int, ...] | None:
    """Find the columns of the observations that always equal the achieved goal; None if one has none."""
    own = np.asarray(samples["observation"], dtype=np.float64).reshape(-1, width)
    achieved = np.asarray(samples["achieved_goal"], dtype=np.float64).reshape(-1, goals)
    found: list[int] = []
    for goal in achieved.T:
        same = [c for c in range(width) if c not in found and np.allclose(own[:, c], goal, rtol=0, atol=1e-6)]
        if not same or np.ptp(goal) == 0:  # a number that never moves would match by chance
            return None
        found.append(same[0])
    return tuple(found)


def _vector_shape(space: Any, what: str) -> tuple[int, ...]:
    """Return a Box's shape; refuse images and empty boxes."""
    if space.dtype == IMAGE_BYTES and len(space.shape) >= 2:
        raise ValueError(
            f"the {what} space {_name(space)} looks like an image, and images are not served; "
            "encode it to a vector first (gymnasium.wrappers.TransformObservation)"
        )
    if math.prod(space.shape) == 0:
        raise ValueError(f"the {what} space {_name(space)} is empty; it needs at least one number")
    return tuple(int(n) for n in space.shape)


def _flat(values: Any, shape: tuple[int, ...], what: str) -> Columns:
    array = np.asarray(values, dtype=np.float64)
    lead = array.ndim - len(shape)
    if lead < 0 or array.shape[lead:] != shape:
        raise ValueError(f"an {what} must have shape (..., {', '.join(map(str, shape))}), got {array.shape}")
    return array.reshape(*array.shape[:lead], math.prod(shape))


def _one_hot(values: Any, start: int, count: int, off: float, what: str) -> Columns:
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer) and not np.array_equal(array, np.round(array)):
        raise ValueError(f"a discrete {what} must be a whole number, got {values!r}")
    index = array.astype(np.int64) - start
    if index.size and (index.min() < 0 or index.max() >= count):
        raise ValueError(f"a discrete {what} must lie in {start}..{start + count - 1}, got {values!r}")
    out = np.full((*index.shape, count), off)
    np.put_along_axis(out, index[..., None], 1.0, axis=-1)
    return out


def _check_keys(values: Any, needed: tuple[str, ...]) -> None:
    missing = [key for key in needed if not isinstance(values, Mapping) or key not in values]
    if missing:
        found = sorted(values) if isinstance(values, Mapping) else type(values).__name__
        raise ValueError(f"a goal observation needs the keys {', '.join(missing)}, got {found}")


def _name(space: Any) -> str:
    text = str(space)
    return text if len(text) <= 80 else text[:77] + "..."
