"""Executed paths over the maze, coloured by time, with the plans beneath."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dfplan.plotting.maze import FloatArray, MazeMap, draw_goal, draw_maze, draw_start
from dfplan.plotting.style import INK, PLAN, new_figure, save, time_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection


@dataclass(frozen=True)
class PathPanel:
    """Hold one episode to draw.

    Attributes:
        title: What stands above it.
        positions: (T+1, 2) executed.
        goal: (2,).
        plans: Curves (n, 2) in the order in which they were made.
    """

    title: str
    positions: FloatArray
    goal: FloatArray
    plans: Sequence[FloatArray] = ()


def paths_figure(
    path: str | Path,
    maze: MazeMap,
    panels: Sequence[PathPanel],
    *,
    dt_s: float,
    title: str = "",
    goal_radius: float = 0.5,
) -> Path:
    """Draw episodes side by side and write the picture.

    Args:
        path: Where to; the suffix chooses the format.
        maze: The maze.
        panels: At least one episode.
        dt_s: Seconds per step.
        title: What stands above all.
        goal_radius: Radius of the goal disc, in cells.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is nothing to draw.
    """
    if not panels:
        raise ValueError("paths_figure needs at least one episode to draw, got none")
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    height, width = maze.shape
    panel_w = 3.7
    panel_h = panel_w * height / width
    figure = new_figure(columns * panel_w + 1.0, rows * (panel_h + 0.32) + 0.55, dpi=130)
    axes = figure.subplots(rows, columns, squeeze=False)
    total_w, total_h = figure.get_size_inches()
    figure.subplots_adjust(
        left=0.2 / total_w,
        right=1 - 0.95 / total_w,
        bottom=0.18 / total_h,
        top=1 - 0.55 / total_h,
        wspace=0.05,
        hspace=0.34 / panel_h,
    )
    moving = [_moving(panel, goal_radius) for panel in panels]
    arrived = [steps for steps, panel in zip(moving, panels, strict=True) if steps <= len(panel.positions)]
    longest = max(arrived or moving) * dt_s  # the colours span the episodes that arrive
    colours = None
    for ax, panel in zip(axes.flat, panels, strict=False):
        colours = _draw_panel(ax, maze, panel, dt_s, longest, goal_radius)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    if colours is not None:
        bar_ax = figure.add_axes((1 - 0.72 / total_w, 0.25, 0.13 / total_w, 0.5))
        bar = figure.colorbar(colours, cax=bar_ax)
        bar.set_label("time (s)", fontsize=8, color=INK)
        bar.ax.tick_params(labelsize=7, length=2)
        bar.outline.set_visible(False)
    figure.text(0.2 / total_w, 1 - 0.1 / total_h, title, fontsize=11, color=INK, va="top", weight="bold")
    return save(figure, path)


def _moving(panel: PathPanel, goal_radius: float) -> int:
    """Count the steps until the ball is at the goal for good; more than there are if it never is."""
    away = np.linalg.norm(panel.positions[:, :2] - panel.goal[:2], axis=1) > goal_radius
    return int(np.flatnonzero(away)[-1]) + 2 if away.any() else 2


def _draw_panel(
    ax: Axes, maze: MazeMap, panel: PathPanel, dt_s: float, longest: float, goal_radius: float
) -> LineCollection:
    from matplotlib.collections import LineCollection

    draw_maze(ax, maze)
    draw_goal(ax, maze, panel.goal, goal_radius)
    for i, plan in enumerate(panel.plans):
        curve = maze.to_axes(plan)
        first = i == 0
        ax.plot(*curve.T, color=PLAN, linewidth=4.0, alpha=0.42 if first else 0.2, solid_capstyle="round", zorder=3)
    points = maze.to_axes(panel.positions)
    segments = np.stack([points[:-1], points[1:]], axis=1)
    line = LineCollection(list(segments), cmap=time_map(), linewidths=1.7, zorder=5, capstyle="round")
    line.set_array(np.arange(len(segments)) * dt_s)
    line.set_clim(0, longest)
    ax.add_collection(line)
    draw_start(ax, maze, panel.positions[0])
    ax.set_title(panel.title, fontsize=8.5, color=INK, loc="left", pad=4)
    return line
