"""The point mass: mass, thrust, velocity clip, walls, purity of a step."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dfplan_envs.maze2d import as_maze
from dfplan_envs.maze2d.physics import PointMass

ROOM = ["#" * 40, *["#" + "O" * 38 + "#"] * 38, "#" * 40]


@pytest.fixture
def ball() -> PointMass:
    """Return a ball in a wide room."""
    return PointMass(as_maze(ROOM))


def test_mass_and_thrust_are_those_of_d4rl(ball: PointMass) -> None:
    """Catches a wrong radius, density, gear, damping or time step: dv = dt * 100 N / (m + dt * damping)."""
    assert ball.model.body_mass[1] == pytest.approx(4 / 3 * math.pi * 0.1**3 * 1000, rel=1e-12)
    ball.set(10.0, 10.0, 0.0, 0.0)
    ball.step(1.0, -0.5)
    gain = 0.01 * 100.0 / (4.188790204786391 + 0.01 * 1.0)  # MuJoCo's Euler treats damping implicitly
    assert ball.vx == pytest.approx(gain, rel=1e-12)
    assert ball.vy == pytest.approx(-gain / 2, rel=1e-12)
    assert ball.x - 10.0 == pytest.approx(0.01 * gain, rel=1e-9)  # semi-implicit: the new velocity moves it


def test_full_thrust_reaches_5_in_about_21_steps_and_stays_there(ball: PointMass) -> None:
    """Catches a missing clip (terminal speed 100), or one applied after the step (5.23 would never be read)."""
    ball.set(2.0, 10.0, 0.0, 0.0)
    speeds = []
    for _ in range(300):
        ball.step(1.0, 0.0)
        speeds.append(ball.vx)
    assert next(t for t, speed in enumerate(speeds, start=1) if speed >= 5.0) in (21, 22)
    assert max(speeds) == pytest.approx(5.226, abs=5e-4)
    assert speeds[-1] == max(speeds)
    assert ball.x - 2.0 == pytest.approx(0.01 * sum(speeds), rel=1e-9)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_velocity_is_clipped_before_each_step_on_each_axis(ball: PointMass, axis: int, sign: float) -> None:
    """Catches a clip that misses an axis or a sign, or that clips the norm."""
    velocity = [0.0, 0.0]
    velocity[axis] = 8.0 * sign
    velocity[1 - axis] = 4.9
    ball.set(20.0, 20.0, *velocity)
    ball.step(0.0, 0.0)
    decay = 4.188790204786391 / (4.188790204786391 + 0.01)
    after = (ball.vx, ball.vy)
    assert after[axis] == pytest.approx(5.0 * sign * decay, rel=1e-12)
    assert after[1 - axis] == pytest.approx(4.9 * decay, rel=1e-12)


def test_walls_hold_the_ball_and_report_contact() -> None:
    """Catches walls that are shifted, missing or not solid: in its cell the ball reaches i - 0.6 to i + 0.2."""
    ball = PointMass(as_maze(["###", "#O#", "###"]))
    for push, end in (
        ((1.0, 0.0), (1.2, 0.8)),
        ((-1.0, 0.0), (0.4, 0.8)),
        ((0.0, 1.0), (0.8, 1.2)),
        ((0.0, -1.0), (0.8, 0.4)),
    ):
        ball.set(0.8, 0.8, 0.0, 0.0)
        ball.step(*push)
        assert not ball.contact
        for _ in range(100):
            ball.step(*push)
        assert ball.contact
        assert (ball.x, ball.y) == pytest.approx(end, abs=0.03)
        assert max(abs(ball.vx), abs(ball.vy)) < 0.05


def test_the_ground_is_no_contact(ball: PointMass) -> None:
    """Catches counting the ball's contact with the ground as one with a wall."""
    ball.set(20.0, 20.0, 1.0, 1.0)
    ball.step(0.0, 0.0)
    assert not ball.contact
    assert ball.data.ncon == 0


def test_walls_have_no_friction() -> None:
    """Catches condim 3: pressed against a wall, the ball must slide on (only the seams between boxes are felt)."""
    maze = as_maze(["#" * 20, "#" + "O" * 18 + "#", "#" * 20])
    free, pressed = PointMass(maze), PointMass(maze)
    free.set(0.8, 2.0, 0.0, 3.0)
    pressed.set(1.19, 2.0, 0.0, 3.0)
    for _ in range(100):
        free.step(0.0, 0.1)
        pressed.step(1.0, 0.1)
    assert pressed.contact
    assert pressed.vy == pytest.approx(free.vy, abs=0.03)


def test_a_step_is_a_function_of_state_and_action() -> None:
    """Catches hidden memory (the solver's warm start): a restored state must go on bit for bit, in contact too."""
    maze = as_maze("large")
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, size=(600, 2)).repeat(5, axis=0).tolist()
    first, second = PointMass(maze), PointMass(maze)
    first.set(1.0, 1.0, 0.0, 0.0)
    contacts = 0
    for action in actions:
        second.set(first.x, first.y, first.vx, first.vy)
        first.step(*action)
        fresh = PointMass(maze) if contacts < 5 and first.contact else None
        contacts += first.contact
        second.step(*action)
        assert (second.x, second.y, second.vx, second.vy) == (first.x, first.y, first.vx, first.vy)
        if fresh is not None:
            fresh.set(first.x, first.y, first.vx, first.vy)
            fresh.step(0.3, -0.2)
            second.step(0.3, -0.2)
            assert (fresh.x, fresh.y, fresh.vx, fresh.vy) == (second.x, second.y, second.vx, second.vy)
    assert contacts > 100
