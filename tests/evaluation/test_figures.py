"""Figures and the animation; what is checked is where things are drawn, and that they are drawn at all."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("PIL")

from PIL import Image

from dfplan.evaluation import evaluate, figures
from dfplan.plotting import MazeMap, PathPanel, denoising_gif, paths_figure
from dfplan.plotting.maze import draw_maze
from dfplan.plotting.style import WALL, new_figure
from tests.evaluation.helpers import jittery, tiny_checkpoint


def test_positions_lie_where_the_ball_is() -> None:
    # Catches: the often used +0.5, which is 0.2 cells off; x and y swapped.
    # A ball against the walls of cell (1, 1) has its centre 0.1 from them: positions 0.4 and 1.2 along each axis.
    maze = MazeMap(["####", "#OO#", "####"])
    np.testing.assert_allclose(maze.to_axes([[0.4, 1.2]]), [[1.9, 1.1]])
    np.testing.assert_allclose(maze.to_axes(np.array([0.8, 1.8])), [2.5, 1.5])


def test_the_offset_is_the_environments() -> None:
    from dfplan_envs.maze2d.layouts import CELL_OFFSET

    maze = figures.maze_map("maze2d-umaze-v1")
    assert maze.offset == CELL_OFFSET == 0.7
    assert tuple(maze.rows)[1] == "#GOO#"


def test_walls_are_drawn_where_they_are() -> None:
    # Catches: a picture that is mirrored or transposed.
    rows = ["####", "#OO#", "##O#", "####"]
    figure = new_figure(4, 4, dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    draw_maze(ax, MazeMap(rows), numbers=False)
    figure.canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    wall = np.array([int(WALL[i : i + 2], 16) for i in (1, 3, 5)])
    for row, line in enumerate(rows):
        for column, char in enumerate(line):
            seen = pixels[row * 100 + 50, column * 100 + 50]
            assert (np.abs(seen.astype(int) - wall).max() < 8) == (char == "#"), (row, column)


def test_a_run_is_drawn(tmp_path: Path) -> None:
    report = evaluate(jittery(), "maze2d-umaze", 7)
    path = figures.draw_paths(report, tmp_path / "paths.png")
    with Image.open(path) as image:
        assert image.width > 800 and image.height > 500
        assert len(image.convert("RGB").resize((200, 120)).getcolors(30000) or []) > 200


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one episode"):
        paths_figure(tmp_path / "x.png", MazeMap(["###", "#O#", "###"]), [], dt_s=0.01)


@pytest.mark.parametrize("reached", [True, False])
def test_one_episode_is_drawn_whether_it_arrives_or_not(reached: bool, tmp_path: Path) -> None:
    positions = np.linspace([0.8, 0.8], [0.8, 2.8] if reached else [0.8, 1.0], 20)
    panel = PathPanel("x", positions, np.array([0.8, 2.8]))
    assert paths_figure(tmp_path / "x.png", MazeMap(["#####", "#OOO#", "#####"]), [panel], dt_s=0.01).stat().st_size > 0


def trace(M: int = 9, N: int = 3, H: int = 5) -> tuple[Any, Any]:
    levels = np.clip(4 + np.arange(H)[None] - np.arange(M + 1)[:, None], 0, 4)
    rng = np.random.default_rng(0)
    return rng.normal(size=(M + 1, N, H + 1, 4)) + 1, levels


def test_the_animation_has_one_frame_per_row(tmp_path: Path) -> None:
    # Catches: frames that are all the same, a first or last row left out.
    states, levels = trace()
    path = denoising_gif(
        tmp_path / "d.gif", MazeMap(["#####", "#OOO#", "#####"]), states, levels, (0.8, 2.8), selected=1
    )
    frames = []
    with Image.open(path) as image:
        assert image.n_frames == 10  # type: ignore[attr-defined]
        for i in range(10):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB"), dtype=int))
        assert image.info["duration"] > 1000
    assert all(np.abs(a - b).max() > 50 for a, b in pairwise(frames))


def test_context_columns_must_be_left_out(tmp_path: Path) -> None:
    states, levels = trace()
    with pytest.raises(ValueError, match="leave the context tokens' columns out"):
        denoising_gif(tmp_path / "d.gif", MazeMap(["###", "#O#", "###"]), states, np.c_[levels, levels], None)


def test_a_real_plan_is_drawn_and_without_trace_refused(tmp_path: Path) -> None:
    # Catches: the columns of the scheduling matrix taken from the wrong end.
    from dfplan import DFPlanner
    from dfplan_policies.df import view_plan

    planner = DFPlanner.from_pretrained(tiny_checkpoint(tmp_path / "tiny"))
    record = evaluate(jittery(), "maze2d-umaze", 1).records[0]
    plan, maze = figures.trace_plan(planner, record), figures.maze_map("maze2d-umaze-v1")
    assert plan.schedule[-1].max() == 0 and plan.schedule[0, -6:].min() == 10
    assert figures.draw_denoising(plan, maze, tmp_path / "d.gif", "x").stat().st_size > 1000
    assert figures.draw_plan(plan, view_plan(plan, record.goal), maze, tmp_path / "p.png", "x").stat().st_size > 1000
    with pytest.raises(ValueError, match="holds no trace"):
        figures.draw_denoising(planner.plan(record.observations[:1], record.goal), maze, tmp_path / "d.gif", "x")


def test_samples_are_drawn_side_by_side_with_forbidden_discs(tmp_path: Path) -> None:
    # Catches: panels that are not drawn, discs in another frame than the samples.
    from dfplan.plotting import PlansPanel, guided_figure

    maze = MazeMap(["#####", "#OOO#", "#####"])
    panels = [PlansPanel(str(i), np.ones((2, 4, 4)) * i) for i in range(3)]
    one = guided_figure(tmp_path / "one.png", maze, panels[:1])
    three = guided_figure(tmp_path / "three.png", maze, panels, discs=[(1.0, 2.0, 0.4)], goal=(1.0, 1.0))
    widths = [int.from_bytes(path.read_bytes()[16:20], "big") for path in (one, three)]
    assert widths[1] == 3 * widths[0]
    with pytest.raises(ValueError, match="at least one panel"):
        guided_figure(tmp_path / "none.png", maze, [])
