"""Data by D4RL's recipe: one endless tour of random targets, driven by the waypoint controller."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dfplan_envs.maze2d.controller import WaypointController
from dfplan_envs.maze2d.layouts import Maze, as_maze
from dfplan_envs.maze2d.physics import PointMass
from dfplan_envs.maze2d.task import GOAL_RADIUS, draw_cell, draw_near, draw_velocity, episode_limit

NOISE_STD = 0.5
CHUNK = 4096
Tour = dict[str, NDArray[np.float32] | NDArray[np.float64] | NDArray[np.bool_]]


def generate_tour(
    maze_name: str | Maze | Sequence[str],
    steps: int,
    seed: int | Sequence[int],
    noisy: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Tour:
    """Drive one endless tour and record it under D4RL's keys.

    Row t is the state before step t, the action of step t, and the reward of the state after it. The same seed gives
    the same bits, and a longer tour starts with the shorter one. Actions are rounded to float32 before they are
    applied, so that the recorded ones replay the tour exactly.

    Departures from D4RL's files: the row after a reached target is the true next state (theirs repeats the old one),
    and rewards score the state after the step, as the environment does (theirs are one row late).

    Args:
        maze_name: a layout's name ("umaze", "medium", "large", ...), a `Maze`, or rows.
        steps: number of rows N, at least 1.
        seed: of everything that is drawn.
        noisy: add N(0, 0.5^2) to the controller's action, then clip again (D4RL's `--noisy`).
        progress: called now and then with the number of rows made since its last call.

    Returns:
        observations (N, 4) float32, actions (N, 2) float32, rewards (N,) float32 for the maze's own goal (all 0 without
        one), terminals (N,) all False, timeouts (N,) True where a target was reached (or, never seen in D4RL's mazes,
        given up after the episode limit), infos/goal (N, 2), infos/qpos (N, 2) and infos/qvel (N, 2), float64.

    Raises:
        ValueError: unknown maze, or fewer than one step.

    Source: D4RL `scripts/generation/generate_maze2d_datasets.py`, rebuilt from its description.
    """
    maze = as_maze(maze_name)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}; pass the number of rows to make")
    limit = episode_limit(maze)
    way_rng, target_rng, noise_rng = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3))
    states = np.empty((steps + 1, 4))
    actions = np.empty((steps, 2), dtype=np.float32)
    timeouts = np.zeros(steps, dtype=np.bool_)
    goals = np.empty((steps, 2))

    controller = WaypointController(maze, way_rng)
    ball = PointMass(maze)
    ball.set(*draw_near(draw_cell(maze, target_rng), target_rng), *draw_velocity(target_rng))
    goal_x, goal_y = draw_near(draw_cell(maze, target_rng), target_rng)
    act, step = controller.act_floats, ball.step
    elapsed = 0
    for begin in range(0, steps, CHUNK):
        end = min(begin + CHUNK, steps)
        noise = noise_rng.normal(0.0, NOISE_STD, size=(CHUNK, 2)).tolist() if noisy else ()
        state_rows, action_rows, goal_rows = [], [], []
        for t in range(end - begin):
            x, y, vx, vy = ball.x, ball.y, ball.vx, ball.vy
            action_x, action_y = act(x, y, vx, vy, goal_x, goal_y)
            if noisy:
                noise_x, noise_y = noise[t]
                action_x = min(1.0, max(-1.0, action_x + noise_x))
                action_y = min(1.0, max(-1.0, action_y + noise_y))
            rounded = _round32(action_x, action_y)
            step(*rounded)
            state_rows.append((x, y, vx, vy))
            action_rows.append(rounded)
            goal_rows.append((goal_x, goal_y))
            elapsed += 1
            if controller.solved or elapsed > limit:
                timeouts[begin + t] = True
                goal_x, goal_y = draw_near(draw_cell(maze, target_rng), target_rng)
                elapsed = 0
        states[begin:end], actions[begin:end], goals[begin:end] = state_rows, action_rows, goal_rows
        if progress is not None:
            progress(end - begin)
    states[steps] = ball.x, ball.y, ball.vx, ball.vy
    return {
        "observations": states[:-1].astype(np.float32),
        "actions": actions,
        "rewards": _rewards(maze, states[1:, :2]),
        "terminals": np.zeros(steps, dtype=np.bool_),
        "timeouts": timeouts,
        "infos/goal": goals,
        "infos/qpos": states[:-1, :2].copy(),
        "infos/qvel": states[:-1, 2:].copy(),
    }


_FLOAT32_PAIR = struct.Struct("2f")


def _round32(action_x: float, action_y: float) -> tuple[float, float]:
    """Round to the nearest float32, which is what gets recorded."""
    x, y = _FLOAT32_PAIR.unpack(_FLOAT32_PAIR.pack(action_x, action_y))
    return x, y


def _rewards(maze: Maze, positions: NDArray[np.float64]) -> NDArray[np.float32]:
    if maze.goal_cell is None:
        return np.zeros(len(positions), dtype=np.float32)
    away = positions - maze.goal_cell
    return (np.hypot(away[:, 0], away[:, 1]) <= GOAL_RADIUS).astype(np.float32)
