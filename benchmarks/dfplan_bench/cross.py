"""Composition by dropping memory (arXiv 2407.01392, section 4.3): data are straight crossings of a square.

Every path in the data runs from a corner of a square to the opposite corner, so the set of all paths is a cross. A
model that remembers where it came from makes such paths. The same weights without that memory, asked half-way for the
rest of the path, know only where they are: in the middle any corner will do, and paths appear that turn by 90 degrees
(a V), which the data do not contain.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfplan.layout import SequenceSpec
from dfplan.models import TransformerConfig
from dfplan.noise import normal_like
from dfplan.plotting import Line, Panel, panels_figure
from dfplan.plotting.panels import COLOURS
from dfplan.sequence import SequenceTraining
from dfplan.stream import Sampling, Stream
from dfplan_bench.common import trained, wilson

CROSSING, HALF = 24, 12  # steps from corner to corner, and tokens of one plan
CORNERS = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
REACHED = 0.3  # distance from a corner that counts as having arrived
MEMORIES = (1, 2, 3, 4, 6, HALF + 1)
STEPS, SLOPE = 20, 4.0
SLOPES = (0.0, 0.5, 1.0, 2.0, 4.0, 20.0)  # 0: all tokens together; 20: one after the other


def crossings(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw paths (count, CROSSING + HALF + 1, 2), at rest after the crossing, and the corners they start from."""
    g = torch.Generator().manual_seed(seed)
    start = torch.randint(0, 4, (count,), generator=g)
    u = (torch.arange(CROSSING + HALF + 1) / CROSSING).clamp(max=1.0)
    begin, end = CORNERS[start][:, None], -CORNERS[start][:, None]
    path = begin + (end - begin) * u[None, :, None]
    bend = 0.05 * torch.randn(count, 1, 1, generator=g) * torch.sin(torch.pi * u)[None, :, None]
    across = torch.stack([-(end - begin)[..., 1], (end - begin)[..., 0]], -1) / 8**0.5
    jitter = 0.02 * torch.randn(path.shape, generator=g)
    return path + bend * across + jitter, start


def outcomes(paths: Tensor, start: Tensor) -> dict[str, Any]:
    """Count where paths end: the opposite corner (cross), one beside (V), back at the start (U), or nowhere."""
    distance = (paths[:, -1, None] - CORNERS).norm(dim=-1)
    nearest, arrived = distance.argmin(1), distance.min(1).values <= REACHED
    turn = (nearest - start) % 4
    kinds = {"cross": turn == 2, "V": (turn == 1) | (turn == 3), "U": turn == 0}
    found: dict[str, Any] = {name: wilson(int((hit & arrived).sum()), len(paths)) for name, hit in kinds.items()}
    found["nowhere"] = wilson(int((~arrived).sum()), len(paths))
    ends = torch.bincount(nearest[arrived], minlength=4)
    return found | {"ends_per_corner": ends.tolist()}


def generate(model: Any, count: int, memory: int, seed: int, slope: float = SLOPE) -> tuple[Tensor, Tensor]:
    """Cross the square in two plans of half the length; the second one remembers the last ``memory`` tokens."""
    data, start = crossings(count, seed)
    draw, how = normal_like(torch.Generator().manual_seed(seed)), Sampling(steps=STEPS, slope=slope)
    first = Stream(model).seen(data[:, :1]).ahead(HALF, draw, how)
    so_far = torch.cat([data[:, :1], first], 1)
    second = Stream(model).seen(so_far[:, -memory:]).ahead(HALF, draw, how)
    return torch.cat([so_far, second], 1), start


def run(out: Path, *, seed: int = 0, quick: bool = False, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train one model and sample with and without memory."""
    spec = SequenceSpec(width=2, tokens=CROSSING + 1)
    steps, count = (150, 200) if quick else (4000, 2000)
    network = TransformerConfig(width=64, layers=3, heads=4, levels=100, positions="rotary")
    model, seconds = trained(
        out, "cross", lambda: crossings(20_000, seed)[0], spec, network,
        SequenceTraining(steps=steps, batch=64, seed=seed),
    )  # fmt: skip
    rows, panels = {}, []
    reference = outcomes(crossings(count, seed + 2)[0][:, : CROSSING + 1], crossings(count, seed + 2)[1])
    for memory in MEMORIES:
        say(f"sampling {count} paths with {memory} remembered tokens")
        paths, start = generate(model, count, memory, seed + 1)
        rows[str(memory)] = outcomes(paths, start)
        if memory in (1, HALF + 1):
            shown = [p.numpy() for p in paths[:160]]
            title = "whole memory" if memory > 1 else "memory dropped half-way"
            colours = [COLOURS[int(s)] for s in start[:160]]
            panels.append(Panel(title, "x", "y", tracks=shown, track_colours=colours))
    by_slope = {}
    for slope in SLOPES:
        say(f"sampling {count} paths without memory, slope {slope:g}")
        by_slope[f"{slope:g}"] = outcomes(*generate(model, count, 1, seed + 1, slope))
    rate = {name: [rows[str(m)][name] for m in MEMORIES] for name in ("V", "U")}
    lines = [
        Line(name, MEMORIES, [r["rate"] for r in found], [(r["high"] - r["low"]) / 2 for r in found])
        for name, found in rate.items()
    ]
    slope_lines = [
        Line(name, SLOPES, [by_slope[f"{v:g}"][name]["rate"] for v in SLOPES]) for name in ("cross", "V", "nowhere")
    ]
    panels = [
        panels[1],
        panels[0],
        Panel("paths that are in no data", "remembered tokens", "share", lines=lines),
        Panel("memory dropped: slope of the zig-zag", "rows per token (20: one by one)", "share", lines=slope_lines),
    ]
    panels_figure(out / "cross.png", panels)
    with_memory, without = rows[str(HALF + 1)], rows["1"]
    headline = [
        f"V-shapes with memory {with_memory['V']['rate']:.3f}, without {without['V']['rate']:.3f}",
        f"crossings with memory {with_memory['cross']['rate']:.3f}, without {without['cross']['rate']:.3f}",
    ]
    return {
        "headline": headline, "data": reference, "memory": rows,
        "without_memory_by_slope": by_slope, "paths": count, "train_seconds": seconds,
        "half": HALF, "network": network.to_dict(), "train_steps": steps,
    }  # fmt: skip
