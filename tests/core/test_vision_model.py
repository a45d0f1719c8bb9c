"""The image autoencoder: shapes, what a latent means, independence of the batch, files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dfplan.checkpoint import load_checkpoint, save_checkpoint
from dfplan.vision import AutoencoderConfig, ImageAutoencoder, encode_frames, load_encoder, save_encoder
from dfplan.vision.files import CONFIG, WEIGHTS
from dfplan.vision.parts import blobs, cell_centres, soft_argmax
from tests.core.tiny import tiny_checkpoint


def random_model(**changes: Any) -> ImageAutoencoder:
    """Build an autoencoder whose every weight is random and whose mean pictures are."""
    config = AutoencoderConfig(**{"image_size": 32, "latent": 14, "keypoints": 3, "width": 8, **changes})
    torch.manual_seed(0)
    model, g = ImageAutoencoder(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=g) * 0.1)
    model.set_mean(pictures(3, config, seed=5))
    return model.eval()


def pictures(n: int, config: AutoencoderConfig, seed: int = 0) -> torch.Tensor:
    shape = (n, *config.frame_shape)
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8))


# ---- shapes and meaning


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("shared", [True, False])
def test_shapes_and_types(size: int, shared: bool) -> None:
    # Catches: a decoder that ends at another size, cameras and batch that trade places, floats for frames.
    model = random_model(image_size=size, cameras=3, shared=shared)
    frames = pictures(2, model.config)
    latent = model.encode(frames)
    assert latent.shape == (2, 42) == (2, model.latent_dim) and latent.dtype == torch.float32
    assert not latent.requires_grad
    back = model.decode(latent)
    assert back.shape == frames.shape and back.dtype == torch.uint8
    assert model.decode_pixels(latent).shape == model.pixels(frames).shape == (2, 3, 3, size, size)


def test_the_default_is_small() -> None:
    # Catches: a network that outgrows the 2 MB a bundled checkpoint may have.
    for shared in (True, False):
        model = ImageAutoencoder(AutoencoderConfig(shared=shared, aux_dim=20))
        assert 2 * sum(p.numel() for p in model.parameters()) + model.mean.numel() < 2_000_000


@pytest.mark.parametrize("shared", [True, False])
def test_a_camera_has_its_own_part_of_the_latent(shared: bool) -> None:
    # Catches: parts that mix cameras, the camera's name or mean picture of another, an order that decoding reverses.
    model = random_model(shared=shared)
    frames = pictures(2, model.config)
    other = frames.clone()
    other[:, 1] = 255 - other[:, 1]
    a, b = model.encode(frames), model.encode(other)
    assert torch.equal(a[:, :14], b[:, :14]) and not torch.allclose(a[:, 14:], b[:, 14:], atol=1e-2)
    assert torch.equal(model.decode(a)[:, 0], model.decode(b)[:, 0])
    assert not torch.equal(model.decode(a)[:, 1], model.decode(b)[:, 1])


def test_a_shared_network_is_told_the_camera() -> None:
    # Catches: an encoder or a decoder that does not know the camera where the mean pictures do not give it away.
    model = random_model()
    model.mean.fill_(90)
    same = pictures(2, model.config)[:, :1].expand(-1, 2, -1, -1, -1)
    latent = model.encode(same)
    assert not torch.allclose(latent[:, :14], latent[:, 14:], atol=1e-3)
    drawn = model.decode_pixels(latent[:, :14].repeat(1, 2))
    assert not torch.allclose(drawn[:, 0], drawn[:, 1], atol=1e-3)


@pytest.mark.parametrize("shared", [True, False])
def test_a_sample_does_not_depend_on_the_batch(shared: bool) -> None:
    # Catches: normalisation over the batch, a reshape that mixes samples and cameras.
    model = random_model(shared=shared)
    frames = pictures(5, model.config)
    latent = model.encode(frames)
    decoded = model.decode_pixels(latent)
    for b in range(5):
        torch.testing.assert_close(model.encode(frames[b : b + 1])[0], latent[b], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.decode_pixels(latent[b : b + 1])[0], decoded[b], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(encode_frames(model, frames.numpy(), batch=2), latent.numpy(), rtol=1e-4, atol=1e-5)


def test_a_keypoint_is_where_its_map_is_high() -> None:
    # Catches: x and y exchanged, a grid of cell corners, maps that share one softmax.
    maps = torch.zeros(1, 2, 8, 8)
    maps[0, 0, 1, 6], maps[0, 1, 7, 0] = 50, 50
    x, y = soft_argmax(maps)
    torch.testing.assert_close(x, torch.tensor([[0.625, -0.875]]))
    torch.testing.assert_close(y, torch.tensor([[-0.625, 0.875]]))
    torch.testing.assert_close(cell_centres(4, x.device), torch.tensor([-0.75, -0.25, 0.25, 0.75]))


def test_a_blob_is_drawn_where_its_keypoint_is() -> None:
    # Catches: x and y exchanged between the two halves, a strength without effect, a width in other units.
    x, y, strength = torch.tensor([[0.625]]), torch.tensor([[-0.375]]), torch.tensor([[0.7]])
    drawn = blobs(x, y, strength, 8)[0, 0]
    assert drawn.argmax() == 2 * 8 + 6 and float(drawn[2, 6]) == pytest.approx(0.7)
    assert float(drawn[2, 7]) == pytest.approx(0.7 * np.exp(-0.5)) == float(drawn[3, 6])


def test_places_strengths_and_features_have_their_ranges() -> None:
    # Catches: another order of the parts than is documented.
    model = random_model()
    with torch.no_grad():
        model.encoders[0].rest.bias.fill_(-50.0)
    latent = model.encode(pictures(2, model.config))
    assert (latent[:, :6].abs() < 1).all() and (latent[:, 6:9] < 1e-6).all() and (latent[:, 9:14] == -1).all()


def test_keypoints_reach_the_picture_as_blobs() -> None:
    # Catches: a decoder that knows keypoints only as numbers, so that small objects blur.
    model = random_model()
    with torch.no_grad():
        model.decoders[0].start.weight.zero_()
        model.decoders[0].gain.weight.zero_()
    latent = torch.zeros(2, 28)
    latent[:, 6:9], latent[1, 0] = 1.0, 0.5
    drawn = model.decode_pixels(latent)
    assert not torch.allclose(drawn[0, 0], drawn[1, 0], atol=1e-3)
    torch.testing.assert_close(drawn[0, 1], drawn[1, 1])


def test_gain_zero_is_a_dark_picture() -> None:
    # Catches: a mean picture that is added whatever the gain.
    model = random_model()
    latent = model.encode(pictures(1, model.config))
    with torch.no_grad():
        model.decoders[0].head.weight.zero_()
        model.decoders[0].head.bias.zero_()
        model.decoders[0].gain.bias.fill_(50.0)
    assert torch.equal(model.decode(latent)[0].permute(0, 3, 1, 2), model.mean)
    with torch.no_grad():
        model.decoders[0].gain.bias.fill_(-50.0)
    assert int(model.decode(latent).max()) == 0


def test_the_head_answers_in_the_units_of_its_columns() -> None:
    # Catches: a scale that is not undone, a constant column that divides by zero.
    model = random_model(aux_dim=2)
    latent = model.encode(pictures(3, model.config))
    before = model.predict_aux(latent)
    model.set_aux_scale(torch.tensor([[1.0, 7.0], [5.0, 7.0]]))
    torch.testing.assert_close(model.predict_aux(latent), before * torch.tensor([2.0, 1.0]) + torch.tensor([3.0, 7.0]))
    with pytest.raises(ValueError, match="predicts no auxiliary columns"):
        random_model().predict_aux(latent)


def test_what_does_not_fit_is_refused() -> None:
    # Catches: pictures in [0, 1] taken for 0..255, channels first, sizes that do not divide.
    model = random_model()
    frames = pictures(2, model.config)
    with pytest.raises(TypeError, match=r"frames must be a uint8 tensor, got torch\.float32"):
        model.encode(frames.float())
    with pytest.raises(TypeError, match="got ndarray"):
        model.encode(frames.numpy())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape \(B, 2, 32, 32, 3\), got \(2, 2, 3, 32, 32\)"):
        model.encode(frames.permute(0, 1, 4, 2, 3))
    with pytest.raises(ValueError, match=r"latent must have shape \(B, 28\), got \(2, 14\)"):
        model.decode(torch.zeros(2, 14))
    with pytest.raises(ValueError, match=r"image_size must be one of \(32, 64, 128\), got 48"):
        AutoencoderConfig(image_size=48)
    with pytest.raises(ValueError, match="latent must exceed 3"):
        AutoencoderConfig(latent=24, keypoints=8)
    with pytest.raises(ValueError, match="cameras must be a positive integer"):
        AutoencoderConfig(cameras=0)
    with pytest.raises(ValueError, match="aux_dim must be"):
        AutoencoderConfig(aux_dim=-1)


# ---- files


def test_saved_and_loaded_is_the_same_in_half_precision(tmp_path: Path) -> None:
    # Catches: single precision on disk, a mean picture or a scale that is lost or rounded, another configuration.
    model = random_model(aux_dim=2)
    model.set_aux_scale(torch.tensor([[1e6, 1e-3], [3e6, 2e-3]]))
    save_encoder(model, tmp_path, about={"data": "none"})
    loaded = load_encoder(tmp_path)
    assert not loaded.training and loaded.config == model.config
    for name, value in model.state_dict().items():
        trained = name in dict(model.named_parameters())
        assert torch.equal(loaded.state_dict()[name], value.half().float() if trained else value), name
    assert (tmp_path / WEIGHTS).stat().st_size < 2.2 * sum(p.numel() for p in model.parameters()) + 20_000
    assert json.loads((tmp_path / CONFIG).read_text())["about"] == {"data": "none"}
    assert {p.name for p in tmp_path.iterdir()} == {WEIGHTS, CONFIG}


def test_other_weights_are_saved_in_place_of_its_own(tmp_path: Path) -> None:
    # Catches: an average that is computed and not saved.
    model = random_model()
    average = {n: torch.full_like(p, 0.5) for n, p in model.named_parameters()}
    loaded = load_encoder(save_encoder(model, tmp_path, weights=average))
    assert all((p == 0.5).all() for p in loaded.parameters()) and torch.equal(loaded.mean, model.mean)


def test_an_autoencoder_travels_with_its_checkpoint(tmp_path: Path) -> None:
    # Catches: an encoder that is not written, one made up where there is none, files that overwrite the denoiser's.
    plain = tiny_checkpoint()
    assert load_checkpoint(save_checkpoint(plain, tmp_path / "plain")).encoder is None
    folder = save_checkpoint(replace(plain, encoder=random_model()), tmp_path / "with")
    loaded = load_checkpoint(folder)
    assert loaded.encoder is not None and loaded.encoder.config == random_model().config
    assert loaded.spec == plain.spec and not loaded.encoder.training
    (folder / WEIGHTS).write_bytes(b"")
    with pytest.raises(ValueError, match=r"encoder\.safetensors is damaged"):
        load_checkpoint(folder)


def test_damaged_files_are_named_with_the_reason(tmp_path: Path) -> None:
    # Catches: weights that are loaded without a look at their digest, bare errors out of a parser.
    def fresh() -> Path:
        return save_encoder(random_model(), tmp_path / "e")

    blob = bytearray((fresh() / WEIGHTS).read_bytes())
    blob[-1] ^= 1
    (tmp_path / "e" / WEIGHTS).write_bytes(blob)
    with pytest.raises(ValueError, match=r"encoder\.safetensors is damaged: its SHA-256"):
        load_encoder(tmp_path / "e")
    (fresh() / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"encoder\.safetensors is missing"):
        load_encoder(tmp_path / "e")
    (fresh() / CONFIG).write_text("{")
    with pytest.raises(ValueError, match=r"encoder\.json is not valid JSON"):
        load_encoder(tmp_path / "e")
    (fresh() / CONFIG).write_text('{"format": "dfplan-value-1"}')
    with pytest.raises(ValueError, match="has format 'dfplan-value-1', needed is 'dfplan-encoder-1'"):
        load_encoder(tmp_path / "e")
    config = json.loads((fresh() / CONFIG).read_text())
    config["model"]["width"] = 4
    (tmp_path / "e" / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"encoder\.json does not fit its weights"):
        load_encoder(tmp_path / "e")
    with pytest.raises(FileNotFoundError, match=r"holds no encoder\.json"):
        load_encoder(tmp_path)
