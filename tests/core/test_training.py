"""The trainer: it learns, it goes on where it was stopped to the bit, it refuses what does not fit."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import dfplan.training
from dfplan.checkpoint import load_checkpoint, tensor_digest
from dfplan.models.transformer import TransformerConfig, TransformerDenoiser
from dfplan.training import (
    LossModule,
    TrainConfig,
    learning_rate,
    make_optimizer,
    split_episodes,
    train,
    use_bf16,
    validate,
)
from dfplan.training_state import STATE
from dfplan.windows import WindowSampler
from tests.core.tiny import fitted, small_spec, walks

SPEC = small_spec()
DATA = walks(20)
NORM = fitted(SPEC, DATA)
CONFIG = TrainConfig(
    steps=10, batch=8, lr=1e-2, warmup=3, precision="fp32", save_every=4, validate_every=5, holdout=0.1, ema=0.9,
    model=TransformerConfig(width=16, layers=1, heads=2, levels=20),
)  # fmt: skip


def run(folder: Path, *, log: Any = None, spec: Any = SPEC, norm: Any = NORM, **changes: Any) -> list[dict[str, Any]]:
    """Train with the small configuration; returns the rows that were logged."""
    rows: list[dict[str, Any]] = []

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        if log is not None:
            log(row)

    train(DATA, spec, norm, replace(CONFIG, **changes), folder, name="toy", env="none", log=keep)
    return rows


def weights(folder: Path) -> str:
    return tensor_digest(load_file(folder / "checkpoint" / "model.safetensors"))


def state(folder: Path) -> str:
    return tensor_digest(load_file(folder / "state" / STATE))


class Killed(Exception):
    """Stands for a kill."""


def kill_at(step: int) -> Any:
    def log(row: dict[str, Any]) -> None:
        if row["step"] == step:
            raise Killed

    return log


# ---- learning


def test_a_tiny_run_learns(tmp_path: Path) -> None:
    # Catches: gradients of the wrong sign, an optimiser without the parameters, a checkpoint without the weights.
    rows = run(tmp_path, steps=150, batch=32, save_every=150, validate_every=150, warmup=10)
    losses = [r["loss"] for r in rows]
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:5])
    last = rows[-1]
    assert {"heldout_future_causal", "heldout_future_full", "heldout_action_causal", "heldout_action_full"} <= set(last)
    assert last["heldout_future_full"] < 0.7 * np.mean([r["future"] for r in rows[:5]])
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    assert (checkpoint.name, checkpoint.env, checkpoint.spec) == ("toy", "none", SPEC)
    assert checkpoint.provenance["training"]["steps"] == 150
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 100, 150]


def test_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    # Design 15. Catches: global random numbers, an order that depends on a hash.
    torch.manual_seed(1)
    run(tmp_path / "a")
    torch.manual_seed(2)
    run(tmp_path / "b")
    run(tmp_path / "c", seed=1)
    assert state(tmp_path / "a") == state(tmp_path / "b") != state(tmp_path / "c")


# ---- resume


@pytest.mark.parametrize("stops", [[4], [6], [8, 9], [3, 5, 10]])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resumed_equals_uninterrupted_to_the_bit(optimizer: str, stops: list[int], tmp_path: Path) -> None:
    # Catches: moments, step, EMA or generators that are not restored; a step that is done twice.
    whole = run(tmp_path / "whole", optimizer=optimizer)
    for step in stops:
        with pytest.raises(Killed):
            run(tmp_path / "parts", log=kill_at(step), optimizer=optimizer)
    rest = run(tmp_path / "parts", optimizer=optimizer)
    assert state(tmp_path / "parts") == state(tmp_path / "whole")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    for row in rest:
        for name in ("loss", "future", "action", "grad_norm", "lr"):
            assert row[name] == whole[row["step"] - 1][name], (row["step"], name)


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    # Catches: a run that trains on past its end when started again.
    run(tmp_path)
    before = state(tmp_path)
    assert run(tmp_path) == [] and state(tmp_path) == before


def test_a_run_killed_during_its_first_save_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a state folder without a state that blocks every later start.
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dfplan.training_state.save_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "a")
    assert not list((tmp_path / "a").rglob("*.tmp*"))
    run(tmp_path / "a")
    run(tmp_path / "b")
    assert state(tmp_path / "a") == state(tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"lr": 2e-3}, "lr: 0.01 there, 0.002 here"),
        ({"steps": 20}, "steps: 10 there, 20 here"),
        ({"model": TransformerConfig(width=32, layers=1, heads=2, levels=20)}, "model: .+'width': 16.+'width': 32"),
    ],
)
def test_another_configuration_is_refused_and_named(change: dict[str, Any], key: str, tmp_path: Path) -> None:
    # Catches: a run that goes on with other settings; a shape error from inside.
    with pytest.raises(Killed):
        run(tmp_path, log=kill_at(5))
    before = state(tmp_path)
    with pytest.raises(ValueError, match=rf"state\.safetensors is from a run with another configuration \({key}"):
        run(tmp_path, **change)
    assert state(tmp_path) == before


def test_another_layout_or_data_set_is_refused_and_named(tmp_path: Path) -> None:
    # Catches: weights of another layout put into this one, a bare size mismatch, a run that goes on with other data.
    run(tmp_path)
    for spec in (small_spec(horizon=6), small_spec(goal_columns=(2, 3))):
        with pytest.raises(ValueError, match=r"another configuration \(tokens: .+ there, .+ here"):
            run(tmp_path, spec=spec)
    with pytest.raises(ValueError, match=r"another configuration \(statistics: \w{12} there, \w{12} here"):
        run(tmp_path, norm=fitted(SPEC, walks(20, seed=1)))


@pytest.mark.parametrize("damage", ["truncated", "other", "empty"])
def test_a_damaged_state_is_named(damage: str, tmp_path: Path) -> None:
    # Catches: a bare parser error; starting over without a word.
    run(tmp_path)
    path = tmp_path / "state" / STATE
    path.write_bytes({"truncated": path.read_bytes()[:500], "other": b"\x80\x04K\x01.", "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"state.safetensors is damaged \(.+\); delete the run folder's state/"):
        run(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    # Catches: NaN weights saved over good ones.
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step \d; lower lr \(now 1e\+18\) and resume"):
        run(tmp_path, lr=1e18, warmup=0, clip=1e18, save_every=1)


# ---- parts


def test_learning_rate_warms_up_and_falls() -> None:
    # Catches: a warm-up that starts at 0 or ends late, a cosine that does not reach its floor.
    config = replace(CONFIG, steps=110, warmup=10, lr=2.0)
    rates = [learning_rate(s, config) for s in range(110)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[60] == pytest.approx(0.1 + 0.95) and learning_rate(110, config) == pytest.approx(0.1)
    assert all(b <= a for a, b in pairwise(rates[10:])) and learning_rate(500, config) > 0
    assert learning_rate(0, replace(config, warmup=0)) == 2.0


def test_logged_rates_and_gradients_are_those_used(tmp_path: Path) -> None:
    # Catches: a schedule that is logged but not set; clipping that is reported as the norm.
    rows = run(tmp_path, clip=1e-6)
    assert [r["lr"] for r in rows] == [learning_rate(s, CONFIG) for s in range(10)]
    assert all(r["grad_norm"] > 1e-3 for r in rows)


def test_clipping_bounds_a_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Catches: gradients that are measured but not clipped. AdamW hides the scale, plain descent shows it.
    monkeypatch.setattr(dfplan.training, "make_optimizer", lambda m, c, _: torch.optim.SGD(m.parameters(), lr=c.lr))
    monkeypatch.setattr(dfplan.training, "save_state", lambda *_: None)
    with pytest.raises(Killed):
        run(tmp_path, log=kill_at(1), clip=1e-3, warmup=0, save_every=1, ema=0.0)
    torch.manual_seed(CONFIG.seed)
    fresh = TransformerDenoiser(SPEC, CONFIG.model)
    after = load_checkpoint(tmp_path / "checkpoint").model.state_dict()
    head = math.sqrt(sum(float((after[n] - p.detach()).square().sum()) for n, p in fresh.named_parameters()
                         if n.startswith("head")))  # fmt: skip
    assert head == pytest.approx(1e-3 * CONFIG.lr, rel=0.02)  # a new network has a gradient in its head alone


def test_weight_decay_is_on_matrices_only() -> None:
    # Catches: biases that are pulled to 0.
    model = TransformerDenoiser(SPEC, CONFIG.model)
    groups = make_optimizer(model, CONFIG).param_groups
    assert [g["weight_decay"] for g in groups] == [CONFIG.weight_decay, 0.0]
    assert all(p.ndim >= 2 for p in groups[0]["params"]) and all(p.ndim < 2 for p in groups[1]["params"])
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_averaged_weights_follow_their_recursion(tmp_path: Path) -> None:
    # T8. Catches: raw weights saved as the average, an average that starts from 0 or forgets its warm-up.
    raw: list[dict[str, torch.Tensor]] = []

    def watch(row: dict[str, Any]) -> None:
        tensors = load_file(tmp_path / "state" / STATE)
        raw.append({n.removeprefix("model/"): v for n, v in tensors.items() if n.startswith("model/")})

    run(tmp_path, log=watch, save_every=1)
    torch.manual_seed(CONFIG.seed)
    ema = {n: p.detach().clone() for n, p in TransformerDenoiser(SPEC, CONFIG.model).named_parameters()}
    for step, now in enumerate(raw):
        decay = min(0.9, (step + 1) / (step + 10))
        ema = {n: decay * v + (1 - decay) * now[n] for n, v in ema.items()}
    tensors = load_file(tmp_path / "state" / STATE)
    for name, value in ema.items():
        torch.testing.assert_close(tensors[f"ema/{name}"], value, atol=1e-6, rtol=1e-5)
        assert not torch.equal(tensors[f"ema/{name}"], tensors[f"model/{name}"]) or name.startswith("mode")
    stored = load_file(tmp_path / "checkpoint" / "model.safetensors")
    assert all(torch.equal(v, tensors[f"ema/{n}"].half()) for n, v in stored.items())


def test_held_out_episodes_are_not_trained_on() -> None:
    # Catches: rows shifted by one episode when arrays are split; a split that changes between two starts.
    first, second = split_episodes(DATA, 0.25, 3)
    again, _ = split_episodes(DATA, 0.25, 3)
    assert len(second) == 5 and len(first) == 15 and first.digest() == again.digest()
    assert first.digest() != split_episodes(DATA, 0.25, 4)[0].digest()
    whole = {DATA.episode(i)[0].tobytes(): DATA.episode(i)[1].tobytes() for i in range(20)}
    found = [p.episode(i) for p in (first, second) for i in range(len(p))]
    assert {o.tobytes(): a.tobytes() for o, a, _ in found} == whole
    assert split_episodes(DATA, 0.01, 0) == (DATA, None)


def test_validation_uses_the_average_on_fixed_draws_and_puts_the_weights_back() -> None:
    # Catches: raw weights validated, other windows every time, weights that stay exchanged.
    torch.manual_seed(0)
    model = TransformerDenoiser(SPEC, CONFIG.model)
    ema = {n: p.detach() + 0.3 * torch.randn_like(p) for n, p in model.named_parameters()}
    before = tensor_digest(model.state_dict())
    first = validate(model, ema, DATA, SPEC, NORM, CONFIG, False)
    torch.manual_seed(5)
    assert validate(model, ema, DATA, SPEC, NORM, CONFIG, False) == first
    assert tensor_digest(model.state_dict()) == before
    plain = validate(model, dict(model.state_dict()), DATA, SPEC, NORM, CONFIG, False)
    assert plain != first
    model.load_state_dict(ema)
    windows = WindowSampler(DATA, SPEC, NORM, end_goal=CONFIG.end_goal, no_goal=CONFIG.no_goal)
    batch = windows.draw(256, np.random.default_rng(1))
    for causal, name in ((True, "heldout_future_causal"), (False, "heldout_future_full")):
        parts = LossModule(model, CONFIG, model.spec)(batch, causal, torch.Generator().manual_seed(1))
        assert first[name] == float(parts["future"])


@pytest.mark.parametrize(("share", "modes"), [(0.0, {False}), (1.0, {True}), (0.5, {True, False})])
def test_both_kinds_of_attention_are_trained(
    share: float, modes: set[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Catches: one mode only; a share that is turned round.
    seen: list[bool] = []
    real = LossModule.forward

    def forward(self: LossModule, batch: Any, causal: bool, generator: torch.Generator) -> Any:
        seen.append(causal)
        return real(self, batch, causal, generator)

    monkeypatch.setattr(LossModule, "forward", forward)
    run(tmp_path, causal=share, holdout=0.0)
    assert set(seen) == modes and len(seen) == 10


def test_bf16_only_where_it_pays() -> None:
    # Catches: "auto" that turns on bf16 on a processor without it; an explicit wish that is ignored.
    cpu = torch.device("cpu")
    assert use_bf16("bf16", cpu) is True and use_bf16("fp32", cpu) is False
    with pytest.MonkeyPatch.context() as patch:
        for found, expected in (({}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)):
            patch.setattr(torch.cpu, "get_capabilities", lambda f=found: f, raising=False)
            assert use_bf16("auto", cpu) is expected


def test_bf16_trains_too(tmp_path: Path) -> None:
    # Catches: a dtype that does not fit under autocast; weights stored as bf16.
    rows = run(tmp_path, precision="bf16", holdout=0.0)
    assert all(math.isfinite(r["loss"]) for r in rows)
    assert all(v.dtype == torch.float32 for v in load_file(tmp_path / "state" / STATE).values())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"causal": 1.5}, r"causal must lie in \[0, 1\], got 1.5"),
        ({"lr": 0.0}, "lr and clip must be positive, got 0.0 and 1.0"),
        ({"precision": "fp31"}, r"unknown precision 'fp31'\. Did you mean 'fp32'\?"),
    ],
)
def test_bad_configurations_are_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        TrainConfig(**change)
