"""The OGBench table: what is run, what is kept, what is left out; and the commands that lead to its models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ogbench")

from dfplan.data import load_episodes
from dfplan.evaluation import TaskReport
from dfplan_bench import ogbench

NAME = "pointmaze-medium-navigate"


def test_a_data_set_is_judged_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: an evaluation that is run again or is kept for other weights, targets mixed up, no figure.
    first = ogbench.run(tmp_path, quick=True, say=lambda text: None, names=(NAME,))
    row = first["datasets"][NAME]
    assert row["all"]["success"]["trials"] == 4 and sorted(row["tasks"]) == ["1", "2"] and "paths" not in row
    assert "wanted: 97 %" in first["headline"][0] and (tmp_path / "ogbench.png").stat().st_size > 5000
    json.dumps(first, allow_nan=False)

    def fail(*args: Any, **options: Any) -> TaskReport:
        raise AssertionError("judged again")

    monkeypatch.setattr(ogbench, "evaluate_tasks", fail)
    assert ogbench.run(tmp_path, quick=True, say=lambda text: None, names=(NAME,)) == first
    with pytest.raises(AssertionError, match="judged again"):
        ogbench.run(tmp_path, quick=True, say=lambda text: None, names=(NAME,),
                    checkpoints={NAME: "pointmaze-large-navigate"})  # fmt: skip


def test_data_sets_without_a_model_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a row of zeros for a model that is not there, an empty table that looks like a result.
    monkeypatch.setattr(ogbench, "list_pretrained", list)
    said: list[str] = []
    with pytest.raises(ValueError, match=f"there is a checkpoint for none of {NAME}"):
        ogbench.run(tmp_path, quick=True, say=said.append, names=(NAME,))
    assert said == [f"{NAME}: no checkpoint is bundled, so it is left out"]


def test_data_are_made_and_stitched_by_commands(dfplan: Any, tmp_path: Path) -> None:
    # Catches: a data set made under another's name, stitching that is asked for and not done or not written down.
    code, _, err = dfplan("data", "make", "pointmaze-medium-stitch", "--steps", 4000, "--no-minari", "--npz", "d.npz")
    assert code == 0, err
    episodes = load_episodes(tmp_path / "d.npz")
    assert episodes.observations.shape == (4000 + 20, 2) and set(episodes.lengths.tolist()) == {200}
    assert episodes.meta["env"] == "ogbench-pointmaze-medium-v0" and np.abs(episodes.actions).max() <= 1
    tiny = ("--steps", 2, "--batch", 8, "--width", 16, "--layers", 1, "--action-tokens", 0, "--threads", 1)
    task = ("--env", "ogbench-pointmaze-medium", "--data", "d.npz", "--out", "r")
    code, _, err = dfplan("train", *task, "--stitch", 0.5, *tiny)
    assert code == 0, err
    config = json.loads((tmp_path / "r" / "checkpoint" / "config.json").read_text())
    made = config["provenance"]["data"]["stitched"]
    assert made["radius"] == 0.5 and made["columns"] == [0, 1] and "--stitch 0.5" in config["provenance"]["command"]
    assert config["planner"] == {"goal_radius": 1.0}
    code, _, err = dfplan("data", "make", "pointmaze-medium-explore", "--no-minari", "--npz", "e.npz")
    assert code != 0 and "pointmaze-medium-navigate" in err.replace("\n", " ")
