"""Episodes of camera pictures, out of a Minari dataset whose observations are a Dict with pictures in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan.data.episodes import Episodes
from dfplan.data.minari_io import damage_named, dataset_meta, open_minari
from dfplan.data.trajectories import vector_spaces

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class PictureEpisodes:
    """Hold E episodes end to end.

    Attributes:
        frames: uint8 (sum(T_i + 1), cameras, S, S, 3).
        vectors: The other entries of the observations by name, (sum(T_i + 1), width).
        actions: (sum(T_i), A).
        rewards: (sum(T_i),).
        lengths: int64 (E,), T_i.
        terminated: bool (E,).
        meta: What is known of the data.
    """

    frames: NDArray[np.uint8]
    vectors: dict[str, FloatArray]
    actions: FloatArray
    rewards: FloatArray
    lengths: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    meta: dict[str, Any]

    def fresh(self) -> NDArray[np.bool_]:
        """Tell which frames were taken there and then, (sum(T_i + 1),): slow cameras show the last one meanwhile."""
        changed = np.ones(len(self.frames), dtype=bool)
        for i in range(1, len(changed), 1024):  # in parts, since the frames may be many
            part = self.frames[i - 1 : i + 1024]
            changed[i : i + 1024] = (part[1:] != part[:-1]).reshape(len(part) - 1, -1).any(1)
        changed[np.cumsum(self.lengths + 1)[:-1]] = True
        return changed

    def with_columns(self, seen: FloatArray, vector: str = "proprio") -> Episodes:
        """Return the episodes as columns: an entry of the observations, then what a network made of its pictures.

        Args:
            seen: (sum(T_i + 1), n), such as `dfplan.vision.frame_columns` returns.
            vector: The entry.
        """
        columns = np.concatenate([self.vectors[vector], seen], axis=1).astype(np.float32)
        meta = {**self.meta, "spaces": vector_spaces(columns.shape[1], self.actions.shape[1])}
        return Episodes(columns, self.actions, self.rewards, self.lengths, meta, self.terminated)


def join_pictures(parts: Sequence[PictureEpisodes]) -> PictureEpisodes:
    """Put datasets of pictures of the same kind one after the other; their metas become `parts` of one.

    Raises:
        ValueError: If there is none, or pictures, entries or actions differ.
    """
    if len(parts) == 1:
        return parts[0]
    shapes = [
        (one.frames.shape[1:], {name: rows.shape[1] for name, rows in one.vectors.items()}, one.actions.shape[1])
        for one in parts
    ]
    if not shapes or any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"datasets must hold pictures, entries and actions of the same shapes, got {shapes}")

    def joined(name: str) -> Any:
        return np.concatenate([getattr(one, name) for one in parts])

    vectors = {name: np.concatenate([one.vectors[name] for one in parts]) for name in parts[0].vectors}
    return PictureEpisodes(
        joined("frames"), vectors, joined("actions"), joined("rewards"), joined("lengths"), joined("terminated"),
        {"parts": [one.meta for one in parts]},
    )  # fmt: skip


def load_pictures(dataset_id: str, cameras: Sequence[str] = ("scene", "hand")) -> PictureEpisodes:
    """Read a local Minari dataset of pictures.

    Args:
        dataset_id: For example "fruit-swap/both-64-v0".
        cameras: The entries that are pictures, uint8 (S, S, 3), in this order.

    Raises:
        FileNotFoundError: When it is not on this machine.
        ValueError: For a broken dataset, or one without these pictures.
        ImportError: Without the extra `minari`.
    """
    from gymnasium.spaces import Box, Dict

    dataset = open_minari(dataset_id)
    space = dataset.observation_space
    parts = space.spaces if isinstance(space, Dict) else {}
    if not {*cameras} <= set(parts):
        raise ValueError(
            f"the dataset {dataset_id} must hold the pictures {', '.join(cameras)}, got {sorted(parts) or space}; make "
            "it with --obs image or both"
        )
    names = [
        name for name, part in parts.items() if name not in cameras and isinstance(part, Box) and len(part.shape) == 1
    ]
    vectors: dict[str, list[FloatArray]] = {name: [] for name in names}
    frames, actions, rewards, terminated = [], [], [], []
    with damage_named(dataset_id):
        for episode in dataset.iterate_episodes():
            seen = episode.observations
            frames.append(np.stack([seen[camera] for camera in cameras], axis=1))
            for name in names:
                vectors[name].append(np.asarray(seen[name], np.float32))
            actions.append(np.asarray(episode.actions, np.float32))
            rewards.append(np.asarray(episode.rewards, np.float32))
            terminated.append(bool(np.any(episode.terminations[-1:])))
        meta = dataset_meta(dataset_id, dataset)
    if not frames:
        raise ValueError(f"the dataset {dataset_id} must hold at least one episode, got none")
    return PictureEpisodes(
        np.concatenate(frames), {name: np.concatenate(rows) for name, rows in vectors.items()},
        np.concatenate(actions), np.concatenate(rewards), np.array([len(r) for r in rewards], np.int64),
        np.array(terminated, bool), meta,
    )  # fmt: skip
