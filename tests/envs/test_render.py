"""Pictures from above: the numpy drawing, and MuJoCo's where graphics are to be had."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

import dfplan_envs  # noqa: F401  (registers the ids)
from dfplan_envs.maze2d.env import Maze2dEnv
from dfplan_envs.maze2d.render import BALL, GOAL, GROUND, WALL, to_pixels

Frame = NDArray[np.uint8]


def made(renderer: str, **kwargs: Any) -> Maze2dEnv:
    """Make a drawing environment with the ball at (1, 10), off the centre, in the large maze."""
    env = gymnasium.make("maze2d-large-v1", render_mode="rgb_array", renderer=renderer, **kwargs).unwrapped
    assert isinstance(env, Maze2dEnv)
    env.reset(seed=0, options={"state": (1.0, 10.0, 1.0, 0.0), "goal": (3.1, 1.0)})
    return env


def drawn(env: Maze2dEnv) -> Frame:
    """Draw, or skip where MuJoCo finds no graphics library."""
    try:
        frame = env.render()
    except RuntimeError as error:
        if "needs a graphics library" in str(error):
            pytest.skip(str(error))
        raise
    assert frame is not None
    return frame


def near(frame: Frame, x: float, y: float, color: tuple[int, int, int]) -> int:
    """Return the largest difference of the pixel at a position from a colour."""
    down, right = to_pixels(x, y, 40)
    return int(np.abs(frame[int(down), int(right)].astype(int) - color).max())


def centre_of(frame: Frame, hue: int) -> tuple[float, float]:
    """Return (down, right) of what is coloured: hue 0 red, 2 blue."""
    other = frame.astype(int)[..., 2 - hue]
    found = np.argwhere((frame.astype(int)[..., hue] - other > 60) & (frame[..., 1] < 150))
    down, right = found.mean(axis=0) + 0.5
    return float(down), float(right)


@pytest.mark.parametrize("renderer", ["topdown", "mujoco"])
def test_walls_ball_and_goal_are_where_they_are(renderer: str) -> None:
    """Catches a transposed picture, the ball 0.2 cells off (the usual +0.5), or the goal mark of D4RL, 0.2 off."""
    env = made(renderer)
    frame = drawn(env)
    assert frame.shape == (360, 480, 3)
    assert frame.dtype == np.uint8
    assert near(frame, 1.0, 10.0, BALL) < 40
    assert near(frame, 3.1, 1.0, GOAL) < 40
    for i, row in enumerate(env.maze.rows):
        for j, char in enumerate(row):
            corner = (i - 0.65, j - 0.65)  # off the ball and the goal
            assert near(frame, *corner, WALL if char == "#" else GROUND) < 40
    assert centre_of(frame, 2) == pytest.approx(to_pixels(1.0, 10.0, 40), abs=1.0)
    assert centre_of(frame, 0) == pytest.approx(to_pixels(3.1, 1.0, 40), abs=1.0)
    env.close()


@pytest.mark.parametrize("renderer", ["topdown", "mujoco"])
def test_the_picture_follows_the_ball(renderer: str) -> None:
    """Catches a view of old positions, and a background that keeps the ball's trace."""
    env = made(renderer)
    before = drawn(env)
    env.set_state((1.0, 7.0, 0.0, 0.0))
    frame = drawn(env)
    assert centre_of(frame, 2) == pytest.approx(to_pixels(1.0, 7.0, 40), abs=1.0)
    env.reset(options={"state": (1.0, 10.0, 1.0, 0.0), "goal": (1.0, 1.0)})
    assert centre_of(drawn(env), 0) == pytest.approx(to_pixels(1.0, 1.0, 40), abs=1.0)
    env.reset(options={"state": (1.0, 10.0, 1.0, 0.0), "goal": (3.1, 1.0)})
    assert drawn(env).tobytes() == before.tobytes()
    env.close()


@pytest.mark.parametrize("renderer", ["topdown", "mujoco"])
def test_drawing_changes_nothing(renderer: str) -> None:
    """Catches a renderer that disturbs the simulation (pressed against a wall, where the solver has work)."""
    seen, unseen = made(renderer, render_size=48), made("topdown")
    drawn(seen)
    for action in np.random.default_rng(0).uniform(-1, 1, size=(10, 2)).astype(np.float32).repeat(8, axis=0):
        one, two = seen.step(action), unseen.step(action)
        drawn(seen)
        assert one[0].tobytes() == two[0].tobytes()
        assert one[4]["contact"] == two[4]["contact"]
    seen.close()


def test_sizes_and_modes() -> None:
    """Catches frames of another size than asked, and a mode that silently does nothing."""
    assert drawn(made("topdown", render_size=240)).shape == (180, 240, 3)
    assert drawn(made("topdown", render_size=250)).shape == (180, 240, 3)  # whole pixels per cell
    with pytest.raises(ValueError, match=r"render_size must be 48 to 2048 pixels for this maze, got 20"):
        made("topdown", render_size=20).render()
    with pytest.raises(ValueError, match=r"unknown render_mode 'human'"):
        Maze2dEnv("large", render_mode="human")
    silent = Maze2dEnv("large")
    silent.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode='rgb_array'"):
        assert silent.render() is None


def test_the_ball_is_drawn_to_scale() -> None:
    """Catches a ball drawn as large as a cell: its disc has the area pi * (0.1 * 40)^2 pixels."""
    frame = drawn(made("topdown")).astype(float)
    down, right = (int(value) for value in to_pixels(1.0, 10.0, 40))
    patch = frame[down - 8 : down + 8, right - 8 : right + 8]
    ground, ball = np.array(GROUND, dtype=float), np.array(BALL, dtype=float)
    cover = ((patch - ground) @ (ball - ground) / ((ball - ground) @ (ball - ground))).sum()
    assert cover == pytest.approx(np.pi * 16, rel=0.03)


@pytest.mark.skipif(sys.platform != "linux", reason="MUJOCO_GL=osmesa is Linux only")
def test_without_graphics_the_physics_works_and_the_renderer_says_what_to_do() -> None:
    """Catches an import of MuJoCo that fails for want of a graphics library, and a raw error from inside it."""
    code = """
import gymnasium, dfplan_envs
env = gymnasium.make("maze2d-umaze-v1", render_mode="rgb_array", renderer="mujoco")
env.reset(seed=0)
env.step(env.action_space.sample())
try:
    env.render()
except RuntimeError as error:
    print(error)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "MUJOCO_GL": "nonsense"}
    env.pop("PYOPENGL_PLATFORM", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert "needs a graphics library, got none that works (MUJOCO_GL is nonsense" in done.stdout
    assert "or use renderer='topdown'" in done.stdout
