"""One plan with the candidates it was chosen from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dfplan.plotting.maze import FloatArray, MazeMap, draw_forbidden, draw_goal, draw_maze, draw_start
from dfplan.plotting.style import FAINT, INK, PLAN, new_figure, save

SELECTED = "#c8442f"


def plan_figure(
    path: str | Path,
    maze: MazeMap,
    curve: FloatArray,
    candidates: FloatArray,
    states: FloatArray,
    goal: Any,
    *,
    title: str = "",
    goal_radius: float = 0.5,
    discs: Sequence[tuple[float, float, float]] = (),
) -> Path:
    """Draw the selected plan over the other candidates and write the picture.

    Args:
        path: Where to; the suffix chooses the format.
        maze: The maze.
        curve: (n, 2) positions along the selected plan.
        candidates: (N, H+1, O) all samples.
        states: (H+1, O) the selected plan's tokens.
        goal: (2,) or None.
        title: What stands above it.
        goal_radius: Radius of the goal disc, in cells.
        discs: Forbidden discs (x, y, radius).

    Raises:
        ImportError: If matplotlib is not installed.
    """
    from matplotlib.lines import Line2D

    height, width = maze.shape
    figure = new_figure(6.6, 6.6 * height / width + 0.75, dpi=140)
    total_h = figure.get_size_inches()[1]
    ax = figure.add_axes((0.03, 0.38 / total_h, 0.955, 1 - 0.78 / total_h))
    draw_maze(ax, maze)
    if goal is not None:
        draw_goal(ax, maze, goal, goal_radius)
    for disc in discs:
        draw_forbidden(ax, maze, disc)
    for candidate in candidates:
        ax.plot(*maze.to_axes(candidate).T, color=PLAN, linewidth=1.0, alpha=0.35, zorder=3)
    ax.plot(*maze.to_axes(curve).T, color=SELECTED, linewidth=2.4, zorder=5, solid_capstyle="round")
    tokens = maze.to_axes(states[1:])
    last = maze.to_axes(curve[-1:])
    shown = tokens[: 1 + int(np.linalg.norm(tokens - last, axis=1).argmin())]
    ax.plot(*shown.T, linestyle="none", marker="o", markersize=4, color=SELECTED, markeredgecolor="white", zorder=6)
    draw_start(ax, maze, states[0])
    ax.set_title(title, fontsize=10.5, color=INK, loc="left", pad=6, weight="bold")
    handles = [
        Line2D([], [], color=SELECTED, linewidth=2.4, marker="o", markersize=4, markeredgecolor="white"),
        Line2D([], [], color=PLAN, linewidth=1.2, alpha=0.6),
    ]
    labels = ["selected plan and its tokens", f"{len(candidates)} samples"]
    figure.legend(handles, labels, loc="lower left", ncols=2, frameon=False, fontsize=8, labelcolor=FAINT)
    return save(figure, path)
