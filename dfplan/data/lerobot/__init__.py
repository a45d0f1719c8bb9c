"""The LeRobot dataset format, version 3: Parquet files of numbers, MP4 files of images."""

from __future__ import annotations

from dfplan.data.lerobot.reading import LeRobotData, is_lerobot, read_lerobot
from dfplan.data.lerobot.writing import export_lerobot

__all__ = ["LeRobotData", "export_lerobot", "is_lerobot", "read_lerobot"]
