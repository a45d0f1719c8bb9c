"""What the offline baselines learn from: transitions of both kinds of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from baselines import transitions
from dfplan.data import Episodes
from dfplan.data.npz import save_npz


def test_npz_transitions_stay_within_their_episode(tmp_path: Path) -> None:
    # Catches: a next state taken from the following episode, rewards or actions off by an episode.
    states = np.arange(7, dtype=np.float32)[:, None] * np.ones((1, 4), dtype=np.float32)
    actions = np.array([[0.0], [0.1], [0.3], [0.4], [0.5]], dtype=np.float32)
    rewards = np.array([0, 1, 0, 0, 1], dtype=np.float32)
    episodes = Episodes(states, actions, rewards, np.array([2, 3]), {"env": "maze2d-umaze-v1", "seed": 3})
    data = transitions.load(save_npz(episodes, tmp_path / "x.npz"))
    got = data.batch(np.arange(len(data)))
    assert got["observations"][:, 0].tolist() == [0, 1, 3, 4, 5]
    assert got["next_observations"][:, 0].tolist() == [1, 2, 4, 5, 6]
    np.testing.assert_array_equal(got["actions"], actions)
    np.testing.assert_array_equal(got["rewards"][:, 0], rewards)
    assert not got["terminals"].any() and got["intervals"].shape == (5, 1)
    assert data.origin == {"file": "x.npz", "transitions": 5, "env": "maze2d-umaze-v1"}
    assert all(value.dtype == np.float32 for value in got.values())


def test_hdf5_drops_what_has_no_next_state(tmp_path: Path) -> None:
    # Catches: a transition across a new target or past the end of the file; a true end that is thrown away.
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["observations"] = np.arange(6.0)[:, None]
        file["actions"] = np.arange(6.0)[:, None] / 10
        file["rewards"] = np.arange(6.0)
        file["terminals"] = np.array([0, 0, 0, 1, 0, 0], dtype=bool)
        file["timeouts"] = np.array([0, 1, 0, 0, 0, 0], dtype=bool)
    data = transitions.load(tmp_path / "x.hdf5")
    got = data.batch(np.arange(len(data)))
    assert got["observations"][:, 0].tolist() == [0, 2, 3, 4]
    assert got["next_observations"][:, 0].tolist()[:2] == [1, 3]
    assert got["rewards"][:, 0].tolist() == [0, 2, 3, 4]
    assert got["terminals"][:, 0].tolist() == [0, 0, 1, 0]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data must be one of \.npz, \.hdf5, \.h5, got"):
        transitions.load(tmp_path / "x.csv")
    np.savez(tmp_path / "x.npz", observations=np.zeros((2, 4)))
    with pytest.raises(ValueError, match="lacks actions, rewards, lengths, meta"):
        transitions.load(tmp_path / "x.npz")
