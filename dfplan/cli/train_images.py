"""What `dfplan train --obs image` adds: an image autoencoder, and episodes of its latents."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfplan.data import Episodes
    from dfplan.data.pictures import PictureEpisodes
    from dfplan.vision import ImageAutoencoder

FRUITS = (slice(17, 20), slice(24, 27))  # of the state: where the fruits are, which helps the encoder to see them


def load_images(
    data: str | None, folder: Path, encoder: Path | None, steps: int, seed: int, say: Callable[[str], None]
) -> tuple[Episodes, dict[str, Any], ImageAutoencoder]:
    """Load pictures, train or load what encodes them, and encode them.

    Args:
        data: Minari id of a dataset of pictures, or several with commas.
        folder: Run folder; the autoencoder's own is in it, and is resumed.
        encoder: Folder of a trained autoencoder, None to train one.
        steps: Of its training.
        seed: Of its training.
        say: Takes lines of text.

    Returns:
        Episodes of proprio, latents and, if the data hold the state, estimates of where the fruits are; where they are
        from; and the autoencoder.

    Raises:
        ValueError: If there are no data, or they and the autoencoder do not fit.
    """
    from dfplan.vision import frame_columns, load_encoder

    if data is None:
        raise ValueError("pictures need --data, a Minari id; make them with `dfplan data make fruit-swap --obs both`")
    from dfplan.data.pictures import join_pictures, load_pictures

    found = join_pictures([load_pictures(name) for name in data.split(",")])
    say(f"{len(found.frames):,} frames of {found.frames.shape[1]} pictures in {len(found.lengths):,} episodes")
    model = load_encoder(encoder) if encoder is not None else _train(found, folder / "encoder", steps, seed)
    if tuple(found.frames.shape[1:]) != model.config.frame_shape:
        raise ValueError(f"the autoencoder is for frames {model.config.frame_shape}, got {found.frames.shape[1:]}")
    if "state" in found.vectors:
        model = _with_head(model, found, seed)
    episodes = found.with_columns(frame_columns(model, found.frames))
    return episodes, {"id": data, **found.meta}, model


def _known(found: PictureEpisodes) -> Any:
    """Return where the fruits are, (n, 6) in m."""
    import numpy as np

    return np.concatenate([found.vectors["state"][:, part] for part in FRUITS], axis=1)


def _with_head(model: ImageAutoencoder, found: PictureEpisodes, seed: int) -> ImageAutoencoder:
    from tqdm import tqdm

    from dfplan.vision import HeadTraining, encode_frames, fit_head

    training, fresh = HeadTraining(seed=seed), found.fresh()
    with tqdm(
        total=training.steps, desc="where the fruits are", file=sys.stderr, unit="step", dynamic_ncols=True
    ) as bar:

        def watch(step: int, error: float) -> None:
            bar.set_postfix_str(f"error {error:.4f}", refresh=False)
            bar.update(1)

        return fit_head(model, encode_frames(model, found.frames[fresh]), _known(found)[fresh], training, watch)


def _train(found: PictureEpisodes, folder: Path, steps: int, seed: int) -> ImageAutoencoder:
    from tqdm import tqdm

    from dfplan.vision import AutoencoderConfig, AutoencoderTraining, train_autoencoder

    aux = _known(found) if "state" in found.vectors else None
    config = AutoencoderConfig(image_size=found.frames.shape[2], aux_dim=0 if aux is None else aux.shape[1])
    with tqdm(total=steps, desc="train the autoencoder", file=sys.stderr, unit="step", dynamic_ncols=True) as bar:

        def watch(row: dict[str, Any]) -> None:
            bar.n = int(row["step"])
            bar.set_postfix_str(f"error {row['error']:.5f}", refresh=False)
            bar.update(0)

        training = AutoencoderTraining(steps=steps, lr=3e-3, seed=seed)
        return train_autoencoder(found.frames, config, training, folder, aux=aux, progress=watch)
