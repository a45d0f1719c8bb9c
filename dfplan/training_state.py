"""The resumable state of a training run: one safetensors file, whole or not there, and never unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dfplan.data.files import atomic_path

STATE = "state.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


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
        optimizer: AdamW.
        ema: Averaged weights by name.
        step: Steps done.
        config: What makes the run what it is (configuration, layout, statistics of the data), compared on resume.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"model/{name}"] = parameter.detach().cpu().contiguous()
        tensors[f"ema/{name}"] = ema[name].cpu().contiguous()
        for moment in MOMENTS:
            value = optimizer.state[parameter].get(moment) if parameter.requires_grad else torch.zeros_like(parameter)
            tensors[f"{moment}/{name}"] = value.detach().cpu().contiguous()
    with atomic_path(folder / STATE) as path:
        save_file(tensors, path, metadata={"step": str(step), "config": json.dumps(config, sort_keys=True)})


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
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete the run folder's state/ to start over") from error
    stored = json.loads(meta.get("config", "{}"))
    now = json.loads(json.dumps(config))
    differing = sorted(key for key in now.keys() | stored.keys() if now.get(key) != stored.get(key))
    if differing:
        pairs = ", ".join(f"{key}: {stored.get(key)} there, {now.get(key)} here" for key in differing)
        raise ValueError(f"{path} is from a run with another configuration ({pairs}); use the same, or another --out")
    step = int(meta["step"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model/{name}"])
            ema[name].copy_(tensors[f"ema/{name}"])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                **{moment: tensors[f"{moment}/{name}"].to(parameter.device) for moment in MOMENTS},
            }
    return step
