"""What the benchmarks share: intervals, trained models that are kept, progress."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from dfplan.data.files import atomic_path
from dfplan.evaluation.metrics import wilson
from dfplan.layout import SequenceSpec
from dfplan.models import Network, NetworkConfig, kind_of, make_denoiser
from dfplan.sequence import SequenceTraining, train_sequences

__all__ = ["CAREFUL_PLAN", "mean_interval", "trained", "wilson"]

CAREFUL_PLAN: Mapping[str, Any] = {"steps": 10, "slope": 0.5, "samples": 16}  # dearer than the planner's defaults


def mean_interval(values: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, float]:
    """Return mean, standard error and count."""
    array = np.asarray(values, dtype=np.float64)
    stderr = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else float("nan")
    return {"mean": float(array.mean()), "stderr": stderr, "count": len(array)}


def trained(
    out: Path, name: str, data: Callable[[], Tensor], spec: SequenceSpec, network: NetworkConfig,
    config: SequenceTraining,
) -> tuple[Network, float]:  # fmt: skip
    """Train a model, or load the one that this run folder holds with the same settings.

    Returns:
        The model and the seconds that training took (when it was trained).
    """
    key = json.dumps([spec.to_dict(), kind_of(network), network.to_dict(), vars(config)], sort_keys=True)
    path = out / "models" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.safetensors"
    model = make_denoiser(spec, network)
    if path.is_file():
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); delete it to train again") from error
        seconds = float(tensors.pop("seconds"))
        model.load_state_dict(tensors)
        return model.eval(), seconds
    began = time.perf_counter()
    with tqdm(total=config.steps, desc=f"train {name}", file=sys.stderr, unit="step", dynamic_ncols=True) as bar:

        def progress(step: int, loss: float) -> None:
            bar.update(1)
            if step % 50 == 0:
                bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)

        model = train_sequences(data(), spec, network, config, progress=progress)
    seconds = time.perf_counter() - began
    with atomic_path(path) as temporary:
        tensors = {n: v.contiguous() for n, v in model.state_dict().items()}
        save_file({**tensors, "seconds": torch.tensor(seconds)}, temporary)
    return model, seconds
