"""Pictures of the maze from above: a numpy drawing that runs anywhere, and MuJoCo's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dfplan_envs.maze2d import _mujoco
from dfplan_envs.maze2d.layouts import CELL_OFFSET, Maze
from dfplan_envs.maze2d.physics import BALL_RADIUS, ORIGIN, PointMass
from dfplan_envs.maze2d.task import GOAL_RADIUS

Frame = NDArray[np.uint8]
Color = tuple[int, int, int]

GROUND: Color = (237, 237, 230)
WALL: Color = (92, 99, 115)
GOAL: Color = (204, 69, 59)
GOAL_DISC: Color = (242, 207, 199)
BALL: Color = (33, 94, 178)


class View(Protocol):
    """Draw the current state."""

    def draw(self, goal_x: float, goal_y: float) -> Frame:
        """Draw one frame, (H, W, 3) uint8."""

    def close(self) -> None:
        """Free what the view holds."""


def to_pixels(x: float, y: float, cell_px: int) -> tuple[float, float]:
    """Return where a position lies in a frame of either renderer: pixels (down, right) from the upper left corner."""
    return (x + CELL_OFFSET) * cell_px, (y + CELL_OFFSET) * cell_px


class TopDown:
    """Draw the maze with numpy alone.

    Args:
        maze: the maze.
        ball: whose position is drawn.
        size: longer side of a frame, in pixels (rounded down to whole cells).
    """

    def __init__(self, maze: Maze, ball: PointMass, size: int) -> None:
        self._cell_px = cell_pixels(maze, size)
        self._ball = ball
        walls = np.array([[char == "#" for char in row] for row in maze.rows])
        cells = np.where(walls[..., None], np.array(WALL, dtype=np.uint8), np.array(GROUND, dtype=np.uint8))
        self._background: Frame = cells.repeat(self._cell_px, axis=0).repeat(self._cell_px, axis=1)
        self._walls = walls.repeat(self._cell_px, axis=0).repeat(self._cell_px, axis=1)

    def draw(self, goal_x: float, goal_y: float) -> Frame:
        """Draw walls, the disc that scores, the goal, the ball."""
        frame = self._background.copy()
        goal = to_pixels(goal_x, goal_y, self._cell_px)
        _disc(frame, goal, GOAL_RADIUS * self._cell_px, GOAL_DISC)
        frame[self._walls] = WALL
        _disc(frame, goal, max(1.5, 0.16 * self._cell_px), GOAL)
        _disc(frame, to_pixels(self._ball.x, self._ball.y, self._cell_px), max(1.5, BALL_RADIUS * self._cell_px), BALL)
        return frame

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


class MujocoView:
    """Draw the maze by MuJoCo's offscreen renderer, seen from far above, in the same frame as `TopDown`.

    Args:
        maze: the maze.
        ball: whose model and state are drawn.
        size: longer side of a frame, in pixels.

    Raises:
        RuntimeError: no graphics library for MuJoCo.
    """

    def __init__(self, maze: Maze, ball: PointMass, size: int) -> None:
        cell_px = cell_pixels(maze, size)
        self._ball = ball
        self._renderer = _mujoco.new_renderer(ball.model, maze.height * cell_px, maze.width * cell_px)

    def draw(self, goal_x: float, goal_y: float) -> Frame:
        """Draw the scene."""
        self._ball.model.site_pos[:, 0] = goal_x + ORIGIN
        self._ball.model.site_pos[:, 1] = goal_y + ORIGIN
        _mujoco.mj_forward(self._ball.model, self._ball.data)
        self._renderer.update_scene(self._ball.data, camera="top")
        return self._renderer.render()

    def close(self) -> None:
        """Free the graphics context."""
        self._renderer.close()


RENDERERS: dict[str, Callable[[Maze, PointMass, int], View]] = {"topdown": TopDown, "mujoco": MujocoView}


def make_view(name: str, maze: Maze, ball: PointMass, size: int) -> View:
    """Make the view of that name."""
    return RENDERERS[name](maze, ball, size)


def cell_pixels(maze: Maze, size: int) -> int:
    """Return the pixels of one cell's side when the longer side of the maze gets at most `size`."""
    longer = max(maze.height, maze.width)
    if size < 4 * longer or size > _mujoco.MAX_FRAME:
        raise ValueError(
            f"render_size must be {4 * longer} to {_mujoco.MAX_FRAME} pixels for this maze, got {size}; "
            "pass for example 480"
        )
    return size // longer


def _disc(frame: Frame, centre: tuple[float, float], radius: float, color: Color) -> None:
    """Paint a disc with a smooth edge."""
    down, right = centre
    top, left = max(0, math.floor(down - radius - 1)), max(0, math.floor(right - radius - 1))
    window = frame[top : math.ceil(down + radius + 1), left : math.ceil(right + radius + 1)]
    rows = np.arange(window.shape[0])[:, None] + (top + 0.5 - down)
    columns = np.arange(window.shape[1])[None, :] + (left + 0.5 - right)
    cover = np.clip(radius + 0.5 - np.hypot(rows, columns), 0.0, 1.0)[..., None]
    window[:] = np.rint(window * (1.0 - cover) + np.array(color) * cover).astype(np.uint8)
