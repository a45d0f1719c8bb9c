"""Write a deterministic actor as safetensors with a JSON header: what `dfplan eval --policy mlp:FILE` reads.

The tensors are ``layer.0.weight`` (out, in), ``layer.0.bias`` (out,), ``layer.1.weight`` ... The header's entry
``dfplan-mlp`` holds the format, the widths, the activations, the scaling of observations and actions, and where the
actor comes from.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import nn

FORMAT, HEADER = "dfplan-mlp-1", "dfplan-mlp"
Layers = list[tuple[NDArray[np.float32], NDArray[np.float32]]]


def linear_layers(policy: nn.Module) -> Layers:
    """Take the layers from state to mean action out of a d3rlpy policy: all linear ones but that of the deviation."""
    names = [(name, module) for name, module in policy.named_modules() if isinstance(module, nn.Linear)]
    chosen = [module for name, module in names if "logstd" not in name]
    return [(m.weight.detach().cpu().numpy(), m.bias.detach().cpu().numpy()) for m in chosen]


def write(
    path: Path,
    layers: Layers,
    *,
    mean: NDArray[Any],
    std: NDArray[Any],
    provenance: dict[str, Any],
    activation: str = "relu",
    output: str = "tanh",
) -> None:
    """Write an actor ``action = output(layers((state - mean) / std))`` in half precision, atomically.

    Args:
        path: The file.
        layers: Weights (out, in) and biases (out,), from the state on.
        mean: (O,), subtracted from the state.
        std: (O,), what it is divided by.
        provenance: Command, steps, seed, data, versions: plain JSON.
        activation: Between layers.
        output: After the last one.
    """
    width = [layers[0][0].shape[1], *(weight.shape[0] for weight, _ in layers)]
    header = {
        "format": FORMAT,
        "widths": width,
        "activation": activation,
        "output": output,
        "observation": {"mean": [float(v) for v in mean], "std": [float(v) for v in std]},
        "action": {"offset": [0.0] * width[-1], "scale": [1.0] * width[-1]},
        "provenance": provenance,
    }
    tensors = {}
    for i, (weight, bias) in enumerate(layers):
        tensors |= {f"layer.{i}.weight": weight.astype(np.float16), f"layer.{i}.bias": bias.astype(np.float16)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_bytes(save(tensors, metadata={HEADER: json.dumps(header, allow_nan=False)}))
    os.replace(temporary, path)


def forward(layers: Layers, states: NDArray[Any], mean: NDArray[Any], std: NDArray[Any]) -> NDArray[np.float64]:
    """Compute relu layers and a tanh at the end; the check that what was exported is what was trained."""
    x = (np.asarray(states, dtype=np.float64) - mean) / std
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight.T.astype(np.float64) + bias
        x = np.tanh(x) if i == len(layers) - 1 else np.maximum(x, 0.0)
    return x
