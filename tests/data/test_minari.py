"""Minari datasets: exact, described in full, and never half there."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import dfplan_envs  # noqa: F401  (registers the ids)
from dfplan.data import Episodes, load_episodes
from dfplan.data.minari_io import STALE_SECONDS, list_minari, save_minari, staged_folder
from dfplan.data.trajectories import Trajectories

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")

ID = "maze2d/umaze-test-v0"


def visible(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_round_trip_is_exact_and_silent(episodes: Episodes, datasets: Path) -> None:
    seen: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = save_minari(
            episodes,
            ID,
            env_spec=gymnasium.spec("maze2d-umaze-v1"),
            metadata={"author": {"somebody"}, "ref_min_score": 23.85, "ref_max_score": 161.86},
            progress=seen.append,
        )
        again = load_episodes(ID)
        dataset = minari.load_dataset(ID)
    assert folder == datasets / ID
    assert again.digest() == episodes.digest()
    assert again.lengths.tolist() == seen == [3, 1, 5]
    scores = {"min": 23.85, "max": 161.86}
    assert again.meta == {**episodes.meta, "dataset_id": ID, "reference_scores": scores}
    assert (dataset.total_episodes, dataset.total_steps, dataset.id) == (3, 9, ID)
    for index in range(3):
        episode = dataset[index]
        assert episode.truncations.tolist() == [False] * (seen[index] - 1) + [True]
        assert not episode.terminations.any()
        assert dataset.observation_space.contains(episode.observations[0])
        assert dataset.action_space.contains(episode.actions[0])
        assert "total_steps" in repr(episode)
    assert dataset.storage.metadata["author"] == {"somebody"}
    assert dataset.recover_environment(eval_env=True).spec.id == "maze2d-umaze-v1"
    np.testing.assert_allclose(minari.get_normalized_score(dataset, np.array([161.86])), [1.0])


def test_list_names_datasets_only(episodes: Episodes, datasets: Path) -> None:
    save_minari(episodes, ID)
    assert list_minari()[ID]["total_steps"] == 9
    with warnings.catch_warnings(), staged_folder(datasets / "maze2d" / "other-v0") as folder:
        warnings.simplefilter("error")  # Minari warns of a folder that is half a dataset
        (folder / "data").mkdir()
        assert list(list_minari()) == [ID]
        assert minari.namespace.list_local_namespaces() == ["maze2d"]


def test_an_existing_dataset_is_kept_unless_told(episodes: Episodes, datasets: Path) -> None:
    save_minari(episodes, ID)
    other = Episodes(episodes.observations + 1, episodes.actions, episodes.rewards, episodes.lengths)
    with pytest.raises(ValueError, match=r"the dataset maze2d/umaze-test-v0 exists at .*; pass --overwrite"):
        save_minari(other, ID)
    assert load_episodes(ID).digest() == episodes.digest()
    before = visible(datasets)
    save_minari(other, ID, overwrite=True)
    assert load_episodes(ID).digest() == other.digest()
    assert visible(datasets) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_keeps_the_old_dataset(
    episodes: Episodes, datasets: Path, error: type[BaseException]
) -> None:
    """Catches a writer that deletes or opens the target before the new data is whole."""
    save_minari(episodes, ID)
    before = visible(datasets)

    def stop(steps: int) -> None:
        assert load_episodes(ID).digest() == episodes.digest()  # readers see the old one while the new one is written
        raise error

    with pytest.raises(error):
        save_minari(episodes, ID, overwrite=True, progress=stop)
    assert load_episodes(ID).digest() == episodes.digest()
    assert visible(datasets) == before


def test_an_interrupted_first_write_leaves_nothing(episodes: Episodes, datasets: Path) -> None:
    def stop(steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_minari(episodes, "deep/er/thing-v0", progress=stop)
    assert visible(datasets) == []


def test_the_old_folder_comes_back_when_the_swap_fails(
    episodes: Episodes, datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_minari(episodes, ID)
    rename = Path.rename

    def refuse(self: Path, target: Any) -> Path:
        if self.name == "new":
            raise OSError("no space")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no space"):
        save_minari(episodes, ID, overwrite=True)
    assert load_episodes(ID).digest() == episodes.digest()


def test_what_a_killed_process_left_is_cleared_or_restored(episodes: Episodes, datasets: Path) -> None:
    """Catches a clean-up that deletes a live neighbour's folder, and one that loses a dataset killed in mid-swap."""
    save_minari(episodes, ID)
    target = datasets / ID
    stale, live = (target.parent / f".{target.name}.{word}.tmp" for word in ("stale", "live"))
    for folder in (stale, live):
        folder.mkdir()
    old = time.time() - 2 * STALE_SECONDS
    os.utime(stale, (old, old))
    with staged_folder(target) as folder:
        (folder / "x").touch()
    assert not stale.exists()
    assert live.exists()
    save_minari(episodes, ID, overwrite=True)
    target.rename(live / "old")
    with pytest.raises(KeyboardInterrupt), staged_folder(target):
        raise KeyboardInterrupt
    assert load_episodes(ID).digest() == episodes.digest()


def test_dict_observations_give_their_vector(datasets: Path) -> None:
    """PointMaze's datasets, whose observation is a Dict."""
    from minari.data_collector import EpisodeBuffer

    space = gymnasium.spaces.Dict(
        {
            key: gymnasium.spaces.Box(-np.inf, np.inf, (width,))
            for key, width in (("observation", 4), ("desired_goal", 2))
        }
    )
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    buffer = EpisodeBuffer(
        observations={"observation": vectors, "desired_goal": np.zeros((3, 2))},
        actions=np.ones((2, 2), np.float32),
        rewards=np.array([1.0, 2.0]),
        terminations=np.zeros(2, bool),
        truncations=np.array([False, True]),
        infos={},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            "point/maze-v2", [buffer], observation_space=space, action_space=gymnasium.spaces.Box(-1, 1, (2,))
        )
    episodes = load_episodes("point/maze-v2")
    np.testing.assert_array_equal(episodes.observations, vectors)
    assert episodes.rewards.tolist() == [1, 2]
    assert episodes.meta["observation_key"] == "observation"
    assert episodes.meta["spaces"]["observation"]["kind"] == "box"
    assert episodes.terminated.tolist() == [False]


def goal_run(terminated: tuple[bool, ...] = (True, False)) -> Trajectories:
    """Two episodes of 3 and 2 steps of a goal environment with numbered actions."""
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(7, 3))
    observations = {"observation": seen, "achieved_goal": seen[:, 1:] * 1, "desired_goal": np.ones((7, 2))}
    spaces = {key: gymnasium.spaces.Box(-np.inf, np.inf, value.shape[1:], float) for key, value in observations.items()}
    return Trajectories(
        observations, np.array([4, 6, 5, 5, 4]), np.arange(5.0), np.array([3, 2]), np.array(terminated),
        gymnasium.spaces.Dict(spaces), gymnasium.spaces.Discrete(3, start=4),
    )  # fmt: skip


def test_an_environments_own_spaces_come_back_as_columns(datasets: Path) -> None:
    """Catches a termination stored as a truncation, one-hot columns that are off by the start, and a lost goal."""
    run = goal_run()
    folder = save_minari(run, "goal/run-v0", meta={"seed": 1}, metadata={"author": {"me"}})
    stored = minari.load_dataset("goal/run-v0")
    assert stored.action_space == run.action_space and stored.observation_space == run.observation_space
    assert stored[0].terminations.tolist() == [False, False, True] and not stored[0].truncations.any()
    assert stored[1].truncations.tolist() == [False, True] and not stored[1].terminations.any()
    assert stored[1].observations["desired_goal"].tolist() == [[1, 1]] * 3
    found = load_episodes("goal/run-v0")
    assert folder.is_dir()
    assert found.digest() == run.to_episodes().digest()
    assert found.actions.tolist()[:2] == [[1, -1, -1], [-1, -1, 1]]
    assert found.observations.shape == (7, 3)  # the goal's columns are columns 1 and 2 of the observation
    assert found.meta["spaces"]["observation"]["goal_columns"] == [1, 2]
    assert found.meta["spaces"]["action"]["count"] == 3
    assert (found.meta["seed"], found.terminated.tolist()) == (1, [True, False])


def test_columns_are_not_encoded_twice(datasets: Path) -> None:
    """Catches one-hot columns read as a Box of an environment, whose own description would be lost."""
    columns = goal_run().to_episodes({"env": "x"})
    save_minari(columns, "goal/columns-v0")
    again = load_episodes("goal/columns-v0")
    assert again.digest() == columns.digest()
    assert again.meta["spaces"] == columns.meta["spaces"]


def test_nested_goals_leave_the_observation(datasets: Path) -> None:
    """Franka Kitchen's datasets, whose goals are dictionaries themselves."""
    run, box = goal_run(), gymnasium.spaces.Box
    goal = gymnasium.spaces.Dict({"kettle": box(-9, 9, (2,), float)})
    space = gymnasium.spaces.Dict({"observation": box(-9, 9, (3,), float), "achieved_goal": goal, "desired_goal": goal})
    assert isinstance(run.observations, dict)
    nested = {key: value if key == "observation" else {"kettle": value} for key, value in run.observations.items()}
    rest = (run.actions, run.rewards, run.lengths, run.terminated, space, run.action_space)
    save_minari(Trajectories(nested, *rest), "kitchen/two-v0")
    found = load_episodes("kitchen/two-v0")
    assert found.meta["observation_key"] == "observation"
    np.testing.assert_array_equal(found.observations, run.observations["observation"].astype(np.float32))


@pytest.mark.parametrize(
    "name", ["a b", "maze2d/x", "-v", "maze2d/x-v", "x/y-v0", "../up-v0", "a//b-v0", "/abs-v0", ""]
)
def test_malformed_ids_are_refused(episodes: Episodes, datasets: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"a dataset id must be \(namespace/\)name-vN"):
        save_minari(episodes, name)
    with pytest.raises(ValueError, match="a dataset id must be"):
        load_episodes(name)


def test_unknown_ids_name_the_nearest(episodes: Episodes, datasets: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no dataset in .*; make one with `dfplan data make`"):
        load_episodes("maze2d/umaze-tset-v0")
    save_minari(episodes, ID)
    with pytest.raises(FileNotFoundError, match="Did you mean 'maze2d/umaze-test-v0'"):
        load_episodes("maze2d/umaze-tset-v0")


def cut_data(data: Path) -> None:
    whole = (data / "main_data.hdf5").read_bytes()
    (data / "main_data.hdf5").write_bytes(whole[: len(whole) // 2])


def lose_episode(data: Path) -> None:
    import h5py

    with h5py.File(data / "main_data.hdf5", "a") as file:
        del file["episode_1"]


def lose_metadata(data: Path) -> None:
    (data / "metadata.json").unlink()


def poison(data: Path) -> None:
    import h5py

    with h5py.File(data / "main_data.hdf5", "a") as file:
        file["episode_1/actions"][0, 0] = np.nan


def other_space(data: Path) -> None:
    metadata = json.loads((data / "metadata.json").read_text())
    del metadata["dfplan_columns"]  # as Minari's own datasets are
    box = gymnasium.spaces.Box(-1, 1, (2, 2))
    from minari.serialization import serialize_space

    metadata["observation_space"] = serialize_space(box)
    (data / "metadata.json").write_text(json.dumps(metadata))


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (cut_data, r"the dataset maze2d/umaze-test-v0 is damaged \(.*; make or fetch it again"),
        (lose_episode, "is damaged"),
        (lose_metadata, "No data found"),
        (poison, "actions must be finite, .* row 3"),
        (other_space, r"umaze-test-v0: an observation must have shape \(..., 2, 2\)"),
    ],
)
def test_damaged_datasets_are_refused(
    episodes: Episodes, datasets: Path, damage: Callable[[Path], None], match: str
) -> None:
    save_minari(episodes, ID)
    damage(datasets / ID / "data")
    with pytest.raises(ValueError, match=match):
        load_episodes(ID)


def test_without_minari_the_extra_is_named(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ImportError, match=r"pip install 'dfplan\[minari\]'"):
        load_episodes(ID)
