"""Names and places of the LeRobot dataset format, version 3.0: what is in which file.

Source: the format's documentation, https://huggingface.co/docs/lerobot/lerobot-dataset-v3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

VERSION = "v3.0"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
EPISODES_PATH = f"meta/episodes/{PLACE}.parquet"
DATA_PATH = f"data/{PLACE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{PLACE}.mp4"
FILES_PER_CHUNK, DATA_MB, VIDEO_MB = 1000, 100, 200

STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
REWARD, DONE, TRUNCATED, SUCCESS = "next.reward", "next.done", "next.truncated", "next.success"
# What every data set has, in the order of the format; the writer makes these.
COUNTERS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
FINAL = "dfplan/final/"  # an episode's columns of our own: its last observation, which belongs to no frame


def number_feature(dtype: str, width: int, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Describe a column of numbers as `meta/info.json` does."""
    return {"dtype": dtype, "shape": [width], "names": None if names is None else list(names)}


def video_feature(height: int, width: int, fps: int, pixels: str) -> dict[str, Any]:
    """Describe a camera as `meta/info.json` does."""
    about = {
        "video.height": height,
        "video.width": width,
        "video.codec": "h264",
        "video.pix_fmt": pixels,
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
    }
    return {
        "dtype": "video",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
        "info": about,
    }


def describe(
    features: Mapping[str, Mapping[str, Any]], fps: int, robot_type: str | None, episodes: int, frames: int, tasks: int
) -> dict[str, Any]:
    """Return what `meta/info.json` holds."""
    videos = any(feature["dtype"] == "video" for feature in features.values())
    return {
        "codebase_version": VERSION,
        "robot_type": robot_type,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": DATA_MB,
        "video_files_size_in_mb": VIDEO_MB,
        "fps": fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if videos else None,
        "features": {key: dict(feature) for key, feature in features.items()},
    }
