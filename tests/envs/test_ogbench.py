"""OGBench's pointmaze: the adapter and the data recipe against the package itself."""

from __future__ import annotations

import sys

import gymnasium
import numpy as np
import pytest

pytest.importorskip("ogbench")

from dfplan_envs.ogbench import DATASETS, PointMazeEnv, find_dataset, generate
from dfplan_envs.ogbench.env import make_inner
from dfplan_envs.ogbench.generate import Mover, goal_cells, next_cells
from dfplan_envs.wrappers import GoalObservation


@pytest.fixture(scope="module")
def mover() -> Mover:
    inner = make_inner("medium", terminate_at_goal=False)
    inner.reset(options={"task_id": 1})
    return Mover(inner)


def test_many_balls_move_as_the_packages_one_does_walls_included(mover: Mover) -> None:
    """Catches a wrong step length, a wall that is not seen (or seen a cell off), and a corner taken for passable."""
    env = make_inner("medium", terminate_at_goal=False)
    env.reset(options={"task_id": 1})
    rng = np.random.default_rng(0)
    xy, before = np.array(env.get_xy()), mover.simulated
    for k in range(1500):
        push = np.array([np.sin(k / 60), np.cos(k / 47)])  # drives the ball along corridors and into walls
        action = np.clip(push + rng.uniform(-1, 1, 2), -1, 1)
        expected = env.step(action)[0]
        found = mover.step(np.stack([xy, xy]), np.stack([action, action]))
        np.testing.assert_allclose(found, np.stack([expected, expected]), atol=1e-9)
        xy = expected
    assert mover.simulated - before > 100  # there were walls


def test_the_way_and_the_goals_are_the_packages(mover: Mover) -> None:
    """Catches neighbours in another order, a table read the wrong way round, cells that are off, the wrong goals."""
    env, walls = mover.inner, mover.walls
    table, width = next_cells(walls), walls.shape[1]
    free = [tuple(c) for c in np.argwhere(~walls)]
    rng = np.random.default_rng(1)
    places = rng.uniform(-1, 20, (50, 2))
    assert list(zip(*mover.cells(places), strict=True)) == [env.xy_to_ij(xy) for xy in places]
    for _ in range(60):
        start, goal = (free[rng.integers(len(free))] for _ in range(2))
        wanted, _ = env.get_oracle_subgoal(env.ij_to_xy(start), env.ij_to_xy(goal))
        cell = table[start[0] * width + start[1], goal[0] * width + goal[1]]
        assert tuple(wanted) == env.ij_to_xy((cell // width, cell % width))
    for start, cells in zip(free, goal_cells(walls, "stitch"), strict=True):
        hops = env.get_oracle_subgoal(env.ij_to_xy(start), env.ij_to_xy(start))[1]
        assert sorted(cells) == sorted(tuple(c) for c in np.argwhere(hops == 4))
    vertices = goal_cells(walls, "navigate")[0]
    assert (1, 1) in vertices  # a corner
    assert not {(3, 3), (5, 6)} & set(vertices)  # the middle of corridors, along both axes
    assert len(vertices) < len(free)


@pytest.mark.parametrize("name", ["pointmaze-medium-navigate", "pointmaze-medium-stitch"])
def test_generated_episodes_follow_the_recipe(name: str) -> None:
    """Catches noise of another size, actions that are not clipped, and a seed that does not decide."""
    found, again, other = generate(name, 3, 20), generate(name, 3, 20), generate(name, 4, 20)
    steps = find_dataset(name).steps
    assert found["observations"].shape == (20, steps + 1, 2)
    assert found["actions"].shape == (20, steps, 2)
    for key, value in found.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, again[key])
        assert not np.array_equal(value, other[key])
    assert np.abs(found["actions"]).max() == 1.0
    moved = np.diff(found["observations"], axis=1)
    free = np.abs(moved - 0.2 * found["actions"]).max(-1) < 1e-5
    assert 0.9 < free.mean() < 1.0  # the rest touches a wall
    lengths = np.linalg.norm(found["actions"], axis=-1)
    assert 0.9 < lengths.mean() < 1.05  # 1 without noise, 0.96 with N(0, 0.5^2) and clipping


def test_stitch_episodes_stay_near_and_navigate_episodes_do_not() -> None:
    """Catches one kind made as the other: a stitch episode ends about 4 cells of 4 units away at most."""
    far = {
        name: np.abs(np.diff(generate(name, 0, 30)["observations"][:, [0, -1]], axis=1)).sum(-1).max()
        for name in ("pointmaze-large-stitch", "pointmaze-large-navigate")
    }
    assert far["pointmaze-large-stitch"] < 21 < far["pointmaze-large-navigate"]


def test_data_sets_have_the_published_sizes() -> None:
    """Catches a number of episodes or steps that is not OGBench's, and a wrong name that is guessed."""
    assert {i.episodes * i.steps for i in DATASETS.values()} == {1_000_000}
    assert (DATASETS["pointmaze-giant-navigate"].episodes, DATASETS["pointmaze-giant-navigate"].steps) == (500, 2000)
    assert find_dataset("pointmaze-giant-stitch-v0").env == "ogbench-pointmaze-giant-v0"
    with pytest.raises(ValueError, match=r"unknown OGBench data set 'pointmaze-gaint.*'pointmaze-giant-stitch'"):
        find_dataset("pointmaze-gaint-stitch")
    with pytest.raises(ValueError, match="episodes must be at least 1"):
        generate("pointmaze-medium-stitch", 0, 0)


def test_a_seed_decides_the_whole_episode_and_nothing_else_does() -> None:
    """Catches noise from NumPy's global generator, and a task that is drawn although one was named."""
    first, second = (gymnasium.make("ogbench-pointmaze-medium-v0") for _ in range(2))
    a = first.reset(seed=5, options={"task_id": 3})
    np.random.seed(123)  # noqa: NPY002  (the package would use it)
    b = second.reset(seed=5, options={"task_id": 3})
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1]["goal"], b[1]["goal"])
    assert a[1]["task_id"] == 3
    assert not np.array_equal(a[1]["goal"], first.reset(seed=6, options={"task_id": 3})[1]["goal"])
    assert {first.reset(seed=s)[1]["task_id"] for s in range(60)} == {1, 2, 3, 4, 5}
    inner = first.unwrapped.inner
    centre = np.array(inner.ij_to_xy(inner.task_infos[2]["goal_ij"]))
    away = np.array([first.reset(seed=s, options={"task_id": 3})[1]["goal"] - centre for s in range(40)])
    assert np.abs(away).max() <= 1.0
    assert np.abs(away).max(0).min() > 0.8  # U(-1, 1) per axis


def test_success_ends_the_episode_and_walls_are_reported() -> None:
    """Catches success at another distance than 1.0, an episode that goes on, the floor counted as a wall."""
    env = GoalObservation(PointMazeEnv("medium", task=1))
    seen, info = env.reset(seed=0)
    np.testing.assert_array_equal(seen["desired_goal"], info["goal"])
    inner = env.unwrapped.inner
    inner.set_xy(info["goal"] + np.array([1.19, 0.0]))
    seen, reward, terminated, _, info = env.step(np.array([-0.9, 0.0]))
    assert (reward, terminated, info["success"], info["contact"]) == (0.0, False, False, False)
    seen, reward, terminated, _, info = env.step(np.array([-0.1, 0.0]))
    assert (reward, terminated, info["success"]) == (1.0, True, True)
    assert env.compute_reward(seen["achieved_goal"], seen["desired_goal"], info) == 1.0
    assert env.compute_reward(seen["desired_goal"] + np.array([1.1, 0.0]), seen["desired_goal"], info) == 0.0
    inner.set_xy(np.array([0.0, -1.25]))  # the wall's face is at -2, the ball's radius 0.7
    touched = [env.step(np.array([0.0, -1.0]))[4]["contact"] for _ in range(2)]
    assert touched[-1]


def test_wrong_input_is_refused() -> None:
    """Catches an option or task that is silently ignored."""
    env = PointMazeEnv("medium")
    with pytest.raises(ValueError, match="task must be one of 1, 2, 3, 4, 5, got 6"):
        env.reset(options={"task_id": 6})
    with pytest.raises(ValueError, match=r"unknown option of reset 'task'.*'task_id'"):
        env.reset(options={"task": 1})
    with pytest.raises(ValueError, match="unknown size of pointmaze 'gigantic'"):
        PointMazeEnv("gigantic")
    with pytest.raises(ValueError, match="task must be one of"):
        PointMazeEnv("medium", task=0)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a bare ModuleNotFoundError."""
    monkeypatch.setitem(sys.modules, "ogbench.locomaze.maze", None)
    with pytest.raises(ImportError, match=r"pip install 'dfplan\[ogbench\]'"):
        make_inner("medium")
