"""PointMaze in D4RL's frame: the package's environment, turned, and nothing else."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import dfplan_envs
from dfplan_envs.maze2d.pointmaze import action_from_pointmaze, from_pointmaze, to_pointmaze
from dfplan_envs.registry import register_robotics

pytest.importorskip("gymnasium_robotics")
MAZES = {"umaze": "UMaze", "medium": "Medium", "large": "Large"}


def made(maze: str = "umaze", **options: Any) -> Any:
    return gymnasium.make(f"robotics-pointmaze-{maze}-v3", **options).unwrapped


@pytest.mark.parametrize("maze", MAZES)
def test_it_is_the_packages_environment_in_another_frame(maze: str) -> None:
    # Catches: axes that are swapped or mirrored in observation, goal or action; another draw of start and goal; a
    # reward or success of another radius; a map that is not the one the ball runs in.
    register_robotics()
    ours, theirs = made(maze), gymnasium.make(f"PointMaze_{MAZES[maze]}-v3").unwrapped
    walls = [[float(c == "#") for c in row] for row in ours.maze.rows]
    assert [[float(c == 1) for c in row] for row in theirs.maze.maze_map] == walls
    (mine, info), (other, _) = ours.reset(seed=3), theirs.reset(seed=3)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(40):
        for name in ("observation", "achieved_goal", "desired_goal"):
            np.testing.assert_allclose(to_pointmaze(mine[name], maze), other[name], atol=1e-12)
        np.testing.assert_array_equal(info["goal"], mine["desired_goal"])
        turned = rng.uniform(-1, 1, 2).astype(np.float32)
        if not seen:  # from beside the goal, so that both rewards occur
            theirs.point_env.set_state(np.add(theirs.goal, (0.3, 0.2)), np.array([3.0, 2.0]))
            ours.inner.point_env.set_state(np.add(theirs.goal, (0.3, 0.2)), np.array([3.0, 2.0]))
        mine, reward, terminated, truncated, info = ours.step(action_from_pointmaze(turned))
        other, expected, _, _, told = theirs.step(turned)
        assert (reward, info["success"], terminated, truncated) == (expected, told["success"], False, False)
        assert ours.compute_reward(mine["achieved_goal"], mine["desired_goal"], {}) == expected
        seen.add(reward)
    assert seen == {0.0, 1.0}


def test_the_ball_moves_as_in_maze2d() -> None:
    # Catches: a model of maze2d that is led astray here: another step, another gear, another sign.
    ours, maze2d = made("large"), gymnasium.make("maze2d-large-v1").unwrapped
    ours.reset(seed=0)
    state = np.array([1.1, 1.05, 0.2, 0.3])
    maze2d.reset(seed=0)
    maze2d.set_state(state)
    there = to_pointmaze(state, "large")
    ours.inner.point_env.set_state(there[:2], there[2:])
    rng = np.random.default_rng(1)
    for _ in range(30):
        action = rng.uniform(-1, 1, 2).astype(np.float32)
        seen = ours.step(action)[0]["observation"]
        np.testing.assert_allclose(seen, maze2d.step(action)[0], atol=1e-6)


def test_gymnasium_accepts_it_and_it_is_listed() -> None:
    # Catches: spaces that do not hold what comes out; an id that `dfplan envs` forgets.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(made(), skip_render_check=True)
    ids = [info.id for info in dfplan_envs.list_envs()]
    assert [f"robotics-pointmaze-{maze}-v3" in ids for maze in MAZES] == [True] * 3
    assert dfplan_envs.resolve("robotics-pointmaze-large") == "robotics-pointmaze-large-v3"
    with pytest.raises(ValueError, match=r"unknown maze of PointMaze 'larg'"):
        gymnasium.make("robotics-pointmaze-large-v3", maze="larg")


def test_the_frame_goes_back_and_forth() -> None:
    # Catches: a goal turned like a state with velocities.
    state = np.array([2.0, 3.0, 0.5, -1.0])
    np.testing.assert_allclose(from_pointmaze(to_pointmaze(state, "medium"), "medium"), state)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: an ImportError from inside, or Gymnasium's "unknown environment".
    from dfplan_envs.maze2d import robotics

    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    monkeypatch.setattr(robotics, "register_robotics", dict)
    with pytest.raises(ImportError, match=r"pip install 'dfplan\[robotics\]'"):
        robotics.RoboticsPointMaze("umaze")
