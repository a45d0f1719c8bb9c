"""Images in Minari datasets: exact where that is asked for, small either way, and read by Minari itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

from dfplan.data import Episodes
from dfplan.data.minari_io import datasets_root, load_minari, save_minari
from dfplan.data.repack import compress_hdf5
from dfplan.data.trajectories import Trajectories

minari = pytest.importorskip("minari")
h5py = pytest.importorskip("h5py")

SHAPE = (40, 48, 3)


def pictures(episodes: int = 3, steps: int = 20) -> Trajectories:
    rng = np.random.default_rng(0)
    rows = episodes * (steps + 1)
    frames = np.full((rows, *SHAPE), 120, dtype=np.uint8)
    frames[:, 10:20, 5:30] = rng.integers(0, 255, (rows, 1, 1, 3), dtype=np.uint8)
    frames[:, 30:32, 30:32] = rng.integers(0, 255, (rows, 2, 2, 3), dtype=np.uint8)
    seen = {"scene": frames, "proprio": rng.normal(size=(rows, 4)).astype(np.float32)}
    space = Dict({"scene": Box(0, 255, SHAPE, np.uint8), "proprio": Box(-np.inf, np.inf, (4,), np.float32)})
    actions = rng.uniform(-1, 1, (episodes * steps, 2)).astype(np.float32)
    ends = np.zeros(episodes, dtype=bool)
    rewards, lengths = np.zeros(episodes * steps), np.full(episodes, steps)
    return Trajectories(seen, actions, rewards, lengths, ends, space, Box(-1, 1, (2,), np.float32))


def scene(dataset_id: str) -> np.ndarray:
    return np.concatenate([episode.observations["scene"] for episode in minari.load_dataset(dataset_id)])


def test_lossless_images_are_exact_and_small(datasets: Path) -> None:
    """Catches JPEG where exact images were asked for, and raw ones that fill the disk."""
    made: Any = pictures()
    paths = [save_minari(made, f"arm/{kind}-v0", images=kind) / "data" for kind in ("lossless", "jpeg")]
    np.testing.assert_array_equal(scene("arm/lossless-v0"), made.observations["scene"])
    assert not np.array_equal(scene("arm/jpeg-v0"), made.observations["scene"])
    size = (paths[0] / "main_data.hdf5").stat().st_size
    assert size < made.observations["scene"].nbytes / 5
    dataset = minari.load_dataset("arm/lossless-v0")
    assert dataset.storage.metadata["dataset_size"] == dataset.storage.get_size()
    np.testing.assert_array_equal(dataset[2].observations["proprio"], made.observations["proprio"][42:])
    np.testing.assert_array_equal(dataset[2].actions, made.actions[40:])
    assert dataset[1].truncations.tolist() == [False] * 19 + [True]


def test_columns_are_the_same_compressed(episodes: Episodes, datasets: Path) -> None:
    """Catches a copy that loses attributes, by which Minari knows an episode's number and length."""
    path = save_minari(episodes, "arm/columns-v0") / "data" / "main_data.hdf5"
    with h5py.File(path) as file:
        before = {name: dict(file[name].attrs) for name in file}
    compress_hdf5(path)
    with h5py.File(path) as file:
        assert {name: dict(file[name].attrs) for name in file} == before
    assert before["episode_2"] == {"id": 2, "total_steps": 5}
    assert load_minari("arm/columns-v0").digest() == episodes.digest()
    minari.load_dataset("arm/columns-v0").storage.update_episode_metadata([{"note": n} for n in range(3)])
    assert [m["note"] for m in minari.load_dataset("arm/columns-v0").storage.get_episode_metadata(range(3))] == [
        0,
        1,
        2,
    ]


def test_a_dataset_may_grow_after_it_was_compressed(datasets: Path) -> None:
    """Catches datasets whose length was fixed by the copy."""
    save_minari(pictures(), "arm/grows-v0")
    with h5py.File(datasets_root() / "arm/grows-v0/data/main_data.hdf5", "a") as file:
        assert file["episode_0/observations/scene"].compression == "gzip"
        file["episode_0/observations/scene"].resize((99, *SHAPE))


def test_a_stopped_copy_keeps_the_file(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a file that is opened for writing before its copy is whole."""
    path = save_minari(pictures(), "arm/raw-v0") / "data" / "main_data.hdf5"
    before = path.read_bytes()

    def stop(old: Any, new: Any) -> None:
        new["half"] = 1
        raise KeyboardInterrupt

    monkeypatch.setattr("dfplan.data.repack._copy_group", stop)
    with pytest.raises(KeyboardInterrupt):
        compress_hdf5(path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["main_data.hdf5", "metadata.json"]


def test_an_unknown_way_is_named(datasets: Path) -> None:
    """Catches a misspelt way that silently becomes JPEG."""
    with pytest.raises(ValueError, match=r"unknown way to store images 'losless'. Did you mean 'lossless'"):
        save_minari(pictures(1, 2), "arm/x-v0", images="losless")
