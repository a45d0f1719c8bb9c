"""A film of pictures, as a GIF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dfplan.data.files import atomic_path
from dfplan.errors import missing_extra


def frames_gif(path: str | Path, frames: Sequence[Any], fps: float = 15.0) -> Path:
    """Write pictures as an animation.

    Args:
        path: Where to, ``.gif``.
        frames: uint8 (H, W, 3) each, as ``env.render()`` gives them in the mode ``rgb_array``; at least one.
        fps: Pictures per second.

    Returns:
        The path.

    Raises:
        ImportError: If pillow is not installed.
        ValueError: If there are no pictures, or one is no picture.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_extra("PIL", "viz", "writing an animation") from error
    path, arrays = Path(path), [np.asarray(frame) for frame in frames]
    if not arrays or any(a.ndim != 3 or a.shape[2] != 3 or a.dtype != np.uint8 for a in arrays):
        found = "none" if not arrays else f"{arrays[0].dtype} {arrays[0].shape}"
        raise ValueError(f"frames must be uint8 (H, W, 3), at least one, got {found}; use render_mode='rgb_array'")
    images = [Image.fromarray(a).quantize(128, dither=Image.Dither.NONE) for a in arrays]
    with atomic_path(path) as temporary:
        images[0].save(
            temporary, format="GIF", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0
        )
    return path
