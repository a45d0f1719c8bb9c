"""Roll-outs 10 and 50 times the training horizon (arXiv 2407.01392, section 4.1 and claim C4, on processes).

Compared on the same backbone and the same number of training steps: Diffusion Forcing that labels what it generated as
slightly noisy (k_small), Diffusion Forcing that trusts it, teacher forcing (next-token diffusion), and full-sequence
diffusion with a sliding window. The processes' true statistics are known, so a roll-out is judged by how far the law of
its states (and of pairs of neighbouring states) is from the true one, and by how many sequences have left the range of
the data for good.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dfplan.layout import SequenceSpec
from dfplan.models import NetworkConfig, RecurrentConfig, TransformerConfig
from dfplan.noise import normal_like
from dfplan.plotting import Line, Panel, panels_figure
from dfplan.sequence import SequenceTraining
from dfplan.stream import Sampling, roll_out
from dfplan_bench.common import mean_interval, trained
from dfplan_bench.processes import Process, energy_distance, in_wall, lorenz, maze_ball

WINDOW, CONTEXT = 16, 4
TIMES = (1, 10, 50)
TRANSFORMER = TransformerConfig(width=64, layers=3, heads=4, levels=100, positions="rotary")
RECURRENT = RecurrentConfig(width=128, levels=100)
# name, network, level law, arguments of roll_out
METHODS: tuple[tuple[str, NetworkConfig, str, dict[str, Any]], ...] = (
    ("Diffusion Forcing, k_small = 5", TRANSFORMER, "independent", {"k_small": 5}),
    ("Diffusion Forcing, k_small = 15", TRANSFORMER, "independent", {"k_small": 15}),
    ("Diffusion Forcing, trusting", TRANSFORMER, "independent", {}),
    ("teacher forcing", TRANSFORMER, "teacher_forcing", {}),
    ("full sequence, sliding window", TRANSFORMER, "shared", {"chunk": 8, "full": True}),
    ("recurrent Diffusion Forcing, k_small = 5", RECURRENT, "independent", {"k_small": 5}),
    ("recurrent Diffusion Forcing, trusting", RECURRENT, "independent", {}),
    ("recurrent Diffusion Forcing, levels mixed, k_small = 5", RECURRENT, "mixed", {"k_small": 5}),
    ("recurrent Diffusion Forcing, levels mixed, trusting", RECURRENT, "mixed", {}),
    ("recurrent teacher forcing", RECURRENT, "teacher_forcing", {}),
)


def judge(states: Tensor, process: Process, reference: Tensor) -> dict[str, Any]:
    """Measure a stretch of a roll-out (B, n, D), normalised, against the true law.

    Returns:
        Energy distance of states and of neighbouring pairs, in units of standard deviations, with the standard error
        over four parts of the sequences; the share of sequences that have diverged; for the maze the share of states
        in walls.
    """
    lost = ~(states.isfinite().all(-1) & (states.abs() <= 1.5 * process.bound).all(-1)).all(-1)
    kept = states.nan_to_num(0.0).clamp(-20, 20)
    pairs = torch.cat([kept[:, :-1], kept[:, 1:]], -1)
    true_pairs = torch.cat([reference[:, :-1], reference[:, 1:]], -1)

    def distance(x: Tensor, y: Tensor) -> dict[str, float]:
        parts = [energy_distance(_thin(p, 3000), _thin(y, 4000)) for p in x.chunk(4)]
        return mean_interval(parts)

    found: dict[str, Any] = {"states": distance(kept, reference), "pairs": distance(pairs, true_pairs)}
    found["diverged"] = float(lost.float().mean())
    if process.name.endswith("maze"):
        found["in_wall"] = float(in_wall(kept * process.std + process.mean).float().mean())
    return found


def _thin(x: Tensor, most: int) -> Tensor:
    """Take at most ``most`` evenly spaced rows of (B, n, D) as (rows, D)."""
    flat = x.reshape(-1, x.shape[-1])
    return flat[torch.linspace(0, len(flat) - 1, min(most, len(flat))).long()]


def _generate(model: Any, context: Tensor, length: int, options: dict[str, Any], seed: int) -> Tensor:
    draw = normal_like(torch.Generator().manual_seed(seed))
    full = bool(options.get("full"))
    how = Sampling(steps=10, schedule="full_sequence" if full else "pyramid", causal=not full)
    rest = {k: v for k, v in options.items() if k != "full"}
    return roll_out(model, context, length, draw, how, window=WINDOW, **rest)


def _one(
    process: Process, fresh: Process, out: Path, seed: int, quick: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train and judge all methods on one process; ``fresh`` sequences give contexts and the true law."""
    spec, sequences = SequenceSpec(width=process.data.shape[2], tokens=WINDOW), 16 if quick else 128
    held, reference = fresh.data[:sequences], fresh.data[sequences:, CONTEXT:]
    times, steps = (TIMES[:1] if quick else TIMES), (60 if quick else 2000)
    rows: dict[str, Any] = {}
    truth = judge(held[:, -2 * WINDOW :], process, reference)
    for name, network, levels, options in tqdm(METHODS, desc=process.name, unit="method"):
        training = SequenceTraining(steps=steps, batch=64, levels=levels, seed=seed, causal=0.0 if options.get("full")
                                    else 1.0)  # fmt: skip
        kind = "recurrent" if isinstance(network, RecurrentConfig) else "transformer"
        label = f"{process.name.split()[0].lower()}-{levels}-{kind}"
        model, seconds = trained(out, label, lambda: process.data[:-128], spec, network, training)
        x = _generate(model, held[:, :CONTEXT], max(times) * WINDOW, options, seed)
        cells = {}
        for time in times:
            last = x[:, max(0, time * WINDOW - 2 * WINDOW) : time * WINDOW]
            cells[str(time)] = judge(last, process, reference)
        rows[name] = {"train_seconds": seconds, "by_length": cells}
        say(f"{process.name}: {name}: pairs {cells[str(max(times))]['pairs']['mean']:.3f}, "
            f"diverged {cells[str(max(times))]['diverged']:.2f}")  # fmt: skip
    return {"methods": rows, "data_against_data": truth}


def run(out: Path, *, seed: int = 0, quick: bool = False, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the benchmark on Lorenz-63 and on the ball in a maze."""
    count = 256 if quick else 2000
    more = 64 if quick else 1256
    found = {}
    for make in (lorenz, maze_ball):
        process = make(count, 48, seed)
        found[process.name] = _one(process, make(more, 48, seed + 1, like=process), out, seed, quick, say)
    times = TIMES[:1] if quick else TIMES
    _figure(out / "rollout.png", found, times)
    headline = [
        f"{name}: {method}: pairs {row['by_length'][str(max(times))]['pairs']['mean']:.3f}, "
        f"diverged {row['by_length'][str(max(times))]['diverged']:.2f}"
        for name, result in found.items()
        for method, row in result["methods"].items()
    ]
    return {"headline": headline, "window": WINDOW, "context": CONTEXT, "times": list(times), "processes": found}


def _figure(path: Path, found: dict[str, Any], times: tuple[int, ...]) -> None:
    """Draw the distance of pairs against the length, transformers and recurrent networks apart."""
    x, panels = [float(t) for t in times], []
    for process, result in found.items():
        for recurrent in (False, True):
            lines = []
            for method, row in result["methods"].items():
                if method.startswith("recurrent") == recurrent:
                    cells = [row["by_length"][str(t)]["pairs"] for t in times]
                    label = method.removeprefix("recurrent ").replace("Diffusion Forcing", "DF")
                    lines.append(Line(label, x, [c["mean"] for c in cells], [c["stderr"] for c in cells]))
            floor = result["data_against_data"]["pairs"]["mean"]
            lines.append(Line("data against data", x, [floor] * len(x), dashed=True))
            title = f"{process}, {'recurrent' if recurrent else 'transformer'}"
            panels.append(Panel(title, "length / training horizon", "distance of pairs (std)", lines=lines, log="x"))
    panels_figure(path, panels, height_in=4.0, dpi=80)
