"""Video files: readable, with the right frames, and titles."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("imageio_ffmpeg")

import imageio_ffmpeg
from PIL import Image

from dfplan.plotting import beside
from dfplan.vision import psnr, read_video, write_side_by_side, write_video
from tests.core.scenes import squares


def film(n: int = 12, size: int = 32) -> Any:
    """Draw a square that walks to the right."""
    frames = np.full((n, size, size + 2, 3), 90, dtype=np.uint8)
    for t in range(n):
        frames[t, 10:18, 2 * t : 2 * t + 8] = (220, 60, 60)
    return frames


def test_an_mp4_has_the_frames_that_were_written(tmp_path: Path) -> None:
    # Catches: a size rounded to blocks of 16, frames dropped or doubled by a rate, a rate that is ignored, channels
    # in another order, a first frame that is swallowed by the check.
    frames = film()
    path = write_video(tmp_path / "a.mp4", frames, fps=7.5)
    back = read_video(path)
    assert back.shape == frames.shape and back.dtype == np.uint8
    assert (psnr(frames, back) > 28).all()
    assert (psnr(frames[1:], back[:-1]) < 28).all()
    assert imageio_ffmpeg.count_frames_and_secs(path) == (12, pytest.approx(12 / 7.5, abs=0.01))
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_frames_may_come_one_by_one_and_the_file_is_always_the_same(tmp_path: Path) -> None:
    # Catches: a list that is needed, threads or times in the file.
    a, b = tmp_path / "a.mp4", tmp_path / "b.mp4"
    write_video(a, film(), crf=30)
    write_video(b, iter(film()), crf=30)
    assert a.read_bytes() == b.read_bytes() and b" threads=1 " in a.read_bytes()
    assert write_video(tmp_path / "c.mp4", film(), crf=2).stat().st_size > a.stat().st_size


def test_a_gif_has_the_frames_that_were_written(tmp_path: Path) -> None:
    # Catches: a GIF of one frame, a duration in seconds.
    with Image.open(write_video(tmp_path / "a.gif", film(), fps=20)) as gif:
        assert gif.n_frames == 12 and gif.size == (34, 32) and gif.info["duration"] == 50


def test_side_by_side_keeps_every_pixel_under_its_title(tmp_path: Path) -> None:
    # Catches: panels in another order, a scale of one axis, titles over the picture, one video's frames in both.
    real, imagined = film(5), film(5)[::-1].copy()
    both = beside({"real": real, "imagined": imagined}, scale=2)
    assert both.shape == (5, 64 + 16, 2 * 68 + 4, 3)
    assert np.array_equal(both[:, 16::2, 0:68:2], real) and np.array_equal(both[:, 17::2, 73::2], imagined)
    assert (both[:, :16].min((1, 2, 3)) < 150).all() and (both[:, :, 68:72] == 255).all()
    path = write_side_by_side(tmp_path / "a.mp4", {"real": real, "imagined": imagined}, scale=3)
    assert read_video(path).shape[:2] == (5, 96 + 16)


def test_a_long_title_widens_its_panel_and_sizes_are_even() -> None:
    # Catches: a title that is cut, odd sizes that an MP4 cannot have.
    video = squares(3, np.random.default_rng(0), size=32)[0][:, 0, :31, :31]
    title = "imagined from the first frame alone"
    wide = beside({title: video})
    assert wide.shape[2] > 150 and wide.shape[1] % 2 == 0 and wide.shape[2] % 2 == 0
    assert beside({"": video}).shape == (3, 48, 32, 3)
    assert any(np.array_equal(wide[:, 16:47, x : x + 31], video) for x in range(wide.shape[2] - 31))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    # Catches: broken files left behind, errors out of an encoder in place of a rule.
    frames = film(4)
    with pytest.raises(ValueError, match=r"unknown kind of video '\.avi'.*Choose one of: \.gif, \.mp4"):
        write_video(tmp_path / "a.avi", frames)
    with pytest.raises(ValueError, match=r"even height and width, got \(32, 33\)"):
        write_video(tmp_path / "a.mp4", frames[:, :, :33])
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "a.mp4", frames[:0])
    with pytest.raises(ValueError, match="frame 0 is float64"):
        write_video(tmp_path / "a.mp4", frames / 255)
    with pytest.raises(ValueError, match=r"frame 0 is \(32, 34, 3\), frame 2 is \(30, 34, 3\)"):
        write_video(tmp_path / "a.mp4", [frames[0], frames[1], frames[2, :30]])
    with pytest.raises(ValueError, match="fps must lie"):
        write_video(tmp_path / "a.mp4", frames, fps=0)
    with pytest.raises(ValueError, match="one shape"):
        beside({"a": frames, "b": frames[1:]})
    with pytest.raises(ValueError, match="scale must be"):
        beside({"a": frames}, scale=0)
    assert not list(tmp_path.iterdir())
    (tmp_path / "b.mp4").write_bytes(b"not a video")
    with pytest.raises(ValueError, match=r"b\.mp4 cannot be decoded"):
        read_video(tmp_path / "b.mp4")
    with pytest.raises(FileNotFoundError, match=r"c\.mp4 does not exist"):
        read_video(tmp_path / "c.mp4")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a bare ImportError without the remedy.
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ImportError, match=r"pip install 'dfplan\[video\]'"):
        write_video(tmp_path / "a.mp4", film(2))
