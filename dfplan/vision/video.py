"""Write and read videos: MP4 (H.264) by imageio, GIF by pillow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan.data.files import atomic_path
from dfplan.errors import missing_extra, unknown_name

KINDS = (".mp4", ".gif")
CRF = 18  # H.264's quality: 0 loses nothing, 18 little that can be seen, 51 is worst

Pictures = NDArray[np.uint8]


def write_video(path: str | Path, frames: Iterable[Pictures], *, fps: float = 10.0, crf: int = CRF) -> Path:
    """Write frames as a video; the file takes its place when it is whole.

    An MP4 has exactly as many frames as were given. A GIF shows pictures that are equal to the one before as one that
    stays longer, and knows 256 colours.

    Args:
        path: Where to, ``.mp4`` or ``.gif``.
        frames: uint8 (T, H, W, 3), or one picture (H, W, 3) after another; at least one. MP4 needs even H and W.
        fps: Pictures per second.
        crf: Quality of an MP4, 0 to 51; lower is better.

    Returns:
        The path.

    Raises:
        ImportError: If imageio and imageio-ffmpeg (for a GIF pillow) are not installed.
        ValueError: If the ending is unknown, there are no frames, one does not fit, or fps or crf is out of range.
    """
    path = Path(path)
    if path.suffix.lower() not in KINDS:
        raise unknown_name("kind of video", path.suffix, KINDS)
    if not 0 < fps <= 1000 or not 0 <= crf <= 51:
        raise ValueError(f"fps must lie in (0, 1000] and crf in [0, 51], got {fps} and {crf}")
    checked = _checked(frames, even=path.suffix.lower() == ".mp4")
    if path.suffix.lower() == ".gif":
        from dfplan.plotting import frames_gif

        return frames_gif(path, list(checked), fps)
    first = next(checked)
    with atomic_path(path) as temporary, _mp4_writer(temporary, fps, crf) as writer:
        for frame in chain([first], checked):
            writer.append_data(frame)
    return path


def write_side_by_side(
    path: str | Path, videos: Mapping[str, Pictures], *, fps: float = 10.0, scale: int = 4, crf: int = CRF
) -> Path:
    """Write videos side by side, each under its title, for example what was imagined beside what happened.

    Args:
        path: Where to, ``.mp4`` or ``.gif``.
        videos: By title, uint8 (T, H, W, 3) each, of one shape.
        fps: Pictures per second.
        scale: Each pixel becomes ``scale * scale`` pixels.
        crf: Quality of an MP4.

    Returns:
        The path.

    Raises:
        ImportError: If a package is missing.
        ValueError: If the videos do not fit together, or an option is out of range.
    """
    from dfplan.plotting import beside

    return write_video(path, beside(videos, scale=scale), fps=fps, crf=crf)


def read_video(path: str | Path) -> Pictures:
    """Read all frames of a video, uint8 (T, H, W, 3).

    Raises:
        ImportError: If imageio and imageio-ffmpeg are not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be decoded.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    imageio = _imageio()
    try:
        with imageio.get_reader(path, format="FFMPEG") as reader:
            frames = list(reader.iter_data())
    except (OSError, RuntimeError, IndexError) as error:
        raise ValueError(f"{path} cannot be decoded ({error}); write it again") from error
    if not frames:
        raise ValueError(f"{path} holds no frames; write it again")
    return np.stack(frames).astype(np.uint8)


def _checked(frames: Iterable[Pictures], *, even: bool) -> Iterator[Pictures]:
    """Yield frames that are pictures of one size."""
    shape: tuple[int, ...] | None = None
    for i, frame in enumerate(frames):
        array = np.asarray(frame)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"frames must be uint8 (H, W, 3), frame {i} is {array.dtype} {array.shape}")
        if shape is not None and array.shape != shape:
            raise ValueError(f"frames must have one size, frame 0 is {shape}, frame {i} is {array.shape}")
        if even and (array.shape[0] % 2 or array.shape[1] % 2):
            raise ValueError(
                f"MP4 needs an even height and width, got {array.shape[:2]}; repeat pixels, or write a GIF"
            )
        shape = array.shape
        yield array
    if shape is None:
        raise ValueError("a video needs at least one frame, got none")


@contextmanager
def _mp4_writer(path: Path, fps: float, crf: int) -> Iterator[Any]:
    """Open a writer of H.264 that leaves the size alone and uses one thread, so that the file is always the same."""
    writer = _imageio().get_writer(
        path, format="FFMPEG", mode="I", fps=fps, codec="libx264", quality=None, pixelformat="yuv420p",
        macro_block_size=1, ffmpeg_log_level="error",
        output_params=["-crf", str(crf), "-threads", "1", "-movflags", "+faststart"],
    )  # fmt: skip
    try:
        yield writer
    finally:
        writer.close()


def _imageio() -> Any:
    try:
        import imageio.v2
        import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise missing_extra("imageio", "video", "writing or reading a video") from error
    return imageio.v2
