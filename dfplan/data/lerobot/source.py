"""What is exported: episodes, one after another, as the frames of the LeRobot format.

A frame is what was seen before an action, and that action: an episode of T actions has T frames. What was seen after
the last action belongs to no frame.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space
from numpy.typing import NDArray

from dfplan.data.episodes import Episodes
from dfplan.data.lerobot.layout import ACTION, IMAGES, STATE
from dfplan.errors import unknown_name

Array = NDArray[Any]
STATE_KEYS = ("state", "proprio", "observation")  # the part of a Dict that becomes observation.state, the first found
BARE_CAMERA = "camera"  # the name of images that are the whole observation


@dataclass(frozen=True)
class Clip:
    """Hold one episode of T frames.

    Attributes:
        numbers: (T, D) float32 by feature, `action` among them.
        images: (T, H, W, 3) uint8 by feature.
        last: (D,) float32 by feature, what was seen after the last action.
        rewards: (T,) float32.
        terminated: whether the environment ended the episode.
        success: (T,) bool, or None where that is not known.
    """

    numbers: dict[str, Array]
    images: dict[str, Array]
    last: dict[str, Array]
    rewards: Array
    terminated: bool
    success: Array | None = None

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.rewards)


class Source(ABC):
    """Episodes to export; may be gone through more than once."""

    name: str

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of episodes."""

    @abstractmethod
    def __iter__(self) -> Iterator[Clip]:
        """Yield the episodes in their order."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Return the number of frames of all episodes."""

    @property
    @abstractmethod
    def meta(self) -> Mapping[str, Any]:
        """Return what the data say of themselves."""


@final
@dataclass(frozen=True)
class ColumnSource(Source):
    """Serve `Episodes`: the columns are `observation.state` and `action`."""

    episodes: Episodes
    name: str = "the episodes"

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.episodes)

    @property
    def steps(self) -> int:
        """Return the number of frames of all episodes."""
        return self.episodes.steps

    @property
    def meta(self) -> Mapping[str, Any]:
        """Return what the data say of themselves."""
        return self.episodes.meta

    def __iter__(self) -> Iterator[Clip]:
        """Yield the episodes in their order."""
        for index, terminated in enumerate(self.episodes.terminated.tolist()):
            observations, actions, rewards = self.episodes.episode(index)
            yield Clip({STATE: observations[:-1], ACTION: actions}, {}, {STATE: observations[-1]}, rewards, terminated)


@final
@dataclass(frozen=True)
class MinariSource(Source):
    """Serve a Minari dataset in the environment's own numbers, one episode in memory at a time.

    Args:
        dataset: an open `minari.MinariDataset`.
        name: its id.
        features: feature name by observation key; None decides by the space.
    """

    dataset: Any
    name: str
    features: Mapping[str, str] | None = None
    paths: dict[tuple[str, ...], str] = field(init=False)

    def __post_init__(self) -> None:
        """Decide which part of an observation becomes which feature."""
        object.__setattr__(self, "paths", name_features(self.dataset.observation_space, self.features))
        _check_action(self.dataset.action_space)

    def __len__(self) -> int:
        """Return the number of episodes."""
        return int(self.dataset.total_episodes)

    @property
    def steps(self) -> int:
        """Return the number of frames of all episodes."""
        return int(self.dataset.total_steps)

    @property
    def meta(self) -> Mapping[str, Any]:
        """Return what the data say of themselves."""
        return dict(self.dataset.storage.metadata.get("dfplan") or {})

    def __iter__(self) -> Iterator[Clip]:
        """Yield the episodes in their order."""
        from dfplan.data.minari_io import damage_named

        with damage_named(self.name):
            for episode in self.dataset.iterate_episodes():
                yield self._clip(episode)

    def _clip(self, episode: Any) -> Clip:
        steps = len(episode.rewards)
        numbers: dict[str, Array] = {ACTION: _columns(episode.actions)}
        images, last = {}, {}
        for path, feature in self.paths.items():
            part = episode.observations
            for key in path:
                part = part[key]
            if feature.startswith(IMAGES):
                images[feature] = np.asarray(part)[:steps]
            else:
                columns = _columns(part)
                numbers[feature], last[feature] = columns[:steps], columns[-1]
        terminated = bool(np.any(episode.terminations[-1:]))
        rewards = np.asarray(episode.rewards, dtype=np.float32)
        return Clip(numbers, images, last, rewards, terminated, _success(episode.infos, steps))


def open_source(dataset: str | Path | Episodes | Source, features: Mapping[str, str] | None = None) -> Source:
    """Open what `export_lerobot` takes; a source is taken as it is.

    Raises:
        FileNotFoundError: when there is no such file or dataset.
        ValueError: for a damaged one, spaces that cannot be stored, or an unknown key in `features`.
    """
    if isinstance(dataset, Source):
        return dataset
    if isinstance(dataset, Episodes):
        source: Source = ColumnSource(dataset)
    elif Path(dataset).exists() or Path(dataset).suffix:
        from dfplan.data.loading import load_episodes

        source = ColumnSource(load_episodes(dataset), str(dataset))
    else:
        from dfplan.data.minari_io import open_minari

        return MinariSource(open_minari(str(dataset)), str(dataset), features)
    if features:
        raise ValueError(f"features name parts of a Dict observation, but {source.name} has columns; leave them out")
    return source


def name_features(space: Space[Any], features: Mapping[str, str] | None = None) -> dict[tuple[str, ...], str]:
    """Return the feature name of each part of an observation space, by its path of keys.

    Images (uint8, H x W x 3) become `observation.images.KEY`; the first of `state`, `proprio`, `observation`, or the
    only vector, becomes `observation.state`; everything else `observation.KEY`.

    Args:
        space: Box, Discrete, or a (nested) Dict of them.
        features: feature name by key (nested: "outer.inner"), in place of these rules.

    Raises:
        ValueError: for other spaces, an unknown key, or two parts of one name.
    """
    parts = dict(_leaves(space, ()))
    keys = {".".join(path): path for path in parts}
    for key in features or {}:
        if key not in keys:
            raise unknown_name("observation key", key, keys)
    vectors = [key for key, path in keys.items() if not _is_image(parts[path])]
    state = vectors[0] if len(vectors) == 1 else next((key for key in STATE_KEYS if key in vectors), None)
    found = {}
    for key, path in keys.items():
        usual = STATE if key == state else f"observation.{key}"
        usual = f"{IMAGES}{key or BARE_CAMERA}" if _is_image(parts[path]) else usual
        found[path] = _check_name((features or {}).get(key, usual), _is_image(parts[path]))
    if len(set(found.values())) < len(found):
        raise ValueError(f"every feature must have its own name, got {', '.join(sorted(found.values()))}")
    return found


def _check_name(name: str, image: bool) -> str:
    if "/" in name or not name.startswith("observation.") or name.startswith(IMAGES) != image:
        need = f"{IMAGES}NAME" if image else "observation.NAME"
        raise ValueError(f"a feature of {'images' if image else 'numbers'} must be named {need}, without '/': {name!r}")
    return name


def _leaves(space: Space[Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Space[Any]]]:
    if isinstance(space, Dict):
        for key, part in space.spaces.items():
            yield from _leaves(part, (*path, str(key)))
        return
    where = f"the observation {'.'.join(path)!r}" if path else "the observation"
    if not isinstance(space, (Box, Discrete)):
        raise ValueError(f"{where} must be a Box, a Discrete or a Dict of them to be stored, got {space}")
    if isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) > 1 and not _is_image(space):
        raise ValueError(f"{where} must have the shape (H, W, 3) to be stored as a video, got {space.shape}")
    yield path, space


def _is_image(space: Space[Any]) -> bool:
    return isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[-1] == 3


def _check_action(space: Space[Any]) -> None:
    if not isinstance(space, (Box, Discrete)):
        raise ValueError(f"actions must be a Box or a Discrete to be stored, got {space}")


def _columns(values: Any) -> Array:
    array = np.asarray(values)
    return array.reshape(len(array), -1).astype(np.float32)


def _success(infos: Any, steps: int) -> Array | None:
    """Return (T,) flags of success after each action, where the infos have one per step or per observation."""
    values = np.asarray(infos["success"]) if isinstance(infos, Mapping) and "success" in infos else None
    if values is None or values.shape not in {(steps,), (steps + 1,)}:
        return None
    return np.asarray(values[-steps:], dtype=bool)
