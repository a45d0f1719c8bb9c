"""Gymnasium's and stable-baselines3's own checkers, with every warning an error."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

from dfplan_envs import EnvInfo, list_envs
from dfplan_envs.maze2d.env import Maze2dEnv
from dfplan_envs.wrappers import GoalObservation, show_goal

IDS = ["maze2d-umaze-v1", "maze2d-large-dense-v1", "maze2d-multi-medium-v1", "maze2d-eval-large-v1", "maze2d-open-v0"]


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_check_env_without_warnings(env_id: str) -> None:
    """Catches unbounded spaces, shared buffers, an unseeded reset, a render mode that does not draw."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id).unwrapped)


@pytest.mark.parametrize("info", list_envs(), ids=lambda info: info.id)
def test_every_environment_that_ships_passes(info: EnvInfo) -> None:
    """Catches an id that is added and not checked, as `dfplan eval` makes it, and vectors that give other starts."""
    if info.id.startswith("ogbench"):
        pytest.importorskip("ogbench", reason="needs ogbench")
    if info.id.startswith(("arm-", "fruit-")):
        pytest.importorskip("pybullet", reason="needs pybullet")
    own = {"maze": ["#####", "#OOG#", "#####"]} if info.id == "maze2d-v1" else {}

    def make() -> gymnasium.Env[Any, Any]:
        return show_goal(gymnasium.make(info.id, **own))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        warnings.filterwarnings("ignore", message=".*is out of date.*")  # the -v0, which ship too
        check_env(gymnasium.make(info.id, **own).unwrapped, skip_render_check=True)
        check_env(make(), skip_render_check=True)
    vector = SyncVectorEnv([make] * 2)
    seen, _ = vector.reset(seed=3)
    for row in range(2):
        single, _ = make().reset(seed=3 + row)
        if not isinstance(single, dict):
            np.testing.assert_array_equal(seen[row], single)
            continue
        for key, value in single.items():
            np.testing.assert_array_equal(seen[key][row], value)
    vector.close()


def test_gymnasium_check_env_of_a_custom_maze() -> None:
    """Catches a maze that cannot be made again from its spec."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make("maze2d-v1", maze=["#####", "#OOG#", "#####"]).unwrapped)


@pytest.mark.parametrize("env_id", IDS)
def test_sb3_check_env_without_warnings(env_id: str) -> None:
    """Catches what stable-baselines3 would warn its users about."""
    checker = pytest.importorskip("stable_baselines3.common.env_checker", reason="needs stable-baselines3")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(gymnasium.make(env_id).unwrapped)
        checker.check_env(gymnasium.make(env_id))
        checker.check_env(GoalObservation(gymnasium.make(env_id)))


def goal_env(env_id: str, **kwargs: Any) -> GoalObservation:
    """Make a wrapped environment."""
    return GoalObservation(gymnasium.make(env_id, **kwargs))


def test_gymnasium_check_env_of_the_wrapper() -> None:
    """Catches achieved goals that share memory with the observation."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        check_env(goal_env("maze2d-multi-medium-v1"), skip_render_check=True)


def test_goal_observations_hold_state_position_and_goal() -> None:
    """Catches swapped keys."""
    env = goal_env("maze2d-large-v1")
    observation, info = env.reset(seed=0, options={"goal": (1.1, 4.0)})
    assert set(observation) == {"observation", "achieved_goal", "desired_goal"}
    assert observation["desired_goal"].tolist() == info["goal"].tolist() == [1.1, 4.0]
    observation, *_ = env.step(np.array([1, -1], dtype=np.float32))
    state = env.unwrapped.get_state()  # type: ignore[attr-defined]
    assert observation["observation"].tolist() == state.tolist()
    assert observation["achieved_goal"].tolist() == state[:2].tolist()
    assert env.observation_space.contains(observation)


@pytest.mark.parametrize("env_id", ["maze2d-umaze-v1", "maze2d-umaze-dense-v1"])
def test_compute_reward_is_the_reward_of_the_step_one_by_one_and_at_once(env_id: str) -> None:
    """Catches a second formula that differs from the environment's, or that does not vectorise."""
    env = goal_env(env_id)
    observation, _ = env.reset(seed=3, options={"location": (1, 2)})
    achieved, rewards = [], []
    for action in np.random.default_rng(0).uniform(-1, 1, size=(40, 2)).astype(np.float32).repeat(5, axis=0):
        observation, reward, _, _, info = env.step(action)
        assert env.compute_reward(observation["achieved_goal"], observation["desired_goal"], info) == reward
        achieved.append(observation["achieved_goal"])
        rewards.append(reward)
    many = env.compute_reward(np.array(achieved), np.tile(observation["desired_goal"], (len(achieved), 1)), None)
    assert isinstance(many, np.ndarray)
    np.testing.assert_allclose(many, rewards, rtol=1e-14)
    assert 0 < np.mean(many) < 1
    with pytest.raises(ValueError, match=r"must both be \(2,\) or \(N, 2\), got \(3,\) and \(2,\)"):
        env.compute_reward(np.zeros(3), np.zeros(2), None)


def test_the_wrapper_refuses_other_environments() -> None:
    """Catches an error deep inside a training loop."""
    with pytest.raises(
        TypeError, match=r"wraps a maze2d or pointmaze environment, got CartPoleEnv; make it by gym\.make"
    ):
        GoalObservation(gymnasium.make("CartPole-v1"))


def test_the_bare_class_passes_too() -> None:
    """Catches a class that works only through the registry."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(Maze2dEnv("umaze"), skip_render_check=True)
