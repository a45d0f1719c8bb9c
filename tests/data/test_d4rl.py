"""D4RL's files: what is real in them, where they end, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dfplan.data import Episodes, load_episodes
from dfplan.data.d4rl import FILES, d4rl_dataset_dir, env_of_file, load_d4rl, resolve_d4rl

GOAL = np.array([3.0, 0.0])
Tour = Callable[..., dict[str, np.ndarray]]
Write = Callable[..., Path]


def assert_real(episodes: Episodes) -> None:
    """Check on every transition that its states differ by its action, and that its reward scores the second of them."""
    for index in range(len(episodes)):
        observations, actions, rewards = episodes.episode(index)
        np.testing.assert_allclose(np.diff(observations, axis=0), np.concatenate([actions, actions], axis=1), atol=1e-5)
        np.testing.assert_allclose(rewards, np.linalg.norm(observations[1:, :2] - GOAL, axis=1), rtol=1e-6)


@pytest.mark.parametrize("quirk", [True, False])
@pytest.mark.parametrize("every", [2, 3, 7])
def test_only_real_transitions_are_kept(tour: Tour, write_h5: Write, quirk: bool, every: int) -> None:
    """Catches both unreal transitions around a repeated row, a cut off by one and rewards one row late."""
    arrays = tour(every=every, quirk=quirk)
    path = write_h5(arrays)
    episodes = load_d4rl(path)
    assert_real(episodes)
    ends = np.flatnonzero(arrays["timeouts"])
    assert (
        episodes.observations[episodes.starts + episodes.lengths] == arrays["observations"][ends][: len(episodes)]
    ).all()
    expected = [every - 1, *[every - (2 if quirk else 1)] * (len(ends) - 1)]
    assert episodes.lengths.tolist() == [length for length in expected if length > 0]
    assert episodes.meta["dropped_rows"] == 60 - episodes.steps
    assert episodes.meta["cut_by"] == "timeouts"


def test_segments_of_one_row_hold_no_transition(tour: Tour, write_h5: Write) -> None:
    with pytest.raises(ValueError, match="key 'timeouts': found 60 ends and no real transition between them"):
        load_d4rl(write_h5(tour(every=1)))


def test_segments_end_where_the_file_says(tour: Tour, write_h5: Write) -> None:
    """Catches a mark that is not looked for: the same tour, its ends given in four ways, gives the same episodes."""
    arrays = tour()
    reference = load_d4rl(write_h5(arrays))
    flags = arrays.pop("timeouts")
    goals = arrays.pop("infos/goal")
    none = np.zeros_like(flags)
    ways = {
        "terminals": {**arrays, "terminals": flags},
        "infos/goal": {**arrays, "infos/goal": goals},
        "repeated observations": {**arrays, "timeouts": none},
    }
    for name, way in ways.items():
        episodes = load_d4rl(write_h5(way, "other.hdf5"))
        assert episodes.meta["cut_by"] == name
        assert episodes.digest() == reference.digest(), name
    both = load_d4rl(write_h5({**arrays, "timeouts": flags, "terminals": flags}, "both.hdf5"))
    assert both.meta["cut_by"] == "timeouts and terminals"
    with pytest.raises(ValueError, match=r"key 'timeouts': found none and nothing else .*needed: timeouts \(N,\) bool"):
        load_d4rl(write_h5({**tour(quirk=False), "timeouts": none, "infos/goal": goals * 0}, "endless.hdf5"))


def test_rewards_may_be_on_the_next_state(tour: Tour, write_h5: Write) -> None:
    arrays = tour(quirk=False)
    late = load_d4rl(write_h5(arrays))
    arrays["rewards"] = np.append(arrays["rewards"][1:], np.float32(0))
    aligned = load_d4rl(write_h5(arrays, "aligned.hdf5"), rewards="next")
    assert aligned.digest() == late.digest()
    with pytest.raises(ValueError, match=r"unknown rewards 'nxt'\. Did you mean 'next'"):
        load_d4rl(write_h5(arrays), rewards="nxt")


def test_column_vectors_integers_and_doubles_are_read(tour: Tour, write_h5: Write) -> None:
    arrays = tour()
    plain = load_d4rl(write_h5(arrays))
    arrays["rewards"] = arrays["rewards"].astype(np.float64)[:, None]
    arrays["timeouts"] = arrays["timeouts"].astype(np.uint8)[:, None]
    assert load_d4rl(write_h5(arrays, "columns.h5")).digest() == plain.digest()
    assert load_episodes(write_h5(arrays, "columns.h5")).digest() == plain.digest()


def change(key: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda arrays: {name: array for name, array in {**arrays, key: value}.items() if array is not None}


def patch(key: str, row: int, value: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def apply(arrays: dict[str, Any]) -> dict[str, Any]:
        array = arrays[key].astype(np.float64)
        array[row] = value
        return {**arrays, key: array}

    return apply


def rename(old: str, new: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda arrays: {new if name == old else name: array for name, array in arrays.items()}


BROKEN = [
    (
        change("actions", None),
        r"found no key 'actions'; it holds infos/goal, observations, rewards.*needed: a D4RL file",
    ),
    (rename("observations", "observation"), r"no key 'observations' \(is it 'observation'\?\)"),
    (rename("observations", "episode_0/observations"), "found Minari's main_data.hdf5; needed: a dataset id"),
    (lambda arrays: {}, "it holds nothing"),
    (
        patch("observations", 17, np.nan),
        "key 'observations': found NaN or infinity in 1 rows, first in row 17; needed: finite",
    ),
    (patch("rewards", 4, np.inf), "key 'rewards': found NaN or infinity in 1 rows, first in row 4"),
    (patch("actions", 9, -np.inf), "key 'actions': found NaN or infinity"),
    (patch("infos/goal", 2, np.nan), "key 'infos/goal': found NaN or infinity"),
    (change("actions", np.ones((59, 2))), "key 'actions': found 59 rows; needed: 60 rows, as in observations"),
    (change("timeouts", np.ones(61, bool)), "key 'timeouts': found 61 rows"),
    (change("observations", np.ones(60)), r"key 'observations': found shape \(60,\); needed: shape \(N, n\)"),
    (change("observations", np.ones((60, 2, 2))), r"key 'observations': found shape \(60, 2, 2\)"),
    (change("rewards", np.ones((60, 2))), r"key 'rewards': found shape \(60, 2\); needed: shape \(N,\)"),
    (change("rewards", np.array(1.0)), r"key 'rewards': found shape \(\)"),
    (change("observations", np.ones((60, 0))), r"key 'observations': found shape \(60, 0\)"),
    (change("actions", np.full((60, 2), b"x")), "key 'actions': found type .*; needed: real numbers"),
    (change("timeouts", np.full(60, 2)), "key 'timeouts': found values other than 0 and 1; needed: flags"),
    (change("terminals", np.full(60, np.nan)), "key 'terminals': found values other than 0 and 1"),
    (lambda arrays: {key: value[:1] for key, value in arrays.items()}, "found 1 row; needed: at least 2"),
    (
        lambda arrays: {
            **arrays,
            **{key: arrays[key] * (np.arange(60) != 30)[:, None] for key in ("observations", "actions")},
        },
        r"found 1 rows of zeros only .* first row 30",
    ),
]


@pytest.mark.parametrize(("breaking", "match"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_file_is_refused_by_name(tour: Tour, write_h5: Write, breaking: Any, match: str) -> None:
    path = write_h5(breaking(tour()), "broken.hdf5")
    with pytest.raises(ValueError, match=match) as caught:
        load_d4rl(path)
    assert str(path) in str(caught.value)


def test_rows_that_were_never_written_are_refused(tour: Tour, tmp_path: Path) -> None:
    arrays = tour()
    with h5py.File(tmp_path / "hollow.hdf5", "w") as file:
        for key, value in arrays.items():
            if key == "actions":
                file.create_dataset(key, shape=value.shape, dtype="f4", chunks=(10, 2))
            else:
                file[key] = value
    with pytest.raises(ValueError, match=r"key 'actions': found shape \(60, 2\) declared but not one row written"):
        load_d4rl(tmp_path / "hollow.hdf5")


def test_no_cut_of_a_file_is_read(tour: Tour, write_h5: Write, tmp_path: Path) -> None:
    whole = write_h5(tour()).read_bytes()
    path = tmp_path / "cut.hdf5"
    for size in {*range(1, len(whole), 499), len(whole) - 1}:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut.hdf5: found .*; needed: "):
            load_d4rl(path)


def test_files_that_are_not_hdf5_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    with pytest.raises(FileNotFoundError, match=r"no such file: .*a.hdf5; `dfplan data fetch"):
        load_d4rl(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a.hdf5: found an empty file; needed: a D4RL file"):
        load_d4rl(path)
    path.write_bytes(b"<html><body>404</body></html>")
    with pytest.raises(ValueError, match=r"no HDF5 file but bytes b'<html><b' \(a web page: the download failed\)"):
        load_d4rl(path)
    (tmp_path / "folder.hdf5").mkdir()
    with pytest.raises(ValueError, match="found a folder; needed: a file"):
        load_d4rl(tmp_path / "folder.hdf5")


def test_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert resolve_d4rl("maze2d-large") == "maze2d-large-v1"
    assert resolve_d4rl("maze2d-open") == "maze2d-open-v0"
    assert FILES["maze2d-eval-large-v1"] == "maze2d-eval-large-sparse-v1.hdf5"
    assert FILES["maze2d-umaze-dense-v1"] == "maze2d-umaze-dense-v1.hdf5"
    assert FILES["maze2d-open-v0"] == "maze2d-open-sparse.hdf5"
    assert env_of_file("a/b/maze2d-medium-sparse-v1.hdf5") == "maze2d-medium-v1"
    assert env_of_file("mine.hdf5") is None
    with pytest.raises(ValueError, match=r"unknown D4RL dataset 'maze2d-lage'\. Did you mean 'maze2d-large-v1'"):
        resolve_d4rl("maze2d-lage")
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    assert d4rl_dataset_dir() == tmp_path
    monkeypatch.delenv("D4RL_DATASET_DIR")
    assert d4rl_dataset_dir() == Path.home() / ".d4rl" / "datasets"


@pytest.mark.filterwarnings("ignore")
def test_transitions_agree_with_d4rl(tour: Tour, write_h5: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours are d4rl's transitions, less the one after a repeated row and what follows the last target."""
    monkeypatch.setitem(sys.modules, "mujoco_py", None)  # it raises what d4rl's guards let through
    d4rl = pytest.importorskip("d4rl", exc_type=ImportError)
    arrays = tour(every=7)
    theirs = d4rl.qlearning_dataset(None, dataset=dict(arrays))
    ours = load_d4rl(write_h5(arrays))
    firsts = {
        tuple(row)
        for row in np.concatenate([theirs[key] for key in ("observations", "actions", "next_observations")], 1)
    }
    rows = ours.next_rows
    mine = np.concatenate([ours.observations[rows - 1], ours.actions, ours.observations[rows]], axis=1)
    assert {tuple(row) for row in mine} <= firsts
    repeated = np.flatnonzero((np.diff(arrays["observations"], axis=0) == 0).all(axis=1)) + 1
    tail = len(arrays["observations"]) - 1 - np.flatnonzero(arrays["timeouts"])[-1]
    unreal_in_the_tail = 1
    assert len(firsts) - len(mine) == len(repeated) + (tail - 1) - unreal_in_the_tail
