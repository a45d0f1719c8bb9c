"""The controller of the data: path, law, and the scores it is known to reach."""

from __future__ import annotations

from itertools import pairwise

import gymnasium
import numpy as np
import pytest

import dfplan_envs
from dfplan_envs.maze2d import WaypointController, as_maze
from dfplan_envs.maze2d.env import Maze2dEnv


def plan(
    maze: str, start: tuple[float, float], target: tuple[float, float], seed: int = 0
) -> list[tuple[float, float]]:
    """Return the waypoints from a start to a target."""
    controller = WaypointController(maze, np.random.default_rng(seed))
    controller.act((*start, 0.0, 0.0), target)
    return controller.waypoints


def test_the_path_is_a_shortest_one_with_ties_as_in_d4rl() -> None:
    """Catches another tie-breaking: of (0,-1), (0,+1), (-1,0), (+1,0) the first that gets nearer is taken."""
    cells = [(round(x + 0.1), round(y + 0.1)) for x, y in plan("open", (1.0, 1.0), (3.0, 5.0))]
    assert cells == [(1, 2), (1, 3), (1, 4), (1, 5), (2, 5), (3, 5)]
    cells = [(round(x + 0.1), round(y + 0.1)) for x, y in plan("open", (3.0, 5.0), (1.0, 1.0))]
    assert cells == [(3, 4), (3, 3), (3, 2), (3, 1), (2, 1), (1, 1)]
    for name in ("umaze", "medium", "large", "eval-large"):
        maze = as_maze(name)
        start, target = maze.free_cells[0], maze.free_cells[-2]
        cells = [(round(x + 0.1), round(y + 0.1)) for x, y in plan(name, start, target)]
        assert len(cells) == maze.distances(target)[start]
        assert all(maze.is_free(cell) for cell in cells)
        assert all(abs(a - c) + abs(b - d) == 1 for (a, b), (c, d) in pairwise([start, *cells]))


def test_waypoints_but_the_last_are_shifted_down_by_up_to_02() -> None:
    """Catches symmetric jitter, or jitter on the target."""
    shifts, lasts = [], set()
    for seed in range(50):
        waypoints = plan("large", (1.05, 1.0), (7.06, 9.04), seed)
        lasts.add(waypoints[-1])
        shifts += [(round(x + 0.1) - x, round(y + 0.1) - y) for x, y in waypoints[:-1]]
    assert lasts == {(7.0, 9.0)}
    shift = np.array(shifts)
    assert shift.min() >= 0.0
    assert 0.195 < shift.max() <= 0.2
    assert shift.mean() == pytest.approx(0.1, abs=0.005)


def test_the_law_is_pd_and_clipped() -> None:
    """Catches a changed gain or sign."""
    controller = WaypointController("open", np.random.default_rng(0))
    action = controller.act((2.02, 3.03, 0.1, -0.2), (2.0, 3.0))
    assert action.tolist() == pytest.approx([10 * -0.02 - 0.1, 10 * -0.03 + 0.2], abs=1e-6)
    assert controller.solved
    assert action.dtype == np.float32
    far = controller.act((1.0, 5.0, 0.0, 0.0), (3.0, 1.0))
    assert far[1] == -1.0
    assert not controller.solved


def test_a_waypoint_is_passed_within_01() -> None:
    """Catches another radius: at 0.11 the waypoint stays, at 0.09 the next one leads."""
    controller = WaypointController("open", np.random.default_rng(0))
    controller.act((2.0, 1.0, 0.0, 0.0), (2.0, 5.0))
    (first_x, first_y), (second_x, second_y) = controller.waypoints[:2]
    for away, passed in ((0.11, False), (0.09, True)):
        controller.reset()
        controller.act((2.0, 1.0, 0.0, 0.0), (2.0, 5.0))
        (first_x, first_y), (second_x, second_y) = controller.waypoints[:2]
        for _ in range(3):
            action = controller.act((first_x + away, first_y, 0.0, 0.0), (2.0, 5.0))
        lead_y = second_y if passed else first_y
        assert action[1] == pytest.approx(np.clip(10 * (lead_y - first_y), -1, 1), abs=1e-6)
    assert (second_x, second_y) == controller.waypoints[1]


def test_it_plans_again_only_for_a_new_cell_or_after_reset() -> None:
    """Catches re-planning at every step (the jitter would be drawn anew), or never."""
    controller = WaypointController("large", np.random.default_rng(0))
    controller.act((1.0, 1.0, 0.0, 0.0), (7.0, 9.0))
    first = controller.waypoints
    controller.act((1.5, 1.0, 0.0, 0.0), (7.09, 8.95))
    assert controller.waypoints == first
    controller.reset()
    controller.act((1.0, 1.0, 0.0, 0.0), (7.0, 9.0))
    assert controller.waypoints != first
    second = controller.waypoints
    controller.act((1.0, 1.0, 0.0, 0.0), (1.0, 9.0))
    assert controller.waypoints[-1] == (1.0, 9.0) != second[-1]


def test_a_start_whose_rounding_is_a_wall_is_put_into_its_cell() -> None:
    """Catches rounding alone: the ball at 0.42 is in cell 1, though 0.42 rounds to the wall 0."""
    assert plan("umaze", (0.42, 1.0), (1.0, 3.0))[-1] == (1.0, 3.0)
    with pytest.raises(ValueError, match=r"target \(2, 2\) must lie in a free cell of the maze, got a wall"):
        plan("umaze", (1.0, 1.0), (2.0, 2.0))
    with pytest.raises(ValueError, match=r"observation must be \(4,\) and target \(2,\), got \(1, 4\) and \(2,\)"):
        WaypointController("umaze", np.random.default_rng(0)).act(np.zeros((1, 4)), np.zeros(2))


@pytest.mark.parametrize(
    ("name", "low", "high"), [("umaze", 1.39, 1.54), ("medium", 1.46, 1.66), ("large", 1.92, 2.16)]
)
def test_it_scores_what_d4rls_controller_scores_when_it_plans_anew_in_every_episode(
    name: str, low: float, high: float
) -> None:
    """Catches errors of reward, reset, physics or controller together; 146.5, 155.7, 203.5 were measured elsewhere."""
    env_id = f"maze2d-{name}-v1"
    env = gymnasium.make(env_id).unwrapped
    assert isinstance(env, Maze2dEnv)
    controller = WaypointController(env.maze, np.random.default_rng(0))
    steps = gymnasium.spec(env_id).max_episode_steps or 0
    returns, successes = [], 0
    for episode in range(150):
        observation, info = env.reset(seed=0 if episode == 0 else None)
        controller.reset()
        total = 0.0
        for _ in range(steps):
            observation, reward, *_ = env.step(controller.act(observation, info["goal"]))
            total += reward
        returns.append(total)
        successes += total > 0
    assert successes == 150
    assert low < np.mean(dfplan_envs.get_normalized_score(env_id, np.array(returns))) < high
