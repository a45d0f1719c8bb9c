"""An animation of plans being denoised along a scheduling matrix."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dfplan.data.files import atomic_path
from dfplan.errors import missing_extra
from dfplan.plotting.maze import FloatArray, MazeMap, draw_goal, draw_maze, draw_start
from dfplan.plotting.style import FAINT, INK, new_figure, noise_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 12  # samples drawn
FRAMES = 64  # frames at most
FRAME_MS, LAST_MS = 90, 2500


def denoising_gif(
    path: str | Path,
    maze: MazeMap,
    trace: FloatArray,
    levels: NDArray[np.integer[Any]],
    goal: Any,
    *,
    selected: int = 0,
    title: str = "",
    goal_radius: float = 0.5,
) -> Path:
    """Draw every row of the denoising and write a GIF.

    Left, the samples in the maze: one dot per token, coloured by its noise level, the selected sample in front.
    Right, the scheduling matrix with the row that has just been reached.

    Args:
        path: Where to.
        maze: The maze.
        trace: (M+1, N, H+1, O), all samples after every row; the first state is the measured one.
        levels: (M+1, H), noise levels of the H future tokens after every row.
        goal: (2,) or None.
        selected: Index of the sample that was chosen.
        title: What stands above it.
        goal_radius: Radius of the goal disc, in cells.

    Raises:
        ImportError: If matplotlib or pillow is not installed.
        ValueError: If shapes do not fit.
    """
    if trace.ndim != 4 or levels.shape != (trace.shape[0], trace.shape[2] - 1):
        raise ValueError(
            f"trace must be (M+1, N, H+1, O) and levels (M+1, H), got {trace.shape} and {levels.shape}; "
            "leave the context tokens' columns out"
        )
    movie = _Movie(maze, trace, levels, goal, selected, title, goal_radius)
    rows = np.unique(np.linspace(0, len(trace) - 1, min(FRAMES, len(trace))).round().astype(int))
    return _write_gif(Path(path), [movie.frame(int(m)) for m in rows])


class _Movie:
    """A figure whose artists are moved from row to row."""

    def __init__(
        self,
        maze: MazeMap,
        trace: FloatArray,
        levels: NDArray[np.integer[Any]],
        goal: Any,
        selected: int,
        title: str,
        goal_radius: float,
    ) -> None:
        others = [i for i in range(trace.shape[1]) if i != selected][: SHOWN - 1]
        self.places = maze.to_axes(trace[:, [*others, selected]])
        self.highest = max(int(levels.max()), 1)
        self.share = levels / self.highest
        self.figure, self.ax, matrix_ax = self._lay_out(maze)
        draw_maze(self.ax, maze, numbers=False)
        if goal is not None:
            draw_goal(self.ax, maze, goal, goal_radius)
        draw_start(self.ax, maze, trace[0, 0, 0])
        self.colours = noise_map()
        samples, tokens = self.places.shape[1], levels.shape[1]
        self.lines = [self.ax.plot([], [], color="#1b4f9c", zorder=4)[0] for _ in range(samples)]
        self.dots = self.ax.scatter(np.zeros(samples * tokens), np.zeros(samples * tokens), zorder=5)
        self.dots.set_clip_on(True)
        width = self.figure.get_size_inches()[0]
        self.figure.text(0.15 / width, 0.985, title, fontsize=10.5, color=INK, va="top", weight="bold")
        self.caption = self.figure.text(0.15 / width, 0.02, "", fontsize=8.5, color=FAINT)
        self._draw_matrix(matrix_ax)

    def _lay_out(self, maze: MazeMap) -> tuple[Figure, Any, Any]:
        height, width = maze.shape
        maze_w = min(5.2, 3.9 * width / height)
        maze_h = maze_w * height / width
        total_w, total_h = maze_w + 2.75, maze_h + 0.72
        figure = new_figure(total_w, total_h, dpi=100)
        left = figure.add_axes((0.15 / total_w, 0.32 / total_h, maze_w / total_w, maze_h / total_h))
        right = figure.add_axes(((maze_w + 0.65) / total_w, 0.5 / total_h, 1.9 / total_w, (maze_h - 0.35) / total_h))
        return figure, left, right

    def _draw_matrix(self, ax: Any) -> None:
        """Draw the scheduling matrix, rows from top to bottom as they are walked."""
        rows, tokens = self.share.shape
        ax.imshow(self.share, cmap=self.colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        ax.set_xlabel("token (future ->)", fontsize=8, color=INK, labelpad=2)
        ax.set_ylabel("row of the scheduling matrix", fontsize=8, color=INK, labelpad=2)
        ax.set_title("noise level: blue clean, grey pure noise", fontsize=7.5, color=FAINT, loc="left", pad=4)
        ax.set_xticks([0, tokens - 1], ["1", str(tokens)])
        ax.set_yticks([0, rows - 1])
        ax.tick_params(labelsize=7, length=2, labelcolor=FAINT)
        for spine in ax.spines.values():
            spine.set_visible(False)
        self.cursor = ax.plot([-0.5, tokens - 0.5], [0, 0], color="black", linewidth=1.8)[0]
        self.pointer = ax.plot([tokens - 0.2], [0], marker="<", color="black", markersize=6, clip_on=False)[0]

    def frame(self, m: int) -> Any:
        """Draw row m; returns an image."""
        places, share = self.places[m], self.share[m]
        samples, tokens = len(places), len(share)
        self.dots.set_offsets(places[:, 1:].reshape(-1, 2))
        self.dots.set_facecolor(np.tile(self.colours(share), (samples, 1)))
        front = np.repeat(np.arange(samples) == samples - 1, tokens)
        self.dots.set_sizes(np.where(front, 30.0, 9.0))
        self.dots.set_edgecolor([("black" if f else "none") for f in front])
        self.dots.set_linewidth(np.where(front, 0.6, 0.0))
        for i, line in enumerate(self.lines):
            clean = int((share <= 0.35).cumprod().sum())  # the stretch that has already taken shape
            line.set_data(*places[i, : 1 + clean].T)
            line.set_linewidth(2.0 if i == samples - 1 else 0.7)
            line.set_alpha(0.95 if i == samples - 1 else 0.3)
        self.cursor.set_ydata([m, m])
        self.pointer.set_ydata([m])
        self.caption.set_text(f"row {m} of {len(self.share) - 1} · {samples} samples, the selected one in front")
        return _snapshot(self.figure)


def _snapshot(figure: Figure) -> Any:
    """Render a figure to an image without transparency."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba")
    width, height = figure.canvas.get_width_height()
    return Image.frombuffer("RGBA", (width, height), buffer.getvalue(), "raw", "RGBA", 0, 1).convert("RGB")


def _write_gif(path: Path, frames: list[Any]) -> Path:
    """Write images with one common palette, the last shown longest."""
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_extra("PIL", "viz", "writing an animation") from error
    sample = Image.new("RGB", (frames[0].width, frames[0].height * 3))
    for i, frame in enumerate((frames[0], frames[len(frames) // 2], frames[-1])):
        sample.paste(frame, (0, i * frame.height))
    palette = sample.quantize(160, method=Image.Quantize.MAXCOVERAGE)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    with atomic_path(path) as temporary:
        small[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=small[1:],
            duration=[FRAME_MS] * (len(small) - 1) + [LAST_MS],
            loop=0,
            optimize=True,
        )
    return path
