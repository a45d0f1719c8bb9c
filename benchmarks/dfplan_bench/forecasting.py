"""Probabilistic forecasts of many series (arXiv 2407.01392, section 4.4 and appendix D.3), on a process whose best
possible forecast is known.

Eight hourly series with a daily rhythm share a hidden state. In logarithms the process is linear and Gaussian, so the
exact conditional law of the future given the past can be sampled: the score that no forecast can beat on average.
The score is the paper's CRPS_sum: the continuous ranked probability score of the sum over all series, divided by the
mean absolute value of that sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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

DAY, SERIES, HIDDEN = 24, 8, 3
CONTEXT, AHEAD = 2 * DAY, DAY


@dataclass(frozen=True)
class World:
    """Hold the process ``log y_t = rhythm_t + C h_t + e_t``, ``h_t = A h_{t-1} + w_t``.

    Attributes:
        rhythm: (DAY, SERIES).
        A: (HIDDEN, HIDDEN).
        C: (SERIES, HIDDEN).
        w: Standard deviation of the hidden noise.
        e: Standard deviation of the observation noise.
    """

    rhythm: Tensor
    A: Tensor
    C: Tensor
    w: float = 0.25
    e: float = 0.08


def make_world(seed: int) -> World:
    """Draw a world."""
    g = torch.Generator().manual_seed(seed)
    t = torch.arange(DAY, dtype=torch.float64)[:, None] / DAY * 2 * torch.pi
    phase = torch.rand(SERIES, generator=g, dtype=torch.float64) * 2
    height = 0.3 + 0.5 * torch.rand(SERIES, generator=g, dtype=torch.float64)
    rhythm = height * torch.sin(t + phase) + 0.25 * torch.sin(2 * t + 2 * phase)
    turn = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN, generator=g, dtype=torch.float64))[0]
    A = turn @ torch.diag(torch.tensor([0.97, 0.9, 0.6], dtype=torch.float64)) @ turn.T
    return World(rhythm, A, 0.4 * torch.randn(SERIES, HIDDEN, generator=g, dtype=torch.float64))


def simulate(world: World, count: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return logarithms (count, length, SERIES) and the hour of day at which each sequence begins (count,)."""
    g = torch.Generator().manual_seed(seed)

    def draw(n: int) -> Tensor:
        return torch.randn(count, n, generator=g, dtype=torch.float64)

    start = torch.randint(0, DAY, (count,), generator=g)
    h, rows = draw(HIDDEN), []
    for t in range(-50, length):  # the first 50 steps forget the beginning
        h = h @ world.A.T + world.w * draw(HIDDEN)
        rows.append(world.rhythm[(start + t) % DAY] + h @ world.C.T + world.e * draw(SERIES))
    return torch.stack(rows[50:], 1), start


def exact_forecast(world: World, past: Tensor, start: Tensor, samples: int, seed: int) -> Tensor:
    """Sample the true conditional law of the next AHEAD steps by a Kalman filter, (B, samples, AHEAD, SERIES)."""
    B, eye = len(past), torch.eye(HIDDEN, dtype=torch.float64)
    mean, cov = torch.zeros(B, HIDDEN, dtype=torch.float64), 10.0 * eye
    R = world.e**2 * torch.eye(SERIES, dtype=torch.float64)
    for t in range(past.shape[1]):
        mean, cov = mean @ world.A.T, world.A @ cov @ world.A.T + world.w**2 * eye
        gain = cov @ world.C.T @ torch.linalg.inv(world.C @ cov @ world.C.T + R)
        surprise = past[:, t] - world.rhythm[(start + t) % DAY] - mean @ world.C.T
        mean, cov = mean + surprise @ gain.T, cov - gain @ world.C @ cov
    g = torch.Generator().manual_seed(seed)

    def draw(n: int) -> Tensor:
        return torch.randn(B, samples, n, generator=g, dtype=torch.float64)

    h, rows = mean[:, None] + draw(HIDDEN) @ torch.linalg.cholesky(cov).T, []
    for t in range(past.shape[1], past.shape[1] + AHEAD):
        h = h @ world.A.T + world.w * draw(HIDDEN)
        rows.append(world.rhythm[(start + t) % DAY][:, None] + h @ world.C.T + world.e * draw(SERIES))
    return torch.stack(rows, 2)


def seasonal_naive(past: Tensor, errors: Tensor, samples: int, seed: int) -> Tensor:
    """Repeat yesterday, plus day-to-day changes (n, AHEAD, SERIES) drawn from the training data."""
    g = torch.Generator().manual_seed(seed)
    which = torch.randint(0, len(errors), (len(past), samples), generator=g)
    return past[:, None, -DAY:][:, :, :AHEAD] + errors[which]


def crps_sum(forecast: Tensor, truth: Tensor) -> Tensor:
    """Score forecasts (B, S, n, D) of truths (B, n, D), both of positive values; lower is better.

    ``CRPS = E|X - y| - E|X - X'| / 2`` of the sum over D, averaged over the n steps, divided by the mean of the sum.

    Returns:
        (B,), one score per window.

    Source:
        Gneiting and Raftery, J. Am. Stat. Assoc. 102 (2007), Eq. 20; the sum as in arXiv 1910.03002.
    """
    x, y = forecast.sum(-1).sort(1).values, truth.sum(-1)
    S = x.shape[1]
    rank = 2 * torch.arange(1, S + 1, dtype=x.dtype) - S - 1
    spread = (x * rank[None, :, None]).sum(1) / (S * (S - 1))  # half of E|X - X'|, without bias
    score = (x - y[:, None]).abs().mean(1) - spread
    return score.mean(1) / y.abs().mean()


def _networks(steps: int, seed: int) -> dict[str, tuple[NetworkConfig, SequenceTraining, Sampling, int]]:
    """Return network, training, sampling and chunk of each method."""
    big = TransformerConfig(width=64, layers=3, heads=4, levels=100, positions="rotary")
    gru = RecurrentConfig(width=128, levels=100)

    def how(levels: str, causal: float = 1.0) -> SequenceTraining:
        return SequenceTraining(steps=steps, batch=32, levels=levels, causal=causal, seed=seed)

    step = Sampling(steps=15, schedule="pyramid", slope=1.0)
    return {
        "Diffusion Forcing, zig-zag": (big, how("independent"), step, AHEAD),
        "Diffusion Forcing, step by step": (big, how("independent"), step, 1),
        "teacher forcing": (big, how("teacher_forcing"), step, 1),
        "full sequence": (big, how("shared", 0.0), Sampling(steps=15, schedule="full_sequence", causal=False), AHEAD),
        "recurrent Diffusion Forcing": (gru, how("independent"), step, 1),
        "recurrent teacher forcing": (gru, how("teacher_forcing"), step, 1),
    }


def run(out: Path, *, seed: int = 0, quick: bool = False, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train all methods, forecast the same windows, score."""
    world = make_world(seed)
    windows, samples, steps = (8, 10, 30) if quick else (100, 50, 2000)
    logs, _ = simulate(world, 100 if quick else 1500, CONTEXT + AHEAD + DAY, seed + 1)
    test, start = simulate(world, windows, CONTEXT + AHEAD, seed + 2)
    past, truth = test[:, :CONTEXT], test[:, CONTEXT:].exp()
    mean, std = logs.mean((0, 1)), logs.std((0, 1))
    data, spec = ((logs - mean) / std).float(), SequenceSpec(SERIES, CONTEXT + AHEAD)
    context = ((past - mean) / std).float().repeat_interleave(samples, 0)
    errors = logs[:, DAY : 2 * DAY] - logs[:, :DAY]
    forecasts = {
        "exact (cannot be beaten)": exact_forecast(world, past, start, samples, seed),
        "yesterday again": seasonal_naive(past, errors, samples, seed),
    }
    seconds = {}
    for name, (network, training, how, chunk) in tqdm(_networks(steps, seed).items(), desc="methods"):
        kind = "recurrent" if isinstance(network, RecurrentConfig) else "transformer"
        label = f"{training.levels}-{kind}"
        model, seconds[name] = trained(out, label, lambda: data, spec, network, training)
        draw = normal_like(torch.Generator().manual_seed(seed))
        parts = [
            roll_out(model, part, AHEAD, draw, how, chunk=chunk, window=CONTEXT + AHEAD + 1)
            for part in tqdm(torch.split(context, 500), desc=f"forecast: {name}", leave=False)
        ]
        found = torch.cat(parts).double().reshape(windows, samples, AHEAD, SERIES)
        forecasts[name] = found * std + mean
    scores = {name: crps_sum(f.exp(), truth) for name, f in forecasts.items()}
    means = {name: mean_interval(s.numpy()) for name, s in scores.items()}
    rows = {name: {"crps_sum": mean, "train_seconds": seconds.get(name)} for name, mean in means.items()}
    best = "Diffusion Forcing, zig-zag"
    gaps = {name: mean_interval((s - scores[best]).numpy()) for name, s in scores.items() if name != best}
    _figure(out, forecasts, truth, scores)
    headline = [f"{name}: CRPS_sum {m['mean']:.4f} +- {m['stderr']:.4f}" for name, m in means.items()]
    return {
        "headline": headline,
        "methods": rows,
        "difference_to_zig_zag": gaps,
        "windows": windows,
        "samples": samples,
    }


def _figure(out: Path, forecasts: dict[str, Tensor], truth: Tensor, scores: dict[str, Tensor]) -> None:
    """Draw two methods' forecasts of one window, and the error of the sum by lead time."""
    hours, panels = torch.arange(1, AHEAD + 1).double().numpy(), []
    for name in ("Diffusion Forcing, zig-zag", "teacher forcing"):
        total = forecasts[name][0].exp().sum(-1)
        middle, spread = total.mean(0), 1.64 * total.std(0)
        lines = [
            Line("forecast, 90 %", hours, middle.numpy(), spread.numpy()),
            Line("truth", hours, truth[0].sum(-1).numpy(), dashed=True),
        ]
        panels.append(Panel(name, "hours ahead", "sum of all series", lines=lines))
    lines = []
    for name, forecast in forecasts.items():
        by_lead = [float(crps_sum(forecast[:, :, t : t + 1].exp(), truth[:, t : t + 1]).mean()) for t in range(AHEAD)]
        lines.append(Line(name, hours, by_lead, dashed=name.startswith("exact")))
    panels.append(Panel("error by lead time", "hours ahead", "CRPS_sum", lines=lines, ylim=(0.0, 0.4)))
    panels_figure(out / "forecasting.png", panels, height_in=3.6)
