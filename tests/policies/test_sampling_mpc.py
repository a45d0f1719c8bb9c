"""Sampling MPC: its cost, its updates, its memory, and how fast it is in the true simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfplan.cli.options import build_policy
from dfplan_envs.maze2d import MazeOracle
from dfplan_policies import SamplingMPC, load_policy

SPEED = 0.1


class Slide:
    """A point without inertia in the open: each step moves it by ``SPEED * action``; the goal is a square of 0.5."""

    def simulate(self, states: Any, actions: Any) -> np.ndarray:
        steps = np.concatenate([np.zeros((len(states), 1, 2)), SPEED * np.cumsum(actions, axis=1)], axis=1)
        places = np.asarray(states)[:, None, :2] + steps
        return np.concatenate([places, np.zeros_like(places)], axis=-1)

    def steps_to_go(self, positions: Any, goal: Any) -> np.ndarray:
        away = np.abs(np.asarray(positions) - goal).max(-1) - 0.5
        return np.maximum(away, 0.0) / SPEED


def make(**options: Any) -> SamplingMPC:
    return SamplingMPC(Slide(), **{"horizon": 20, "samples": 32, **options})


def test_cost_counts_the_steps_that_are_not_at_the_goal() -> None:
    """Catches: the start counted, the end left out, or blocks held too short.

    From 1.0 away (5 steps): at full speed steps 1 to 4 are outside, the goal is held; at rest all 20, and 5 to go.
    """
    blocks = np.zeros((3, 4, 2))
    blocks[0, 0, 0] = 1.0
    blocks[2, 0, 0] = -1.0
    cost = make().costs(blocks, np.array([0.0, 0.0, 0.0, 0.0]), np.array([1.0, 0.0]))
    np.testing.assert_allclose(cost, [4.0, 25.0, 30.0], atol=1e-9)


@pytest.mark.parametrize("method", ["mppi", "cem"])
def test_an_update_takes_the_best_sequence_when_told_to_be_greedy(method: str) -> None:
    # Catches: the worst ones taken, weights of the wrong sign; the sequence in use not being among those tried.
    greedy = make(method=method, elites=1, temperature=1e-9, iterations=1)
    state, goal = np.zeros(4), np.array([3.0, -2.0])
    blocks, rng = np.zeros((4, 2)), np.random.default_rng(0)
    costs = [float(greedy.costs(blocks[None], state, goal)[0])]
    for _ in range(12):
        blocks = greedy.improve(blocks, state, goal, rng)
        costs.append(float(greedy.costs(blocks[None], state, goal)[0]))
    assert (np.diff(costs) <= 1e-9).all() and costs[-1] < costs[0] - 15
    assert np.abs(blocks).max() <= 1.0


def test_a_weighted_mean_is_between_the_best_and_the_plain_mean() -> None:
    # Catches: a temperature that does nothing. At a very high one all sequences count alike.
    state, goal, none = np.zeros(4), np.array([3.0, 0.0]), np.zeros((4, 2))

    def first(**options: Any) -> float:
        return float(make(iterations=1, **options).improve(none, state, goal, np.random.default_rng(0)).mean(0)[0])

    even = first(temperature=1e9)
    assert first(temperature=1e-3) > first(temperature=5.0) > even + 0.05
    np.testing.assert_allclose(first(method="cem", elites=32), even, atol=1e-6)


def test_the_sequence_moves_on_by_one_block() -> None:
    # Catches: no warm start, or a shift by steps instead of blocks. The noise is too small to matter.
    policy = make(noise=1e-9, iterations=1)
    memory, blocks = policy.begin(0), np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]])
    memory = type(memory)(0, 4, blocks)
    seen = []
    for _ in range(7):
        action, memory = policy.act(memory, np.zeros(4), np.array([9.0, 9.0]))
        seen.append(action)
    np.testing.assert_allclose(seen, [[0.1, 0.2]] + [[0.3, 0.4]] * 5 + [[0.5, 0.6]], atol=1e-6)
    np.testing.assert_allclose(memory.blocks[-2:], [[0.7, 0.8]] * 2, atol=1e-6)


def test_functional_and_independent_of_the_batch() -> None:
    # Catches: a generator in the policy, noise that does not depend on episode and step, a memory changed in place.
    policy = make(seed=4)
    goals, states = np.array([[3.0, 0.0], [0.0, 2.0], [3.0, 0.0]]), np.zeros((3, 4))
    state, first = policy.start([0, 1, 2]), None
    for _ in range(7):
        shown = {"observation": states, "desired_goal": goals}
        actions, after = policy.predict(shown, state)
        np.testing.assert_array_equal(policy.predict(shown, state)[0], actions)
        for i in range(3):
            own = type(state)(state.episodes[i : i + 1], state.memories[i : i + 1])
            alone = policy.predict({k: v[i : i + 1] for k, v in shown.items()}, own)[0]
            np.testing.assert_array_equal(alone, actions[[i]])
        first = actions if first is None else first
        state = after
    assert first is not None and not np.array_equal(first[0], first[2])  # same place and goal, other episode


@pytest.mark.parametrize("method", ["mppi", "cem"])
def test_in_the_true_simulator_it_is_nearly_as_fast_as_can_be(method: str) -> None:
    # Catches: dynamics or distances of another maze, driving into walls, leaving the goal.
    oracle, goal = MazeOracle("umaze"), np.array([1.0, 1.0])
    policy = load_policy(method, oracle=oracle, samples=32, elites=6, goal=goal)
    now, state, inside = np.array([[3.0, 1.0, 0.0, 0.0]]), None, []
    least = float(oracle.steps_to_go(now[0, :2], goal))
    for _ in range(int(2 * least)):
        actions, state = policy.predict(now, state)
        now = oracle.simulate(now, actions[:, None].astype(np.float64))[:, 1]
        inside.append(float(np.linalg.norm(now[0, :2] - goal)) <= 0.5)
    reached = inside.index(True) + 1
    assert least < reached < 1.8 * least  # from rest, 21 steps are needed to reach the top speed
    assert all(inside[reached - 1 :])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 1}, "samples must be at least 2, got 1"),
        ({"horizon": 12}, r"horizon must be a multiple of block \(5\), got 12"),
        ({"temperature": 0.0}, "noise and temperature must be positive"),
        ({"elites": 33}, r"elites must lie in \[1, 32\], got 33"),
        ({"method": "mpp"}, "unknown method 'mpp'. Did you mean 'mppi'"),
    ],
)
def test_refused_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_registry_and_command_line_hand_over_the_oracle() -> None:
    # Catches: the oracle of another maze, options that are swallowed.
    with pytest.raises(ValueError, match="the policy 'mppi' needs an oracle"):
        load_policy("mppi")
    with pytest.raises(ValueError, match="unknown option of the policy 'cem' 'sample'"):
        load_policy("cem", oracle=Slide(), sample=3)
    with pytest.raises(ValueError, match="the mppi policy needs a goal"):
        make().predict(np.zeros((1, 4)))
    built: Any = build_policy("cem", "maze2d-medium-v1", seed=5, checkpoint=None, device="cpu", options={})
    assert (built.method, built.seed, built.oracle.maze.height) == ("cem", 5, 8)
