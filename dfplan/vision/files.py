"""Save and load an autoencoder: weights as safetensors, everything else as JSON; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfplan.data.files import atomic_path
from dfplan.vision.model import AutoencoderConfig, ImageAutoencoder

FORMAT = "dfplan-encoder-1"
WEIGHTS, CONFIG = "encoder.safetensors", "encoder.json"


def save_encoder(
    model: ImageAutoencoder,
    folder: str | Path,
    *,
    weights: dict[str, Tensor] | None = None,
    about: dict[str, Any] | None = None,
) -> Path:
    """Write an autoencoder to a folder, weights in half precision; the files take their places atomically, JSON last.

    Args:
        model: What to write.
        folder: Where to; made if missing. It may be a checkpoint's folder.
        weights: Other values for some of the model's own (the average over training), same names and shapes.
        about: Anything worth knowing, plain JSON values (data, seed).

    Returns:
        The folder.
    """
    from safetensors.torch import save

    folder = Path(folder)
    trained, state = dict(model.named_parameters()), {**model.state_dict(), **(weights or {})}
    tensors = {n: (v.half() if n in trained else v).detach().cpu().contiguous() for n, v in state.items()}
    blob = save(tensors, metadata={"format": FORMAT})
    config = {
        "format": FORMAT,
        "model": model.config.to_dict(),
        "weights_sha256": hashlib.sha256(blob).hexdigest(),
        "parameters": int(sum(v.numel() for v in trained.values())),
        "about": about or {},
    }
    text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    with atomic_path(folder / WEIGHTS) as path:
        path.write_bytes(blob)
    with atomic_path(folder / CONFIG) as path:
        path.write_text(text)
    return folder


def load_encoder(folder: str | Path, *, device: str = "cpu") -> ImageAutoencoder:
    """Load an autoencoder that `save_encoder` wrote.

    Args:
        folder: Where it is.
        device: Where the model goes.

    Returns:
        The autoencoder in evaluation mode, float32.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged; it is named.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = Path(folder)
    config = _read(folder / CONFIG)
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a whole autoencoder: {WEIGHTS} is missing")
    blob = path.read_bytes()
    if hashlib.sha256(blob).hexdigest() != config.get("weights_sha256"):
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one in {CONFIG}; fetch or train it again")
    try:
        model = ImageAutoencoder(AutoencoderConfig(**config["model"]))
        model.load_state_dict({n: v.float() if v.dtype == torch.float16 else v for n, v in load(blob).items()})
    except (SafetensorError, RuntimeError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG} does not fit its weights ({error}); fetch or train it again") from error
    return model.to(device).eval()


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is not an autoencoder: it holds no {CONFIG}")
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); fetch or train it again") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"{path} has format {found!r}, needed is {FORMAT!r}; it was written by another program")
    return config
