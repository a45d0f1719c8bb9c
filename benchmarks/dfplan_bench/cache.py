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
    rows: dict[str, list[dict[str, float]]] = {}
    for name, config in networks.items():
        torch.manual_seed(seed)
        model = make_denoiser(spec, config).eval()
        rows[name] = []
        for length in tqdm(lengths, desc=name):
            history = torch.randn(1, length, WIDTH, generator=torch.Generator().manual_seed(seed))
            for warm in (remembered, recomputed):
                warm(model, history, 2)
            with_memory, without = remembered(model, history, repeats), recomputed(model, history, repeats)
            a, b = statistics.median(with_memory), statistics.median(without)
            rows[name].append({"history": length, "memory_ms": 1000 * a, "recompute_ms": 1000 * b, "ratio": b / a})
    panels = []
    for name, row in rows.items():
        x = [r["history"] for r in row]
        lines = [
            Line("memory", x, [r["memory_ms"] for r in row]), Line("recomputed", x, [r["recompute_ms"] for r in row])
        ]  # fmt: skip
        panels.append(Panel(name, "tokens of history", "ms per control step", lines=lines, log="xy"))
    panels_figure(out / "cache.png", panels)
    at = {name: next((r["ratio"] for r in row if r["history"] == 200), None) for name, row in rows.items()}
    headline = [f"{n}: {r:.1f} times faster at 200 tokens of history" for n, r in at.items() if r is not None]
    return {"headline": headline, "rows": rows, "steps": STEPS, "repeats": repeats, "threads": torch.get_num_threads()}
