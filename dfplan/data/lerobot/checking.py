"""Read an export back and compare it with what was exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dfplan.data.lerobot import layout as at
from dfplan.data.lerobot.reading import LeRobotData, read_lerobot
from dfplan.data.lerobot.source import Clip, Source
from dfplan.data.lerobot.video import psnr

MIN_PSNR_DB = 25.0


def verify(
    folder: Path,
    source: Source,
    tasks: Sequence[str],
    min_psnr_db: float = MIN_PSNR_DB,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Compare a LeRobot dataset with its source: numbers must be equal as float32, videos close.

    Args:
        folder: of the dataset.
        source: what it was made of.
        tasks: one text per episode.
        min_psnr_db: how close every frame of a video must be, dB.
        progress: called with the number of frames compared since its last call.

    Raises:
        ValueError: names the episode and the feature that differ.
        FileNotFoundError: for a missing file.
    """
    data = read_lerobot(folder)
    cameras = {key: data.each_images(key) for key in data.cameras}
    for index, (clip, task) in enumerate(zip(source, tasks, strict=True)):
        _compare_numbers(data, index, clip, task)
        for key, frames in cameras.items():
            found = next(frames)
            for n, (wanted, got) in enumerate(zip(clip.images[key], found, strict=True)):
                if (close := psnr(wanted, got)) < min_psnr_db:
                    raise ValueError(
                        f"the video of {key} must be within {min_psnr_db:g} dB of its images, got {close:.1f} dB in "
                        f"frame {n} of episode {index}; pass pixels='yuv444p', or a lower min_psnr_db"
                    )
        if progress is not None:
            progress(len(clip))
    if index + 1 != len(data):
        raise ValueError(f"{folder} must hold {index + 1} episodes, got {len(data)}")


def _compare_numbers(data: LeRobotData, index: int, clip: Clip, task: str) -> None:
    found = data.episode(index)
    wanted = {**clip.numbers, at.REWARD: clip.rewards}
    if clip.success is not None:
        wanted[at.SUCCESS] = clip.success
    for key, values in wanted.items():
        if not np.array_equal(found[key].reshape(len(clip), -1), values.reshape(len(clip), -1)):
            raise ValueError(f"{key} of episode {index} was not read back as it was written; is the disk full?")
    for key, row in clip.last.items():
        if not np.array_equal(np.asarray(data.episodes[index][at.FINAL + key], dtype=np.float32), row):
            raise ValueError(f"the last {key} of episode {index} was not read back as it was written")
    if {data.tasks[n] for n in found["task_index"].tolist()} != {task}:
        raise ValueError(f"the task of episode {index} was not read back as it was written")
