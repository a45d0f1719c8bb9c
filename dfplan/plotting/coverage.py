"""Draw how often each place was visited."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dfplan.plotting.maze import MazeMap, draw_goal, draw_maze
from dfplan.plotting.style import new_figure, save

SUFFIXES = (".png", ".pdf", ".svg")


def save_coverage(
    counts: NDArray[np.int64],
    corner: tuple[float, float],
    cells_per_unit: float,
    path: str | Path,
    *,
    title: str = "",
    maze: Sequence[str] | None = None,
) -> Path:
    """Write a picture of visit counts: x down and y to the right, as in the text of a maze.

    Args:
        counts: (X, Y) visits per grid cell.
        corner: the (x, y) where the grid begins.
        cells_per_unit: grid cells per unit of x and y.
        path: a file named *.png, *.pdf or *.svg.
        title: one line above the picture.
        maze: rows of '#', 'O', 'G' in D4RL's frame, whose walls and goal are drawn, or None.

    Returns:
        The path written.

    Raises:
        ValueError: for another suffix.
        ImportError: without the extra `viz`.
    """
    target = Path(path)
    if target.suffix not in SUFFIXES:
        raise ValueError(f"a picture must be named *{', *'.join(SUFFIXES)}, got {target.name!r}")
    offset = MazeMap(maze).offset if maze is not None else 0.0
    top, left = corner[0] + offset, corner[1] + offset
    height, width = np.array(counts.shape) / cells_per_unit
    drawn = (len(maze), len(maze[0])) if maze is not None else (height, width)
    figure = new_figure(float(np.clip(5.0 * drawn[1] / drawn[0] + 1.2, 4.0, 14.0)), 5.0)
    figure.set_layout_engine("constrained")
    ax = figure.add_subplot()
    if maze is not None:
        layout = MazeMap(maze)
        draw_maze(ax, layout)
        for i, row in enumerate(maze):
            if "G" in row:
                draw_goal(ax, layout, (i, row.index("G")))
    from matplotlib.colors import LogNorm

    image = ax.imshow(
        np.ma.masked_equal(counts, 0),
        extent=(left, left + width, top + height, top),
        norm=LogNorm(vmin=1, vmax=max(2, int(counts.max()))),
        cmap="viridis",
        interpolation="nearest",
        zorder=0.5,
    )
    if maze is not None:
        ax.set_xlim(0, len(maze[0]))
        ax.set_ylim(len(maze), 0)
    else:
        ax.set(xlabel="y", ylabel="x")
    ax.set_title(title, fontsize=9)
    figure.colorbar(image, ax=ax, label="visits per grid cell", shrink=0.85)
    return save(figure, target)
