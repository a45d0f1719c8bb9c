"""A maze seen from above: rows go down, columns go right, cell k spans k to k+1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dfplan.plotting.style import FAINT, FLOOR, FORBIDDEN, GOAL, WALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class MazeMap:
    """Say what a maze looks like and how positions lie in it.

    Attributes:
        rows: Equally long strings; ``"#"`` is a wall.
        offset: What is added to a position to get its place in the grid; 0.7 in D4RL's frame (not 0.5).
        unit: Size of a cell; positions are divided by it before the offset is added.
        x_right: Whether the first coordinate runs along columns; in D4RL's frame it runs along rows.
        goal_radius: Radius of the goal disc, in cells.
    """

    rows: Sequence[str]
    offset: float = 0.7
    unit: float = 1.0
    x_right: bool = False
    goal_radius: float = 0.5

    def to_axes(self, points: Any) -> FloatArray:
        """Turn positions (..., 2+) into places (..., 2) to the right and down, in cells."""
        points = np.asarray(points, dtype=np.float64) / self.unit + self.offset
        right, down = (0, 1) if self.x_right else (1, 0)
        return np.stack([points[..., right], points[..., down]], axis=-1)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.rows), len(self.rows[0])


def draw_maze(ax: Axes, maze: MazeMap, *, numbers: bool = True) -> None:
    """Draw walls and floor, and number the rows and columns."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    height, width = maze.shape
    walls = [Rectangle((j, i), 1, 1) for i, row in enumerate(maze.rows) for j, char in enumerate(row) if char == "#"]
    ax.set_facecolor(FLOOR)
    ax.add_collection(PatchCollection(walls, facecolor=WALL, edgecolor=WALL, linewidth=0.3, zorder=1))
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    ax.set_aspect("equal")
    ax.set_xticks(np.arange(width) + 0.5, [str(j) for j in range(width)] if numbers else [])
    ax.set_yticks(np.arange(height) + 0.5, [str(i) for i in range(height)] if numbers else [])
    ax.tick_params(length=0, labelsize=6, labelcolor=FAINT, pad=2)
    for spine in ax.spines.values():
        spine.set_visible(False)


def draw_goal(ax: Axes, maze: MazeMap, goal: Any, radius: float = 0.5) -> None:
    """Draw the goal disc and a star in its middle."""
    from matplotlib.patches import Circle

    x, y = maze.to_axes(np.asarray(goal)[:2])
    ax.add_patch(Circle((x, y), radius, facecolor=GOAL, alpha=0.22, edgecolor=GOAL, linewidth=0.8, zorder=2))
    ax.plot([x], [y], marker="*", markersize=9, color=GOAL, markeredgecolor="white", markeredgewidth=0.6, zorder=7)


def draw_start(ax: Axes, maze: MazeMap, start: Any) -> None:
    """Draw where the ball starts."""
    x, y = maze.to_axes(np.asarray(start)[:2])
    ax.plot([x], [y], marker="o", markersize=5.5, color="white", markeredgecolor="black", markeredgewidth=1.1, zorder=8)


def draw_forbidden(ax: Axes, maze: MazeMap, disc: tuple[float, float, float]) -> None:
    """Draw a forbidden disc (x, y, radius), hatched."""
    from matplotlib.patches import Circle

    centre = maze.to_axes(np.asarray(disc[:2]))
    ax.add_patch(Circle((centre[0], centre[1]), disc[2], facecolor=FORBIDDEN, alpha=0.18, linewidth=0, zorder=2))
    ax.add_patch(
        Circle((centre[0], centre[1]), disc[2], fill=False, edgecolor=FORBIDDEN, hatch="////", linewidth=1.0, zorder=2)
    )
