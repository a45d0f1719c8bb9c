"""The same physics and the exact frame change as Gymnasium-Robotics' PointMaze."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

import dfplan_envs  # noqa: F401  (registers the ids)
from dfplan_envs.maze2d.env import Maze2dEnv
from dfplan_envs.maze2d.pointmaze import action_from_pointmaze, action_to_pointmaze, from_pointmaze, to_pointmaze


def test_the_frame_change_is_exact_and_turns_back() -> None:
    """Catches a flipped axis or the 0.2 shift forgotten: the centre of cell (1, 1) is a round number in PointMaze."""
    assert to_pointmaze((0.8, 0.8), "umaze").tolist() == pytest.approx([-1.0, 1.0])
    assert to_pointmaze((0.8, 2.8, 1.0, 2.0), "umaze").tolist() == pytest.approx([1.0, 1.0, 2.0, -1.0])
    states = np.random.default_rng(0).uniform(-5, 5, size=(3, 7, 4))
    np.testing.assert_allclose(from_pointmaze(to_pointmaze(states, "large"), "large"), states, atol=1e-14)
    np.testing.assert_allclose(
        from_pointmaze(to_pointmaze(states[..., :2], "large"), "large"), states[..., :2], atol=1e-14
    )
    assert to_pointmaze(states, "large")[..., :2].tolist() == to_pointmaze(states[..., :2], "large").tolist()
    actions = states[..., :2]
    assert action_from_pointmaze(action_to_pointmaze(actions)).tolist() == actions.tolist()
    assert action_to_pointmaze((1.0, 0.5)).tolist() == [0.5, -1.0]
    with pytest.raises(ValueError, match=r"state must have shape \(\.\.\., 2\) or \(\.\.\., 4\), got \(3,\)"):
        to_pointmaze(np.zeros(3), "umaze")
    with pytest.raises(ValueError, match=r"got \(\)"):
        from_pointmaze(1.0, "umaze")


@pytest.fixture(
    scope="module", params=[("umaze", "UMaze"), ("medium", "Medium"), ("large", "Large")], ids=lambda p: p[0]
)
def pair(request: pytest.FixtureRequest) -> tuple[Maze2dEnv, Any]:
    """Return our maze and Gymnasium-Robotics' of the same name."""
    robotics = pytest.importorskip("gymnasium_robotics", reason="needs gymnasium-robotics")
    gymnasium.register_envs(robotics)
    ours = gymnasium.make(f"maze2d-{request.param[0]}-v1").unwrapped
    theirs = gymnasium.make(f"PointMaze_{request.param[1]}-v3").unwrapped
    theirs.reset(seed=0)
    assert isinstance(ours, Maze2dEnv)
    return ours, theirs


def test_both_simulators_agree_over_300_random_steps_with_wall_hits(pair: tuple[Maze2dEnv, Any]) -> None:
    """Catches any difference in mass, thrust, damping, clip, walls, contact or time step."""
    ours, theirs = pair
    rng = np.random.default_rng(1)
    contacts = fast = 0
    for run in range(3):
        state, _ = ours.reset(seed=run)
        start = to_pointmaze(state, ours.maze)
        theirs.point_env.set_state(start[:2], start[2:])
        for _ in range(30):
            action = np.clip(rng.uniform(-1.5, 1.5, size=2), -1, 1)
            for _ in range(10):
                observation, _, _, _, info = ours.step(action)
                theirs.step(action_to_pointmaze(action))
                reached = np.concatenate([theirs.data.qpos, theirs.data.qvel])
                np.testing.assert_allclose(to_pointmaze(observation, ours.maze), reached, rtol=0, atol=1e-8)
                np.testing.assert_allclose(from_pointmaze(reached, ours.maze), observation, rtol=0, atol=1e-8)
                contacts += info["contact"]
                fast += bool(np.abs(observation[2:]).max() > 5)
    assert contacts > 50
    assert fast > 5


def test_cell_centres_agree(pair: tuple[Maze2dEnv, Any]) -> None:
    """Catches a frame that fits the dynamics but not the maze."""
    ours, theirs = pair
    for i, j in ours.maze.free_cells:
        centre = theirs.maze.cell_rowcol_to_xy(np.array([i, j]))
        np.testing.assert_allclose(to_pointmaze((i - 0.2, j - 0.2), ours.maze), centre, atol=1e-12)
