"""Training the autoencoder: it finds a square, resumes to the bit, weighs and darkens as it says, refuses misfits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dfplan.checkpoint import tensor_digest
from dfplan.vision import AutoencoderConfig, AutoencoderTraining, ImageAutoencoder, load_encoder, train_autoencoder
from dfplan.vision.training import darken, pixel_weights
from tests.core.scenes import squares

CONFIG = AutoencoderConfig(image_size=32, cameras=1, latent=8, keypoints=2, width=8)
SHORT = AutoencoderTraining(steps=8, batch=4, precision="fp32", save_every=3, ema=0.9)
FRAMES, PLACES = squares(64, np.random.default_rng(0))


class Killed(Exception):
    """Stands for a kill."""


def short(folder: Path | None = None, *, stop: int = 0, aux: bool = False, **changes: Any) -> ImageAutoencoder:
    """Train eight steps; killed after step ``stop``."""

    def progress(row: dict[str, Any]) -> None:
        if row["step"] == stop:
            raise Killed

    config = replace(CONFIG, aux_dim=2) if aux else CONFIG
    columns = PLACES if aux else None
    return train_autoencoder(FRAMES, config, replace(SHORT, **changes), folder, aux=columns, progress=progress)


def digest(model: ImageAutoencoder) -> str:
    return tensor_digest(model.state_dict())


# ---- what it learns


@pytest.fixture(scope="module")
def trained() -> ImageAutoencoder:
    training = AutoencoderTraining(steps=300, batch=32, lr=4e-3, precision="fp32", ema=0.98, dark=0.1)
    return train_autoencoder(lambda n, rng: squares(n, rng)[0], CONFIG, training)


def test_a_linear_reading_of_the_latent_finds_the_square(trained: ImageAutoencoder) -> None:
    # Catches: keypoints without a gradient, a decoder that does not look at them, weights that favour the background.
    frames, places = squares(600, np.random.default_rng(7))
    latent = trained.encode(torch.from_numpy(frames)).numpy().astype(np.float64)
    rows = np.c_[latent, np.ones(len(latent))]
    reading = np.linalg.lstsq(rows[:300], places[:300], rcond=None)[0]
    error = rows[300:] @ reading - places[300:]
    assert np.sqrt((error**2).mean()) < 0.75  # pixels; the places' own deviation is 7
    assert np.quantile(np.abs(error), 0.9) < 1


def test_the_square_is_drawn_again(trained: ImageAutoencoder) -> None:
    # Catches: averaged weights that are not returned, a mean picture that is added twice.
    frames = squares(50, np.random.default_rng(8))[0]
    back = trained.decode(trained.encode(torch.from_numpy(frames))).numpy()
    square = frames[..., 0] > 150
    assert np.sqrt(((back - frames.astype(float)) ** 2)[square].mean()) < 30  # the square is 130 from the grey
    assert np.sqrt(((back - frames.astype(float)) ** 2)[~square].mean()) < 18


def test_a_dark_picture_stays_dark(trained: ImageAutoencoder) -> None:
    # Catches: dark pictures never shown, or decoded as the scene they hide.
    dark = torch.zeros(1, *CONFIG.frame_shape, dtype=torch.uint8)
    assert float(trained.decode(trained.encode(dark)).float().mean()) < 12


# ---- its parts


def test_weights_follow_the_difference_from_the_mean() -> None:
    # Catches: channels that add up, a mean over the batch, an unbounded weight.
    mean = torch.full((3, 4, 4), 0.5)
    pixels = mean.repeat(2, 1, 1, 1)
    pixels[0, 1, 0, 0] += 0.1  # half of what weighs most, in one channel
    pixels[0, :, 0, 1] -= 0.4
    pixels[0, :, 1, 0] += 0.05
    weight = pixel_weights(pixels, mean, 6.0)
    assert weight.shape == (2, 1, 4, 4)
    expected = torch.ones(4, 4)
    expected[0, 0], expected[0, 1], expected[1, 0] = 4.0, 7.0, 2.5
    torch.testing.assert_close(weight[0, 0], expected / expected.mean())
    torch.testing.assert_close(weight[1, 0], torch.ones(4, 4))


def test_darkening_as_it_says() -> None:
    # Catches: targets dimmed too, black pictures to be decoded as what they hide, one draw for all cameras.
    pixels = torch.full((2000, 2, 3, 2, 2), 0.8)
    shown, wanted, black = darken(pixels, 0.3, 0.1, torch.Generator().manual_seed(0))
    assert (shown[black] == 0).all() and (wanted[black] == 0).all() and (wanted[~black] == 0.8).all()
    level = shown[..., 0, 0, 0] / 0.8
    dimmed = (level < 1 - 1e-6) & ~black
    assert float(level[dimmed].min()) >= 0.4 and float(level[dimmed].mean()) == pytest.approx(0.7, abs=0.02)
    assert float(black.float().mean()) == pytest.approx(0.1, abs=0.02)
    assert float(dimmed.float().mean()) == pytest.approx(0.3, abs=0.03)
    assert (black[:, 0] != black[:, 1]).any()


def test_the_head_learns_its_columns() -> None:
    # Catches: targets that are not scaled, a head without a gradient.
    config = replace(CONFIG, aux_dim=2)
    training = AutoencoderTraining(steps=120, batch=32, lr=4e-3, precision="fp32", ema=0.95, aux_weight=0.1)
    model = train_autoencoder(lambda n, rng: squares(n, rng), config, training)
    frames, places = squares(200, np.random.default_rng(3))
    with torch.no_grad():
        error = model.predict_aux(model.encode(torch.from_numpy(frames))).numpy() - places
    assert np.sqrt((error**2).mean()) < 0.35 * places.std()


# ---- runs


def test_the_same_seed_gives_the_same_bits() -> None:
    # Catches: global random numbers.
    torch.manual_seed(1)
    first = digest(short())
    torch.manual_seed(2)
    assert digest(short()) == first != digest(short(seed=1))


@pytest.mark.parametrize("stops", [[3], [5], [4, 7]])
@pytest.mark.parametrize("aux", [False, True])
def test_resumed_equals_uninterrupted_to_the_bit(stops: list[int], aux: bool, tmp_path: Path) -> None:
    # Catches: moments, step or average that are not restored, a step that is done twice.
    whole = short(tmp_path / "whole", aux=aux)
    for stop in stops:
        with pytest.raises(Killed):
            short(tmp_path / "parts", stop=stop, aux=aux)
    assert digest(short(tmp_path / "parts", aux=aux)) == digest(whole)
    blobs = [(tmp_path / name / "checkpoint" / "encoder.safetensors").read_bytes() for name in ("whole", "parts")]
    assert blobs[0] == blobs[1]


def test_a_run_folder_holds_what_was_trained(tmp_path: Path) -> None:
    # Catches: the last weights saved in place of the average, a log without its last step, half a run called whole.
    model = short(tmp_path)
    loaded = load_encoder(tmp_path / "checkpoint")
    for name, value in model.named_parameters():
        assert torch.equal(dict(loaded.named_parameters())[name], value.half().float())
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [8] and {"loss", "error", "grad_norm", "lr"} <= rows[0].keys()
    assert digest(short(tmp_path, stop=9)) == digest(model)  # a finished run is left alone
    assert not list(tmp_path.rglob("*.tmp*"))


def test_a_run_with_other_settings_or_data_is_refused(tmp_path: Path) -> None:
    # Catches: a run that goes on with other data as if nothing had happened.
    short(tmp_path)
    with pytest.raises(ValueError, match=r"another configuration \(lr: 0.002 there, 0.01 here\)"):
        short(tmp_path, lr=0.01)
    with pytest.raises(ValueError, match=r"another configuration \(data"):
        train_autoencoder(255 - FRAMES, CONFIG, SHORT, tmp_path)


def test_what_does_not_fit_is_refused() -> None:
    # Catches: columns of other frames, a head without columns, frames of another size.
    with pytest.raises(ValueError, match="a row per frame, got 5 rows for 64 frames"):
        train_autoencoder(FRAMES, replace(CONFIG, aux_dim=2), SHORT, aux=PLACES[:5])
    with pytest.raises(ValueError, match="aux_dim=2"):
        train_autoencoder(FRAMES, replace(CONFIG, aux_dim=2), SHORT)
    with pytest.raises(ValueError, match="aux_dim=0"):
        train_autoencoder(FRAMES, CONFIG, SHORT, aux=PLACES)
    with pytest.raises(ValueError, match="let it return"):
        train_autoencoder(lambda n, rng: squares(n, rng)[0], replace(CONFIG, aux_dim=2), SHORT, aux=PLACES)
    with pytest.raises(ValueError, match=r"frames must be uint8 \(1024, 1, 32, 32, 3\)"):
        train_autoencoder(FRAMES[..., :16, :], CONFIG, SHORT)
    with pytest.raises(ValueError, match="at least one frame"):
        train_autoencoder(FRAMES[:0], CONFIG, SHORT)
    with pytest.raises(ValueError, match="the loss is nan at step 0"):
        train_autoencoder(FRAMES, replace(CONFIG, aux_dim=2), SHORT, aux=PLACES * np.nan)
    for wrong in ({"steps": 0}, {"dark": -0.1}, {"lr": 0.0}, {"focus": -1.0}, {"dimmed": 0.9, "dark": 0.2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(SHORT, **wrong)
    with pytest.raises(ValueError, match="unknown precision 'fp16'"):
        replace(SHORT, precision="fp16")
