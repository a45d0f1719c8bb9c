"""Camera pictures: a small autoencoder to latents and back, quality measures, videos.

What needs torch is loaded when it is first asked for, so that measuring and writing videos does without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfplan.vision.estimates import HeadTraining, fit_head, frame_columns
    from dfplan.vision.files import load_encoder, save_encoder
    from dfplan.vision.metrics import psnr, quality_curves, ssim
    from dfplan.vision.model import AutoencoderConfig, ImageAutoencoder, encode_frames
    from dfplan.vision.training import AutoencoderTraining, train_autoencoder
    from dfplan.vision.video import read_video, write_side_by_side, write_video

_LAZY = {
    "AutoencoderConfig": "model",
    "AutoencoderTraining": "training",
    "HeadTraining": "estimates",
    "ImageAutoencoder": "model",
    "encode_frames": "model",
    "fit_head": "estimates",
    "frame_columns": "estimates",
    "load_encoder": "files",
    "psnr": "metrics",
    "quality_curves": "metrics",
    "read_video": "video",
    "save_encoder": "files",
    "ssim": "metrics",
    "train_autoencoder": "training",
    "write_side_by_side": "video",
    "write_video": "video",
}

__all__ = [
    "AutoencoderConfig",
    "AutoencoderTraining",
    "HeadTraining",
    "ImageAutoencoder",
    "encode_frames",
    "fit_head",
    "frame_columns",
    "load_encoder",
    "psnr",
    "quality_curves",
    "read_video",
    "save_encoder",
    "ssim",
    "train_autoencoder",
    "write_side_by_side",
    "write_video",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"dfplan.vision.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'dfplan.vision' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
