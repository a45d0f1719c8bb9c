"""Acting on a long history: what a step costs with a memory and without one.

One control step is: append the newest token, denoise the next one. With a memory both cost one token; without it the
whole history goes through the network again in every denoising step. Times are of one run, side by side.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dfplan.layout import SequenceSpec
from dfplan.models import Network, NetworkConfig, RecurrentConfig, TransformerConfig, make_denoiser
from dfplan.noise import normal_like
from dfplan.plotting import Line, Panel, panels_figure
from dfplan.sampler import sample
from dfplan.schedule import make_schedule
from dfplan.stream import Sampling, Stream

WIDTH, STEPS = 8, 10
LENGTHS = (10, 25, 50, 100, 200, 400)
MANY, MANY_AT = 16, 200  # environments in a batch, and the history at which they are timed


def remembered(model: Network, history: Tensor, repeats: int) -> list[float]:
    """Time control steps with a memory, seconds."""
    draw, how, times = normal_like(torch.Generator().manual_seed(0)), Sampling(steps=STEPS), []
    stream = Stream(model).seen(history[:, :-1])
    for _ in range(repeats):
        began = time.perf_counter()
        stream.seen(history[:, -1:]).ahead(1, draw, how)
        times.append(time.perf_counter() - began)
    return times


def recomputed(model: Network, history: Tensor, repeats: int) -> list[float]:
    """Time control steps that pass the whole history in every call, seconds."""
    draw, times, n = normal_like(torch.Generator().manual_seed(0)), [], history.shape[1]
    S = make_schedule("full_sequence", 1, model.levels, steps=STEPS)
    S = torch.cat([torch.zeros(len(S), n, dtype=torch.int64), S], 1)
    order = torch.arange(n + 1)
    for _ in range(repeats):
        began = time.perf_counter()
        x = torch.cat([history, draw(history[:, :1])], 1)
        sample(model, S, x, alpha_bar=model.alpha_bar, tokens=order, order=order, cache=False)
        times.append(time.perf_counter() - began)
    return times


def run(out: Path, *, seed: int = 0, quick: bool = False, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Time both ways for several lengths of history."""
    repeats, lengths = (3, LENGTHS[:3]) if quick else (30, LENGTHS)
    spec = SequenceSpec(WIDTH, max(lengths) + 1)
    networks: dict[str, NetworkConfig] = {
        "transformer": TransformerConfig(width=192, layers=3, heads=4, positions="rotary"),
        "recurrent": RecurrentConfig(width=256),
    }
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, config in networks.items():
        torch.manual_seed(seed)
        model = make_denoiser(spec, config).eval()
        rows[name] = []
        jobs = [(length, 1) for length in lengths] + ([] if quick else [(MANY_AT, MANY)])
        for length, batch in tqdm(jobs, desc=name):
            history = torch.randn(batch, length, WIDTH, generator=torch.Generator().manual_seed(seed))
            times = repeats if batch == 1 else max(3, repeats // 5)
            for warm in (remembered, recomputed):
                warm(model, history, 2)
            a, b = (statistics.median(way(model, history, times)) for way in (remembered, recomputed))
            row: dict[str, Any] = {
                "history": length,
                "batch": batch,
                "memory_ms": 1000 * a,
                "recompute_ms": 1000 * b,
                "ratio": b / a,
            }
            rows[name].append(row)
    panels = []
    for name, timed in rows.items():
        alone = [r for r in timed if r["batch"] == 1]
        x = [r["history"] for r in alone]
        lines = [
            Line(label, x, [r[key] for r in alone])
            for label, key in (("memory", "memory_ms"), ("recomputed", "recompute_ms"))
        ]
        panels.append(Panel(name, "tokens of history", "ms per control step", lines=lines, log="xy"))
    panels_figure(out / "cache.png", panels)
    headline = [
        f"{name}, {r['batch']:g} in a batch: {r['ratio']:.1f} times faster at {r['history']:g} tokens of history"
        for name, timed in rows.items()
        for r in timed
        if r["history"] == MANY_AT or quick
    ]
    return {"headline": headline, "rows": rows, "steps": STEPS, "repeats": repeats, "threads": torch.get_num_threads()}
