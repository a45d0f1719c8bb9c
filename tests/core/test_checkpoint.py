"""Checkpoints: round trips, every kind of damage, names, the Hub."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

import dfplan.checkpoint
from dfplan.checkpoint import (
    CONFIG,
    WEIGHTS,
    list_pretrained,
    load_checkpoint,
    locate,
    push_checkpoint,
    save_checkpoint,
    tensor_digest,
)
from dfplan.models.base import Cond
from tests.core.tiny import small_spec, tiny_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a whole checkpoint."""
    return save_checkpoint(tiny_checkpoint(), tmp_path / "tiny")


def edit(folder: Path, **changes: Any) -> None:
    """Change entries of config.json; None removes one."""
    path = folder / CONFIG
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def replace_weights(folder: Path, blob: bytes) -> None:
    """Put other bytes in place of the weights, with a SHA-256 that fits."""
    (folder / WEIGHTS).write_bytes(blob)
    edit(folder, weights_sha256=hashlib.sha256(blob).hexdigest())


# ---- round trips


@pytest.mark.parametrize("kind", ["path", "bundle"])
def test_everything_survives(kind: str, tmp_path: Path) -> None:
    # Catches: a field that is lost; weights that are stored but not loaded.
    spec = small_spec(kind=kind, goal_columns=(1, 0), rewards=kind == "bundle", dt_s=0.02)
    before = tiny_checkpoint(spec, prediction="x0", noise="linear", planner={"slope": 2.5})
    after = load_checkpoint(save_checkpoint(before, tmp_path / "a" / "b", half=False))
    assert (after.name, after.env, after.spec, after.planner, after.provenance) == (
        before.name, before.env, before.spec, before.planner, before.provenance
    )  # fmt: skip
    assert after.norm.to_dict() == before.norm.to_dict() and after.model.config == before.model.config
    assert tensor_digest(after.model.state_dict()) == tensor_digest(before.model.state_dict())
    assert not after.model.training


def test_half_precision_is_half_the_size_and_close(tmp_path: Path) -> None:
    # Catches: halves that are loaded as float16, a size that is not halved, a loss of precision that matters.
    before = tiny_checkpoint()
    small, big = (save_checkpoint(before, tmp_path / str(half), half=half) for half in (True, False))
    assert (small / WEIGHTS).stat().st_size < 0.7 * (big / WEIGHTS).stat().st_size
    assert all(v.dtype == torch.float16 for v in load_file(small / WEIGHTS).values())
    after = load_checkpoint(small)
    assert all(p.dtype == torch.float32 for p in after.model.parameters())
    for (name, a), b in zip(before.model.state_dict().items(), after.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6, msg=name)
    x, k = torch.randn(2, before.spec.tokens, before.spec.width), torch.full((2, before.spec.tokens), 5)
    a, b = (c.model(x, k, Cond(True)) for c in (before, after))
    torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)


def test_other_weights_may_be_stored(tmp_path: Path) -> None:
    # Catches: the raw weights stored where the averaged ones are meant.
    checkpoint, other = tiny_checkpoint(seed=0), tiny_checkpoint(seed=1)
    ema = {n: p.detach() for n, p in other.model.named_parameters()}
    loaded = load_checkpoint(save_checkpoint(checkpoint, tmp_path / "x", weights=ema, half=False))
    assert tensor_digest(loaded.model.state_dict()) == tensor_digest(other.model.state_dict())


def test_saving_again_replaces_the_old_one(folder: Path) -> None:
    # Catches: left-over temporary files, new weights beside an old SHA-256.
    save_checkpoint(tiny_checkpoint(seed=3), folder)
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, WEIGHTS]
    expected = save_checkpoint(tiny_checkpoint(seed=3), folder.parent / "fresh")
    assert (folder / WEIGHTS).read_bytes() == (expected / WEIGHTS).read_bytes()
    load_checkpoint(folder)


def test_a_failed_save_leaves_the_old_one_whole(folder: Path) -> None:
    # Catches: weights that are replaced before it is known that the JSON can be written.
    bad = tiny_checkpoint(seed=3)
    bad.provenance["loss"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_checkpoint(bad, folder)
    load_checkpoint(folder)
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, WEIGHTS]


def test_digest_tells_tensors_apart() -> None:
    # Catches: a digest of names only, or of values only.
    a = {"x": torch.arange(4.0), "y": torch.zeros(2)}
    assert tensor_digest(a) == tensor_digest({"y": torch.zeros(2), "x": torch.arange(4.0)})
    assert len({tensor_digest(v) for v in (a, {**a, "x": torch.arange(4.0) + 1e-6}, {"y": a["x"], "x": a["y"]})}) == 3


# ---- damage


@pytest.mark.parametrize("at", [0, 60, -1])
def test_a_changed_byte_is_found(folder: Path, at: int) -> None:
    # Catches: weights that are used unchecked.
    blob = bytearray((folder / WEIGHTS).read_bytes())
    blob[at] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(blob))
    with pytest.raises(ValueError, match=r"model.safetensors is damaged: its SHA-256 begins \w{12}, config.json says"):
        load_checkpoint(folder)


def test_truncated_weights_are_found(folder: Path) -> None:
    # Catches: a download that broke off.
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged: its SHA-256"):
        load_checkpoint(folder)
    replace_weights(folder, (folder / WEIGHTS).read_bytes())
    with pytest.raises(ValueError, match="tiny does not fit together"):
        load_checkpoint(folder)


class Bomb:
    """Leave a file behind when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_pickles_are_refused_and_never_opened(folder: Path, form: str, tmp_path: Path) -> None:
    # Catches: torch.load or pickle anywhere on the way.
    buffer = io.BytesIO()
    (pickle if form == "pickle" else torch).__dict__["dump" if form == "pickle" else "save"](
        Bomb(tmp_path / "boom"), buffer
    )
    replace_weights(folder, buffer.getvalue())
    with pytest.raises(ValueError, match="tiny does not fit together"):
        load_checkpoint(folder)
    (folder / CONFIG).write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="is not valid JSON"):
        load_checkpoint(folder)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", r"config.json is not valid JSON \(.+\); the checkpoint is damaged"),
        ("\x00\x01", "is not valid JSON"),
        ("[1, 2]", "has format 'list', needed is 'dfplan-checkpoint-1'"),
        ("{}", "has format None, needed is 'dfplan-checkpoint-1'"),
        ('{"format": "dfplan-checkpoint-9"}', "has format 'dfplan-checkpoint-9'.+another version or program"),
        ('{"format": "dfplan-checkpoint-1"}', r"lacks \['model', 'tokens', 'normalizer', 'weights_sha256'\]"),
    ],
)
def test_broken_json_is_named(folder: Path, text: str, match: str) -> None:
    (folder / CONFIG).write_text(text)
    with pytest.raises(ValueError, match=match):
        load_checkpoint(folder)


def test_json_that_is_not_text_is_named(folder: Path) -> None:
    (folder / CONFIG).write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match="is not valid JSON"):
        load_checkpoint(folder)


def change_size(config: dict[str, Any]) -> dict[str, Any]:
    return {"model": {**config["model"], "width": 32}}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (change_size, r"(?s)does not fit together .+size mismatch"),
        (
            lambda c: {"model": {**c["model"], "kind": "recurrrent"}},
            r"(?s)does not fit together .+unknown kind of denoiser",
        ),
        (lambda c: {"model": {**c["model"], "depth": 3}}, r"(?s)does not fit together .+depth"),
        (lambda c: {"model": {**c["model"], "heads": 3}}, r"(?s)does not fit together .+heads must divide width"),
        (lambda c: {"model": "big"}, "does not fit together"),
        (lambda c: {"tokens": {**c["tokens"], "horizon": -1}}, r"(?s)does not fit together .+horizon must be"),
        (lambda c: {"tokens": {**c["tokens"], "horizon": 6}}, r"(?s)does not fit together .+position"),
        (lambda c: {"tokens": {}}, r"(?s)does not fit together .+goal_columns"),
        (lambda c: {"normalizer": {}}, r"(?s)does not fit together .+normalizer lacks \['obs_mean'"),
        (lambda c: {"normalizer": {**c["normalizer"], "act_std": [0.0, 1.0]}}, "does not fit .+is not positive"),
        (lambda c: {"normalizer": {**c["normalizer"], "obs_mean": ["a"]}}, "does not fit together"),
        (lambda c: {"weights_sha256": 5}, "is damaged: its SHA-256"),
    ],
)
def test_parts_that_do_not_fit_are_named_with_their_folder(folder: Path, change: Any, match: str) -> None:
    # Catches: a bare KeyError or shape error from inside, without a word on which file.
    edit(folder, **change(json.loads((folder / CONFIG).read_text())))
    with pytest.raises(ValueError, match=match) as found:
        load_checkpoint(folder)
    assert str(folder) in str(found.value)


def test_missing_and_foreign_tensors_are_named(folder: Path) -> None:
    # Catches: strict=False.
    tensors = load_file(folder / WEIGHTS)
    for change, match in (({"head.bias": None}, "head.bias"), ({"extra": torch.zeros(1)}, "extra")):
        kept = {n: v for n, v in {**tensors, **change}.items() if v is not None}
        save_file(kept, folder / "x.safetensors")
        replace_weights(folder, (folder / "x.safetensors").read_bytes())
        with pytest.raises(ValueError, match=rf"(?s)does not fit together .+{match}"):
            load_checkpoint(folder)


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"tiny is not a whole checkpoint: model\.safetensors is missing"):
        load_checkpoint(folder)
    (folder / CONFIG).unlink()
    with pytest.raises(FileNotFoundError, match=r"tiny is not a checkpoint: it holds no config\.json"):
        load_checkpoint(folder)
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a checkpoint: it holds no config\.json"):
        load_checkpoint(tmp_path / "nowhere")


# ---- names and the Hub


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bundle two checkpoints of our own."""
    monkeypatch.setattr(dfplan.checkpoint, "PRETRAINED", tmp_path)
    for name in ("maze2d-large", "maze2d-umaze"):
        save_checkpoint(tiny_checkpoint(), tmp_path / name)
    return tmp_path


def test_names_are_found_and_wrong_ones_get_the_nearest(bundled: Path) -> None:
    # Catches: a name that shadows a folder, a list that is typed by hand.
    assert locate("maze2d-large") == bundled / "maze2d-large" and locate(bundled / "maze2d-umaze").is_dir()
    assert load_checkpoint("maze2d-umaze").name == "tiny"
    match = (
        r"unknown checkpoint 'maze2d-lage'\. Did you mean 'maze2d-large'\? "
        r"Choose one of: maze2d-large, maze2d-umaze; or pass a folder, or a Hugging Face Hub id owner/name"
    )
    with pytest.raises(ValueError, match=match):
        load_checkpoint("maze2d-lage")


def test_bundled_checkpoints_are_listed(bundled: Path) -> None:
    # Catches: sizes and counts that are not the files'.
    rows = list_pretrained()
    assert [r["name"] for r in rows] == ["maze2d-large", "maze2d-umaze"]
    model = tiny_checkpoint().model
    assert rows[0]["params"] == sum(p.numel() for p in model.parameters())
    assert rows[0]["size_bytes"] == sum(p.stat().st_size for p in (bundled / "maze2d-large").iterdir())
    assert (rows[0]["env"], rows[0]["data"]) == ("maze2d-umaze-v1", "none")


def test_a_hub_id_without_network_says_so() -> None:
    # HF_HUB_OFFLINE is set for all tests. Catches: a bare exception of the library, or the wrong guess "unknown name".
    with pytest.raises(ValueError, match="'owner/name' is no local folder and could not be fetched from the Hugging"):
        load_checkpoint("owner/name")


FILES = [CONFIG, "encoder.json", "encoder.safetensors", WEIGHTS, "value.json", "value.safetensors"]


def test_a_hub_id_is_fetched_and_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: other files of the repository being downloaded; a Hub id taken for a path.
    asked: list[tuple[str, Any]] = []

    def fetch(repo: str, *, allow_patterns: list[str]) -> str:
        asked.append((repo, sorted(allow_patterns)))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert load_checkpoint("owner/name").name == "tiny" and asked == [("owner/name", FILES)]


def test_pushing_uploads_the_two_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: an upload of a folder that is no checkpoint, of other files, a public repository where private is asked.
    calls: list[tuple[str, Any]] = []

    class Api:
        def create_repo(self, repo: str, **options: Any) -> None:
            calls.append((repo, options))

        def upload_folder(self, **options: Any) -> str:
            calls.append(("upload", options))
            return "https://hub/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    with pytest.raises(FileNotFoundError, match="is not a checkpoint"):
        push_checkpoint(folder.parent, "me/tiny")
    assert calls == []
    assert push_checkpoint(folder, "me/tiny", private=True) == "https://hub/commit/1"
    assert calls[0] == ("me/tiny", {"private": True, "exist_ok": True})
    upload = calls[1][1]
    assert (upload["repo_id"], upload["folder_path"]) == ("me/tiny", str(folder))
    assert sorted(upload["allow_patterns"]) == FILES


@pytest.mark.parametrize("what", ["load", "push"])
def test_a_missing_hub_package_names_its_extra(what: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a bare ImportError.
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'dfplan\[hub\]'"):
        _ = load_checkpoint("owner/name") if what == "load" else push_checkpoint(folder, "me/tiny")
