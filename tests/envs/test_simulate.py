"""Foretelling: `simulate` is stepping, and the distance to go is what can be worked out by hand."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import dfplan_envs  # noqa: F401  (registers the ids)
from dfplan_envs.maze2d import MazeOracle, as_maze
from dfplan_envs.maze2d.geodesic import MaxAxisGeodesic

ROOM = ["#" * 12, *["#" + "O" * 10 + "#"] * 10, "#" * 12]


def cases(count: int = 10, steps: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Starts with speeds above the clip, and pushes held long enough to hit walls, some beyond [-1, 1]."""
    rng, cells = np.random.default_rng(0), np.array(as_maze("medium").free_cells)
    places = cells[rng.integers(len(cells), size=count)] + rng.uniform(-0.1, 0.1, (count, 2))
    states = np.concatenate([places, rng.uniform(-8, 8, (count, 2))], axis=1)
    return states, np.repeat(rng.uniform(-1.5, 1.5, (count, steps // 20, 2)), 20, axis=1)


def test_simulating_is_stepping_bit_for_bit() -> None:
    # Catches: no velocity clip, or one that ends in the returned states; actions not clipped or shifted by a step.
    env: Any = gym.make("maze2d-medium-v1").unwrapped
    env.reset(seed=0)
    states, actions = cases()
    told = env.simulate(states, actions)
    touched, fast = 0, 0.0
    for n, state in enumerate(states):
        env.set_state(state)
        np.testing.assert_array_equal(told[n, 0], state)
        for t, action in enumerate(actions[n]):
            after, *_, info = env.step(action)
            np.testing.assert_array_equal(told[n, t + 1], after)
            touched, fast = touched + info["contact"], max(fast, float(np.abs(after[2:]).max()))
    assert touched > 50 and fast > 5.0


def test_simulating_moves_nothing() -> None:
    # Catches: foretelling in the simulator's own state.
    env, twin = (gym.make("maze2d-medium-v1").unwrapped for _ in range(2))
    start, _ = env.reset(seed=3)
    twin.reset(seed=3)
    env.simulate(*cases(2, 20))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(env.get_state(), start)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(env.step(np.ones(2))[0], twin.step(np.ones(2))[0])


def test_an_oracle_tells_the_same_after_pickling() -> None:
    # Catches: a simulator in the pickle (it cannot be), or another maze after it.
    oracle, env = MazeOracle("medium"), gym.make("maze2d-medium-v1").unwrapped
    states, actions = cases(3, 20)
    want = env.simulate(states, actions)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(oracle.simulate(states, actions), want)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(oracle)).simulate(states, actions), want)


@pytest.mark.parametrize(
    ("states", "actions", "message"),
    [
        (np.zeros((2, 4)), np.zeros((3, 5, 2)), r"states must be \(N, 4\) and actions \(N, H, 2\), got"),
        (np.zeros(4), np.zeros((1, 5, 2)), r"got \(4,\) and \(1, 5, 2\)"),
        (np.full((1, 4), np.nan), np.zeros((1, 5, 2)), "must be finite"),
    ],
)
def test_simulate_refuses(states: Any, actions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MazeOracle("umaze").simulate(states, actions)


def test_in_the_open_the_farther_axis_counts() -> None:
    # Catches: Euclidean or Manhattan lengths; the disc around the goal left out.
    distance = MaxAxisGeodesic(as_maze(ROOM), np.array([5.0, 5.0]))
    ways = np.array([[2.0, 5.0], [2.0, 3.5], [2.0, 2.0], [5.2, 5.3], [5.0, 9.0]])
    want = [2.5, 2.5, 3.0 - 0.5 / np.sqrt(2), 0.0, 3.5]
    np.testing.assert_allclose(distance(ways), want, atol=0.06)
    assert distance(ways[None]).shape == (1, 5)


def test_around_the_bend_of_the_u() -> None:
    """Catches: a way through the wall (1.5), or one that forgets the ball's radius (3.0).

    By hand from (3, 1): 1.4 along y to y = 2.4, then along x over both rounded corners (1.0828), then 0.9 back along y.
    """
    distance = MaxAxisGeodesic(as_maze("umaze"), np.array([1.0, 1.0]))
    assert distance(np.array([3.0, 1.0])) == pytest.approx(1.4 + 1.0828 + 0.9, abs=0.1)
    pressed = distance(np.array([[2.39, 1.0], [2.40, 1.0]]))  # a little into the wall is not far away
    assert abs(np.diff(pressed)[0]) < 0.1


def test_a_goal_in_a_wall_is_refused() -> None:
    with pytest.raises(ValueError, match="goal must lie in a free cell"):
        MazeOracle("large").steps_to_go(np.zeros(2), np.array([0.0, 0.0]) - 0.5)


def test_no_drive_beats_the_steps_to_go() -> None:
    # Catches: distances divided by the clip's 5 instead of the speed that full thrust makes of it within a step.
    oracle = MazeOracle(["#" * 20, "#" + "O" * 17 + "G#", "#" * 20])
    states = oracle.simulate(np.array([[1.0, 1.0, 0.0, 5.0]]), np.array([[[0.0, 1.0]] * 330]))[0]
    away = np.abs(states[:, 1] - 18.0) <= 0.5
    steps = int(away.argmax())
    assert steps - 2 <= oracle.steps_to_go(states[0, :2], [1.0, 18.0]) <= steps
