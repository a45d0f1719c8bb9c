"""Train a toy model as a program of its own, to be killed or to be run by torchrun."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

import dfplan.training
from dfplan.checkpoint import tensor_digest
from dfplan.models.transformer import TransformerConfig
from dfplan.training import TrainConfig
from tests.core.tiny import fitted, small_spec, walks

SPEC = small_spec()
DATA = walks(20)
NORM = fitted(SPEC, DATA)
CONFIG = TrainConfig(
    steps=30, batch=8, lr=1e-2, warmup=3, precision="fp32", save_every=5, validate_every=50, holdout=0.0, ema=0.9,
    clip=0.5, model=TransformerConfig(width=16, layers=1, heads=2, levels=20),
)  # fmt: skip


def main(folder: Path, pause_s: float) -> None:
    """Train into ``folder``; every process writes the digest of the weights it ends with."""
    torch.set_num_threads(1)
    models: list[torch.nn.Module] = []
    real = dfplan.training.make_optimizer

    def remember(model: torch.nn.Module, config: TrainConfig, kind: str) -> Any:
        models.append(model)
        return real(model, config, kind)

    dfplan.training.make_optimizer = remember
    dfplan.training.train(DATA, SPEC, NORM, CONFIG, folder, name="toy", log=lambda row: time.sleep(pause_s))
    rank = os.environ.get("RANK", "0")
    (folder / f"rank{rank}.txt").write_text(tensor_digest(models[0].state_dict()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
