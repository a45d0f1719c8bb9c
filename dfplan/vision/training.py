"""Train an image autoencoder: weighted squared error, darkened pictures, an optional head, exact resume.

Whatever is random in step i is drawn from (seed, i), so a run that was killed goes on as if nothing had happened, bit
for bit on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dfplan.checkpoint import tensor_digest
from dfplan.errors import unknown_name
from dfplan.optimizers import make_optimizer
from dfplan.training import PRECISIONS, append_line, use_bf16
from dfplan.training_state import STATE, load_state, save_state
from dfplan.vision.files import save_encoder
from dfplan.vision.model import AutoencoderConfig, ImageAutoencoder

Frames = NDArray[np.uint8]
Rows = NDArray[np.floating[Any]]
Drawn = tuple[Frames, Rows | None]
DrawFrames = Callable[[int, np.random.Generator], Frames | tuple[Frames, Rows]]

SCALED_BY = 1024  # frames whose mean picture is taken


@dataclass(frozen=True)
class AutoencoderTraining:
    """Say how to train.

    Attributes:
        steps: Optimiser steps.
        batch: Frames per step, each of all cameras.
        lr: Peak learning rate of AdamW; linear warm-up over 5 % of the steps, then a cosine to 5 % of it.
        weight_decay: AdamW's, on matrices only.
        clip: Largest gradient norm.
        ema: Decay of the averaged weights, which are what is returned and saved.
        focus: How much more a pixel weighs that differs from the mean picture (`pixel_weights`).
        latent_noise: Standard deviation of the noise on latents before they are decoded.
        dimmed: Share of the pictures shown at 40 to 100 % of their brightness; they are to be decoded undimmed.
        dark: Share of the pictures shown black; they are to be decoded black.
        aux_weight: Of the head's squared error, in units of the columns' variances.
        precision: ``"auto"`` (bf16 where the processor has it), ``"fp32"`` or ``"bf16"``.
        save_every: Steps between resumable states.
        seed: Of initial weights, frames and everything else.
    """

    steps: int = 6000
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.995
    focus: float = 20.0
    latent_noise: float = 0.01
    dimmed: float = 0.25
    dark: float = 0.03
    aux_weight: float = 0.01
    precision: str = "auto"
    save_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("ema", "dimmed", "dark"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("weight_decay", "focus", "latent_noise", "aux_weight"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {getattr(self, name)}")
        if self.lr <= 0 or self.clip <= 0:
            raise ValueError(f"lr and clip must be positive, got {self.lr} and {self.clip}")
        if self.dimmed + self.dark > 1:
            raise ValueError(f"dimmed and dark are shares of the same pictures, got {self.dimmed} and {self.dark}")
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)


def pixel_weights(pixels: Tensor, mean: Tensor, focus: float) -> Tensor:
    """Weigh pixels by how far they are from the mean picture.

    ``w = 1 + focus * min(1, d / 0.2)``, d the largest difference of a pixel's three channels from the mean picture,
    divided by the mean of w over the picture.

    Args:
        pixels: (..., 3, S, S) in [0, 1].
        mean: (..., 3, S, S) in [0, 1].
        focus: At least 0.

    Returns:
        (..., 1, S, S), with mean 1 over each picture.
    """
    differs = (pixels - mean).abs().amax(-3, keepdim=True)
    weight = 1 + focus * (differs / 0.2).clamp_max(1.0)
    return weight / weight.mean((-2, -1), keepdim=True)


def darken(pixels: Tensor, dimmed: float, dark: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Dim some pictures and black out others.

    Args:
        pixels: (B, cameras, 3, S, S) in [0, 1].
        dimmed: Share shown at 40 to 100 % of their brightness.
        dark: Share shown black.
        generator: Random numbers, on the CPU.

    Returns:
        The pictures shown; those to be decoded (black as black, dimmed as they were); which are black, (B, cameras).
    """
    kind = torch.rand(pixels.shape[:2], generator=generator)
    level = 0.4 + 0.6 * torch.rand(pixels.shape[:2], generator=generator)
    black = kind < dark
    brightness = torch.where(kind > 1 - dimmed, level, 1.0).masked_fill(black, 0.0)

    def wide(values: Tensor) -> Tensor:
        return values.to(pixels)[..., None, None, None]

    return pixels * wide(brightness), pixels * wide(~black), black.to(pixels.device)


def train_autoencoder(
    frames: Frames | DrawFrames,
    config: AutoencoderConfig | None = None,
    training: AutoencoderTraining | None = None,
    folder: str | Path | None = None,
    *,
    aux: Rows | None = None,
    device: str = "cpu",
    progress: Callable[[dict[str, Any]], None] | None = None,
    about: dict[str, Any] | None = None,
) -> ImageAutoencoder:
    """Train an autoencoder, or go on with the run that ``folder`` holds.

    The folder gets ``state/`` (to resume), ``metrics.jsonl`` (one object per 50 steps) and ``checkpoint/``, the
    averaged weights as `save_encoder` writes them.

    Args:
        frames: uint8 (n, cameras, S, S, 3), in memory or memory-mapped; or ``draw(n, rng)`` that returns n such frames,
            with ``aux_dim`` as a pair with their columns (n, aux_dim).
        config: Size of the network.
        training: How to train.
        folder: Run folder; None writes nothing.
        aux: (n, aux_dim), the columns that belong to an array of frames.
        device: Where to.
        progress: Called after every step with step, loss, error, aux, grad_norm and lr.
        about: Stored with the weights: data, command; plain JSON values.

    Returns:
        The autoencoder with averaged weights, in evaluation mode. The same seed gives the same bits on a CPU.

    Raises:
        ValueError: If frames, columns and configuration do not fit together, the folder holds a run with another
            configuration or other data, or the loss is not finite.
    """
    config, training = config or AutoencoderConfig(), training or AutoencoderTraining()
    draw, where = _source(frames, aux, config), None if folder is None else Path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = ImageAutoencoder(config).to(device)
    _set_scales(model, draw, training.seed)
    optimizer = make_optimizer(model, training)
    average = {n: p.detach().clone() for n, p in model.named_parameters()}
    identity = {**config.to_dict(), **asdict(training), "data": tensor_digest(dict(model.named_buffers()))[:12]}
    resumed = where is not None and (where / "state" / STATE).is_file()
    step = load_state(where / "state", model, optimizer, average, identity) if where is not None and resumed else 0
    bf16 = use_bf16(training.precision, model.device)
    while step < training.steps:
        row = {"step": step + 1, **_step(model, optimizer, average, draw, training, step, bf16)}
        step += 1
        last = step == training.steps
        if where is not None and (last or step % training.save_every == 0):
            notes = {**(about or {}), "training": asdict(training), "steps_done": step}
            save_encoder(model, where / "checkpoint", weights=average, about=notes)
            save_state(where / "state", model, optimizer, average, step, identity)
        if where is not None and (last or step % 50 == 0):
            append_line(where / "metrics.jsonl", row)
        if progress is not None:
            progress(row)
    model.load_state_dict(average, strict=False)
    return model.eval()


def _source(frames: Frames | DrawFrames, aux: Rows | None, config: AutoencoderConfig) -> Callable[..., Drawn]:
    """Return a checked ``draw(n, rng)`` that gives frames and, with ``aux_dim``, their columns."""
    shape = config.frame_shape
    if not callable(frames):
        if len(frames) == 0:
            raise ValueError("training needs at least one frame, got none")
        if aux is not None and len(aux) != len(frames):
            raise ValueError(f"aux must have a row per frame, got {len(aux)} rows for {len(frames)} frames")
    elif aux is not None:
        raise ValueError("aux belongs to an array of frames; with a function, let it return (frames, columns)")

    def draw(n: int, rng: np.random.Generator) -> Drawn:
        drawn: Any
        if callable(frames):
            drawn = frames(n, rng)
            taken, columns = drawn if isinstance(drawn, tuple) else (drawn, None)
        else:
            index = np.sort(rng.integers(0, len(frames), n))
            taken, columns = np.asarray(frames[index]), None if aux is None else np.asarray(aux[index])
        if taken.dtype != np.uint8 or taken.shape != (n, *shape):
            raise ValueError(f"frames must be uint8 {(n, *shape)}, got {taken.dtype} {taken.shape}")
        found = 0 if columns is None else columns.shape[-1]
        if found != config.aux_dim or (columns is not None and len(columns) != n):
            raise ValueError(
                f"the columns to predict must have shape ({n}, aux_dim={config.aux_dim}), got {found} columns"
            )
        return taken, columns

    return draw


def _set_scales(model: ImageAutoencoder, draw: Callable[..., Drawn], seed: int) -> None:
    frames, columns = draw(SCALED_BY, np.random.default_rng([seed, 1]))
    model.set_mean(torch.from_numpy(frames))
    if columns is not None:
        model.set_aux_scale(torch.from_numpy(np.asarray(columns)))


def _step(
    model: ImageAutoencoder, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], draw: Callable[..., Drawn],
    training: AutoencoderTraining, step: int, bf16: bool,
) -> dict[str, float]:  # fmt: skip
    rng = np.random.default_rng([training.seed, 2, step])
    lr = _rate(step, training)
    for group in optimizer.param_groups:
        group["lr"] = lr
    frames, columns = draw(training.batch, rng)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        parts = _losses(model, frames, columns, training, generator)
    loss = parts["loss"]
    if not bool(torch.isfinite(loss)):
        raise ValueError(f"the loss is {float(loss.detach())} at step {step}; lower lr (now {training.lr})")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(model.parameters(), training.clip)
    optimizer.step()
    with torch.no_grad():
        decay = min(training.ema, (step + 1) / (step + 10))
        for name, parameter in model.named_parameters():
            average[name].lerp_(parameter, 1 - decay)
    return {**{n: float(v.detach()) for n, v in parts.items()}, "grad_norm": float(norm), "lr": lr}


def _losses(
    model: ImageAutoencoder, frames: Frames, columns: Rows | None, training: AutoencoderTraining,
    generator: torch.Generator,
) -> dict[str, Tensor]:  # fmt: skip
    """Return the loss and its parts; errors of pictures are in squared hundredths of the full scale."""
    pixels = model.pixels(torch.from_numpy(frames))
    shown, wanted, black = darken(pixels, training.dimmed, training.dark, generator)
    latent = model.encode_pixels(shown)
    noise = training.latent_noise * torch.randn(latent.shape, generator=generator)
    decoded = model.decode_pixels(latent + noise.to(latent.device))
    weight = pixel_weights(wanted, model.mean_pixels(), training.focus)
    error = (weight * (decoded - wanted).square()).mean()
    parts = {"loss": 1e4 * error, "error": 1e4 * error}
    if columns is not None:
        target = (torch.from_numpy(np.asarray(columns)).to(latent) - model.aux_mean) / model.aux_std
        missed = (model.scaled_aux(latent) - target).square().mean(-1)
        parts["aux"] = (missed * ~black.any(-1)).mean()
        parts["loss"] = parts["loss"] + 1e4 * training.aux_weight * parts["aux"]
    return parts


def _rate(step: int, training: AutoencoderTraining) -> float:
    warmup = max(1, round(0.05 * training.steps))
    if step < warmup:
        return training.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, training.steps - warmup)
    return training.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))
