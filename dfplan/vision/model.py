"""The image autoencoder: frames of all cameras to one row of numbers, and back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dfplan.vision.parts import Decoder, Encoder

SIZES = (32, 64, 128)


@dataclass(frozen=True)
class AutoencoderConfig:
    """Size of the autoencoder.

    Attributes:
        image_size: S, pixels of the square pictures: 32, 64 or 128.
        cameras: How many pictures make a frame.
        latent: Numbers per camera; more than ``3 * keypoints``, the rest are features without a meaning.
        keypoints: P; each has a place (x, y) and a strength.
        width: Channels at half resolution.
        shared: One network for all cameras, which is told the camera, or one for each.
        aux_dim: Columns that a head predicts from the latent; 0 for no head.
        aux_hidden: Widths of the head's hidden layers.
    """

    image_size: int = 64
    cameras: int = 2
    latent: int = 32
    keypoints: int = 8
    width: int = 16
    shared: bool = True
    aux_dim: int = 0
    aux_hidden: tuple[int, ...] = (64,)

    def __post_init__(self) -> None:
        if self.image_size not in SIZES:
            raise ValueError(f"image_size must be one of {SIZES}, got {self.image_size!r}; render at one of these")
        object.__setattr__(self, "aux_hidden", tuple(self.aux_hidden))  # JSON knows lists only
        if not self.aux_hidden or any(not isinstance(n, int) or n < 1 for n in self.aux_hidden):
            raise ValueError(f"aux_hidden must be positive integers, got {self.aux_hidden!r}")
        for name in ("cameras", "latent", "keypoints", "width"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if not isinstance(self.aux_dim, int) or self.aux_dim < 0:
            raise ValueError(f"aux_dim must be an integer of at least 0, got {self.aux_dim!r}")
        if self.latent <= 3 * self.keypoints:
            raise ValueError(
                f"latent must exceed 3 * keypoints, got {self.latent} and {self.keypoints} keypoints; "
                "use fewer keypoints or a larger latent"
            )

    @property
    def latent_dim(self) -> int:
        """L, numbers of a whole frame."""
        return self.cameras * self.latent

    @property
    def frame_shape(self) -> tuple[int, int, int, int]:
        """Shape of a frame: cameras, S, S, 3."""
        return self.cameras, self.image_size, self.image_size, 3

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


class ImageAutoencoder(nn.Module):
    """Turn frames into latents and back.

    The latent of a frame holds, camera after camera, the keypoints' x (P), y (P), in [-1, 1] to the right and down,
    their strengths (P) in [0, 1], and features in [-1, 1].

    Args:
        config: Its size.
    """

    mean: Tensor
    aux_mean: Tensor
    aux_std: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config, c = config, config
        nets, share = (1, c.cameras) if c.shared else (c.cameras, 1)
        size = c.image_size, c.width, c.keypoints, c.latent - 3 * c.keypoints, share
        self.encoders = nn.ModuleList(Encoder(*size) for _ in range(nets))
        self.decoders = nn.ModuleList(Decoder(*size) for _ in range(nets))
        self.register_buffer("mean", torch.full((c.cameras, 3, c.image_size, c.image_size), 128, dtype=torch.uint8))
        if c.aux_dim:
            self.aux_linear = nn.Linear(c.latent_dim, c.aux_dim)
            widths, layers = (c.latent_dim, *c.aux_hidden), list[nn.Module]()
            for before, after in pairwise(widths):
                layers += [nn.Linear(before, after), nn.SiLU()]
            self.aux_curved = nn.Sequential(*layers, nn.Linear(widths[-1], c.aux_dim))
            self.register_buffer("aux_mean", torch.zeros(c.aux_dim))
            self.register_buffer("aux_std", torch.ones(c.aux_dim))

    @property
    def latent_dim(self) -> int:
        """L."""
        return self.config.latent_dim

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mean.device

    def set_mean(self, frames: Tensor) -> None:
        """Set the mean pictures from frames uint8 (n, cameras, S, S, 3)."""
        self._check(frames)
        self.mean.copy_(frames.double().mean(0).round().to(torch.uint8).permute(0, 3, 1, 2))

    def set_aux_scale(self, aux: Tensor) -> None:
        """Set mean and standard deviation of the auxiliary columns from rows (n, aux_dim)."""
        std = aux.double().std(0, correction=0)
        self.aux_mean.copy_(aux.double().mean(0))
        self.aux_std.copy_(torch.where(std > 1e-6, std, 1.0))

    def pixels(self, frames: Tensor) -> Tensor:
        """Turn frames uint8 (B, cameras, S, S, 3) into float32 (B, cameras, 3, S, S) in [0, 1], on the device.

        Raises:
            TypeError: If frames are not a uint8 tensor.
            ValueError: If their shape does not fit.
        """
        self._check(frames)
        return frames.to(self.device).permute(0, 1, 4, 2, 3).float() / 255

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Encode frames.

        Args:
            frames: uint8 (B, cameras, S, S, 3).

        Returns:
            float32 (B, L), without a gradient.

        Raises:
            TypeError: If frames are not a uint8 tensor.
            ValueError: If their shape does not fit.
        """
        return self.encode_pixels(self.pixels(frames))

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """Decode latents (B, L) into frames uint8 (B, cameras, S, S, 3).

        Raises:
            ValueError: If the shape does not fit.
        """
        pixels = self.decode_pixels(latent).clamp(0, 1) * 255
        return pixels.round().to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous()

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Encode pixels float (B, cameras, 3, S, S) in [0, 1] into latents (B, L), with a gradient."""
        seen = torch.cat([pixels, pixels - self.mean_pixels()], 2) * 2
        return self._each(self.encoders, seen).flatten(1)

    def decode_pixels(self, latent: Tensor) -> Tensor:
        """Decode latents (B, L) into pixels float32 (B, cameras, 3, S, S), near [0, 1], with a gradient."""
        c = self.config
        if latent.ndim != 2 or latent.shape[1] != c.latent_dim:
            raise ValueError(f"latent must have shape (B, {c.latent_dim}), got {tuple(latent.shape)}")
        rows = latent.to(self.device, torch.float32).reshape(-1, c.cameras, c.latent)
        return self._each(self.decoders, rows, self.mean_pixels().expand(len(rows), -1, -1, -1, -1))

    def predict_aux(self, latent: Tensor) -> Tensor:
        """Predict the auxiliary columns (B, aux_dim), in their own units, from latents (B, L).

        Raises:
            ValueError: If the autoencoder has no head for them.
        """
        return self.scaled_aux(latent) * self.aux_std + self.aux_mean

    def scaled_aux(self, latent: Tensor) -> Tensor:
        """Predict the auxiliary columns (B, aux_dim) in units of their standard deviations from their means."""
        if not self.config.aux_dim:
            raise ValueError("this autoencoder predicts no auxiliary columns; train one with aux_dim")
        scaled: Tensor = self.aux_linear(latent) + self.aux_curved(latent)
        return scaled

    def _each(self, nets: nn.ModuleList, *values: Tensor) -> Tensor:
        """Apply the cameras' networks to values (B, cameras, ...); returns (B, cameras, ...)."""
        B, C = values[0].shape[:2]
        if self.config.shared:
            camera = torch.arange(C, device=self.device).repeat(B)
            first, *others = (v.flatten(0, 1) for v in values)
            together: Tensor = nets[0](first, camera, *others)
            return together.reshape(B, C, *together.shape[1:])
        none = torch.zeros(B, dtype=torch.int64, device=self.device)
        parts = []
        for i, net in enumerate(nets):
            first, *others = (v[:, i] for v in values)
            parts.append(net(first, none, *others))
        return torch.stack(parts, 1)

    def mean_pixels(self) -> Tensor:
        """Return the mean pictures (cameras, 3, S, S) in [0, 1]."""
        return self.mean.float() / 255

    def _check(self, frames: Tensor) -> None:
        if not isinstance(frames, Tensor) or frames.dtype != torch.uint8:
            found = frames.dtype if isinstance(frames, Tensor) else type(frames).__name__
            raise TypeError(f"frames must be a uint8 tensor, got {found}; use torch.from_numpy on uint8 pictures")
        shape = self.config.frame_shape
        if frames.ndim != 5 or tuple(frames.shape[1:]) != shape:
            raise ValueError(f"frames must have shape (B, {', '.join(map(str, shape))}), got {tuple(frames.shape)}")


def encode_frames(model: ImageAutoencoder, frames: NDArray[np.uint8], *, batch: int = 256) -> NDArray[np.float32]:
    """Encode many frames, a batch at a time.

    Args:
        model: The autoencoder.
        frames: uint8 (n, cameras, S, S, 3), in memory or memory-mapped.
        batch: Frames at once.

    Returns:
        float32 (n, L).
    """
    out = np.zeros((len(frames), model.latent_dim), dtype=np.float32)
    for i in range(0, len(frames), batch):
        out[i : i + batch] = model.encode(torch.from_numpy(np.array(frames[i : i + batch]))).cpu().numpy()
    return out
