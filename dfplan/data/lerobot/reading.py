"""Read a LeRobot dataset, version 3: of this package, or of anybody."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan.data.episodes import Episodes
from dfplan.data.lerobot import layout as at
from dfplan.data.lerobot.tables import read_columns, read_rows, require_pyarrow
from dfplan.data.lerobot.video import VideoReader
from dfplan.errors import unknown_name

Array = NDArray[Any]
KINDS = ("float", "int", "uint", "bool")
TIME_TOLERANCE_S = 1e-4


@dataclass(frozen=True)
class LeRobotData:
    """Hold the numbers of a LeRobot dataset; images are read when they are asked for.

    Attributes:
        folder: where it is.
        info: what meta/info.json says.
        tasks: texts, by task_index.
        episodes: a row of the table of episodes each, without its statistics.
        columns: (N,) or (N, D) numbers of all frames, by feature.
    """

    folder: Path
    info: dict[str, Any]
    tasks: list[str]
    episodes: list[dict[str, Any]]
    columns: dict[str, Array]

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.episodes)

    @property
    def fps(self) -> float:
        """Return the frames per second."""
        return float(self.info["fps"])

    @property
    def cameras(self) -> list[str]:
        """Return the features that are videos."""
        return [key for key, feature in self.info["features"].items() if feature["dtype"] == "video"]

    def episode(self, index: int) -> dict[str, Array]:
        """Return the numbers of an episode's T frames, by feature.

        Raises:
            IndexError: when there is no such episode.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"episode index must be in [0, {len(self) - 1}], got {index}")
        row = self.episodes[index]
        rows = slice(row["dataset_from_index"], row["dataset_to_index"])
        return {key: values[rows] for key, values in self.columns.items()}

    def images(self, camera: str, index: int) -> NDArray[np.uint8]:
        """Return an episode's (T, H, W, 3) frames of a camera.

        Raises:
            FileNotFoundError: when the video is missing.
            ValueError: for an unknown camera, or a video that is damaged or too short.
        """
        return next(self.each_images(camera, [index]))

    def each_images(self, camera: str, indices: Sequence[int] | None = None) -> Iterator[NDArray[np.uint8]]:
        """Yield the (T, H, W, 3) frames of a camera for each episode; in order, every file is decoded once.

        Args:
            camera: feature name, for example "observation.images.scene".
            indices: which episodes; None is all.
        """
        if camera not in self.cameras:
            raise unknown_name("camera", camera, self.cameras)
        reader = VideoReader(_frame_size(self.info["features"][camera]), self.fps)
        try:
            for row in (self.episodes[n] for n in (range(len(self)) if indices is None else indices)):
                first = round(row[f"videos/{camera}/from_timestamp"] * self.fps)
                yield reader.read(self.video_path(camera, row), first, row["length"])
        finally:
            reader.close()

    def video_path(self, camera: str, row: Mapping[str, Any]) -> Path:
        """Return the file that holds a camera's frames of an episode, given as its row of `episodes`."""
        return self.folder / _place(self.info, "video_path", row, f"videos/{camera}/", video_key=camera)

    def to_episodes(self, state: str | Sequence[str] = at.STATE) -> Episodes:
        """Return state and action of all frames as `Episodes`.

        An episode of this package's own has T steps of T frames, since it has its last state. Of others' the last
        action is left out, because nobody knows where it led: T frames make T - 1 steps, an episode of one frame none.
        Without `next.reward` rewards are 0; without `next.truncated` every episode counts as cut.

        Args:
            state: feature, or features side by side, that are the observation.

        Raises:
            ValueError: for an unknown feature, NaN, or when no episode has two frames.
        """
        keys = [state] if isinstance(state, str) else list(state)
        for key in (*keys, at.ACTION):
            if key not in self.columns:
                raise unknown_name("feature of numbers", key, self.columns)
        known = all(at.FINAL + key in row for row in self.episodes for key in keys)
        parts = [part for row in self.episodes if (part := self._steps(row, keys, known)) is not None]
        if not parts:
            raise ValueError(f"{self.folder} must hold an episode of at least two frames to give a step, got none")
        seen, actions, rewards = (np.concatenate([part[i] for part in parts]).astype(np.float32) for i in range(3))
        lengths = np.array([len(part[1]) for part in parts], dtype=np.int64)
        return Episodes(seen, actions, rewards, lengths, self._meta(keys), np.array([part[3] for part in parts]))

    def _steps(self, row: Mapping[str, Any], keys: list[str], known: bool) -> tuple[Array, Array, Array, bool] | None:
        frames = {key: _wide(values) for key, values in self.episode(row["episode_index"]).items()}
        seen = np.concatenate([frames[key] for key in keys], axis=1)
        if known:
            last = np.concatenate([np.asarray(row[at.FINAL + key], dtype=np.float32) for key in keys])
            seen = np.concatenate([seen, last[None]])
        steps = len(seen) - 1
        if steps == 0:
            return None
        rewards = frames[at.REWARD][:steps, 0] if at.REWARD in frames else np.zeros(steps)
        cut = not known or at.TRUNCATED not in frames or bool(frames[at.TRUNCATED][-1, 0])
        return seen, frames[at.ACTION][:steps], rewards, not cut

    def _meta(self, keys: list[str]) -> dict[str, Any]:
        features = self.info["features"]
        return {
            "source": self.folder.name,
            "file_format": f"lerobot-{self.info['codebase_version']}",
            "fps": self.info["fps"],
            "robot_type": self.info.get("robot_type"),
            "tasks": self.tasks,
            "columns": {key: features[key].get("names") for key in (*keys, at.ACTION)},
        }


def is_lerobot(path: Path) -> bool:
    """Tell whether a path is the folder of a LeRobot dataset."""
    return (path / at.INFO).is_file()


def read_lerobot(folder: str | Path, *, videos: bool = True) -> LeRobotData:
    """Read the numbers of a LeRobot dataset, version 3, and check them against its tables.

    Args:
        folder: holds meta/ and data/.
        videos: demand that the video files are there, too.

    Raises:
        FileNotFoundError: for a file that is missing; names it.
        ValueError: for one that is damaged, another version, or tables that do not agree; names it and the reason.
        ImportError: without the extra `lerobot`.
    """
    require_pyarrow()
    root = Path(folder)
    info = _read_info(root)
    tasks = sorted(read_rows(root / at.TASKS), key=lambda row: int(row["task_index"]))
    episodes = _read_episodes(root, info)
    features = [key for key, feature in info["features"].items() if str(feature["dtype"]).startswith(KINDS)]
    paths = dict.fromkeys(root / _place(info, "data_path", row, "data/") for row in episodes)
    parts = [read_columns(path, features) for path in paths]
    columns = {key: np.concatenate([part[key] for part in parts]) for key in features}
    texts = [str(row.get("task", row.get("__index_level_0__", ""))) for row in tasks]
    data = LeRobotData(root, info, texts, episodes, columns)
    _check_frames(data)
    for path in (data.video_path(key, row) for key in data.cameras for row in episodes) if videos else ():
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; copy the data set again, or pass videos=False")
    return data


def _read_info(root: Path) -> dict[str, Any]:
    path = root / at.INFO
    if not path.is_file():
        raise FileNotFoundError(f"{root} is not a LeRobot dataset: {path} is missing")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        version = str(info["codebase_version"])
        needed = [info[key] for key in ("fps", "total_episodes", "total_frames", "data_path")]
        usable = all("dtype" in feature and "shape" in feature for feature in info["features"].values())
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__} {error}; copy the data set again") from error
    if not version.startswith("v3."):
        raise ValueError(f"{path}: codebase_version must be v3.x, got {version}; convert it with lerobot's own script")
    if not usable or not all(isinstance(value, (int, float)) and value > 0 for value in needed[:3]):
        raise ValueError(
            f"{path}: fps and totals must be above 0, and every feature have dtype and shape, got {needed}"
        )
    return dict(info)


def _read_episodes(root: Path, info: Mapping[str, Any]) -> list[dict[str, Any]]:
    folder = root / "meta" / "episodes"
    paths = sorted(folder.glob("*/*.parquet"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no table of episodes; copy the data set again")
    rows = [row for path in paths for row in read_rows(path)]
    wanted = (
        "episode_index",
        "length",
        "dataset_from_index",
        "dataset_to_index",
        "data/chunk_index",
        "data/file_index",
    )
    if lost := [key for key in wanted if any(row.get(key) is None for row in rows)]:
        raise ValueError(f"{folder}: every episode must have {lost[0]!r}; copy the data set again")
    rows.sort(key=lambda row: int(row["episode_index"]))
    if [row["episode_index"] for row in rows] != list(range(info["total_episodes"])):
        raise ValueError(
            f"{folder} must list the episodes 0 to {info['total_episodes'] - 1} of meta/info.json once each, "
            f"got {len(rows)} rows"
        )
    return rows


def _check_frames(data: LeRobotData) -> None:
    """Refuse tables that do not agree on which frames belong to which episode."""
    lengths = np.array([row["length"] for row in data.episodes], dtype=np.int64)
    ends = lengths.cumsum()
    for key in at.COUNTERS:
        if key not in data.columns:
            raise ValueError(f"{data.folder / at.INFO}: features must hold {key!r}; copy the data set again")
    wanted = {
        "index": np.arange(ends[-1]),
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "frame_index": np.arange(ends[-1]) - np.repeat(ends - lengths, lengths),
    }
    _check_totals(data, lengths, ends)
    for key, values in wanted.items():
        if not np.array_equal(data.columns[key].ravel(), values):
            raise ValueError(f"{data.folder}/data: column {key!r} does not agree with meta/episodes; copy it again")
    times = wanted["frame_index"] / data.fps
    if not np.allclose(data.columns["timestamp"].ravel(), times, rtol=1e-6, atol=TIME_TOLERANCE_S):
        raise ValueError(f"{data.folder}/data: timestamp must be frame_index / fps, at {data.fps:g} frames per second")
    if not np.isin(data.columns["task_index"], np.arange(len(data.tasks))).all():
        raise ValueError(f"{data.folder}/data: task_index must lie in [0, {len(data.tasks) - 1}] of {at.TASKS}")


def _check_totals(data: LeRobotData, lengths: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
    found = len(data.columns["index"])
    if not found == ends[-1] == data.info["total_frames"]:
        raise ValueError(
            f"{data.folder}: numbers of frames must agree, got {data.info['total_frames']} in meta/info.json, "
            f"{ends[-1]} in meta/episodes, {found} in data/; copy the data set again"
        )
    for row, begin, end in zip(data.episodes, (ends - lengths).tolist(), ends.tolist(), strict=True):
        if (row["dataset_from_index"], row["dataset_to_index"]) != (begin, end):
            raise ValueError(
                f"{data.folder}/meta/episodes: episode {row['episode_index']} must be rows {begin} to {end}"
            )


def _place(info: Mapping[str, Any], template: str, row: Mapping[str, Any], prefix: str, **more: str) -> str:
    """Return the file of an episode by the template that meta/info.json gives."""
    try:
        place = {key: int(row[prefix + key]) for key in ("chunk_index", "file_index")}
        return str(info[template]).format(**place, **more)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        told = f"{template} {info.get(template)!r} of meta/info.json, episode {row['episode_index']}"
        raise ValueError(f"the file of {prefix.rstrip('/')} cannot be named by {told}: {error!r}") from error


def _frame_size(feature: Mapping[str, Any]) -> tuple[int, int]:
    """Return (height, width) of a camera whose axes are named, or stand in one of the two usual orders."""
    shape, names = list(feature["shape"]), [str(name)[:1] for name in feature.get("names") or []]
    if sorted(names) == ["c", "h", "w"]:
        return int(shape[names.index("h")]), int(shape[names.index("w")])
    return (int(shape[0]), int(shape[1])) if shape[-1] == 3 else (int(shape[1]), int(shape[2]))


def _wide(values: Array) -> Array:
    return values.reshape(len(values), -1)
