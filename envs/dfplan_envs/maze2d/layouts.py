"""Mazes as text: D4RL's layouts, the parser with its checks, and the cell arithmetic."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from dfplan_envs._errors import unknown
from dfplan_envs.registry import ENVS, resolve

Cell = tuple[int, int]

WALL, FREE, GOAL = "#", "O", "G"
# Order decides ties between equally short ways: D4RL's controller tries its moves in this order.
MOVES: tuple[Cell, ...] = ((0, -1), (0, 1), (-1, 0), (1, 0))
# Location (i, j) is position (i, j); the centre of that cell lies 0.2 lower on both axes, so the cell spans
# [i - 0.7, i + 0.3).
CELL_OFFSET = 0.7

# Source: D4RL `pointmaze` (Apache-2.0), layouts only.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "umaze": ("#####", "#GOO#", "###O#", "#OOO#", "#####"),
    "medium": ("########", "#OO##OO#", "#OO#OOO#", "##OOO###", "#OO#OOO#", "#O#OO#O#", "#OOO#OG#", "########"),
    "large": (
        "############",
        "#OOOO#OOOOO#",
        "#O##O#O#O#O#",
        "#OOOOOO#OOO#",
        "#O####O###O#",
        "#OO#O#OOOOO#",
        "##O#O#O#O###",
        "#OO#OOO#OGO#",
        "############",
    ),
    "open": ("#######", "#OOOOO#", "#OOGOO#", "#OOOOO#", "#######"),
    "eval-umaze": ("#####", "#OOG#", "#O###", "#OOO#", "#####"),
    "eval-medium": ("########", "#OOOOOG#", "#O#O##O#", "#OOOO#O#", "###OO###", "#OOOOOO#", "#OO##OO#", "########"),
    "eval-large": (
        "############",
        "#OO#OOO#OGO#",
        "##O###O#O#O#",
        "#OO#O#OOOOO#",
        "#O##O#OO##O#",
        "#OOOOOO#OOO#",
        "#O##O#O#O###",
        "#OOOO#OOOOO#",
        "############",
    ),
}


@dataclass(frozen=True)
class Maze:
    """Hold one checked maze: rows of '#' (wall), 'O' (free) and at most one 'G' (goal).

    Args:
        rows: equally long strings, closed by walls all around, every free cell reachable from every other.

    Raises:
        ValueError: with the rule, the place and the remedy, when the text is not such a maze.
    """

    rows: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the text."""
        _check_shape(self.rows)
        _check_characters(self.rows)
        _check_border(self.rows)
        _check_connected(self)

    @property
    def height(self) -> int:
        """Return the number of rows (cells along x)."""
        return len(self.rows)

    @property
    def width(self) -> int:
        """Return the number of columns (cells along y)."""
        return len(self.rows[0])

    @cached_property
    def free_cells(self) -> tuple[Cell, ...]:
        """Return every cell that is not a wall, row by row, the goal cell at the end (D4RL's order of drawing)."""
        cells = [(i, j) for i, row in enumerate(self.rows) for j, char in enumerate(row) if char == FREE]
        return (*cells, *([self.goal_cell] if self.goal_cell is not None else []))

    @cached_property
    def walls(self) -> tuple[Cell, ...]:
        """Return every wall cell, row by row."""
        return tuple((i, j) for i, row in enumerate(self.rows) for j, char in enumerate(row) if char == WALL)

    @cached_property
    def goal_cell(self) -> Cell | None:
        """Return the 'G' cell, or None."""
        cells = [(i, row.index(GOAL)) for i, row in enumerate(self.rows) if GOAL in row]
        return cells[0] if cells else None

    @cached_property
    def _free_set(self) -> frozenset[Cell]:
        return frozenset(self.free_cells)

    def is_free(self, cell: Cell) -> bool:
        """Tell whether `cell` (row, column) lies in the maze and is not a wall."""
        return cell in self._free_set

    def cell_at(self, x: float, y: float) -> Cell:
        """Return the cell (row, column) that holds the position (x, y) in D4RL's frame."""
        return math.floor(x + CELL_OFFSET), math.floor(y + CELL_OFFSET)

    def distances(self, target: Cell) -> dict[Cell, int]:
        """Count the moves from every reachable free cell to `target` (breadth-first).

        Args:
            target: a free cell (row, column).

        Returns:
            Moves by cell; cells that cannot reach the target are missing.
        """
        found = {target: 0}
        queue = deque([target])
        while queue:
            i, j = queue.popleft()
            for di, dj in MOVES:
                cell = (i + di, j + dj)
                if cell not in found and self.is_free(cell):
                    found[cell] = found[(i, j)] + 1
                    queue.append(cell)
        return found

    def text(self) -> str:
        """Return the rows as one string with line breaks."""
        return "\n".join(self.rows)


def as_maze(maze: Maze | str | Sequence[str]) -> Maze:
    """Turn a layout's name, an environment's id, a text with line breaks, or rows into a checked `Maze`.

    Args:
        maze: a `Maze` (returned as it is), a name in `LAYOUTS`, an id such as "maze2d-large",
            rows as strings, or one string with line breaks.

    Returns:
        The maze.

    Raises:
        ValueError: unknown name, or a text that is not a closed, connected maze.
        TypeError: rows that are not strings.
    """
    if isinstance(maze, Maze):
        return maze
    if isinstance(maze, str):
        if "#" not in maze:
            return _named(maze)
        maze = [line.strip() for line in maze.strip().splitlines()]
    if not isinstance(maze, Sequence) or not all(isinstance(row, str) for row in maze):
        raise TypeError(
            f"a maze must be a name or a sequence of strings, got {maze!r}; pass rows such as ['#####', ...]"
        )
    return Maze(tuple(maze))


def _named(name: str) -> Maze:
    layout = ENVS[resolve(name)].kwargs.get("maze", name) if name.startswith("maze2d") else name
    if layout not in LAYOUTS:
        raise unknown("maze", name, LAYOUTS, "or pass rows such as ['#####', '#OOG#', '#####']")
    return Maze(LAYOUTS[layout])


def _check_shape(rows: tuple[str, ...]) -> None:
    if len(rows) < 3 or len(rows[0]) < 3:
        size = f"{len(rows)} x {len(rows[0]) if rows else 0}"
        raise ValueError(
            f"a maze needs at least 3 rows and 3 columns, got {size}; draw walls '#' around at least one cell"
        )
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"maze is ragged: row {i} ({row!r}) has {len(row)} columns, row 0 has {len(rows[0])}; "
                "fill it up with '#'"
            )


def _check_characters(rows: tuple[str, ...]) -> None:
    for i, row in enumerate(rows):
        for j, char in enumerate(row):
            if char not in (WALL, FREE, GOAL):
                raise ValueError(
                    f"unknown character {char!r} at row {i}, column {j}; "
                    "use '#' (wall), 'O' (free, a capital letter), 'G' (goal)"
                )
    goals = [(i, j) for i, row in enumerate(rows) for j, char in enumerate(row) if char == GOAL]
    if len(goals) > 1:
        raise ValueError(
            f"a maze has at most one goal cell, got {len(goals)} at {goals}; keep one 'G', make the others 'O'"
        )
    if all(char == WALL for row in rows for char in row):
        raise ValueError("maze has no free cell; mark free cells with 'O'")


def _check_border(rows: tuple[str, ...]) -> None:
    last_row, last_column = len(rows) - 1, len(rows[0]) - 1
    for i, row in enumerate(rows):
        for j, char in enumerate(row):
            if char != WALL and (i in (0, last_row) or j in (0, last_column)):
                raise ValueError(
                    f"maze is not closed: {char!r} on the border at row {i}, column {j}; the border must be '#'"
                )


def _check_connected(maze: Maze) -> None:
    start = maze.goal_cell or maze.free_cells[0]
    reached = maze.distances(start)
    cut_off = [cell for cell in maze.free_cells if cell not in reached]
    if cut_off:
        what = "the goal" if maze.goal_cell else f"cell {start}"
        raise ValueError(
            f"maze has walled-in cells: {len(cut_off)} cannot reach {what}, first {cut_off[0]} "
            "(row, column); open a way or make them '#'"
        )
