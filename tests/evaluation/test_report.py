"""Run folders, and the provenance in them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfplan import provenance
from dfplan.evaluation import evaluate
from dfplan.evaluation.files import plain, write_json, write_npz
from dfplan_policies import ReplayPolicy
from tests.evaluation.helpers import jittery


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    report = evaluate(jittery(), "maze2d-umaze", 3, seed=2)
    return report, report.save(tmp_path_factory.mktemp("runs") / "x" / "y", {"env": "maze2d-umaze-v1"})


def test_run_folder_holds_the_metrics_and_one_entry_per_episode(run: Any) -> None:
    report, folder = run
    assert (folder / "metrics.json").read_text() == report.to_json()
    assert json.loads((folder / "config.json").read_text()) == {"env": "maze2d-umaze-v1"}
    episodes = json.loads((folder / "episodes.json").read_text())
    assert [e["episode"] for e in episodes] == [0, 1, 2]
    assert np.mean([e["strict_score"] for e in episodes]) == pytest.approx(report.metrics["score"]["strict"]["mean"])
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_replay_repeats_a_run_to_the_bit(run: Any) -> None:
    # Catches: actions rounded, shifted by one step or attached to the wrong episode.
    report, folder = run
    again = evaluate(ReplayPolicy(folder), "maze2d-umaze", 3, seed=2, num_envs=2)
    for a, b in zip(report.records, again.records, strict=True):
        np.testing.assert_array_equal(a.observations, b.observations)
    assert again.metrics["score"] == report.metrics["score"]


def test_trajectories_file_holds_states_and_plans(run: Any) -> None:
    report, folder = run
    with np.load(folder / "trajectories.npz", allow_pickle=False) as file:
        lengths = file["lengths"]
        np.testing.assert_array_equal(file["observations"][: lengths[0]], report.records[0].observations)
        assert len(file["plans"]) == len(file["plan_steps"]) == sum(len(r.telemetry.plans) for r in report.records)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_write_that_is_stopped_leaves_the_old_file_and_no_other(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Catches: writing in place; a temporary file left behind.
    write_json(tmp_path / "a.json", {"old": 1})
    write_npz(tmp_path / "a.npz", {"x": np.arange(3)})

    def stop(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Path, "write_text", stop)
    monkeypatch.setattr(np, "savez_compressed", stop)
    for write in (lambda: write_json(tmp_path / "a.json", {}), lambda: write_npz(tmp_path / "a.npz", {})):
        with pytest.raises(error):
            write()
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.npz"]


def test_plain_values() -> None:
    value = {
        "a": np.float32(1.5),
        "b": np.array([1, 2]),
        "c": float("nan"),
        "d": (np.inf, np.bool_(True)),
        "e": Path("x"),
    }
    assert plain(value) == {"a": 1.5, "b": [1, 2], "c": None, "d": [None, True], "e": "x"}


def test_git_outside_a_checkout_is_null_and_inside_tells_changes(tmp_path: Path) -> None:
    # Catches: an exception without git; the revision of somebody else's checkout that merely holds the package.
    assert provenance.git(tmp_path) == {"revision": None, "dirty": None}

    def git(*arguments: str) -> None:
        config = ["-c", "user.name=x", "-c", "user.email=x@y", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *config, *arguments], check=True, capture_output=True)

    try:
        git("init")
    except FileNotFoundError:
        pytest.skip("git is not installed")
    (tmp_path / "other.txt").write_text("1")
    git("add", "other.txt")
    git("commit", "-m", "x")
    (tmp_path / "__init__.py").write_text("1")
    assert provenance.git(tmp_path) == {"revision": None, "dirty": None}
    for written in ("benchmarks/results/x.json", "docs/x.md"):
        (tmp_path / written).parent.mkdir(parents=True)
        (tmp_path / written).write_text("1")
    git("add", "__init__.py", "benchmarks", "docs")
    git("commit", "-m", "y")
    clean = provenance.git(tmp_path)
    assert len(clean["revision"]) == 40 and clean["dirty"] is False
    for written in ("benchmarks/results/x.json", "docs/x.md"):
        (tmp_path / written).write_text("2")
    assert provenance.git(tmp_path) == clean  # results and documentation decide no result
    (tmp_path / "__init__.py").write_text("2")
    assert provenance.git(tmp_path) == {**clean, "dirty": True}


def test_no_git_program_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git() == {"revision": None, "dirty": None}
