"""What the latents say of the world: the head for known columns, fitted again once the encoder stands still.

While the autoencoder trains, its head runs after latents that move; on frozen ones a larger head comes several times
nearer. Its estimates stand behind the latents as columns of an observation (`frame_columns`), so that a policy need not
find out by itself how keypoints of two cameras make a place on the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dfplan.vision.model import ImageAutoencoder, encode_frames

Rows = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class HeadTraining:
    """Say how to fit the head.

    Attributes:
        hidden: Widths of its hidden layers.
        steps: Optimiser steps.
        batch: Frames per step.
        lr: Peak learning rate of AdamW; falls to 0 along a line.
        weight_decay: AdamW's.
        noise: Standard deviation of the noise on latents, in units of theirs.
        seed: Of weights, frames and noise.
    """

    hidden: tuple[int, ...] = (256, 256)
    steps: int = 4000
    batch: int = 256
    lr: float = 2e-3
    weight_decay: float = 0.1
    noise: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.lr <= 0 or self.weight_decay < 0 or self.noise < 0:
            raise ValueError(
                "lr must be positive, weight_decay and noise at least 0, got "
                f"{self.lr}, {self.weight_decay} and {self.noise}"
            )


def fit_head(
    model: ImageAutoencoder, latents: Rows, aux: Rows, training: HeadTraining | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> ImageAutoencoder:  # fmt: skip
    """Return the same autoencoder with a new head for known columns, fitted to the mean absolute error.

    Args:
        model: Encoder and decoder, which stay as they are.
        latents: (n, L), of the frames.
        aux: (n, A), what is known of the same frames.
        training: How to fit.
        progress: Called after every step with its number and the error, in units of the columns' standard deviations.

    Raises:
        ValueError: If there are not as many rows of both, or they are not finite.
    """
    training = training or HeadTraining()
    if latents.ndim != 2 or aux.ndim != 2 or len(latents) != len(aux) or latents.shape[1] != model.latent_dim:
        raise ValueError(
            f"latents and aux must have shapes (n, {model.latent_dim}) and (n, A), got {latents.shape} and {aux.shape}"
        )
    if len(latents) == 0 or not (np.isfinite(latents).all() and np.isfinite(aux).all()):
        raise ValueError("latents and aux must be finite numbers, of at least one frame")
    config = replace(model.config, aux_dim=aux.shape[1], aux_hidden=training.hidden)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        made = ImageAutoencoder(config)
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith("aux_")}
    made.load_state_dict(kept, strict=False)
    z, known = (torch.from_numpy(np.asarray(rows, np.float32)) for rows in (latents, aux))
    made.set_aux_scale(known)
    _fit(made, z, (known - made.aux_mean) / made.aux_std, training, progress)
    return made.to(model.device).eval()


def _fit(
    model: ImageAutoencoder, latents: torch.Tensor, wanted: torch.Tensor, training: HeadTraining,
    progress: Callable[[int, float], None] | None,
) -> None:  # fmt: skip
    head = [p for name, p in model.named_parameters() if name.startswith("aux_")]
    optimizer = torch.optim.AdamW(head, lr=training.lr, weight_decay=training.weight_decay)
    generator = torch.Generator().manual_seed(training.seed)
    spread = latents.std(0, correction=0)
    for step in range(training.steps):
        for group in optimizer.param_groups:
            group["lr"] = training.lr * (1 - step / training.steps)
        rows = torch.randint(0, len(latents), (min(training.batch, len(latents)),), generator=generator)
        noise = training.noise * spread * torch.randn((len(rows), latents.shape[1]), generator=generator)
        error = (model.scaled_aux(latents[rows] + noise) - wanted[rows]).abs().mean()
        optimizer.zero_grad()
        error.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if progress is not None:
            progress(step + 1, float(error.detach()))


def frame_columns(model: ImageAutoencoder, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what the network makes of frames: their latents, then the head's estimates if it has a head.

    Args:
        model: The autoencoder.
        frames: uint8 (n, cameras, S, S, 3).

    Returns:
        float32 (n, L + A).
    """
    latents = encode_frames(model, frames)
    return np.concatenate([latents, estimates(model, latents)], axis=1)


@torch.no_grad()
def estimates(model: ImageAutoencoder, latents: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the head's columns (n, A) of latents (n, L); A is 0 without a head."""
    if not model.config.aux_dim:
        return np.zeros((len(latents), 0), np.float32)
    found: NDArray[np.float32] = model.predict_aux(torch.from_numpy(latents).to(model.device)).cpu().numpy()
    return found
