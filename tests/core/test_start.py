"""Training that starts from given weights and mixes a replay in: what it starts from, how it goes on, what it draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dfplan.checkpoint import tensor_digest
from dfplan.models.transformer import TransformerConfig
from dfplan.returns import ReturnStats
from dfplan.training import TrainConfig, train
from dfplan.training_state import STATE, Start
from dfplan.windows import MixedWindows, Replay, WindowSampler
from tests.core.tiny import fitted, random_denoiser, small_spec, walks

SPEC = small_spec()
DATA, FRESH = walks(12), walks(6, seed=1)
NORM = fitted(SPEC, DATA)
SIZE = {"width": 16, "layers": 1, "heads": 2, "levels": 20}
CONFIG = TrainConfig(
    steps=6, batch=8, lr=1e-2, warmup=2, precision="fp32", save_every=2, holdout=0.1, ema=0.9,
    model=TransformerConfig(**SIZE),
)  # fmt: skip


class Killed(Exception):
    """Stands for a kill."""


def run(folder: Path, *, kill: int = 0, initial: Any = None, mixed: Any = None, **changes: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def log(row: dict[str, Any]) -> None:
        rows.append(row)
        if row["step"] == kill:
            raise Killed

    train(DATA, SPEC, NORM, replace(CONFIG, **changes), folder, name="toy", log=log, initial=initial, replay=mixed)
    return rows


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "state" / STATE)


def given() -> Start:
    return Start.from_weights(random_denoiser(SPEC, **SIZE).state_dict())


def test_a_run_begins_with_the_given_weights_and_their_average(tmp_path: Path) -> None:
    # Catches: weights that are not put in; an average that forgets them in its warm-up.
    start = given()
    run(tmp_path, initial=start, lr=1e-12, warmup=0, weight_decay=0.0)
    for name, value in tensors(tmp_path).items():
        if name.startswith(("model/", "ema/")):
            torch.testing.assert_close(value, start.tensors[name], rtol=0, atol=1e-9)
    run(tmp_path / "b", initial=start, steps=1, save_every=1)
    after = tensors(tmp_path / "b")
    for name in (n.removeprefix("ema/") for n in after if n.startswith("ema/")):
        expected = 0.9 * start.tensors[f"ema/{name}"] + 0.1 * after[f"model/{name}"]
        torch.testing.assert_close(after[f"ema/{name}"], expected)


def test_a_run_goes_on_where_another_one_stands(tmp_path: Path) -> None:
    # Catches: moments, average or Adam's count left behind; moments that the run which goes on writes to.
    run(tmp_path / "first", initial=given())
    start = Start.from_run(tmp_path / "first")
    assert start.updates == 6
    run(tmp_path / "second", initial=start, steps=2, lr=1e-12, warmup=0, weight_decay=0.0)
    before, after = tensors(tmp_path / "first"), tensors(tmp_path / "second")
    moving = [n for n in before if n.startswith("exp_avg_sq/") and float(before[n].max()) > 0]
    assert moving and all(torch.equal(start.tensors[n], before[n]) for n in before)
    for name in moving:  # two steps more let the old moments decay by 0.99 each, and add what is positive
        assert bool((after[name] >= 0.99**2 * before[name] * (1 - 1e-5)).all())
    assert Start.from_run(tmp_path / "second").updates == 8


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_started_run_resumes_to_the_bit(stop: int, tmp_path: Path) -> None:
    # Catches: a resumed run that starts over from the given weights, or whose Adam counts from 0 again.
    run(tmp_path / "base", initial=given())
    start, mixed = Start.from_run(tmp_path / "base"), Replay(FRESH, 0.5)
    run(tmp_path / "whole", initial=start, mixed=mixed)
    with pytest.raises(Killed):
        run(tmp_path / "parts", initial=start, mixed=mixed, kill=stop)
    run(tmp_path / "parts", initial=start, mixed=mixed)
    assert tensor_digest(tensors(tmp_path / "parts")) == tensor_digest(tensors(tmp_path / "whole"))


def test_another_start_or_replay_is_refused_and_named(tmp_path: Path) -> None:
    # Catches: a run that goes on with other episodes, or says that it started from what it did not.
    run(tmp_path, initial=given(), mixed=Replay(FRESH, 0.5))
    other = Start.from_weights(random_denoiser(SPEC, seed=1, **SIZE).state_dict())
    with pytest.raises(ValueError, match=r"another configuration \(initial: \w{12} there, \w{12} here"):
        run(tmp_path, initial=other, mixed=Replay(FRESH, 0.5))
    for mixed in (Replay(FRESH, 0.4), Replay(walks(6, seed=2), 0.5), None):
        with pytest.raises(ValueError, match=r"another configuration \(replay: "):
            run(tmp_path, initial=given(), mixed=mixed)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    # Catches: a bare size mismatch from inside; a head that silently stays random.
    with pytest.raises(ValueError, match=r"does not fit the network: \S+ must have shape \(.*\), got \("):
        run(tmp_path, initial=given(), model=TransformerConfig(**{**SIZE, "width": 32}))
    with pytest.raises(ValueError, match=r"got nothing; use the configuration of the network it comes from"):
        run(tmp_path, initial=given(), model=TransformerConfig(**{**SIZE, "layers": 2}))
    with pytest.raises(ValueError, match="holds no state of a training run"):
        Start.from_run(tmp_path / "nothing")


def test_an_inverse_head_stays_as_it_was_given(tmp_path: Path) -> None:
    # Catches: a head that is fitted anew, on other data than its own, before every round.
    size = {**SIZE, "inverse": 8}
    start = Start.from_weights(random_denoiser(SPEC, **size).state_dict())
    run(tmp_path, initial=start, model=TransformerConfig(**size))
    head = [n for n in start.tensors if n.startswith("ema/inverse.")]
    assert head and all(torch.equal(tensors(tmp_path)[n], start.tensors[n]) for n in head)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_is_the_replay_s(share: float) -> None:
    # Catches: a share that is turned round, or a part that is never drawn. The exact windows: the data's come first.
    data, fresh = (WindowSampler(e, SPEC, NORM) for e in (DATA, FRESH))
    batch = MixedWindows(data, fresh, share).draw(400, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    count = int((rng.random(400) < share).sum())
    assert abs(count / 400 - share) < 0.06 and batch.x0.shape[0] == 400
    first = data.draw(400 - count, rng).x0 if count < 400 else batch.x0[:0]
    last = fresh.draw(count, rng).x0 if count else batch.x0[:0]
    assert torch.equal(batch.x0, torch.cat([first, last]))
    with pytest.raises(ValueError, match=r"share of the replay must lie in \[0, 1\], got 1.5"):
        Replay(FRESH, 1.5)


def test_quantiles_of_a_mixture() -> None:
    # Catches: data sets that count by their size and not by their share; units of the network that move.
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=501), 10 + rng.normal(size=2001)
    stats = ReturnStats.fit(np.zeros(3), old, 0.9)
    same = stats.for_mixture([old, new], [1.0, 0.0])
    np.testing.assert_allclose(same.quantiles, stats.quantiles, atol=1e-12)
    mixed = stats.for_mixture([old, new], [0.5, 0.5])
    assert (mixed.mean, mixed.std, mixed.discount) == (stats.mean, stats.std, stats.discount)
    assert mixed.at(0.25) == pytest.approx(np.median(old), abs=0.1)
    assert mixed.at(0.75) == pytest.approx(np.median(new), abs=0.1)
    assert (mixed.at(0.0), mixed.at(1.0)) == pytest.approx((old.min(), new.max()))
    with pytest.raises(ValueError, match="shares must be one per data set"):
        stats.for_mixture([old, new], [0.5, 0.6])
