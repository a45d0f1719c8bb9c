"""Mazes as text: D4RL's layouts, and what is refused."""

from __future__ import annotations

import pytest

from dfplan_envs.maze2d import LAYOUTS, Maze, as_maze


@pytest.mark.parametrize(
    ("name", "size", "free", "goal"),
    [
        ("umaze", (5, 5), 7, (1, 1)),
        ("medium", (8, 8), 26, (6, 6)),
        ("large", (9, 12), 46, (7, 9)),
        ("open", (5, 7), 15, (2, 3)),
        ("eval-umaze", (5, 5), 7, (1, 3)),
        ("eval-medium", (8, 8), 26, (1, 6)),
        ("eval-large", (9, 12), 47, (1, 9)),
    ],
)
def test_layouts_have_the_sizes_counts_and_goals_of_d4rl(
    name: str, size: tuple[int, int], free: int, goal: tuple[int, int]
) -> None:
    """Catches a mistyped row."""
    maze = as_maze(name)
    assert (maze.height, maze.width) == size
    assert len(maze.free_cells) == len(set(maze.free_cells)) == free
    assert maze.goal_cell == goal
    assert len(maze.walls) + free == size[0] * size[1]


def test_layouts_are_those_of_pointmaze() -> None:
    """Catches a wall in the wrong place, which counts alone would miss."""
    maps = pytest.importorskip("gymnasium_robotics.envs.maze.maps", reason="needs gymnasium-robotics")
    for name, rows in (("umaze", maps.U_MAZE), ("medium", maps.MEDIUM_MAZE), ("large", maps.LARGE_MAZE)):
        theirs = [[cell == 1 for cell in row] for row in rows]
        assert [[char == "#" for char in row] for row in LAYOUTS[name]] == theirs


def test_a_maze_may_be_given_as_name_id_rows_or_text() -> None:
    """Catches a reader that treats one form differently."""
    rows = LAYOUTS["umaze"]
    forms = ["umaze", "maze2d-umaze", "maze2d-umaze-v0", list(rows), "\n".join(rows), "\n  ".join(["", *rows, ""])]
    assert {as_maze(form) for form in forms} == {Maze(rows)}
    assert as_maze(as_maze("umaze").text()) == Maze(rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["#####", "#OG#", "#####"], r"ragged: row 1 \('#OG#'\) has 4 columns, row 0 has 5; fill it up with '#'"),
        (["#####", "#OGO ", "#####"], r"unknown character ' ' at row 1, column 4; use '#' \(wall\), 'O'"),
        (["#####", "#oGO#", "#####"], r"unknown character 'o' at row 1, column 1.*capital"),
        (["#####", "#OGOO", "#####"], r"not closed: 'O' on the border at row 1, column 4; the border must be '#'"),
        (["#O###", "#OGO#", "#####"], r"not closed: 'O' on the border at row 0, column 1"),
        (["#####", "#OGO#", "##O##"], r"not closed: 'O' on the border at row 2, column 2"),
        (["#####", "#GOG#", "#####"], r"at most one goal cell, got 2 at \[\(1, 1\), \(1, 3\)\]; keep one 'G'"),
        (["#####", "#O#G#", "#####"], r"walled-in cells: 1 cannot reach the goal, first \(1, 1\).*open a way"),
        (
            ["####", "#O##", "##G#", "####"],
            r"walled-in cells: 1 cannot reach the goal",
        ),  # corners do not let the ball through
        (["#####", "#O#O#", "#####"], r"walled-in cells: 1 cannot reach cell \(1, 1\)"),
        (["#####", "#####", "#####"], r"no free cell; mark free cells with 'O'"),
        (["###", "###"], r"at least 3 rows and 3 columns, got 2 x 3"),
        ([], r"at least 3 rows and 3 columns, got 0 x 0"),
    ],
)
def test_ill_formed_mazes_are_refused(rows: list[str], message: str) -> None:
    """Catches a check that went missing; each text names rule, place and remedy."""
    with pytest.raises(ValueError, match=message):
        as_maze(rows)


def test_a_wrong_name_lists_the_mazes_and_the_nearest() -> None:
    """Catches a bare KeyError."""
    with pytest.raises(ValueError, match=r"unknown maze 'lareg'\. Did you mean 'large'\? Choose one of: umaze, medium"):
        as_maze("lareg")
    with pytest.raises(TypeError, match="a name or a sequence of strings, got 3"):
        as_maze(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown maze 'maze2d'"):  # the id of custom mazes has no maze of its own
        as_maze("maze2d")


def test_a_cell_spans_from_07_below_its_location_to_03_above() -> None:
    """Catches rounding to the nearest location: the ball at (i - 0.6) is in cell i, not i - 1."""
    maze = as_maze("large")
    assert maze.cell_at(0.31, 0.31) == (1, 1)
    assert maze.cell_at(1.29, 1.29) == (1, 1)
    assert maze.cell_at(1.31, 1.29) == (2, 1)
    assert maze.cell_at(1.29, 1.31) == (1, 2)


def test_distances_count_moves_around_walls() -> None:
    """Catches a search that jumps walls or counts diagonals."""
    distance = as_maze("umaze").distances((1, 1))
    assert distance == {(1, 1): 0, (1, 2): 1, (1, 3): 2, (2, 3): 3, (3, 3): 4, (3, 2): 5, (3, 1): 6}
