"""Ids, names and score tables."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import numpy as np
import pytest

import dfplan_envs
from dfplan_envs.maze2d.env import Maze2dEnv

# (min, max) as in D4RL's sources.
SCORES = {
    "maze2d-open-v0": (0.01, 20.66),
    "maze2d-umaze-v1": (23.85, 161.86),
    "maze2d-medium-v1": (13.13, 277.39),
    "maze2d-large-v1": (6.7, 273.99),
    "maze2d-open-dense-v0": (11.17817, 27.166538620695782),
    "maze2d-umaze-dense-v1": (68.537689, 193.66285642381482),
    "maze2d-medium-dense-v1": (44.264742, 297.4552547777125),
    "maze2d-large-dense-v1": (30.569041, 303.4857382709002),
    "maze2d-eval-umaze-v1": (36.63, 141.4),
    "maze2d-eval-medium-v1": (13.07, 204.93),
    "maze2d-eval-large-v1": (16.4, 302.22),
    "maze2d-eval-umaze-dense-v1": (56.95455, 178.21373133248397),
    "maze2d-eval-medium-dense-v1": (42.28578, 235.5658957482388),
    "maze2d-eval-large-dense-v1": (56.95455, 326.09647655082637),
    "maze2d-umaze-v0": (0.94, 62.6),
    "maze2d-medium-v0": (5.77, 85.14),
    "maze2d-large-v0": (4.83, 191.99),
}
MULTI = {f"maze2d-multi-{name}-v1": SCORES[f"maze2d-{name}-v1"] for name in ("umaze", "medium", "large")}


def test_exactly_these_ids_exist() -> None:
    """Catches an id that is missing from the registry, from Gymnasium, or from the score table."""
    pointmaze = {f"ogbench-pointmaze-{size}-v0" for size in ("medium", "large", "giant")}
    robotics = {f"robotics-pointmaze-{maze}-v3" for maze in ("umaze", "medium", "large")}
    arm = {"fruit-swap-v0", "arm-reach-v0", "arm-pick-place-v0"}
    wanted = {*SCORES, *MULTI, "maze2d-v1", *pointmaze, *robotics, *arm}
    assert {info.id for info in dfplan_envs.list_envs()} == wanted
    ours = ("maze2d", "ogbench-", "robotics-", "fruit-", "arm-")
    assert {env_id for env_id in gymnasium.registry if env_id.startswith(ours)} == wanted
    for info in dfplan_envs.list_envs():
        assert info.reference_scores == {**SCORES, **MULTI}.get(info.id)
        assert gymnasium.spec(info.id).max_episode_steps == info.max_episode_steps
        assert info.description


@pytest.mark.filterwarnings("ignore:.*is out of date.*:DeprecationWarning")
@pytest.mark.parametrize("env_id", [*SCORES, *MULTI])
def test_every_id_makes_its_own_maze_and_reward(env_id: str) -> None:
    """Catches an id that points to another maze or reward."""
    env = gymnasium.make(env_id).unwrapped
    assert isinstance(env, Maze2dEnv)
    goals = {
        "umaze": (1, 1), "medium": (6, 6), "large": (7, 9), "open": (2, 3),
        "eval-umaze": (1, 3), "eval-medium": (1, 6), "eval-large": (1, 9),
    }  # fmt: skip
    name = env_id.removeprefix("maze2d-").rsplit("-", 1)[0].removesuffix("-dense").removeprefix("multi-")
    assert env.maze.goal_cell == goals[name]
    assert env.reward == ("dense" if "dense" in env_id else "sparse")


@pytest.mark.parametrize(("env_id", "scores"), list({**SCORES, **MULTI}.items()))
def test_scores_are_d4rls(env_id: str, scores: tuple[float, float]) -> None:
    """Catches a mistyped constant, and a formula turned round."""
    low, high = scores
    assert dfplan_envs.reference_scores(env_id) == scores
    assert dfplan_envs.get_normalized_score(env_id, low) == 0.0
    assert dfplan_envs.get_normalized_score(env_id, high) == 1.0
    assert dfplan_envs.get_normalized_score(env_id, (low + 3 * high) / 4) == pytest.approx(0.75)


def test_scores_take_arrays_and_the_environment_knows_its_own() -> None:
    """Catches an array collapsed to a float, or a float returned as an array."""
    single = dfplan_envs.get_normalized_score("maze2d-large", 550.8)
    assert type(single) is float
    assert single == pytest.approx(2.035, abs=1e-3)
    many = dfplan_envs.get_normalized_score("maze2d-large", np.array([6.7, 273.99], dtype=np.float32))
    assert many.tolist() == pytest.approx([0.0, 1.0], abs=1e-6)
    env = gymnasium.make("maze2d-large-v1").unwrapped
    assert isinstance(env, Maze2dEnv)
    assert env.normalized_score(550.8) == single
    with pytest.raises(ValueError, match=r"needs the environment's id, got none; make it by gymnasium\.make"):
        Maze2dEnv("large").normalized_score(1.0)
    with pytest.raises(ValueError, match=r"maze2d-v1 has no reference scores"):
        dfplan_envs.get_normalized_score("maze2d", 1.0)


def test_names_resolve_to_the_newest_version() -> None:
    """Catches the oldest version, and a guess in place of an error."""
    assert dfplan_envs.resolve("maze2d-large") == "maze2d-large-v1"
    assert dfplan_envs.resolve("maze2d-large-v0") == "maze2d-large-v0"
    assert dfplan_envs.resolve("maze2d-open") == "maze2d-open-v0"
    assert dfplan_envs.resolve("maze2d-multi-umaze") == "maze2d-multi-umaze-v1"
    with pytest.raises(
        ValueError, match=r"unknown environment 'maze2d-lareg'\. Did you mean 'maze2d-large-v\d'\?.*umaze"
    ):
        dfplan_envs.resolve("maze2d-lareg")
    with pytest.raises(ValueError, match="unknown environment 'maze2d-large-v7'"):
        dfplan_envs.resolve("maze2d-large-v7")


def test_importing_the_package_loads_neither_simulator_nor_torch() -> None:
    """Catches an import that makes every command slow."""
    code = "import sys, dfplan_envs; print([name for name in ('mujoco', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_paths())
    assert done.stdout.strip() == "[]"
    code = "import sys, dfplan_envs.wrappers, dfplan_envs.maze2d.pointmaze; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_paths())
    assert done.stdout.strip() == "False"


def _paths() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
