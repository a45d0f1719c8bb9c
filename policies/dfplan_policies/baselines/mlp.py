"""The ``mlp`` policy: a deterministic actor that another program has trained, from one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan_policies.per_environment import PerEnvironmentPolicy
from dfplan_policies.protocol import FloatArray

FORMAT, HEADER = "dfplan-mlp-1", "dfplan-mlp"
KEYS = ("widths", "activation", "output", "observation", "action")
Floats = NDArray[np.float64]


def _relu(x: Floats) -> Floats:
    return np.maximum(x, 0.0)


def _identity(x: Floats) -> Floats:
    return x


FUNCTIONS: dict[str, Callable[[Any], Any]] = {"relu": _relu, "tanh": np.tanh, "identity": _identity}


class MLPPolicy(PerEnvironmentPolicy[int]):
    """Act by a fully connected network on the measured state alone; the goal is not shown to it.

    ``a = offset + scale * output(W_n f(... f(W_0 (s - mean) / std + b_0)) + b_n)``

    The file is safetensors (nothing is unpickled) with tensors ``layer.i.weight`` (out, in) and ``layer.i.bias``
    (out,); its header's entry ``dfplan-mlp`` is JSON: ``format`` "dfplan-mlp-1", ``widths`` (from O to A),
    ``activation`` and ``output`` ("relu", "tanh" or "identity"), ``observation`` {mean, std}, ``action`` {offset,
    scale}, ``provenance``.

    Args:
        path: The file, for example one that ``benchmarks/baselines/train.py`` wrote.
        act_dim: A of the environment, if it is to be checked.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a file, is damaged, or its widths do not fit together.
    """

    def __init__(self, path: str | Path, *, act_dim: int | None = None) -> None:
        self.path = Path(path)
        header, tensors = _read(self.path)
        self.widths: list[int] = header["widths"]
        self.provenance: dict[str, Any] = header.get("provenance", {})
        self._layers = _layers(self.path, self.widths, tensors)
        self._mean, self._std = (_vector(self.path, header, "observation", k, self.widths[0]) for k in ("mean", "std"))
        self._offset, self._scale = (
            _vector(self.path, header, "action", k, self.widths[-1]) for k in ("offset", "scale")
        )
        if not (self._std > 0).all():
            raise _damaged(self.path, f"observation std must be positive, got {self._std.tolist()}")
        self._inner, self._outer = (_function(self.path, header[key]) for key in ("activation", "output"))
        if act_dim is not None and self.widths[-1] != act_dim:
            raise ValueError(
                f"{self.path} gives actions of width {self.widths[-1]}, the environment takes {act_dim}; "
                "use an actor that was trained for it"
            )

    def begin(self, episode: int) -> int:
        """Remember the episode's number, which decides nothing."""
        return episode

    def act(self, memory: int, observation: FloatArray, goal: FloatArray | None) -> tuple[FloatArray, int]:
        """Return the network's action. One row at a time, so that no other environment can change a bit of it."""
        if len(observation) != self.widths[0]:
            raise ValueError(
                f"{self.path} takes observations of width {self.widths[0]}, got {len(observation)}; "
                "use an actor that was trained for this environment"
            )
        x = (observation - self._mean) / self._std
        for weight, bias in self._layers[:-1]:
            x = self._inner(weight @ x + bias)
        weight, bias = self._layers[-1]
        return self._offset + self._scale * self._outer(weight @ x + bias), memory


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} is not a usable actor: {reason}; write it again with benchmarks/baselines/train.py")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Read and check the header, and read all tensors."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"no actor at {path}; pass a file that benchmarks/baselines/train.py wrote")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(HEADER, "null")
            tensors = {name: file.get_tensor(name).astype(np.float64) for name in file.keys()}  # noqa: SIM118
        header = json.loads(text)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise _damaged(path, f"it cannot be read ({error})") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else None
        raise _damaged(path, f"its header names the format {found!r}, needed is {FORMAT!r}")
    missing = [key for key in KEYS if key not in header]
    if missing:
        raise _damaged(path, f"its header lacks {', '.join(missing)}")
    return header, tensors


def _layers(path: Path, widths: list[int], tensors: dict[str, Floats]) -> list[tuple[Floats, Floats]]:
    """Put weights and biases in order and check their shapes."""
    if len(widths) < 2:
        raise _damaged(path, f"widths must hold at least two numbers, got {widths}")
    needed: dict[str, tuple[int, ...]] = {f"layer.{i}.weight": (b, a) for i, (a, b) in enumerate(pairwise(widths))}
    needed |= {f"layer.{i}.bias": (b,) for i, b in enumerate(widths[1:])}
    for name, shape in needed.items():
        found = tensors[name].shape if name in tensors else None
        if found != shape:
            raise _damaged(path, f"{name} must have shape {shape} (out, in) for the widths {widths}, got {found}")
        if not np.isfinite(tensors[name]).all():
            raise _damaged(path, f"{name} holds NaN or infinity")
    extra = sorted(set(tensors) - set(needed))
    if extra:
        raise _damaged(path, f"the widths {widths} leave no place for {', '.join(extra)}")
    return [(tensors[f"layer.{i}.weight"], tensors[f"layer.{i}.bias"]) for i in range(len(widths) - 1)]


def _vector(path: Path, header: dict[str, Any], group: str, key: str, width: int) -> Floats:
    """Read one of the scalings."""
    values = header[group].get(key) if isinstance(header[group], dict) else None
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _damaged(path, f"{group} {key} must be {width} numbers, got {values!r}") from error
    if vector.shape != (width,) or not np.isfinite(vector).all():
        raise _damaged(path, f"{group} {key} must be {width} numbers, got {values!r}")
    return vector


def _function(path: Path, name: Any) -> Callable[[Any], Any]:
    if name not in FUNCTIONS:
        raise _damaged(path, f"the activation must be one of {', '.join(FUNCTIONS)}, got {name!r}")
    return FUNCTIONS[name]
