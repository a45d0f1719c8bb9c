"""Train an offline algorithm of d3rlpy and export its deterministic actor. Needs nothing of dfplan but a data file.

    python benchmarks/baselines/train.py --algo iql --data runs/data/maze2d-large.npz --steps 40000 \
        --out runs/baselines/large-iql.safetensors

d3rlpy's defaults, batches of 256, states standardised. See `requirements.txt` for the environment it needs.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import d3rlpy
import export
import numpy as np
import torch
import transitions
from d3rlpy.dataset import TransitionMiniBatch
from d3rlpy.preprocessing import StandardObservationScaler
from tqdm import tqdm

ALGORITHMS: dict[str, Any] = {
    "bc": d3rlpy.algos.BCConfig,
    "iql": d3rlpy.algos.IQLConfig,
    "awac": d3rlpy.algos.AWACConfig,
    "td3_bc": d3rlpy.algos.TD3PlusBCConfig,
}
BATCH = 256
SCALER_EPS = 1e-3  # d3rlpy's: it divides by the deviation plus this
LARGEST_ERROR = 1e-4


def make(algorithm: str, data: transitions.Transitions) -> Any:
    """Build an algorithm with d3rlpy's defaults."""
    states = data.states.astype(np.float64)
    scaler = StandardObservationScaler(mean=states.mean(0), std=states.std(0), eps=SCALER_EPS)
    built = ALGORITHMS[algorithm](batch_size=BATCH, observation_scaler=scaler).create(device="cpu:0")
    built.create_impl((data.states.shape[1],), data.actions.shape[1])
    return built


def fit(algorithm: Any, data: transitions.Transitions, steps: int, seed: int, name: str) -> None:
    """Take gradient steps on transitions drawn uniformly."""
    rng = np.random.default_rng(seed)
    bar = tqdm(range(steps), desc=name, mininterval=10.0, unit="step")
    for step in bar:
        batch = TransitionMiniBatch(**data.batch(rng.integers(len(data), size=BATCH)), transitions=[])
        losses = algorithm.update(batch)
        if step % 1000 == 0:
            bar.set_postfix_str(", ".join(f"{key} {value:.3g}" for key, value in losses.items()), refresh=False)


def save(algorithm: Any, data: transitions.Transitions, path: Path, provenance: dict[str, Any]) -> None:
    """Export the actor; refuse if it does not act as the algorithm does.

    Raises:
        RuntimeError: If the exported layers give other actions.
    """
    layers = export.linear_layers(algorithm.impl.policy)
    scaler = algorithm.config.observation_scaler
    mean, std = scaler.mean, scaler.std + SCALER_EPS
    probe = data.states[:: max(1, len(data.states) // 1000)]
    error = np.abs(export.forward(layers, probe, mean, std) - algorithm.predict(probe)).max()
    if error > LARGEST_ERROR:
        raise RuntimeError(f"the exported actor differs from d3rlpy's by {error:.2g}; its policy has another shape")
    export.write(path, layers, mean=mean, std=std, provenance=provenance)


def relative(argument: str) -> str:
    """Write a path below the current folder without that folder."""
    return argument.replace(f"{Path.cwd()}/", "")


def main() -> None:
    """Train one actor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", choices=list(ALGORITHMS), required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--overwrite", action="store_true")
    chosen = parser.parse_args()
    if chosen.out.exists() and not chosen.overwrite:
        parser.error(f"{chosen.out} exists; pass --overwrite to train it again")
    torch.set_num_threads(chosen.threads)
    d3rlpy.seed(chosen.seed)
    data = transitions.load(chosen.data)
    algorithm = make(chosen.algo, data)
    began = time.process_time()
    fit(algorithm, data, chosen.steps, chosen.seed, chosen.out.stem)
    provenance = {
        "algorithm": chosen.algo,
        "steps": chosen.steps,
        "batch": BATCH,
        "seed": chosen.seed,
        "data": data.origin,
        "command": " ".join(["python", *(relative(argument) for argument in sys.argv)]),
        "versions": {name: version(name) for name in ("d3rlpy", "torch", "numpy")},
        "cpu_seconds": round(time.process_time() - began),
    }
    save(algorithm, data, chosen.out, provenance)


if __name__ == "__main__":
    main()
