"""`dfplan train --only inverse`: a head is added and nothing else changes; trainings with a head resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dfplan import inverse_training
from dfplan.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dfplan.data.episodes import Episodes
from dfplan.data.npz import save_npz
from dfplan.inverse_training import InverseTraining
from dfplan.models import RecurrentConfig, TransformerConfig, make_denoiser
from dfplan.tokens import TokenSpec
from dfplan.windows import fit_normalizer

SPEC = TokenSpec(4, 2, 3, 4)


def episodes() -> Episodes:
    rng = np.random.default_rng(0)
    act = rng.uniform(-1, 1, (200, 2)).astype(np.float32)
    obs = rng.normal(0, 1, (210, 4)).astype(np.float32)
    return Episodes(obs, act, np.zeros(200, dtype=np.float32), np.full(10, 20))


@pytest.fixture
def dfplan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    from dfplan.cli import main

    monkeypatch.chdir(tmp_path)
    save_npz(episodes(), "data.npz")
    monkeypatch.setattr(inverse_training, "InverseTraining", lambda seed: InverseTraining(20, 16, seed=seed))

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["dfplan", "train", "--env", "maze2d-umaze", "--data", "data.npz", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return call


def checkpoint(folder: str, config: Any) -> Path:
    torch.manual_seed(0)
    data = episodes()
    return save_checkpoint(
        Checkpoint("tiny", "maze2d-umaze-v1", make_denoiser(SPEC, config), SPEC, fit_normalizer(data, 3),
                   provenance={"command": "as it was"}), folder,
    )  # fmt: skip


def test_a_head_is_added_and_nothing_else_changes(dfplan: Any) -> None:
    # Catches: other weights rounded again or drawn anew, statistics taken from the new data, the origin forgotten.
    old = checkpoint("old", TransformerConfig(width=16, layers=1, heads=2, levels=10))
    code, out, err = dfplan("--only", "inverse", "--start", "old", "--inverse", "8", "--seed", "3", "--out", "new")
    assert code == 0 and out.strip() == "new/checkpoint" and "dfplan eval --env tiny" in err
    before, after = load_file(old / "model.safetensors"), load_file("new/checkpoint/model.safetensors")
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {name.split(".")[0] for name in after.keys() - before.keys()} == {"inverse"}
    config, was = (json.loads((p / "config.json").read_text()) for p in (Path("new/checkpoint"), old))
    assert config["normalizer"] == was["normalizer"] and config["model"]["inverse"] == 8
    part = config["provenance"]["inverse_head"]
    assert config["provenance"]["command"] == "as it was" and part["command"].startswith("dfplan train --env")
    assert part["added_to"] == {"name": "tiny", "weights_sha256": was["weights_sha256"]}
    assert part["settings"]["seed"] == 3 and part["data"]["id"] == "data.npz" and part["loss"] > 0
    assert load_checkpoint("new/checkpoint").model.inverse is not None
    # again, on top of the one with a head: the old head gives way
    assert dfplan("--only", "inverse", "--start", "new/checkpoint", "--inverse", "4", "--out", "again")[0] == 0
    assert load_file("again/checkpoint/model.safetensors")["inverse.first.bias"].shape == (4,)


def test_mistakes_are_named(dfplan: Any) -> None:
    # Catches: --start ignored by a whole training, a head for a network that has no place for it.
    checkpoint("gru", RecurrentConfig(width=8, levels=10))
    checkpoint("old", TransformerConfig(width=16, layers=1, heads=2, levels=10))
    for arguments, text in (
        (("--only", "inverse"), "--only adds to a checkpoint; name it: --start"),
        (("--start", "old"), "unknown part to train alone"),
        (("--only", "inverze", "--start", "old"), "unknown part to train alone 'inverze'. Did you mean 'inverse'"),
        (("--only", "inverse", "--start", "gru"), "an inverse head belongs to a transformer"),
        (("--only", "inverse", "--start", "old", "--inverse", "0"), "--inverse must be at least 1 here, got 0"),
    ):
        code, _, err = dfplan(*arguments)
        assert code != 0 and text in " ".join(err.split()), err


def test_a_training_with_a_head_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a head fitted again on resume, frozen parameters that have no optimiser state to save.
    from dfplan import training
    from dfplan.training import TrainConfig, train

    monkeypatch.setattr(training, "InverseTraining", lambda seed: InverseTraining(10, 16, seed=seed))
    data, config = episodes(), TransformerConfig(width=16, layers=1, heads=2, levels=10, inverse=6)
    norm = fit_normalizer(data, 3)
    settings: dict[str, Any] = {"batch": 8, "warmup": 2, "save_every": 2, "holdout": 0.0, "model": config}
    seen: list[dict[str, Any]] = []
    whole = train(data, SPEC, norm, TrainConfig(steps=4, **settings), tmp_path / "a", name="x", log=seen.append)
    assert seen[0].keys() == {"inverse_step", "inverse_loss"} and seen[-1]["step"] == 4

    class Stop(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        if row.get("step") == 3:
            raise Stop

    with pytest.raises(Stop):
        train(data, SPEC, norm, TrainConfig(steps=4, **settings), tmp_path / "b", name="x", log=stop)
    resumed: list[dict[str, Any]] = []
    part = train(data, SPEC, norm, TrainConfig(steps=4, **settings), tmp_path / "b", name="x", log=resumed.append)
    assert not any("inverse_step" in row for row in resumed) and [row["step"] for row in resumed] == [3, 4]
    a, b = (load_file(p / "model.safetensors") for p in (whole, part))
    assert a.keys() == b.keys() and [name for name in a if not torch.equal(a[name], b[name])] == []
