"""Save and load a value model: weights as safetensors, everything else as JSON; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from dfplan.data.files import atomic_path
from dfplan.layout import SequenceSpec
from dfplan.tokens import TokenSpec
from dfplan.value.model import ValueConfig, ValueModel

FORMAT = "dfplan-value-1"
WEIGHTS, CONFIG = "value.safetensors", "value.json"


def save_value(model: ValueModel, folder: str | Path, *, about: dict[str, Any] | None = None) -> Path:
    """Write a value model to a folder; the two files take their places atomically, the JSON last.

    Args:
        model: What to write.
        folder: Where to; made if missing. It may be a checkpoint's folder.
        about: Anything worth knowing, plain JSON values (data, reward, seed).

    Returns:
        The folder.
    """
    from safetensors.torch import save

    folder = Path(folder)
    blob = save({n: v.detach().cpu().contiguous() for n, v in model.state_dict().items()}, metadata={"format": FORMAT})
    spec = model.spec
    if not isinstance(spec, TokenSpec | SequenceSpec):
        raise TypeError(f"only a TokenSpec or SequenceSpec can be saved, got {type(spec).__name__}")
    config = {
        "format": FORMAT,
        "layout": {"kind": "tokens" if isinstance(spec, TokenSpec) else "sequence", "values": spec.to_dict()},
        "model": model.config.to_dict(),
        "weights_sha256": hashlib.sha256(blob).hexdigest(),
        "about": about or {},
    }
    text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    with atomic_path(folder / WEIGHTS) as path:
        path.write_bytes(blob)
    with atomic_path(folder / CONFIG) as path:
        path.write_text(text)
    return folder


def load_value(folder: str | Path, *, device: str = "cpu") -> ValueModel:
    """Load a value model that `save_value` wrote.

    Args:
        folder: Where it is.
        device: Where the model goes.

    Returns:
        The model in evaluation mode.

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
        raise FileNotFoundError(f"{folder} is not a whole value model: {WEIGHTS} is missing")
    blob = path.read_bytes()
    if hashlib.sha256(blob).hexdigest() != config.get("weights_sha256"):
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one in {CONFIG}; fetch or train it again")
    try:
        layout, values = config["layout"]["kind"], config["layout"]["values"]
        spec = SequenceSpec(**values) if layout == "sequence" else TokenSpec.from_dict(values)
        model = ValueModel(spec, ValueConfig(**config["model"]))
        model.load_state_dict(load(blob))
    except (SafetensorError, RuntimeError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG} does not fit its weights ({error}); fetch or train it again") from error
    return model.to(device).eval()


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is not a value model: it holds no {CONFIG}")
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); fetch or train it again") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"{path} has format {found!r}, needed is {FORMAT!r}; it was written by another program")
    return config
