"""The head that is fitted on frozen latents, and the columns made of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dfplan.vision import (
    AutoencoderConfig,
    HeadTraining,
    ImageAutoencoder,
    encode_frames,
    fit_head,
    frame_columns,
    load_encoder,
    save_encoder,
)

CONFIG = AutoencoderConfig(image_size=32, cameras=2, latent=16, keypoints=3, width=4)
SHORT = HeadTraining(hidden=(32, 16), steps=600, batch=64, lr=1e-2)
RNG = np.random.default_rng(0)
LATENTS = RNG.uniform(-1, 1, (500, 32)).astype(np.float32)
KNOWN = np.stack([3 + 2 * LATENTS[:, 0] * LATENTS[:, 1], 100 * LATENTS[:, 5]], axis=1)  # one no line can fit


def model() -> ImageAutoencoder:
    """Make an autoencoder with random weights and no head."""
    torch.manual_seed(1)
    return ImageAutoencoder(CONFIG)


def test_the_head_finds_known_columns_and_leaves_the_rest_alone() -> None:
    # Catches: columns that are not scaled back, a head that is a line, an encoder that is trained along.
    before = model()
    found = fit_head(before, LATENTS, KNOWN, SHORT)
    assert (found.config.aux_dim, found.config.aux_hidden) == (2, (32, 16))
    for name, value in before.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    with torch.no_grad():
        error = np.abs(found.predict_aux(torch.from_numpy(LATENTS)).numpy() - KNOWN).mean(0)
    assert error[0] < 0.2 * KNOWN[:, 0].std() and error[1] < 0.1 * KNOWN[:, 1].std()


def test_the_same_seed_gives_the_same_head_whatever_was_drawn_before() -> None:
    # Catches: global random numbers, and a head that goes on from an old one.
    once = fit_head(model(), LATENTS, KNOWN, SHORT)
    torch.manual_seed(99)
    again = fit_head(once, LATENTS, KNOWN, SHORT)
    assert all(torch.equal(v, again.state_dict()[n]) for n, v in once.state_dict().items())
    other = fit_head(model(), LATENTS, KNOWN, replace(SHORT, seed=1))
    assert not torch.equal(once.aux_linear.weight, other.aux_linear.weight)


def test_columns_are_latents_then_estimates_and_survive_a_file(tmp_path: Path) -> None:
    # Catches: another order, estimates in units of their spread, a head that a file forgets.
    frames = RNG.integers(0, 256, (5, 2, 32, 32, 3), dtype=np.uint8)
    plain, headed = model(), fit_head(model(), LATENTS, KNOWN, SHORT)
    latents = encode_frames(plain, frames)
    np.testing.assert_array_equal(frame_columns(plain, frames), latents)
    columns = frame_columns(headed, frames)
    np.testing.assert_array_equal(columns[:, :32], latents)
    with torch.no_grad():
        np.testing.assert_allclose(columns[:, 32:], headed.predict_aux(torch.from_numpy(latents)), rtol=1e-5)
    save_encoder(headed, tmp_path)
    loaded = load_encoder(tmp_path)
    assert loaded.config == headed.config
    np.testing.assert_allclose(frame_columns(loaded, frames), columns, rtol=0.02, atol=0.5)  # half precision


def test_what_cannot_be_fitted_is_refused() -> None:
    # Catches: rows of other frames, NaN that spoil every weight, settings that do nothing.
    for latents, known in ((LATENTS[:5], KNOWN), (LATENTS[:, :3], KNOWN), (LATENTS, KNOWN[:, 0])):
        with pytest.raises(ValueError, match="must have shapes"):
            fit_head(model(), latents, known, SHORT)
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            fit_head(model(), LATENTS, np.where(KNOWN[7] == KNOWN, bad, KNOWN), SHORT)
    with pytest.raises(ValueError, match="of at least one frame"):
        fit_head(model(), LATENTS[:0], KNOWN[:0], SHORT)
    for wrong in ({"steps": 0}, {"batch": 0}, {"lr": 0.0}, {"noise": -1.0}):
        with pytest.raises(ValueError, match="must be"):
            HeadTraining(**wrong)
    with pytest.raises(ValueError, match="aux_hidden"):
        AutoencoderConfig(aux_hidden=())
