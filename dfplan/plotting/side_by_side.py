"""Videos side by side under their titles, as one video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan.errors import missing_extra

BAR, GAP = 16, 4  # pixels: height of the titles' bar, space between panels
PAPER, TEXT = (255, 255, 255), (43, 48, 60)


def beside(videos: Mapping[str, NDArray[np.uint8]], *, scale: int = 1) -> NDArray[np.uint8]:
    """Put videos side by side, each under its title.

    A title wider than its video widens the panel. Height and width of the result are even, as video codecs want them.

    Args:
        videos: By title, uint8 (T, H, W, 3) each, of one shape; at least one.
        scale: Each pixel becomes ``scale * scale`` pixels.

    Returns:
        uint8 (T, height, width, 3).

    Raises:
        ImportError: If pillow is not installed.
        ValueError: If there are no videos, their shapes differ, or the scale is not a positive integer.
    """
    arrays = list(videos.values())
    if not arrays or any(a.ndim != 4 or a.shape[-1] != 3 or a.dtype != np.uint8 for a in arrays):
        raise ValueError(f"videos must be uint8 (T, H, W, 3), at least one, got {[(a.dtype, a.shape) for a in arrays]}")
    if any(a.shape != arrays[0].shape for a in arrays):
        raise ValueError(
            f"videos side by side must have one shape, got {[a.shape for a in arrays]}; cut or repeat frames"
        )
    if not isinstance(scale, int) or scale < 1:
        raise ValueError(f"scale must be a positive integer, got {scale!r}")
    panels = [_panel(title, video, scale) for title, video in videos.items()]
    gap = np.full((*panels[0].shape[:2], GAP, 3), 255, dtype=np.uint8)
    joined = np.concatenate([part for panel in panels for part in (panel, gap)][:-1], 2)
    odd = [(0, 0), (0, joined.shape[1] % 2), (0, joined.shape[2] % 2), (0, 0)]
    return np.pad(joined, odd, constant_values=255)


def _panel(title: str, video: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    large = video.repeat(scale, 1).repeat(scale, 2)
    bar = _title(title, large.shape[2])
    left = (bar.shape[1] - large.shape[2]) // 2
    sides = (left, bar.shape[1] - large.shape[2] - left)
    middle = np.pad(large, [(0, 0), (0, 0), sides, (0, 0)], constant_values=255)
    return np.concatenate([np.broadcast_to(bar, (len(video), *bar.shape)), middle], 1)


def _title(title: str, width: int) -> NDArray[np.uint8]:
    """Write a title on a bar at least as wide as asked for, (BAR, width, 3)."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise missing_extra("PIL", "video", "writing titles") from error
    font: Any = ImageFont.load_default()
    needed = int(font.getlength(title)) + 4 if title else 0
    image = Image.new("RGB", (max(width, needed), BAR), PAPER)
    ImageDraw.Draw(image).text((2, 2), title, fill=TEXT, font=font)
    return np.asarray(image)
