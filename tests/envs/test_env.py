"""The environment: reset law, reward, end of an episode, info, state, errors."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

import dfplan_envs  # noqa: F401  (registers the ids)
from dfplan_envs.maze2d.env import Maze2dEnv

ZERO = np.zeros(2, dtype=np.float32)


def bare(env_id: str = "maze2d-large-v1", **kwargs: Any) -> Maze2dEnv:
    """Make an environment without wrappers."""
    env = gymnasium.make(env_id, **kwargs).unwrapped
    assert isinstance(env, Maze2dEnv)
    return env


def test_spaces_and_types() -> None:
    """Catches a changed dtype or shape."""
    env = bare()
    assert env.observation_space.shape == (4,)
    assert env.observation_space.dtype == np.float64
    assert env.action_space == gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    observation, info = env.reset(seed=0)
    assert observation.dtype == np.float64
    assert set(info) == {"success", "goal", "distance_to_goal", "contact"}
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert type(reward) is float
    assert type(terminated) is bool
    assert type(truncated) is bool
    assert {name: type(value) for name, value in info.items()} == {
        "success": bool,
        "goal": np.ndarray,
        "distance_to_goal": float,
        "contact": bool,
    }


def test_starts_follow_d4rls_law() -> None:
    """Catches starts off the grid, a missing cell (the goal's is one of them), or a wrong noise."""
    env = bare("maze2d-umaze-v1")
    starts = np.array([env.reset(seed=7 if k == 0 else None)[0] for k in range(4000)])
    cells = np.rint(starts[:, :2])
    noise = starts[:, :2] - cells
    counts = Counter(map(tuple, cells.astype(int).tolist()))
    assert set(counts) == set(env.maze.free_cells)
    assert max(abs(count - 4000 / 7) for count in counts.values()) < 5 * math.sqrt(4000 / 7)
    assert 0.0995 < np.abs(noise).max() <= 0.1
    assert noise.std() == pytest.approx(0.2 / math.sqrt(12), rel=0.03)
    assert abs(noise.mean()) < 0.003
    assert starts[:, 2:].std(axis=0) == pytest.approx([0.1, 0.1], rel=0.05)
    assert np.abs(starts[:, 2:].mean(axis=0)).max() < 0.008
    assert np.abs(starts[:, 2:]).max() > 0.3  # normal, not uniform


def test_the_goal_is_fixed_and_exact() -> None:
    """Catches noise on the goal of a single-goal id."""
    env = bare()
    for _ in range(3):
        _, info = env.reset()
        assert info["goal"].tolist() == [7.0, 9.0]
        assert env.goal.tolist() == [7.0, 9.0]


def test_multi_draws_a_goal_at_every_reset() -> None:
    """Catches a goal that stays, leaves some cells out, or has no noise."""
    env = bare("maze2d-multi-umaze-v1")
    goals = np.array([env.reset(seed=3 if k == 0 else None)[1]["goal"] for k in range(1000)])
    cells = np.rint(goals)
    assert {tuple(cell) for cell in cells.astype(int).tolist()} == set(env.maze.free_cells)
    assert 0.099 < np.abs(goals - cells).max() <= 0.1


def test_the_start_does_not_depend_on_the_goal() -> None:
    """Catches an order of draws in which matched seeds give other starts."""
    start, _ = bare("maze2d-large-v1").reset(seed=5)
    multi, _ = bare("maze2d-multi-large-v1").reset(seed=5)
    other, info = bare("maze2d-large-v1").reset(seed=5, options={"goal": (1.05, 1.1)})
    assert start.tolist() == multi.tolist() == other.tolist()
    assert info["goal"].tolist() == [1.05, 1.1]


def test_reward_scores_the_state_after_the_step() -> None:
    """Catches D4RL's dataset quirk (the reward one row late) in the environment."""
    env = bare("maze2d-umaze-v1")
    env.reset(seed=0, options={"goal": (1.0, 1.0), "state": (1.0, 1.52, 0.0, -5.0)})
    assert env.get_state()[1] - 1.0 > 0.5
    observation, reward, *_, info = env.step(ZERO)
    assert observation[1] - 1.0 <= 0.5
    assert reward == 1.0
    assert info["success"] is True
    env.set_state((1.0, 1.48, 0.0, 5.0))
    observation, reward, *_, info = env.step(ZERO)
    assert observation[1] - 1.0 > 0.5
    assert reward == 0.0
    assert info["success"] is False


def test_the_goals_edge_scores() -> None:
    """Catches '<' in place of '<=' and another radius than 0.5 (PointMaze has 0.45)."""
    env = bare("maze2d-umaze-v1")
    for state, scores in (((1.0, 1.5, 0, 0), 1.0), ((1.0, 1.5000001, 0, 0), 0.0), ((0.7, 1.4, 0, 0), 1.0)):
        _, info = env.reset(options={"state": state})
        assert info["success"] is bool(scores)
        assert env.step(ZERO)[1] == scores


def test_dense_reward_is_exp_of_minus_distance() -> None:
    """Catches another metric (per axis, squared) or the state before the step."""
    env = bare("maze2d-large-dense-v1")
    env.reset(seed=1, options={"state": (1.0, 1.0, 4.0, 0.0)})
    observation, reward, *_, info = env.step(np.ones(2, dtype=np.float32))
    assert reward == pytest.approx(math.exp(-math.dist(observation[:2], (7, 9))), rel=1e-12)
    assert info["distance_to_goal"] == pytest.approx(math.dist(observation[:2], (7, 9)), rel=1e-12)
    assert info["success"] is False


@pytest.mark.parametrize(
    ("env_id", "steps"),
    [
        ("maze2d-umaze-v1", 300),
        ("maze2d-medium-v1", 600),
        ("maze2d-large-v1", 800),
        ("maze2d-umaze-dense-v1", 300),
        ("maze2d-eval-umaze-v1", 300),
        ("maze2d-eval-medium-v1", 600),
        ("maze2d-eval-large-dense-v1", 800),
        ("maze2d-open-v0", 150),
        ("maze2d-open-dense-v0", 150),
        ("maze2d-multi-large-v1", 800),
        ("maze2d-v1", 800),
    ],
)
def test_an_episode_ends_by_its_time_limit_and_by_nothing_else(env_id: str, steps: int) -> None:
    """Catches a wrong limit, and `terminated` at the goal."""
    kwargs: dict[str, Any] = {"maze": ["####", "#OG#", "####"]} if env_id == "maze2d-v1" else {}
    env = gymnasium.make(env_id, **kwargs)
    _, info = env.reset(seed=0)
    goal = info["goal"]
    env.reset(seed=0, options={"state": (*goal, 0.0, 0.0)})
    for step in range(1, steps + 1):
        _, _, terminated, truncated, info = env.step(ZERO)
        assert info["success"]
        assert not terminated
        assert truncated == (step == steps)


@pytest.mark.filterwarnings("ignore:.*is out of date.*:DeprecationWarning")
@pytest.mark.parametrize(("name", "steps"), [("umaze", 150), ("medium", 250), ("large", 600)])
def test_the_first_versions_are_shorter(name: str, steps: int) -> None:
    """Catches v0 with the limit of v1."""
    assert gymnasium.make(f"maze2d-{name}-v0").spec.max_episode_steps == steps  # type: ignore[union-attr]


def test_reset_options() -> None:
    """Catches an option that is ignored, loses its noise, or stays for the next episode."""
    env = bare()
    observation, _ = env.reset(seed=0, options={"state": (1.1, 4.2, -1.0, 2.0)})
    assert observation.tolist() == [1.1, 4.2, -1.0, 2.0]
    near = np.array([env.reset(options={"location": (7, 1)})[0] for _ in range(200)])
    assert 0.09 < np.abs(near[:, :2] - (7, 1)).max() <= 0.1
    assert 0.05 < near[:, 2:].std() < 0.15
    _, info = env.reset(options={"goal": "random"})
    assert info["goal"].tolist() != [7.0, 9.0]
    _, info = env.reset()
    assert info["goal"].tolist() == [7.0, 9.0]


def test_a_fixed_goal_of_ones_own() -> None:
    """Catches `goal=` at construction being ignored, or a maze without 'G' refused although it has one."""
    env = bare("maze2d-v1", maze=["#####", "#OOO#", "#####"], goal=(1.1, 2.9))
    assert env.reset(seed=0)[1]["goal"].tolist() == [1.1, 2.9]
    env = bare("maze2d-v1", maze=["#####", "#OOO#", "#####"], goal="random")
    assert len({tuple(env.reset()[1]["goal"]) for _ in range(5)}) == 5


def test_bad_options_are_refused() -> None:
    """Catches options that do nothing, and values in walls."""
    env = bare()
    env.reset(seed=0)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"gaol": (1, 1)}, r"unknown reset option 'gaol'\. Did you mean 'goal'\? Choose one of: goal, location, state"),
        ({"goal": (2, 2)}, r"goal must lie in a free cell, got \(2, 2\) in wall \(2, 2\)"),
        ({"goal": (50, 1)}, r"goal must lie in a free cell, got \(50, 1\)"),
        ({"goal": (1, 2, 3)}, r"goal must have shape \(2,\), got \(3,\)"),
        ({"goal": "middle"}, r"goal must be a position \(x, y\) or 'random', got 'middle'"),
        ({"goal": (math.nan, 1)}, r"goal must be finite"),
        ({"location": (0, 0)}, r"location must be a free cell \(row, column\) of the 9 x 12 maze, got \(0, 0\)"),
        ({"location": (1.5, 1)}, r"location must be a free cell .* got \(1\.5, 1\)"),
        ({"state": (1, 1)}, r"state must have shape \(4,\), got \(2,\)"),
        ({"state": (0.2, 1, 0, 0)}, r"state must lie in a free cell, got \(0\.2, 1\) in wall \(0, 1\)"),
        ({"state": (1, 1, 11, 0)}, r"velocity must lie within \+-10 per axis, got \(11, 0\)"),
        ({"state": (1, 1, 0, 0), "location": (1, 1)}, r"'location' and 'state' both say where the ball starts"),
    ]
    for options, message in refused:
        with pytest.raises(ValueError, match=message):
            env.reset(options=options)
    with pytest.raises(ValueError, match=r"state must lie in a free cell"):
        env.set_state((0, 0, 0, 0))


def test_actions_are_clipped_and_bad_ones_refused() -> None:
    """Catches unclipped thrust, and NaN that spreads without a word."""
    env = bare()
    ends = []
    for action in ([5.0, -3.0], np.array([1.0, -1.0]), np.array([1.0, -1.0], dtype=np.float32), (9, -1)):
        env.reset(options={"state": (1, 1, 0, 0)})
        ends.append(env.step(action)[0].tolist())
    assert ends[0] == ends[1] == ends[2] == ends[3]
    for bad, message in (
        (np.zeros(3), r"action must have shape \(2,\), got \(3,\)"),
        (np.zeros((2, 1)), r"action must have shape \(2,\), got \(2, 1\)"),
        (np.array([0.0, math.nan]), r"action must be finite, got \[0\.0, nan\]"),
        (np.array([0.0, math.inf]), r"action must be finite"),
        ("up", r"action must be 2 numbers, got 'up'"),
    ):
        with pytest.raises(ValueError, match=message):
            env.step(bad)
    assert np.isfinite(env.get_state()).all()


def test_custom_mazes_with_faults_are_refused_by_make() -> None:
    """Catches checks that run only on the built-in mazes; and a goal-less maze that would score nothing for ever."""
    for kwargs, message in (
        ({"maze": ["#####", "#OOG", "#####"]}, "ragged"),
        ({"maze": ["#####", "#OOO#", "#####"]}, r"no goal cell; mark one 'O' as 'G', or pass goal="),
        ({"maze": ["#####", "#OOO#", "#####"], "reward": "dense"}, "no goal cell"),
        ({}, r"needs a maze, got none; pass maze='large' or rows"),
        ({"maze": "larg"}, "unknown maze 'larg'. Did you mean 'large'"),
        ({"maze": "large", "reward": "sprase"}, r"unknown reward 'sprase'\. Did you mean 'sparse'"),
        ({"maze": "large", "renderer": "opengl"}, r"unknown renderer 'opengl'.*topdown, mujoco"),
        ({"maze": "large", "goal": (0, 0)}, "goal must lie in a free cell"),
    ):
        with pytest.raises(ValueError, match=message):
            gymnasium.make("maze2d-v1", **kwargs)  # type: ignore[arg-type]


def test_a_custom_maze_is_the_named_one_when_its_rows_are() -> None:
    """Catches a custom maze on another code path."""
    named = bare("maze2d-umaze-v1")
    custom = bare("maze2d-v1", maze=["#####", "#GOO#", "###O#", "#OOO#", "#####"])
    assert custom.maze == named.maze
    action = np.array([0.3, 0.9], dtype=np.float32)
    for seed in range(5):
        assert named.reset(seed=seed)[0].tolist() == custom.reset(seed=seed)[0].tolist()
        for _ in range(40):
            assert named.step(action)[0].tolist() == custom.step(action)[0].tolist()


def test_same_seed_same_bits_and_only_reset_seeds() -> None:
    """Catches global random numbers, and a copy that differs."""
    first, second = bare("maze2d-multi-medium-v1"), bare("maze2d-multi-medium-v1")
    rng = np.random.default_rng(0)
    for seed in (11, None, None):
        a, b = first.reset(seed=seed), second.reset(seed=seed)
        np.random.seed(0)  # noqa: NPY002
        assert a[0].tobytes() == b[0].tobytes()
        assert a[1]["goal"].tobytes() == b[1]["goal"].tobytes()
        for action in rng.uniform(-1, 1, size=(200, 2)).astype(np.float32).repeat(3, axis=0):
            one, two = first.step(action), second.step(action)
            assert one[0].tobytes() == two[0].tobytes()
            assert one[1:4] == two[1:4]
    assert first.reset(seed=12)[0].tolist() != second.reset(seed=11)[0].tolist()


def test_a_restored_state_goes_on_bit_for_bit() -> None:
    """Catches hidden state outside of `get_state`."""
    env, other = bare(), bare()
    env.reset(seed=2)
    other.reset(seed=99)
    actions = np.random.default_rng(1).uniform(-1, 1, size=(100, 2)).astype(np.float32).repeat(8, axis=0)
    contacts = 0
    for k, action in enumerate(actions):
        if k % 5 == 0:
            other.step(-action)  # elsewhere, so that whatever it remembers is wrong
            other.set_state(env.get_state())
        observation, _, _, _, info = env.step(action)
        assert other.step(action)[0].tobytes() == observation.tobytes()
        contacts += info["contact"]
    assert contacts > 50


def test_what_is_handed_out_is_not_shared() -> None:
    """Catches a buffer that changes under the caller, or a goal that the caller can move."""
    env = bare()
    observation, info = env.reset(seed=0)
    kept = observation.copy()
    env.goal[:] = 0
    info["goal"][:] = 0
    state = env.get_state()
    state[:] = 0
    after, _, _, _, info = env.step(np.ones(2, dtype=np.float32))
    assert observation.tolist() == kept.tolist()
    assert info["goal"].tolist() == env.goal.tolist() == [7.0, 9.0]
    assert after.tolist() == env.get_state().tolist() != kept.tolist()


def test_a_step_before_reset_says_so() -> None:
    """Catches a ball that starts in a wall."""
    env = bare(render_mode="rgb_array")
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(ZERO)
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.render()
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        _ = env.goal


def test_a_vector_of_environments_equals_single_ones() -> None:
    """Catches state that copies share."""
    vector = SyncVectorEnv([lambda: gymnasium.make("maze2d-medium-v1")] * 3)
    singles = [bare("maze2d-medium-v1") for _ in range(3)]
    batch, _ = vector.reset(seed=[1, 2, 3])
    for k, env in enumerate(singles):
        assert env.reset(seed=k + 1)[0].tolist() == batch[k].tolist()
    actions = np.random.default_rng(0).uniform(-1, 1, size=(50, 3, 2)).astype(np.float32)
    for action in actions:
        batch, rewards, *_ = vector.step(action)
        for k, env in enumerate(singles):
            observation, reward, *_ = env.step(action[k])
            assert observation.tolist() == batch[k].tolist()
            assert reward == rewards[k]
    vector.close()
