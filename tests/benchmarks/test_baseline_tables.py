"""The tables of the baselines: what stands in a row comes from that row's files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import baseline_tables
from baseline_commands import COMMANDS
from baselines import export
from dfplan_policies import MLPPolicy


def result(folder: Path, name: str, score: float, episodes: int) -> None:
    strict, latched = ({"mean": score + shift, "stderr": 1.5} for shift in (0.0, 10.0))
    value = {"score": {"strict": strict, "latched": latched}, "success_rate": 0.5, "episodes": episodes}
    (folder / f"{name}.json").write_text(json.dumps(value))


def test_rows_hold_their_own_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: mazes in another order, strict and latched mixed up, rows without a result shown as if they had one.
    monkeypatch.setattr(baseline_tables, "RESULTS", tmp_path)
    result(tmp_path, "umaze-iql", 12.0, 100)
    result(tmp_path, "large-iql", 34.0, 30)
    lines = baseline_tables.baselines().splitlines()
    assert len(lines) == 3
    assert lines[2] == (
        "| IQL | 12.0 ± 1.5 | not run | 34.0 ± 1.5 | 0.50 / - / 0.50 | 100 / - / 30 | 47.4 / 34.9 / 58.6 |"
    )
    assert baseline_tables.latched().splitlines()[2] == "| IQL | 22.0 ± 1.5 | not run | 44.0 ± 1.5 |"


def test_the_effort_is_read_from_the_actors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a header at another place than the policy reads it from.
    layers = [(np.zeros((2, 4), dtype=np.float32), np.zeros(2, dtype=np.float32))]
    path = tmp_path / baseline_tables.ACTORS / "medium-bc.safetensors"
    provenance = {"steps": 20_000, "cpu_seconds": 90}
    export.write(path, layers, mean=np.zeros(4), std=np.ones(4), provenance=provenance)
    assert baseline_tables.header(path)["provenance"] == MLPPolicy(path).provenance == provenance
    monkeypatch.setattr(baseline_tables, "ROOT", tmp_path)
    assert baseline_tables.training().splitlines()[2] == "| behaviour cloning | not run | 20,000 (1.5) | not run |"


def test_every_row_of_ours_has_a_command() -> None:
    # Catches: a result that nobody can make again.
    for kind in (*baseline_tables.OFFLINE, "mppi", "diffuser-path", "diffuser-diffused"):
        assert f"umaze-{kind}" in COMMANDS
    assert "maze2d-large --policy mlp:benchmarks/baselines/actors/large-bc.safetensors" in COMMANDS["large-bc"]
