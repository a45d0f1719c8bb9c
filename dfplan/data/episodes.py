"""Episodes in memory: all of them end to end in three flat arrays.

An episode of `T` steps has `T` actions and rewards and `T + 1` observations, as in Minari: `rewards[t]` belongs to the
transition `observations[t] -> observations[t + 1]`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Episodes:
    """Hold E episodes, laid end to end.

    Args:
        observations: (sum(T_i + 1), O) float32.
        actions: (sum(T_i), A) float32.
        rewards: (sum(T_i),) float32; reward[t] scores the state after action[t].
        lengths: (E,) int64, T_i >= 1 environment steps.
        meta: where the data came from; must survive JSON.
        terminated: (E,) bool, True where the environment ended the episode; the others were cut (a time limit, a
            target that was reached, the end of a recording). None means that all were cut.
        imitated: (sum(T_i),) bool, False for actions that happened and are not to be learned (`dfplan.data.mistakes`);
            None for none. Files do not hold it.

    Raises:
        ValueError: for a shape, a length or a value that breaks these rules.
    """

    observations: Float32Array
    actions: Float32Array
    rewards: Float32Array
    lengths: Int64Array
    meta: dict[str, Any] = field(default_factory=dict)
    terminated: BoolArray = None  # type: ignore[assignment]  # an array once it is made
    imitated: BoolArray | None = None

    def __post_init__(self) -> None:
        """Convert to the types above and check every rule."""
        lengths = np.asarray(self.lengths)
        if lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer):
            raise ValueError(f"lengths must be a 1-d array of integers, got {lengths.dtype} of shape {lengths.shape}")
        if lengths.size == 0 or lengths.min() < 1:
            found = "no episode" if lengths.size == 0 else f"a length of {lengths.min()}"
            raise ValueError(f"lengths must hold at least one episode of at least one step, got {found}")
        object.__setattr__(self, "lengths", lengths.astype(np.int64))
        steps, count = int(self.lengths.sum()), int(self.lengths.size)
        need = {"observations": (steps + count, 2), "actions": (steps, 2), "rewards": (steps, 1)}
        for name, (rows, ndim) in need.items():
            array = _as_float32(name, getattr(self, name))
            _check_rows(name, array, rows, ndim, f"{steps} steps in {count} episodes")
            object.__setattr__(self, name, array)
        object.__setattr__(self, "terminated", _flags("terminated", self.terminated, count))
        if self.imitated is not None:
            object.__setattr__(self, "imitated", _flags("imitated", self.imitated, steps))

    @property
    def starts(self) -> Int64Array:
        """Return (E,) int64, the row of each episode's first observation."""
        return self.action_starts + np.arange(len(self), dtype=np.int64)

    @property
    def action_starts(self) -> Int64Array:
        """Return (E,) int64, the row of each episode's first action and reward."""
        return np.asarray(np.cumsum(self.lengths) - self.lengths, dtype=np.int64)

    @property
    def steps(self) -> int:
        """Return the number of environment steps in all episodes."""
        return int(self.lengths.sum())

    @property
    def next_rows(self) -> Int64Array:
        """Return (sum(T_i),) int64, the row of the observation that follows each action."""
        rows = np.arange(self.steps, dtype=np.int64) + 1
        return rows + np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    def __len__(self) -> int:
        """Return the number of episodes."""
        return int(self.lengths.size)

    def episode(self, index: int) -> tuple[Float32Array, Float32Array, Float32Array]:
        """Return episode `index` as (observations (T+1, O), actions (T, A), rewards (T,)), views on the flat arrays.

        Raises:
            IndexError: when there is no such episode.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"episode index must be in [0, {len(self) - 1}], got {index}")
        row, begin, length = int(self.starts[index]), int(self.action_starts[index]), int(self.lengths[index])
        end = begin + length
        return self.observations[row : row + length + 1], self.actions[begin:end], self.rewards[begin:end]

    def select(self, indices: Any, meta: dict[str, Any] | None = None) -> Episodes:
        """Return the given episodes in the given order.

        Args:
            indices: (N,) episode numbers; one may stand there more than once.
            meta: of the result; None keeps this one's.

        Raises:
            IndexError: when there is no such episode.
        """
        chosen = [self.episode(int(index)) for index in indices]
        if not chosen:
            raise IndexError("at least one episode must be selected, got none")
        picked = np.asarray(indices, dtype=np.int64)
        observations, actions, rewards = (np.concatenate(part) for part in zip(*chosen, strict=True))
        own = self.meta if meta is None else meta
        told = self.imitated
        if told is not None:
            starts, lengths = self.action_starts[picked], self.lengths[picked]
            told = np.concatenate([told[b : b + n] for b, n in zip(starts, lengths, strict=True)])
        return Episodes(observations, actions, rewards, self.lengths[picked], own, self.terminated[picked], told)

    @property
    def returns(self) -> NDArray[np.float64]:
        """Return (E,) float64, the sum of each episode's rewards."""
        return np.asarray(np.add.reduceat(self.rewards.astype(np.float64), self.action_starts))

    def digest(self) -> str:
        """Return a hash of all numbers, the same on every machine: the data's identity in checkpoints and reports."""
        total = hashlib.sha256()
        for array in (self.lengths, self.observations, self.actions, self.rewards):
            total.update(str(array.shape).encode())
            total.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        if self.terminated.any():  # data without any have the digest of before there was this field
            total.update(self.terminated.tobytes())
        return total.hexdigest()[:16]


def _flags(name: str, value: Any, count: int) -> BoolArray:
    if value is None:
        return np.zeros(count, dtype=bool)
    array = np.asarray(value)
    if array.shape != (count,) or array.dtype != np.bool_:
        raise ValueError(f"{name} must be bool of shape ({count},), got {array.dtype} of shape {array.shape}")
    return array


def _as_float32(name: str, value: Any) -> Float32Array:
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, got {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.float32)


def _check_rows(name: str, array: Float32Array, rows: int, ndim: int, why: str) -> None:
    if array.ndim != ndim or array.shape[0] != rows or array.size == 0:
        need = f"({rows}, n)" if ndim == 2 else f"({rows},)"
        raise ValueError(f"{name} must have shape {need} for {why}, got {array.shape}")
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array.reshape(rows, -1)).all(axis=1))[0])
        raise ValueError(f"{name} must be finite, got NaN or infinity first in row {bad}; drop or repair that episode")


def episodes_from_tours(tours: Sequence[Mapping[str, Any]], meta: Mapping[str, Any] | None = None) -> Episodes:
    """Cut endless tours into episodes, one for each navigation target that was reached.

    `timeouts[t]` says that the target was reached at `observations[t]`, which becomes the last observation of that
    episode and the first of the next: the ball never stops, so no transition is lost. What follows the last reached
    target is dropped, hence every episode ends at a target.

    Args:
        tours: dicts of observations (N, O), actions (N, A), rewards (N,), where rewards[t] scores the state after
            actions[t], and timeouts (N,) bool.
        meta: kept as the episodes' `meta`.

    Raises:
        ValueError: when no target was reached in any tour.
    """
    observations, actions, rewards, lengths = [], [], [], []
    for tour in tours:
        begin = 0
        for end in np.flatnonzero(np.asarray(tour["timeouts"], dtype=bool)).tolist():
            if end == begin:
                continue
            observations.append(tour["observations"][begin : end + 1])
            lengths.append(end - begin)
            begin = end
        actions.append(tour["actions"][:begin])
        rewards.append(tour["rewards"][:begin])
    if not lengths:
        raise ValueError("at least one target must be reached in the tours, got none; generate more steps")
    return Episodes(
        np.concatenate(observations),
        np.concatenate(actions),
        np.concatenate(rewards),
        np.asarray(lengths, dtype=np.int64),
        dict(meta or {}),
    )
