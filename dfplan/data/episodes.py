"""Episodes in memory, their compact file, and the one loader for every source.

All episodes lie end to end in three flat arrays. An episode of `T` steps has `T` actions and rewards and `T + 1`
observations, as in Minari: `reward[t]` belongs to the transition `observation[t] -> observation[t + 1]`.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan.data.files import atomic_path

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]

NPZ_FORMAT = "dfplan-episodes-1"
_NPZ_KEYS = ("observations", "actions", "rewards", "lengths", "meta")
_HDF5_SUFFIXES = (".hdf5", ".h5")


@dataclass(frozen=True)
class Episodes:
    """Hold E episodes, laid end to end.

    Args:
        observations: (sum(T_i + 1), O) float32.
        actions: (sum(T_i), A) float32.
        rewards: (sum(T_i),) float32; reward[t] scores the state after action[t].
        lengths: (E,) int64, T_i >= 1 environment steps.
        meta: where the data came from; must survive JSON.

    Raises:
        ValueError: for a shape, a length or a value that breaks these rules.
    """

    observations: Float32Array
    actions: Float32Array
    rewards: Float32Array
    lengths: Int64Array
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("observations", "actions", "rewards"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=np.float32))
        lengths = np.asarray(self.lengths)
        if lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer):
            raise ValueError(f"lengths must be a 1-d array of integers, got {lengths.dtype} of shape {lengths.shape}")
        if lengths.size == 0 or lengths.min() < 1:
            found = "no episode" if lengths.size == 0 else f"a length of {lengths.min()}"
            raise ValueError(f"lengths must hold at least one episode of at least one step, got {found}")
        object.__setattr__(self, "lengths", lengths.astype(np.int64))
        steps, count = int(self.lengths.sum()), int(self.lengths.size)
        _check_rows("observations", self.observations, steps + count, f"{steps} steps + {count} episodes", 2)
        _check_rows("actions", self.actions, steps, f"{steps} steps", 2)
        _check_rows("rewards", self.rewards, steps, f"{steps} steps", 1)

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

    def __len__(self) -> int:
        return int(self.lengths.size)

    def episode(self, index: int) -> tuple[Float32Array, Float32Array, Float32Array]:
        """Return episode `index` as (observations (T+1, O), actions (T, A), rewards (T,)), views on the flat arrays.

        Raises:
            IndexError: when there is no such episode.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"episode index must be in [0, {len(self) - 1}], got {index}")
        row, act, length = int(self.starts[index]), int(self.action_starts[index]), int(self.lengths[index])
        return self.observations[row : row + length + 1], self.actions[act : act + length], self.rewards[act : act + length]


def _check_rows(name: str, array: Float32Array, rows: int, why: str, ndim: int) -> None:
    if array.ndim != ndim or array.shape[0] != rows:
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
        ends = np.flatnonzero(np.asarray(tour["timeouts"], dtype=bool))
        begin = 0
        for end in ends.tolist():
            if end == begin:
                continue
            observations.append(np.asarray(tour["observations"][begin : end + 1], dtype=np.float32))
            lengths.append(end - begin)
            begin = end
        actions.append(np.asarray(tour["actions"][:begin], dtype=np.float32))
        rewards.append(np.asarray(tour["rewards"][:begin], dtype=np.float32))
    if not lengths:
        raise ValueError("at least one target must be reached in the tours, got none; generate more steps")
    return Episodes(
        np.concatenate(observations),
        np.concatenate(actions),
        np.concatenate(rewards),
        np.asarray(lengths, dtype=np.int64),
        dict(meta or {}),
    )


def save_npz(episodes: Episodes, path: str | Path) -> Path:
    """Write episodes to one compressed .npz file (float32, no pickle), atomically.

    Args:
        episodes: what to write.
        path: a name that ends in .npz.

    Returns:
        The path written.

    Raises:
        ValueError: for another suffix, or meta that is not JSON.
    """
    target = Path(path)
    if target.suffix != ".npz":
        raise ValueError(f"an episode file must be named *.npz, got {target.name!r}")
    text = json.dumps({"format": NPZ_FORMAT, **episodes.meta}, sort_keys=True)
    with atomic_path(target) as temporary:
        np.savez_compressed(
            temporary,
            observations=episodes.observations,
            actions=episodes.actions,
            rewards=episodes.rewards,
            lengths=episodes.lengths,
            meta=np.frombuffer(text.encode(), dtype=np.uint8),
        )
    return target


def load_npz(path: str | Path) -> Episodes:
    """Read a file of `save_npz`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is truncated, wrongly keyed, mis-shaped or holds a non-finite value.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no such file: {source}")
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with np.load(source, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array, not an archive")
            missing = [key for key in _NPZ_KEYS if key not in archive.files]
            if missing:
                raise ValueError(f"keys {missing} are missing; it holds {sorted(archive.files)}")
            for key in _NPZ_KEYS:
                arrays[key] = archive[key]
        meta = json.loads(arrays.pop("meta").tobytes().decode())
        if not isinstance(meta, dict) or meta.pop("format", None) != NPZ_FORMAT:
            raise ValueError(f"its meta does not name the format {NPZ_FORMAT!r}")
        return Episodes(**arrays, meta=meta)
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{source} is not a readable episode file: {error}; need a whole file written by save_npz "
            f"with keys {', '.join(_NPZ_KEYS)}"
        ) from error


def load_episodes(source: str | Path) -> Episodes:
    """Load episodes from a file or from a local Minari dataset.

    Args:
        source: a .npz file of `save_npz`, a D4RL .hdf5 or .h5 file, or a Minari dataset id such as
            "maze2d/large-noisy-v0". Files need nothing beyond the core installation.

    Raises:
        FileNotFoundError: when there is no such file or dataset.
        ValueError: when the file breaks its format; names the file, the key, what was found and what is needed.
        ModuleNotFoundError: for a Minari id without the extra: pip install 'dfplan[minari]'.
    """
    path = Path(source)
    if path.suffix == ".npz":
        return load_npz(path)
    if path.suffix in _HDF5_SUFFIXES:
        from dfplan.data.d4rl import load_d4rl

        return load_d4rl(path)
    from dfplan.data.minari_io import load_minari

    return load_minari(str(source))
