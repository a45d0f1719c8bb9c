"""Samples of a planner side by side, under different guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfplan.plotting.maze import FloatArray, MazeMap, draw_forbidden, draw_goal, draw_maze, draw_start
from dfplan.plotting.style import INK, PLAN, new_figure, save


@dataclass(frozen=True)
class PlansPanel:
    """Hold the samples of one call.

    Attributes:
        title: What stands above them.
        samples: (N, H+1, O), positions in the first two columns.
    """

    title: str
    samples: FloatArray


def guided_figure(
    path: str | Path,
    maze: MazeMap,
    panels: Sequence[PlansPanel],
    *,
    discs: Sequence[tuple[float, float, float]] = (),
    goal: Any = None,
    goal_radius: float = 0.5,
) -> Path:
    """Draw samples side by side and write the picture.

    Args:
        path: Where to; the suffix chooses the format.
        maze: The maze.
        panels: At least one set of samples.
        discs: Forbidden discs (x, y, radius), environment units.
        goal: (2,) or None.
        goal_radius: Radius of the goal disc, in cells.

    Returns:
        The path written.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is nothing to draw.
    """
    if not panels:
        raise ValueError("guided_figure needs at least one panel to draw, got none")
    height, width = maze.shape
    panel_w = 3.4
    figure = new_figure(len(panels) * panel_w, panel_w * height / width + 0.35, dpi=120)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, panel in zip(axes, panels, strict=True):
        draw_maze(ax, maze, numbers=False)
        for disc in discs:
            draw_forbidden(ax, maze, disc)
        if goal is not None:
            draw_goal(ax, maze, goal, goal_radius)
        for sample in panel.samples:
            ax.plot(*maze.to_axes(sample).T, color=PLAN, linewidth=1.1, alpha=0.7, zorder=4)
        draw_start(ax, maze, panel.samples[0, 0])
        ax.set_title(panel.title, fontsize=9, color=INK, loc="left", pad=4)
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.02, top=1 - 0.33 / figure.get_size_inches()[1], wspace=0.06)
    return save(figure, path)
