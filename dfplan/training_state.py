"""The resumable state of a training run: one safetensors file, whole or not there, and never unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dfplan.checkpoint import tensor_digest
from dfplan.data.files import atomic_path

STATE = "state.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")  # AdamW's two, and Muon's


@dataclass(frozen=True)
class Start:
    """Hold what a training run begins with in place of random weights.

    Attributes:
        tensors: ``model/NAME`` and ``ema/NAME`` of every parameter and, if the optimiser is to go on where another one
            was, its moments ``exp_avg/NAME`` and ``exp_avg_sq/NAME``.
        updates: How many steps the moments have seen.
    """

    tensors: Mapping[str, Tensor]
    updates: int = 0

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor]) -> Start:
        """Start from weights by name, those of a checkpoint's ``model.state_dict()``: they are their own average."""
        plain = {name: value.detach().cpu().clone() for name, value in weights.items()}
        return cls({f"{part}/{name}": value for part in ("model", "ema") for name, value in plain.items()})

    @classmethod
    def from_run(cls, folder: str | Path) -> Start:
        """Start from where the run in ``folder`` stands: its weights, their average and the optimiser's moments.

        Raises:
            ValueError: If the run has no state, or it is damaged.
        """
        path = Path(folder) / "state" / STATE
        if not path.is_file():
            raise ValueError(f"{folder} holds no state of a training run; name a run folder, or start from weights")
        meta, tensors = _read(path)
        return cls(tensors, _updates(meta))

    def digest(self) -> str:
        """Return a hash of all tensors."""
        return tensor_digest(dict(self.tensors))

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, ema: dict[str, Tensor]) -> None:
        """Put the start into a model, its optimiser and its average, in place.

        Raises:
            ValueError: If it is of another network.
        """
        for name, parameter in model.named_parameters():
            found = self.tensors.get(f"model/{name}")
            if found is None or found.shape != parameter.shape:
                has = "nothing" if found is None else tuple(found.shape)
                raise ValueError(
                    f"what training starts from does not fit the network: {name} must have shape "
                    f"{tuple(parameter.shape)}, got {has}; use the configuration of the network it comes from"
                )
        _restore(self.tensors, self.updates, model, optimizer, ema)


def save_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: dict[str, Tensor],
    step: int,
    config: dict[str, Any],
) -> None:
    """Write weights, optimiser moments, EMA and step, atomically.

    Args:
        folder: Where to; made if missing.
        model: Its parameters are written.
        optimizer: Its moments are written.
        ema: Averaged weights by name.
        step: Steps done in this run.
        config: What makes the run what it is (configuration, layout, statistics of the data), compared on resume.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"model/{name}"] = parameter.detach().cpu().contiguous()
        tensors[f"ema/{name}"] = ema[name].cpu().contiguous()
        kept = optimizer.state[parameter] if parameter.requires_grad else {}
        for moment in MOMENTS:
            if moment in kept:
                tensors[f"{moment}/{name}"] = kept[moment].detach().cpu().contiguous()
    with atomic_path(folder / STATE) as path:
        meta = {"step": str(step), "config": json.dumps(config, sort_keys=True)}
        updates = max((int(entry["step"]) for entry in optimizer.state.values() if "step" in entry), default=step)
        if updates != step:  # the optimiser went on from another run
            meta["updates"] = str(updates)
        save_file(tensors, path, metadata=meta)


def load_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: dict[str, Tensor], config: dict[str, Any]
) -> int:
    """Restore what `save_state` wrote, in place.

    Returns:
        The number of steps done.

    Raises:
        ValueError: If the file is damaged, or belongs to a run with another configuration (the differing entries are
            named).
    """
    path = folder / STATE
    meta, tensors = _read(path)
    stored = json.loads(meta.get("config", "{}"))
    now = json.loads(json.dumps(config))
    differing = sorted(key for key in now.keys() | stored.keys() if now.get(key) != stored.get(key))
    if differing:
        pairs = ", ".join(f"{key}: {stored.get(key)} there, {now.get(key)} here" for key in differing)
        raise ValueError(f"{path} is from a run with another configuration ({pairs}); use the same, or another --out")
    _restore(tensors, _updates(meta), model, optimizer, ema)
    return int(meta["step"])


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            meta: dict[str, str] = file.metadata() or {}
            return meta, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete the run folder's state/ to start over") from error


def _updates(meta: Mapping[str, str]) -> int:
    """Return how many steps the moments have seen: more than the run has, if it went on from another."""
    return int(meta.get("updates", meta["step"]))


def _restore(
    tensors: Mapping[str, Tensor], updates: int, model: nn.Module, optimizer: torch.optim.Optimizer,
    ema: dict[str, Tensor],
) -> None:  # fmt: skip
    """Copy weights and average, and the optimiser's moments if there are any."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model/{name}"])
            ema[name].copy_(tensors[f"ema/{name}"])
            kept = [moment for moment in MOMENTS if f"{moment}/{name}" in tensors]
            if kept and parameter.requires_grad:
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(updates), device=parameter.device),
                    **{moment: tensors[f"{moment}/{name}"].to(parameter.device, copy=True) for moment in kept},
                }
