"""Write episodes in the LeRobot format, whole or not at all, and read them back before they take their place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from dfplan.data.episodes import Episodes
from dfplan.data.lerobot import layout as at
from dfplan.data.lerobot.checking import MIN_PSNR_DB, verify
from dfplan.data.lerobot.source import Array, Clip, Source, open_source
from dfplan.data.lerobot.stats import image_counts, image_stats, number_stats
from dfplan.data.lerobot.tables import TableWriter, require_pyarrow, write_rows, write_tasks
from dfplan.data.lerobot.video import AUTO, VideoWriter, choose_pixels
from dfplan.data.minari_io import staged_folder

Progress = Callable[[int], None]
MB = 1e6
COMPRESSION = 40  # of videos, about; decides when the next file is begun


def export_lerobot(
    dataset: str | Path | Episodes | Source,
    folder: str | Path,
    *,
    fps: int,
    task: str | Sequence[str],
    robot_type: str | None = None,
    features: Mapping[str, str] | None = None,
    names: Mapping[str, Sequence[str]] | None = None,
    pixels: str = AUTO,
    overwrite: bool = False,
    check: bool = True,
    min_psnr_db: float = MIN_PSNR_DB,
    progress: Progress | None = None,
) -> Path:
    """Write episodes as a LeRobot dataset, version 3.0: Parquet files and H.264 videos.

    A frame is an observation and the action taken on it. The last observation of an episode, which no action follows,
    is kept as numbers in the table of episodes (`dfplan/final/...`), so that `read_lerobot` returns every number; its
    images are left out. Numbers are stored as float32. `next.done` is True in an episode's last frame, `next.truncated`
    too where the environment did not end it.

    Args:
        dataset: a Minari id, a file of `load_episodes`, `Episodes`, or a source of `open_source`.
        folder: where to; it must not exist, or be empty, unless `overwrite`.
        fps: frames, that is steps of the environment, per second; a whole number.
        task: what is done, in words; or one text per episode.
        robot_type: name of the robot, for example "panda".
        features: feature name by key of a Dict observation; None decides by the space.
        names: names of a feature's numbers, by feature.
        pixels: "yuv420p" plays everywhere and has colours at half the resolution, "yuv444p" at the full one; "auto"
            takes the latter for frames under 128 pixels, where half the resolution is too little, and for odd ones.
        overwrite: replace a LeRobot dataset.
        check: read everything back before the folder takes its place.
        min_psnr_db: with `check`, how close every episode's video must be, in dB.
        progress: called with the number of frames written, or read back, since its last call.

    Returns:
        The folder.

    Raises:
        ValueError: for a value that breaks these rules, NaN included; names it and what to do.
        FileNotFoundError: when there is no such dataset.
        ImportError: without the extra `lerobot`.
    """
    require_pyarrow()
    target = check_target(Path(folder), overwrite)
    _check_fps(fps)
    source = open_source(dataset, features)
    tasks = _tasks(task, source)
    with staged_folder(target, _existing(target)) as work:
        writer = LeRobotWriter(work, fps, pixels, names or {}, robot_type)
        try:
            for clip, text in zip(source, tasks, strict=True):
                writer.add(clip, text)
                _tell(progress, len(clip))
            writer.close()
        except BaseException:
            writer.abandon()
            raise
        if check:
            verify(work, source, tasks, min_psnr_db, progress)
    return target


class LeRobotWriter:
    """Write one episode after another into an empty folder.

    Args:
        folder: exists, and is empty.
        fps: frames per second.
        pixels: of the videos.
        names: names of a feature's numbers, by feature.
        robot_type: name of the robot.
        data_mb: size at which the next file of numbers is begun, MB before compression.
        video_mb: about the size at which the next video is begun, MB.
    """

    def __init__(
        self, folder: Path, fps: int, pixels: str, names: Mapping[str, Sequence[str]], robot_type: str | None,
        data_mb: float = at.DATA_MB, video_mb: float = at.VIDEO_MB,
    ) -> None:  # fmt: skip
        self.folder, self.fps, self.pixels, self.names, self.robot_type = folder, fps, pixels, names, robot_type
        self.limits = data_mb * MB, video_mb * MB * COMPRESSION
        self.features: dict[str, dict[str, Any]] = {}
        self.tasks: dict[str, int] = {}
        self.rows: list[dict[str, Any]] = []
        self.frames = 0
        self.kept: dict[str, list[Array]] = {}
        self.levels: dict[str, Array] = {}
        self.open: dict[str, _Files] = {}

    def add(self, clip: Clip, task: str) -> None:
        """Append an episode."""
        episode = len(self.rows)
        _check_numbers(clip, episode)
        columns = self._columns(clip, episode, self.tasks.setdefault(task, len(self.tasks)))
        self._describe(clip, columns)
        first, self.frames = self.frames, self.frames + len(clip)
        row = {"episode_index": episode, "tasks": [task], "length": len(clip)}
        row |= {"dataset_from_index": first, "dataset_to_index": self.frames}
        row |= {f"data/{key}": value for key, value in self._write_data(columns).items()}
        stats = {key: number_stats(values) for key, values in columns.items()}
        for key, frames in clip.images.items():
            row |= {f"videos/{key}/{name}": value for name, value in self._write_video(key, frames).items()}
            counts = image_counts(frames)
            self.levels[key] = self.levels.get(key, np.zeros_like(counts)) + counts
            stats[key] = image_stats(counts, len(frames))
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        row |= {f"stats/{key}/{name}": value for key, of in stats.items() for name, value in of.items()}
        self.rows.append(row | {f"{at.FINAL}{key}": value.tolist() for key, value in clip.last.items()})
        for key, values in columns.items():
            self.kept.setdefault(key, []).append(values)

    def close(self) -> None:
        """Finish all files and write those in meta/."""
        for files in self.open.values():
            files.close()
        stats = {key: number_stats(np.concatenate(parts)) for key, parts in self.kept.items()}
        stats |= {key: image_stats(counts, self.frames) for key, counts in self.levels.items()}
        write_rows(self.folder / at.EPISODES_PATH.format(chunk_index=0, file_index=0), self.rows)
        write_tasks(self.folder / at.TASKS, list(self.tasks))
        sizes = len(self.rows), self.frames, len(self.tasks)
        info = at.describe(self.features, self.fps, self.robot_type, *sizes)
        for name, content in ((at.INFO, info), (at.STATS, stats)):
            (self.folder / name).write_text(json.dumps(content, indent=4, allow_nan=False), encoding="utf-8")

    def abandon(self) -> None:
        """Stop writing; what there is, is of no use."""
        for files in self.open.values():
            files.abandon()

    def _columns(self, clip: Clip, episode: int, task: int) -> dict[str, Array]:
        """Return the columns of an episode in the order of the format; those of width 1 are plain numbers."""
        last = np.arange(len(clip)) == len(clip) - 1
        columns = {key: values[:, 0] if values.shape[1] == 1 else values for key, values in clip.numbers.items()}
        columns |= {at.REWARD: clip.rewards, at.DONE: last, at.TRUNCATED: last & (not clip.terminated)}
        if clip.success is not None:
            columns[at.SUCCESS] = clip.success
        frame = np.arange(len(clip), dtype=np.int64)
        counters = ((frame / self.fps).astype(np.float32), frame, np.full_like(frame, episode))
        return columns | dict(
            zip(at.COUNTERS, (*counters, frame + self.frames, np.full_like(frame, task)), strict=True)
        )

    def _describe(self, clip: Clip, columns: Mapping[str, Array]) -> None:
        """Note the features of the first episode; the others must have the same."""
        found: dict[str, dict[str, Any]] = {}
        for key, values in columns.items():
            width = values.shape[1] if values.ndim == 2 else 1
            found[key] = at.number_feature(str(values.dtype), width, _names(self.names.get(key), key, width))
        for key, frames in clip.images.items():
            height, width = frames.shape[1:3]
            found[key] = at.video_feature(height, width, self.fps, choose_pixels(self.pixels, height, width))
        if unknown := sorted(set(self.names) - set(found)):
            raise ValueError(f"names must be of stored features, got {unknown[0]!r}; there are {', '.join(found)}")
        if self.features and found != self.features:
            raise ValueError(
                f"episode {len(self.rows)} must have the features of the first one, {sorted(self.features)} in equal "
                f"shapes, got {sorted(found)}; export such episodes on their own"
            )
        self.features = found

    def _write_data(self, columns: dict[str, Array]) -> dict[str, int]:
        files = self.open.setdefault("data", _Files(self.limits[0]))
        place = files.place(sum(values.nbytes for values in columns.values()))
        if files.current is None:
            files.current = TableWriter(self.folder / at.DATA_PATH.format(**place))
        files.current.add(columns)
        return place

    def _write_video(self, key: str, frames: Array) -> dict[str, Any]:
        files = self.open.setdefault(key, _Files(self.limits[1]))
        place = files.place(frames.nbytes)
        if files.current is None:
            size = cast(tuple[int, int], tuple(frames.shape[1:3]))
            path = self.folder / at.VIDEO_PATH.format(video_key=key, **place)
            files.current = VideoWriter(path, size, self.fps, self.pixels)
        begin = files.current.frames
        files.current.add(frames)
        return {**place, "from_timestamp": begin / self.fps, "to_timestamp": files.current.frames / self.fps}


class _Files:
    """A row of files, each with about so many bytes of episodes before compression."""

    def __init__(self, limit: float) -> None:
        self.limit, self.number, self.size = limit, 0, 0
        self.current: Any = None

    def place(self, size: int) -> dict[str, int]:
        """Return where an episode of so many bytes goes; the file before is finished if it is full."""
        if self.current is not None and self.size + size > self.limit:
            self.close()
            self.number, self.size, self.current = self.number + 1, 0, None
        self.size += size
        return dict(zip(("chunk_index", "file_index"), divmod(self.number, at.FILES_PER_CHUNK), strict=True))

    def close(self) -> None:
        if self.current is not None:
            self.current.close()

    def abandon(self) -> None:
        if isinstance(self.current, VideoWriter):
            self.current.abandon()
        else:
            self.close()


def check_target(folder: Path, overwrite: bool) -> Path:
    """Return the folder of an export, absolute, if it may be written.

    Raises:
        ValueError: when it exists and `overwrite` is False, or it holds something else than a LeRobot dataset.
    """
    target = folder.expanduser().resolve()
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return target
    if not (target / at.INFO).is_file():
        raise ValueError(f"{folder} must be a new folder, or a LeRobot dataset to replace; it holds something else")
    if not overwrite:
        raise ValueError(f"{folder} exists; pass --overwrite (overwrite=True) to replace it, or name another folder")
    return target


def _existing(target: Path) -> Path:
    """Return the nearest folder above `target` that exists: what is made below it goes again after an error."""
    return next(parent for parent in target.parents if parent.is_dir())


def _check_fps(fps: int) -> None:
    if isinstance(fps, bool) or not isinstance(fps, int) or fps < 1:
        raise ValueError(f"fps must be a whole number of frames per second, at least 1, got {fps!r}")


def _tasks(task: str | Sequence[str], source: Source) -> list[str]:
    if len(source) == 0:
        raise ValueError(f"{source.name} must hold at least one episode to be exported, got none")
    tasks = [task] * len(source) if isinstance(task, str) else list(task)
    if len(tasks) != len(source):
        raise ValueError(f"task must be one text, or one per episode ({len(source)}), got {len(tasks)}")
    if any(not text.strip() for text in tasks):
        raise ValueError("task must say in words what is done, got an empty text; for example 'swap the two fruits'")
    return tasks


def _names(names: Sequence[str] | None, key: str, width: int) -> Sequence[str] | None:
    if names is not None and (isinstance(names, str) or len(names) != width):
        raise ValueError(f"names of {key!r} must be a list of {width}, got {names!r}")
    return names


def _check_numbers(clip: Clip, episode: int) -> None:
    parts = {**clip.numbers, at.REWARD: clip.rewards, **{f"the last {key}": row for key, row in clip.last.items()}}
    for key, values in parts.items():
        if not np.isfinite(values).all():
            raise ValueError(
                f"numbers must be finite to be stored, got NaN or infinity in {key}, episode {episode}; "
                "drop or repair that episode"
            )


def _tell(progress: Progress | None, frames: int) -> None:
    if progress is not None:
        progress(frames)
