"""Checks of what comes from outside: reset options, states, goals, actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dfplan_envs._errors import unknown
from dfplan_envs.maze2d.layouts import Cell, Maze

SPEED_LIMIT = 10.0  # per axis; twice what the clip lets through, so that no contact can leave the observation space

Goal = tuple[float, float] | Literal["random"]
State = tuple[float, float, float, float]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ResetOptions:
    """Hold what `reset(options=...)` asked for; None where it asked for nothing."""

    goal: Goal | None = None
    location: Cell | None = None
    state: State | None = None


def read(maze: Maze, options: Mapping[str, Any] | None) -> ResetOptions:
    """Check reset options.

    Raises:
        ValueError: unknown names, both a location and a state, or values out of the maze.
    """
    if not options:
        return ResetOptions()
    names = tuple(ResetOptions.__dataclass_fields__)
    for name in options:
        if name not in names:
            raise unknown("reset option", name, names)
    goal, location, state = (options.get(name) for name in names)
    if location is not None and state is not None:
        raise ValueError("reset options 'location' and 'state' both say where the ball starts; pass one of them")
    return ResetOptions(
        goal=None if goal is None else read_goal(maze, goal),
        location=None if location is None else _read_location(maze, location),
        state=None if state is None else read_state(maze, state),
    )


def default_goal(maze: Maze, goal: ArrayLike | Literal["random"] | None) -> Goal:
    """Return the goal of an episode that asks for none: the one given, else the maze's.

    Raises:
        ValueError: no goal at all, or one inside a wall.
    """
    if goal is not None:
        return read_goal(maze, goal)
    if maze.goal_cell is None:
        raise ValueError("maze has no goal cell; mark one 'O' as 'G', or pass goal=(x, y) or goal='random'")
    return float(maze.goal_cell[0]), float(maze.goal_cell[1])


def read_goal(maze: Maze, goal: ArrayLike | Literal["random"]) -> Goal:
    """Check a goal: "random", or a position in a free cell."""
    if isinstance(goal, str):
        if goal != "random":
            raise ValueError(f"goal must be a position (x, y) or 'random', got {goal!r}; pass for example (7, 9)")
        return "random"
    x, y = _numbers("goal", goal, 2)
    _check_free(maze, "goal", x, y)
    return x, y


def read_state(maze: Maze, state: ArrayLike) -> State:
    """Check a state: x, y in a free cell, and a velocity that the ball can have."""
    x, y, vx, vy = _numbers("state", state, 4)
    _check_free(maze, "state", x, y)
    if max(abs(vx), abs(vy)) > SPEED_LIMIT:
        raise ValueError(f"state's velocity must lie within +-{SPEED_LIMIT:g} per axis, got ({vx:g}, {vy:g}); lower it")
    return x, y, vx, vy


def read_action(action: ArrayLike) -> tuple[float, float]:
    """Check an action and clip it to [-1, 1]; quick when there is nothing to do.

    Raises:
        ValueError: not two finite numbers.
    """
    if type(action) is np.ndarray and action.shape == (2,):
        x, y = action.tolist()
        if -1.0 <= x <= 1.0 and -1.0 <= y <= 1.0:
            return x, y
    x, y = _numbers("action", action, 2)
    return min(1.0, max(-1.0, x)), min(1.0, max(-1.0, y))


def read_batch(states: ArrayLike, actions: ArrayLike) -> tuple[Floats, Floats]:
    """Check states (N, 4) and actions (N, H, 2), and clip the actions to [-1, 1].

    Raises:
        ValueError: wrong shapes, or numbers that are not finite.
    """
    states, actions = np.asarray(states, dtype=np.float64), np.asarray(actions, dtype=np.float64)
    if states.ndim != 2 or states.shape[1] != 4 or actions.ndim != 3 or actions.shape[::2] != (len(states), 2):
        raise ValueError(
            f"states must be (N, 4) and actions (N, H, 2), got {states.shape} and {actions.shape}; "
            "pass one row of each per ball"
        )
    if not (np.isfinite(states).all() and np.isfinite(actions).all()):
        raise ValueError("states and actions must be finite, got NaN or infinity; look where they were made")
    return states, actions.clip(-1.0, 1.0)


def _read_location(maze: Maze, location: ArrayLike) -> Cell:
    row, column = _numbers("location", location, 2)
    cell = (int(row), int(column))
    if not (row.is_integer() and column.is_integer() and maze.is_free(cell)):
        raise ValueError(
            f"location must be a free cell (row, column) of the {maze.height} x {maze.width} maze, "
            f"got ({row:g}, {column:g}); "
            f"free cells are {', '.join(map(str, maze.free_cells[:3]))}, ..."
        )
    return cell


def _check_free(maze: Maze, what: str, x: float, y: float) -> None:
    cell = maze.cell_at(x, y)
    if not maze.is_free(cell):
        raise ValueError(
            f"{what} must lie in a free cell, got ({x:g}, {y:g}) in wall {cell} (row, column); "
            f"free cells are {', '.join(map(str, maze.free_cells[:3]))}, ..."
        )


def _numbers(what: str, value: ArrayLike, count: int) -> list[float]:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be {count} numbers, got {value!r}; pass an array of shape ({count},)") from error
    if array.shape != (count,):
        raise ValueError(f"{what} must have shape ({count},), got {array.shape}; pass one {what} of one environment")
    numbers: list[float] = array.tolist()
    if not np.isfinite(array).all():
        raise ValueError(
            f"{what} must be finite, got {numbers}; look for a division by zero or an overflow where it was made"
        )
    return numbers
