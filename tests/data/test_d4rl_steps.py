"""D4RL's locomotion, antmaze, kitchen and adroit files: real transitions, their rewards, and how episodes ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfplan.data import Episodes, load_episodes
from dfplan.data.d4rl import load_d4rl
from dfplan.data.d4rl_names import FILES, PATHS, env_of_file, kind_of, resolve_d4rl

Write = Callable[..., Path]
LENGTHS = (4, 1, 6, 3, 2)  # the last is cut by the end of the file
TERMINALS = (True, False, False, True, False)
WIDTH = 5


def steps(seed: int = 0) -> dict[str, np.ndarray]:
    """Write down s' = s + a (on the first 2 of 5 numbers), whose reward is the sum of s', as D4RL's collector does."""
    rng = np.random.default_rng(seed)
    keys = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
    rows: dict[str, list[Any]] = {key: [] for key in keys}
    for length, terminal in zip(LENGTHS, TERMINALS, strict=True):
        state = rng.integers(0, 99, size=WIDTH).astype(np.float32)
        for t in range(length):
            action = rng.integers(1, 9, size=2).astype(np.float32) / 8
            after = state + np.concatenate([action, np.zeros(3, dtype=np.float32)])
            last = t == length - 1 and length != 2
            for key, value in zip(
                keys, (state, action, after.sum(), after, last and terminal, last and not terminal), strict=True
            ):
                rows[key].append(value)
            state = after
    arrays = {key: np.asarray(values, dtype=np.float32) for key, values in rows.items()}
    return {**arrays, "terminals": arrays["terminals"] > 0, "timeouts": arrays["timeouts"] > 0}


def check(episodes: Episodes) -> None:
    """Check on every transition that its states differ by its action and that its reward is of the second."""
    for index in range(len(episodes)):
        observations, actions, rewards = episodes.episode(index)
        np.testing.assert_allclose(np.diff(observations, axis=0)[:, :2], actions)
        np.testing.assert_allclose(rewards, observations[1:].sum(axis=1))


def test_every_row_is_a_transition_where_the_next_state_is_there(write_h5: Write) -> None:
    """Catches a lost last step, a termination taken for a time limit, and a tail that is dropped."""
    path = write_h5(steps(), "hopper_medium-v2.hdf5")
    episodes = load_episodes(path)
    check(episodes)
    assert episodes.lengths.tolist() == list(LENGTHS)
    assert episodes.terminated.tolist() == list(TERMINALS)
    assert episodes.meta["dropped_rows"] == 0
    assert (episodes.meta["env"], episodes.meta["cut_by"]) == ("hopper-medium-v2", "timeouts and terminals")
    assert episodes.meta["spaces"]["observation"]["shape"] == [WIDTH]


def test_without_next_states_the_last_row_only_closes_an_episode(write_h5: Write) -> None:
    """Catches the step from an episode's end to the next one's start, which no environment made."""
    arrays = steps()
    del arrays["next_observations"]
    episodes = load_d4rl(write_h5(arrays, "pen-human-v1.hdf5"))
    check(episodes)
    assert episodes.lengths.tolist() == [3, 5, 2, 1]
    assert episodes.terminated.tolist() == [True, False, True, False]
    assert episodes.meta["dropped_rows"] == 5


def test_unmarked_jumps_end_an_episode(write_h5: Write) -> None:
    """Catches unreal transitions in files whose flags are not where the episodes end."""
    arrays = steps()
    arrays["timeouts"][:] = False
    episodes = load_d4rl(write_h5(arrays, "other.hdf5"))
    check(episodes)
    assert episodes.lengths.tolist() == list(LENGTHS)
    assert episodes.meta["cut_by"] == "terminals and next_observations"


def test_old_files_without_timeouts_are_cut_at_the_limit(write_h5: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfplan.data.d4rl_steps.STEP_LIMIT", 3)
    arrays = {key: value for key, value in steps().items() if key not in ("timeouts", "next_observations")}
    arrays["terminals"] = np.zeros(16, dtype=bool)
    arrays["terminals"][4] = True
    episodes = load_d4rl(write_h5(arrays, "hopper_medium.hdf5"))
    assert episodes.lengths.tolist() == [2, 1, 2, 2, 2, 1]  # ends after rows 2, 4, 7, 10, 13, 15
    assert episodes.terminated.tolist() == [False, True, False, False, False, False]


def test_antmaze_walks_on_after_the_goal(write_h5: Write) -> None:
    """Catches episodes cut at `terminals`, which mark every row near the goal."""
    arrays = steps()
    del arrays["next_observations"]
    arrays["timeouts"] |= arrays["terminals"]
    arrays["terminals"] = np.ones_like(arrays["terminals"])
    arrays["infos/goal"] = np.ones((16, 2), dtype=np.float32)
    name = FILES["antmaze-large-diverse-v2"]
    episodes = load_d4rl(write_h5(arrays, name))
    check(episodes)
    assert episodes.lengths.tolist() == [3, 5, 2, 1]
    assert not episodes.terminated.any()
    arrays["timeouts"][:] = False
    with pytest.raises(ValueError, match=r"key 'timeouts': found none; needed: timeouts \(N,\) bool"):
        load_d4rl(write_h5(arrays, name))


def test_kitchen_scores_the_row_itself_and_ends_with_its_demonstrations(write_h5: Write) -> None:
    """Catches rewards one row late, and a demonstration's end taken for the task's."""
    arrays = steps()
    for key in ("next_observations", "timeouts"):
        del arrays[key]
    ends = np.cumsum(LENGTHS) - 1
    arrays["terminals"] = np.isin(np.arange(16), ends).astype(np.float32)
    arrays["rewards"] = arrays["observations"].sum(axis=1)
    arrays["infos"] = np.zeros(16, dtype=np.int64)
    episodes = load_d4rl(write_h5(arrays, FILES["kitchen-mixed-v0"]))
    check(episodes)
    assert episodes.lengths.tolist() == [3, 5, 2, 1]
    assert not episodes.terminated.any()


def test_broken_next_states_are_refused(write_h5: Write) -> None:
    arrays = steps()
    arrays["next_observations"] = arrays["next_observations"][:, :3]
    with pytest.raises(ValueError, match=r"key 'next_observations': found shape \(16, 3\); needed: shape \(16, 5\)"):
        load_d4rl(write_h5(arrays))
    with pytest.raises(ValueError, match=r"unknown kind 'step'\. Did you mean 'steps'"):
        load_d4rl(write_h5(steps()), kind="step")


def test_a_kind_may_be_told(write_h5: Write) -> None:
    arrays = {key: value[:, :4] if key.endswith("observations") else value for key, value in steps().items()}
    assert load_d4rl(write_h5(arrays)).lengths.tolist() == list(LENGTHS)
    del arrays["next_observations"]
    assert load_d4rl(write_h5(arrays), kind="steps", rewards="next").lengths.tolist() == [3, 5, 2, 1]
    assert load_d4rl(write_h5(arrays)).meta["file_format"] == "d4rl-hdf5"  # 4 numbers: a maze's tour


def test_names_and_places() -> None:
    """Catches an address that is not D4RL's: facts, typed off its table of addresses."""
    assert PATHS["hopper-medium-v2"] == "gym_mujoco_v2/hopper_medium-v2.hdf5"
    assert PATHS["halfcheetah-medium-replay-v2"] == "gym_mujoco_v2/halfcheetah_medium_replay-v2.hdf5"
    assert PATHS["walker2d-medium-replay-v0"] == "gym_mujoco/walker_mixed.hdf5"
    sparse = "noisy_multistart_True_multigoal_False_sparse_fixed.hdf5"
    assert PATHS["antmaze-large-play-v2"] == f"ant_maze_v2/Ant_maze_hardest-maze_{sparse}"
    assert PATHS["antmaze-umaze-v0"].endswith("u-maze_noisy_multistart_False_multigoal_False_sparse.hdf5")
    assert PATHS["kitchen-complete-v0"] == "kitchen/mini_kitchen_microwave_kettle_light_slider-v0.hdf5"
    assert PATHS["door-human-v1"] == "hand_dapg_v1/door-human-v1.hdf5"
    assert PATHS["maze2d-large-v1"] == "maze2d/maze2d-large-sparse-v1.hdf5"
    assert len(set(FILES.values())) == len(FILES)  # one file name, one data set
    assert all(env_of_file(file) == name for name, file in FILES.items())
    assert resolve_d4rl("hopper-medium") == "hopper-medium-v2"
    assert resolve_d4rl("kitchen-mixed") == "kitchen-mixed-v0"
    kinds = {"maze2d-open-v0": "tour", "antmaze-umaze-v2": "antmaze", "ant-random-v2": "steps", "pen-human-v1": "steps"}
    assert {name: kind_of(name) for name in kinds} == kinds
