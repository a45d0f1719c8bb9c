"""How the cost grows with the horizon and with the number of environments, and what a training step costs."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from dfplan import TokenSpec
from dfplan.data import episodes_from_tours
from dfplan.training import TrainConfig, train
from dfplan.windows import fit_normalizer
from dfplan_bench.speed import ours
from dfplan_bench.speed.clock import exponent, seconds, threads
from dfplan_envs.maze2d import generate_tour

HORIZONS = (60, 120, 240, 480, 960, 1920, 3840)  # environment steps
ENVIRONMENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def horizon_curve(quick: bool) -> dict[str, Any]:
    """Time a plan of 16 candidates by its horizon, one thread, float32; zig-zag and full sequence."""
    horizons, samples = (HORIZONS[:2], 1) if quick else (HORIZONS, 8)
    curves: dict[str, list[dict[str, float]]] = {}
    kinds: dict[str, dict[str, Any]] = {
        "pyramid": {}, "full sequence": {"schedule": "full_sequence", "attention": "full"},
    }  # fmt: skip
    with threads(1):
        for steps in horizons:
            planner = ours.lengthened(steps // 15)
            for kind, options in kinds.items():
                repeats = 1 if quick or steps > 960 else 3

                def once(options: dict[str, Any] = options) -> object:
                    return ours.plan(planner, samples=samples, **options)  # noqa: B023

                curves.setdefault(kind, []).append({"steps": steps, "seconds": seconds(once, repeats)})
    return {kind: {"points": points, "exponent": fitted(points, "steps")} for kind, points in curves.items()}


def environment_curve(quick: bool) -> dict[str, Any]:
    """Time one candidate for each of many environments, apart and in one batch, two threads, float32."""
    counts, curves = (ENVIRONMENTS[:2] if quick else ENVIRONMENTS), {}  # type: ignore[var-annotated]
    with threads(2):
        for label, batched in (("one after the other", False), ("in one batch", True)):
            planner = ours.planner("fp32", batched=batched)
            for b in counts:
                repeats = 3 if b <= 16 else 1

                def once(b: int = b) -> object:
                    return ours.plan(planner, b, samples=1)  # noqa: B023

                curves.setdefault(label, []).append({"environments": b, "seconds": seconds(once, repeats)})
    return {label: {"points": p, "exponent": fitted(p, "environments")} for label, p in curves.items()}


def fitted(points: list[dict[str, float]], over: str) -> float:
    """Fit the exponent of the growth."""
    return exponent([float(p[over]) for p in points], [p["seconds"] for p in points])


def training_cost(quick: bool) -> list[dict[str, Any]]:
    """Time training steps of the default network by threads, precision and batch; the first two do not count."""
    tour = episodes_from_tours([generate_tour("umaze", 20_000, [0, 0], noisy=True)])
    spec = TokenSpec(4, 2, 8, 24)
    norm, rows = fit_normalizer(tour, spec.stride), []
    grid = [(t, p, b) for t in (1, 2) for p in ("fp32", "bf16") for b in (32, 128)]
    for count, precision, batch in grid[:1] if quick else grid:
        steps, marks = 3 if quick else 10, []  # type: int, list[float]
        config = TrainConfig(steps=steps, batch=batch, precision=precision, holdout=0.0, save_every=steps)
        with threads(count), tempfile.TemporaryDirectory() as folder:
            train(tour, spec, norm, config, Path(folder), name="x", log=lambda row: marks.append(time.perf_counter()))  # noqa: B023
        rate = (len(marks) - 2) / (marks[-2] - marks[0])  # the last step saves
        rows.append({"threads": count, "precision": precision, "batch": batch, "steps_per_second": rate,
                     "windows_per_second": rate * batch})  # fmt: skip
    return rows


def devices() -> list[str]:
    """List what there is to time on."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
