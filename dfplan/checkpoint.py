"""Checkpoints: a folder with weights (safetensors) and JSON that holds everything needed to act.

``config.json`` holds the layout, the normaliser, the network's size, the planner's defaults, the SHA-256 of the
weights and where it all comes from (data, command, seed, versions). Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dfplan.data.files import atomic_path
from dfplan.errors import missing_extra, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from dfplan.episode import EpisodeSpec
    from dfplan.models import Network
    from dfplan.spaces import Spaces
    from dfplan.tokens import Normalizer, TokenSpec
    from dfplan.value import ValueModel
    from dfplan.vision import ImageAutoencoder

FORMAT = "dfplan-checkpoint-1"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
VALUE_FILES = ("value.safetensors", "value.json")  # of the learned return, where there is one
ENCODER_FILES = ("encoder.safetensors", "encoder.json")  # of the image autoencoder, where there is one
PRETRAINED = Path(__file__).parent / "pretrained"


@dataclass(frozen=True)
class Checkpoint:
    """Hold a trained denoiser and what belongs to it.

    Attributes:
        name: For people.
        env: Environment id it was trained for; empty if none.
        model: The denoiser, in evaluation mode.
        spec: Its token layout.
        norm: The statistics of its data.
        planner: Defaults of the planner (see `dfplan.planner.PlannerConfig`).
        provenance: Data id, training command, seed, versions, revision, hardware.
        spaces: How the columns of observations and actions follow from the environment's; None if they are the same.
        value: A learned return of the same layout (`dfplan.value`), or None; saved beside the weights.
        encoder: The image autoencoder (`dfplan.vision`) of its observations, or None; saved beside the weights.
    """

    name: str
    env: str
    model: Network
    spec: TokenSpec | EpisodeSpec
    norm: Normalizer
    planner: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    spaces: Spaces | None = None
    value: ValueModel | None = None
    encoder: ImageAutoencoder | None = None

    @property
    def plan_spec(self) -> TokenSpec:
        """Return the layout of a planner.

        Raises:
            ValueError: If the checkpoint is of whole episodes.
        """
        if not hasattr(self.spec, "plan_tokens"):
            raise ValueError(
                f"the checkpoint {self.name!r} holds whole episodes and makes no plans; use the policy 'episode' "
                "(dfplan_policies.EpisodePolicy)"
            )
        return cast("TokenSpec", self.spec)


def save_checkpoint(
    checkpoint: Checkpoint, folder: str | Path, *, weights: dict[str, Tensor] | None = None, half: bool = True
) -> Path:
    """Write a checkpoint folder; the two files take their places atomically, the JSON last.

    Args:
        checkpoint: What to write.
        folder: Where to; made if missing.
        weights: Other weights than the model's own (the EMA), same names and shapes.
        half: Store float16 (half the size; the loss of precision is far below that of a bf16 forward pass).

    Returns:
        The folder.
    """
    from safetensors.torch import save

    from dfplan.models import kind_of

    folder = Path(folder)
    state = weights if weights is not None else checkpoint.model.state_dict()
    tensors = {n: (v.half() if half and v.is_floating_point() else v).cpu().contiguous() for n, v in state.items()}
    blob = save(tensors, metadata={"format": FORMAT})
    config = {
        "format": FORMAT,
        "name": checkpoint.name,
        "env": checkpoint.env,
        "model": {"kind": kind_of(checkpoint.model.config), **checkpoint.model.config.to_dict()},
        "tokens": checkpoint.spec.to_dict(),
        "normalizer": checkpoint.norm.to_dict(),
        "planner": checkpoint.planner,
        "weights_sha256": hashlib.sha256(blob).hexdigest(),
        "parameters": int(sum(v.numel() for v in tensors.values())),
        "provenance": checkpoint.provenance,
    }
    if checkpoint.spaces is not None:
        config["spaces"] = checkpoint.spaces.to_dict()
    text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    with atomic_path(folder / WEIGHTS) as path:
        path.write_bytes(blob)
    with atomic_path(folder / CONFIG) as path:
        path.write_text(text)
    if checkpoint.value is not None:
        from dfplan.value import save_value

        save_value(checkpoint.value, folder)
    if checkpoint.encoder is not None:
        from dfplan.vision import save_encoder

        save_encoder(checkpoint.encoder, folder)
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check ``config.json``.

    Raises:
        FileNotFoundError: If the folder or the file is missing.
        ValueError: If it is not a checkpoint of this format.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a checkpoint: it holds no {CONFIG}")
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); the checkpoint is damaged, fetch or train it again"
        ) from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise ValueError(
            f"{path} has format {found!r}, needed is {FORMAT!r}; it was written by another version or program"
        )
    missing = [key for key in ("model", "tokens", "normalizer", "weights_sha256") if key not in config]
    if missing:
        raise ValueError(f"{path} lacks {missing}; the checkpoint is damaged, fetch or train it again")
    return config


def load_checkpoint(source: str | Path, *, device: str = "cpu") -> Checkpoint:
    """Load a bundled name, a folder or a Hugging Face Hub id (``owner/name``).

    Args:
        source: What to load.
        device: Where the model goes.

    Returns:
        The checkpoint, its model in evaluation mode.

    Raises:
        FileNotFoundError: If a folder is not a checkpoint.
        ImportError: If a Hub id needs the extra ``hub``.
        ValueError: If the name is unknown, or a file is damaged (the file and the reason are named).
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from dfplan.models import make_config, make_denoiser
    from dfplan.spaces import Spaces
    from dfplan.tokens import Normalizer
    from dfplan.value.files import load_value
    from dfplan.vision import load_encoder

    folder = locate(source)
    config = read_config(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a whole checkpoint: {WEIGHTS} is missing")
    blob = path.read_bytes()
    digest = hashlib.sha256(blob).hexdigest()
    if digest != config["weights_sha256"]:
        raise ValueError(
            f"{path} is damaged: its SHA-256 begins {digest[:12]}, {CONFIG} says {str(config['weights_sha256'])[:12]}; "
            "fetch or train it again"
        )
    try:
        tensors = load(blob)
        kind = config["model"].pop("kind", "transformer")
        spec = _layout(config["tokens"])
        model = make_denoiser(spec, make_config(kind, config["model"]))
        model.load_state_dict({n: v.float() for n, v in tensors.items()})
        norm = Normalizer.from_dict(config["normalizer"])
        spaces = Spaces.from_dict(config["spaces"]) if config.get("spaces") else None
    except (SafetensorError, RuntimeError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder} does not fit together ({error}); fetch or train it again") from error
    return Checkpoint(
        name=str(config.get("name") or folder.name),
        env=str(config.get("env") or ""),
        model=model.to(device).eval(),
        spec=spec,
        norm=norm,
        planner=dict(config.get("planner") or {}),
        provenance=dict(config.get("provenance") or {}),
        spaces=spaces,
        value=load_value(folder, device=device) if (folder / VALUE_FILES[1]).is_file() else None,
        encoder=load_encoder(folder, device=device) if (folder / ENCODER_FILES[1]).is_file() else None,
    )


def _layout(values: dict[str, Any]) -> TokenSpec | EpisodeSpec:
    from dfplan.episode.layout import KIND, EpisodeSpec
    from dfplan.tokens import TokenSpec

    return (EpisodeSpec if values.get("kind") == KIND else TokenSpec).from_dict(values)


def locate(source: str | Path) -> Path:
    """Find the folder of a bundled name, a path or a Hub id (which is downloaded).

    Raises:
        ValueError: If nothing fits; the nearest bundled name is given.
    """
    if isinstance(source, Path) or Path(source).is_dir():
        return Path(source)
    if (PRETRAINED / source / CONFIG).is_file():
        return PRETRAINED / source
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return _download(source)
    names = [p.parent.name for p in sorted(PRETRAINED.glob(f"*/{CONFIG}"))]
    error = unknown_name("checkpoint", source, names)
    raise ValueError(f"{error}; or pass a folder, or a Hugging Face Hub id owner/name")


def _download(repo: str) -> Path:
    """Fetch the files of a checkpoint from a Hub repository; nothing else of it is read."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise missing_extra("huggingface_hub", "hub", f"loading {repo!r} from the Hugging Face Hub") from error
    try:
        return Path(snapshot_download(repo, allow_patterns=[WEIGHTS, CONFIG, *VALUE_FILES, *ENCODER_FILES]))
    except Exception as error:  # the library raises many kinds; all of them mean that it could not be fetched
        raise ValueError(
            f"{repo!r} is no local folder and could not be fetched from the Hugging Face Hub "
            f"({type(error).__name__}: {error})"
        ) from error


def push_checkpoint(folder: str | Path, repo: str, *, private: bool = False) -> str:
    """Upload a checkpoint folder to the Hugging Face Hub.

    Args:
        folder: A checkpoint folder.
        repo: ``owner/name``; made if it does not exist.
        private: Visibility of a new repository.

    Returns:
        The address of the commit.

    Raises:
        ImportError: If the extra ``hub`` is missing.
        FileNotFoundError: If the folder is not a checkpoint.
    """
    read_config(Path(folder))
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise missing_extra("huggingface_hub", "hub", "pushing a checkpoint") from error
    api = HfApi()
    files = [WEIGHTS, CONFIG, *VALUE_FILES, *ENCODER_FILES]
    api.create_repo(repo, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=repo, folder_path=str(folder), allow_patterns=files))


def list_pretrained() -> list[dict[str, Any]]:
    """List the bundled checkpoints: name, env, params, size_bytes, data, trained."""
    rows = []
    for path in sorted(PRETRAINED.glob(f"*/{CONFIG}")):
        config = read_config(path.parent)
        origin = config.get("provenance", {})
        rows.append(
            {
                "name": path.parent.name,
                "env": config.get("env", ""),
                "params": config.get("parameters", 0),
                "size_bytes": sum(p.stat().st_size for p in path.parent.iterdir() if p.is_file()),
                "data": origin.get("data", {}).get("id", ""),
                "trained": origin.get("trained", ""),
            }
        )
    return rows


def tensor_digest(tensors: dict[str, Tensor]) -> str:
    """Hash tensors by name and content, to compare two training runs bit for bit."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name].detach().cpu().float().numpy()).tobytes())
    return digest.hexdigest()
