"""The compact file: exact, whole, and never a pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfplan.data import Episodes, load_episodes, load_npz, save_npz
from dfplan.data.files import atomic_path


def test_round_trip_is_exact(episodes: Episodes, tmp_path: Path) -> None:
    path = save_npz(episodes, tmp_path / "new" / "a.npz")
    again = load_episodes(path)
    for name in ("observations", "actions", "rewards", "lengths"):
        np.testing.assert_array_equal(getattr(again, name), getattr(episodes, name))
        assert getattr(again, name).dtype == getattr(episodes, name).dtype
    assert again.meta == episodes.meta
    assert load_npz(save_npz(again, tmp_path / "b.npz")).digest() == episodes.digest()
    assert (tmp_path / "b.npz").read_bytes() == path.read_bytes()


def test_no_cut_of_a_file_is_read(episodes: Episodes, tmp_path: Path) -> None:
    """Catches a reader that takes half a file for a whole one, or lets another kind of error through."""
    whole = save_npz(episodes, tmp_path / "a.npz").read_bytes()
    path = tmp_path / "cut.npz"
    for size in {*range(0, len(whole), 41), len(whole) - 1}:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut.npz is not a readable episode file: .*needed: a whole file"):
            load_npz(path)


def test_flipped_bits_are_noticed(episodes: Episodes, tmp_path: Path) -> None:
    whole = save_npz(episodes, tmp_path / "a.npz").read_bytes()
    path = tmp_path / "flipped.npz"
    rng = np.random.default_rng(0)
    for place in rng.integers(len(whole), size=200).tolist():
        broken = bytearray(whole)
        broken[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            digest = load_npz(path).digest()
        except ValueError:
            continue
        assert digest == episodes.digest()  # a bit of a time stamp or of a name that nobody reads


class Bomb:
    """Leave a trace when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_is_not_run(episodes: Episodes, tmp_path: Path) -> None:
    parts = {name: getattr(episodes, name) for name in ("observations", "rewards", "lengths")}
    trace = tmp_path / "trace"
    np.savez(tmp_path / "p.npz", **parts, meta=np.zeros(1, np.uint8), actions=np.array([Bomb(trace)], dtype=object))
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        load_npz(tmp_path / "p.npz")
    assert not trace.exists()


def write_parts(path: Path, episodes: Episodes, **change: Any) -> Path:
    meta = np.frombuffer(json.dumps({"format": "dfplan-episodes-1"}).encode(), dtype=np.uint8)
    parts = {name: getattr(episodes, name) for name in ("observations", "actions", "rewards", "lengths")}
    np.savez(path, **{key: value for key, value in {**parts, "meta": meta, **change}.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"actions": None}, "keys actions are missing; it holds lengths, meta, observations, rewards"),
        ({"meta": np.frombuffer(b"[1]", dtype=np.uint8)}, "does not name the format 'dfplan-episodes-1'"),
        ({"meta": np.frombuffer(b"{nonsense", dtype=np.uint8)}, "Expecting property name"),
        ({"rewards": np.full(9, np.nan)}, "rewards must be finite"),
        ({"observations": np.zeros((3, 4))}, r"observations must have shape \(12, n\)"),
        ({"actions": np.full((9, 2), "x")}, "actions must hold real numbers"),
    ],
)
def test_broken_parts_are_named(episodes: Episodes, tmp_path: Path, change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        load_npz(write_parts(tmp_path / "broken.npz", episodes, **change))


def test_other_files_are_refused(episodes: Episodes, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file: .*none.npz"):
        load_npz(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match="it is not a zip archive"):
        load_npz(tmp_path / "text.npz")
    (tmp_path / "episodes.dat").write_text("hello")
    with pytest.raises(ValueError, match=r"must end in .npz, .hdf5 or .h5"):
        load_episodes(tmp_path / "episodes.dat")
    with pytest.raises(ValueError, match=r"must be named \*.npz, got 'a.npy'"):
        save_npz(episodes, tmp_path / "a.npy")
    episodes.meta["format"] = "mine"
    with pytest.raises(ValueError, match="meta must not hold the key 'format', got 'mine'"):
        save_npz(episodes, tmp_path / "a.npz")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_keeps_the_old_file(
    episodes: Episodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Catches a writer that opens the target itself, and one that leaves its temporary file."""
    path = save_npz(episodes, tmp_path / "a.npz")
    before = path.read_bytes()

    def half_written(file: Any, **arrays: Any) -> None:
        Path(file).write_bytes(before[:100])
        raise error("in the middle")

    monkeypatch.setattr(np, "savez_compressed", half_written)
    with pytest.raises(error):
        save_npz(episodes, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.npz"]


def test_atomic_file_has_ordinary_permissions(tmp_path: Path) -> None:
    """Catches the private mode of a temporary file, which nobody else could read."""
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("x")
    (tmp_path / "b.txt").write_text("x")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode
