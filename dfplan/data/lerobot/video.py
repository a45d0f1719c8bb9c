"""MP4 files to and from uint8 frames. Nothing else here imports imageio_ffmpeg."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan.errors import missing_extra, unknown_name

Frames = NDArray[np.uint8]
AUTO, PIXELS = "auto", ("yuv420p", "yuv444p")
SMALL = 128  # pixels; below, colours at half the resolution cost 7 to 14 dB on renderings of a robot arm
CRF, KEY_EVERY = 14, 2  # x264's quality (0 lossless, 51 worst), and frames per key frame: readers jump about
FAILURES = (OSError, RuntimeError, StopIteration, AssertionError, KeyError, ValueError)


def require_ffmpeg() -> Any:
    """Import imageio_ffmpeg.

    Raises:
        ImportError: with the command that installs it.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise missing_extra("imageio_ffmpeg", "lerobot", "a video file") from error
    return imageio_ffmpeg


def choose_pixels(pixels: str, height: int, width: int) -> str:
    """Return the pixel format for frames of this size: "auto" is yuv444p for small and for odd ones, else yuv420p.

    Raises:
        ValueError: for an unknown format, or one that cannot hold frames of an odd height or width.
    """
    if pixels == AUTO:
        return "yuv444p" if min(height, width) < SMALL or height % 2 or width % 2 else "yuv420p"
    if pixels not in PIXELS:
        raise unknown_name("pixel format", pixels, (AUTO, *PIXELS))
    if pixels == "yuv420p" and (height % 2 or width % 2):
        raise ValueError(
            f"frames in yuv420p must have an even height and width, got {height} x {width}; "
            "pass pixels='yuv444p', or resize the images"
        )
    return pixels


class VideoWriter:
    """Write frames to an H.264 file with a constant frame rate: frame n is shown at n / fps seconds.

    One encoder thread, so that the same frames give the same file on any number of cores.

    Args:
        path: ends in .mp4; missing parent folders are made.
        size: (height, width) of the frames, pixels.
        fps: frames per second, a whole number.
        pixels: "yuv420p" plays everywhere and has colours at half the resolution; "yuv444p" at the full one; "auto".
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: int, pixels: str = AUTO) -> None:
        pixels = choose_pixels(pixels, *size)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.frames = path, 0
        options = ["-crf", str(CRF), "-g", str(KEY_EVERY), "-threads", "1", "-movflags", "+faststart"]
        self._sink = require_ffmpeg().write_frames(
            str(path), (size[1], size[0]), pix_fmt_out=pixels, fps=fps, quality=None, codec="libx264",
            macro_block_size=1, ffmpeg_log_level="error", output_params=options,
        )  # fmt: skip
        self._sink.send(None)

    def add(self, frames: Frames) -> None:
        """Append (N, H, W, 3) frames."""
        for frame in frames:
            self._sink.send(np.ascontiguousarray(frame))
        self.frames += len(frames)

    def close(self) -> None:
        """Finish the file."""
        self._sink.close()

    def abandon(self) -> None:
        """Stop the encoder without waiting for it; the file is of no use."""
        with contextlib.suppress(KeyboardInterrupt):
            self._sink.throw(KeyboardInterrupt())


class VideoReader:
    """Read runs of frames; a run that follows the last one goes on in the same decoder.

    Args:
        size: (height, width) that the frames must have.
        fps: frames per second of the files.
    """

    def __init__(self, size: tuple[int, int], fps: float) -> None:
        self.size, self.fps = size, fps
        self._at: tuple[Path, int] | None = None
        self._source: Generator[Any, None, None] | None = None

    def read(self, path: Path, first: int, count: int) -> Frames:
        """Return `count` frames from number `first` on, (count, H, W, 3).

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when it is damaged, too short, or its frames have another size.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; copy the data set again, or export it again")
        if self._at != (path, first):
            self.close()
            self._source = self._open(path, first)
        frames = np.empty((count, *self.size, 3), dtype=np.uint8)
        for n in range(count):
            raw = self._next(path)
            if raw is None:
                self.close()
                raise ValueError(
                    f"{path} must hold frames {first} to {first + count - 1}, it ends before {first + n}; "
                    "copy the data set again, or export it again"
                )
            frames[n] = np.frombuffer(raw, dtype=np.uint8).reshape(*self.size, 3)
        self._at = (path, first + count)
        return frames

    def at_end(self, path: Path) -> bool:
        """Tell whether the last run that was read ends the file."""
        return self._source is None or self._next(path) is None

    def close(self) -> None:
        """Stop the decoder."""
        if self._source is not None:
            self._source.close()
        self._source = self._at = None

    def _open(self, path: Path, first: int) -> Generator[Any, None, None]:
        seek = ["-ss", f"{(first - 0.5) / self.fps:.6f}"] if first else []
        source: Generator[Any, None, None] = require_ffmpeg().read_frames(
            str(path), input_params=["-threads", "1", *seek], output_params=["-fps_mode", "passthrough"]
        )
        try:
            width, height = next(source)["size"]
        except FAILURES as error:
            raise ValueError(f"{path} is damaged, or no video; copy the data set again, or export it again") from error
        if (height, width) != self.size:
            source.close()
            raise ValueError(f"{path}: frames must be {self.size[0]} x {self.size[1]}, got {height} x {width}")
        return source

    def _next(self, path: Path) -> Any | None:
        if self._source is None:
            return None
        try:
            return next(self._source, None)
        except FAILURES as error:
            self.close()
            raise ValueError(f"{path} is damaged: {error}; copy the data set again, or export it again") from error


def psnr(wanted: Frames, found: Frames) -> float:
    """Return the peak signal-to-noise ratio, 10 log10(255^2 / mean squared error), in dB; infinite for equal frames."""
    error = float(np.mean((wanted.astype(np.float32) - found.astype(np.float32)) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255.0**2 / error))
