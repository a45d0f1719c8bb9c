"""Wall-clock seconds of one plan, by number of samples, threads and precision.

    python benchmarks/plan_speed.py --json benchmarks/results/plan-speed-large.json

Run it on an idle machine. Each row is the median and the 95th percentile over ``--repeats`` plans.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dfplan import DFPlanner
from result import finish


def measure(planner: DFPlanner, samples: int, repeats: int, **options: Any) -> dict[str, float]:
    """Time plans from random starts to the same goal; the first two warm up and do not count."""
    rng = np.random.default_rng(0)
    seconds, calls = [], 0
    for i in range(repeats + 2):
        obs = np.array([*rng.uniform(1, 5, 2), 0.0, 0.0])
        began = time.perf_counter()
        plan = planner.plan(
            obs, goal=(7.0, 9.0), samples=samples, generator=torch.Generator().manual_seed(i), **options
        )
        seconds.append(time.perf_counter() - began)
        calls = plan.network_evaluations
    kept = np.array(seconds[2:])
    return {"median_s": float(np.median(kept)), "p95_s": float(np.quantile(kept, 0.95)), "network_evaluations": calls}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="maze2d-large")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    horizon = 0
    grid = [
        (samples, threads, precision) for samples in (1, 16, 64) for threads in (1, 2) for precision in ("fp32", "bf16")
    ]
    for samples, threads, precision in tqdm(grid):
        torch.set_num_threads(threads)
        planner = DFPlanner.from_pretrained(args.checkpoint, precision=precision)
        horizon = planner.horizon_steps
        labels = {"samples": samples, "threads": threads, "precision": precision}
        pyramid = measure(planner, samples, args.repeats)
        rows.append({**labels, "schedule": "pyramid", "attention": "causal", **pyramid})
        if samples == 16:
            full = {"schedule": "full_sequence", "attention": "full"}
            rows.append({**labels, **full, **measure(planner, samples, args.repeats, **full)})
    finish({"benchmark": "plan_speed", "checkpoint": args.checkpoint, "env_steps": horizon, "rows": rows}, args.json)


if __name__ == "__main__":
    main()
