"""A run folder of collected episodes: finished ones are on disk, so that a stopped run goes on where it was."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Space

from dfplan.data.collecting import Rollout
from dfplan.data.files import atomic_path
from dfplan.data.trajectories import Trajectories, join

CONFIG = "collect.json"
DICT_PREFIX = "observations/"
FLUSH_S = 10.0


class ShardFolder:
    """Keep finished episodes in a folder, in files of many.

    Args:
        folder: Made if it is missing.
        config: What the episodes depend on; must survive JSON. A folder that was begun with another is refused.

    Raises:
        ValueError: for a folder of another run, or one that holds something else.
    """

    def __init__(self, folder: str | Path, config: Mapping[str, Any]) -> None:
        self.folder, self.waiting = Path(folder), list[Rollout]()
        self.flushed = time.monotonic()
        own = json.loads(json.dumps(dict(config)))
        path = self.folder / CONFIG
        if path.is_file():
            _check_same(self.folder, json.loads(path.read_text()), own)
        elif self.folder.is_dir() and any(self.folder.iterdir()):
            raise ValueError(
                f"{self.folder} holds something else than collected episodes; name an empty folder (--out)"
            )
        else:
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(own, indent=1, sort_keys=True))
        self.places: dict[int, tuple[Path, int]] = {}
        for shard in sorted(self.folder.glob("shard-*.npz")):
            for place, number in enumerate(_read(shard)["numbers"].tolist()):
                self.places.setdefault(number, (shard, place))

    def missing(self, episodes: int) -> list[int]:
        """Return the numbers below `episodes` that are not on disk yet."""
        return [number for number in range(episodes) if number not in self.places]

    def add(self, rollout: Rollout) -> None:
        """Take a finished episode; it is on disk after `FLUSH_S` seconds at the latest, or after `flush`."""
        self.waiting.append(rollout)
        if time.monotonic() - self.flushed > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write what waits, as one file, whole or not at all."""
        self.flushed = time.monotonic()
        if not self.waiting:
            return
        numbers = np.array([rollout.number for rollout in self.waiting], dtype=np.int64)
        path = self.folder / f"shard-{numbers.min():08d}-{numbers.max():08d}-{len(numbers)}.npz"
        observations = join([rollout.observations for rollout in self.waiting])
        named = {DICT_PREFIX + k: v for k, v in observations.items()} if isinstance(observations, dict) else None
        with atomic_path(path) as temporary:
            np.savez_compressed(
                temporary,
                numbers=numbers,
                lengths=np.array([len(rollout.rewards) for rollout in self.waiting], dtype=np.int64),
                actions=join([rollout.actions for rollout in self.waiting]),
                rewards=join([rollout.rewards for rollout in self.waiting]),
                terminated=np.array([rollout.terminated for rollout in self.waiting], dtype=bool),
                **(named if named is not None else {"observations": observations}),
            )
        self.places.update({number: (path, place) for place, number in enumerate(numbers.tolist())})
        self.waiting = []

    def read(self, episodes: int, observation_space: Space[Any], action_space: Space[Any]) -> Trajectories:
        """Read the episodes 0 to `episodes` - 1, in order.

        Raises:
            ValueError: when one is missing, or a file is damaged.
        """
        if lost := self.missing(episodes):
            raise ValueError(f"{self.folder} lacks {len(lost)} episodes, first {lost[0]}; collect them first")
        files = {path for path, _ in (self.places[number] for number in range(episodes))}
        pieces: dict[Path, list[Any]] = {path: list(_pieces(path, observation_space, action_space)) for path in files}
        chosen = [pieces[path][place] for path, place in (self.places[number] for number in range(episodes))]
        observations, actions, rewards = (join([piece[i] for piece in chosen]) for i in range(3))
        lengths = np.array([len(piece[2]) for piece in chosen], dtype=np.int64)
        terminated = np.array([piece[3] for piece in chosen], dtype=bool)
        return Trajectories(observations, actions, rewards, lengths, terminated, observation_space, action_space)


def _pieces(path: Path, observation_space: Space[Any], action_space: Space[Any]) -> Any:
    arrays = _read(path)
    named = {key.removeprefix(DICT_PREFIX): arrays[key] for key in arrays if key.startswith(DICT_PREFIX)}
    observations = named or arrays["observations"]
    rest: Any = {key: arrays[key] for key in ("actions", "rewards", "lengths", "terminated")}
    rest |= {"observation_space": observation_space, "action_space": action_space}
    return Trajectories(observations=observations, **rest).pieces()


def _read(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it, and its episodes are collected again") from error


def _check_same(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    other = [key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
    if other:
        told = ", ".join(f"{key} {found.get(key)!r} there, {wanted.get(key)!r} asked" for key in other)
        raise ValueError(f"{folder} was begun with something else: {told}; repeat that, or name another folder (--out)")
