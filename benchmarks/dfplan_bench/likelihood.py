"""The variational bound against exact log-likelihoods of random sub-sequences (arXiv 2407.01392, Theorem 3.1).

The process is linear and Gaussian, so that ``ln p(x_A)`` of any sub-sequence A is known, and so is the best denoiser.
With that one, what is left between bound and truth is the error of K finite steps. With trained ones it is the quality
of the network too: Diffusion Forcing, whose training shows every pattern of levels, and full-sequence diffusion, whose
training shows one level at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dfplan.layout import SequenceSpec
from dfplan.likelihood import chain_rule, subsequence_bound
from dfplan.models import TransformerConfig
from dfplan.noise import alpha_bar_table, normal_like
from dfplan.plotting import Cloud, Line, Panel, panels_figure
from dfplan.schedule import full_sequence, pyramid
from dfplan.sequence import SequenceTraining
from dfplan_bench.common import mean_interval, trained
from dfplan_bench.gaussian import Cubature, GaussianDenoiser, draw_sequences, log_likelihood, rotation

TOKENS, WIDTH = 8, 2
LEVELS = (25, 100, 400)
ROUNDING = 1e-6  # nats; a single token of unit variance has no gap at all
TRAINED_LEVELS = 100
FORCING, FULL = "Diffusion Forcing", "full-sequence diffusion"
PARTS, FORECAST = "sub-sequences", "second half given the first"
Pairs = list[tuple[Tensor, Tensor]]
Matrix = Callable[[int, int], Tensor]
MATRICES: dict[str, Matrix] = {
    "chain rule": lambda n, K: chain_rule(torch.arange(n), K),
    "pyramid": lambda n, K: pyramid(n, K, steps=K, slope=K / 4),
    "full sequence": lambda n, K: full_sequence(n, K, steps=K),
}


def random_pairs(mean: Tensor, cov: Tensor, subsets: int, each: int, seed: int) -> Pairs:
    """Draw sub-sequences (positions, sequences (each, T, D)): first their size, uniform on 1..T, then which tokens."""
    g = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(subsets):
        size = int(torch.randint(1, TOKENS + 1, (), generator=g))
        where = torch.randperm(TOKENS, generator=g)[:size].sort().values
        out.append((where, draw_sequences(mean, cov, each, g)))
    return out


def exact_bounds(model: GaussianDenoiser, pairs: Pairs, matrix: Matrix, variance: str) -> Tensor:
    """Compute the bounds (pairs,) with the exact denoiser, in expectation over the noise."""
    K, found = len(model.alpha_bar) - 1, []
    for where, x0 in pairs:
        S = matrix(len(where), K)
        bound = subsequence_bound(
            model, x0, model.alpha_bar, order=torch.arange(TOKENS), subset=where, schedule=S, causal=False,
            variance=variance, draw=Cubature(len(S) - 1), draws=2 * WIDTH * len(where),
        )  # fmt: skip
        found.append(bound.nats)
    return torch.cat(found)


@dataclass(frozen=True)
class Task:
    """What trained networks are asked.

    Attributes:
        pairs: Positions, and sequences (each, T, D).
        given: How many of the first positions are given.
        truth: Exact log-likelihoods of the others (N,).
        numbers: How many numbers each has (N,).
    """

    pairs: Pairs
    given: int
    truth: Tensor
    numbers: Tensor


def make_task(mean: Tensor, cov: Tensor, pairs: Pairs, given: int = 0) -> Task:
    """Attach the exact answers: ``ln p(x_A) - ln p(x_given)``."""
    truth, numbers = [], []
    for where, x0 in pairs:
        prior = log_likelihood(mean, cov, x0, where[:given]) if given else 0.0
        truth.append(log_likelihood(mean, cov, x0, where) - prior)
        numbers.append(torch.full((len(x0),), float(WIDTH * (len(where) - given))))
    return Task(pairs, given, torch.cat(truth), torch.cat(numbers))


def trained_bounds(model: Any, task: Task, forcing: bool, draws: int, seed: int) -> Tensor:
    """Estimate the bounds (N,) with a network: causally token by token, or all tokens together that are not given."""
    draw, found, K = normal_like(torch.Generator().manual_seed(seed)), [], len(model.alpha_bar) - 1
    for where, x0 in task.pairs:
        given = torch.arange(len(where)) < task.given
        together = torch.where(given, 0, full_sequence(len(where), K, steps=K))
        bound = subsequence_bound(
            model, x0.float(), model.alpha_bar, order=torch.arange(TOKENS), subset=where, draw=draw, draws=draws,
            schedule=chain_rule(where, K, given=given) if forcing else together, causal=forcing,
        )  # fmt: skip
        found.append(bound.nats)
    return torch.cat(found)


def compare(bounds: Tensor, true: Tensor, numbers: Tensor) -> dict[str, Any]:
    """Summarise ``ln p - bound``; ``numbers`` is how many numbers (columns times tokens) each sub-sequence has."""
    gap = (true - bounds).numpy()
    return {
        "gap_nats": mean_interval(gap),
        "gap_nats_per_number": mean_interval(gap / numbers.numpy()),
        "bound_above_truth": float((gap < -ROUNDING).mean()),
        "correlation": float(np.corrcoef(bounds.numpy(), true.numpy())[0, 1]),
    }


def networks(out: Path, mean: Tensor, cov: Tensor, steps: int, seed: int) -> dict[str, tuple[Any, float]]:
    """Train one network as Diffusion Forcing and one as full-sequence diffusion, on the same data."""
    spec = SequenceSpec(width=WIDTH, tokens=TOKENS)
    network = TransformerConfig(width=64, layers=3, heads=4, levels=TRAINED_LEVELS, positions="rotary")

    def data() -> Tensor:
        return draw_sequences(mean, cov, 50_000, torch.Generator().manual_seed(seed + 1)).float()

    laws = {FORCING: ("independent", 1.0), FULL: ("shared", 0.0)}
    return {
        name: trained(
            out, levels, data, spec, network,
            SequenceTraining(steps=steps, batch=64, levels=levels, causal=causal, seed=seed),
        )
        for name, (levels, causal) in laws.items()
    }  # fmt: skip


def with_exact(task: Task, quick: bool, say: Callable[[str], None]) -> tuple[dict[str, Any], list[Cloud]]:
    """Compare for every K and matrix with the exact denoiser; returns the result and the chain rule's points."""
    result: dict[str, Any] = {}
    clouds = []
    for K in LEVELS[:1] if quick else LEVELS:
        say(f"exact denoiser, K = {K}, {len(task.truth)} sub-sequences")
        model = GaussianDenoiser(*rotation(TOKENS), alpha_bar_table("cosine", K))
        row = {name: exact_bounds(model, task.pairs, matrix, "forward") for name, matrix in MATRICES.items()}
        row["posterior variance"] = exact_bounds(model, task.pairs, MATRICES["full sequence"], "posterior")
        result[str(K)] = {name: compare(bounds, task.truth, task.numbers) for name, bounds in row.items()}
        clouds.append(Cloud(f"K = {K}", task.truth.numpy(), row["chain rule"].numpy()))
    return result, clouds


def with_trained(
    models: dict[str, tuple[Any, float]], tasks: dict[str, Task], draws: int, seed: int, say: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, list[Cloud]]]:
    """Compare for every task with trained networks; returns the result and the points of each task."""
    rows: dict[str, dict[str, Tensor]] = {}
    for name, (network, _) in models.items():
        say(f"{name}, K = {TRAINED_LEVELS}")
        rows[name] = {t: trained_bounds(network, task, name == FORCING, draws, seed) for t, task in tasks.items()}
    result = {
        "trained": {
            n: {t: compare(row[t], tasks[t].truth, tasks[t].numbers) for t in tasks} for n, row in rows.items()
        },
        "forcing_ahead_nats": {t: mean_interval((rows[FORCING][t] - rows[FULL][t]).numpy()) for t in tasks},
        "train_seconds": {name: seconds for name, (_, seconds) in models.items()},
    }
    clouds = {t: [Cloud(n, tasks[t].truth.numpy(), row[t].numpy()) for n, row in rows.items()] for t in tasks}
    return result, clouds


def run(out: Path, *, seed: int = 0, quick: bool = False, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Bound the same random sub-sequences with the exact denoiser and with trained ones."""
    mean, cov = rotation(TOKENS)
    steps, draws, subsets, whole = (30, 1, 4, 2) if quick else (3000, 4, 50, 50)
    pairs = random_pairs(mean, cov, subsets, 4, seed + 2)
    entire = [(torch.arange(TOKENS), draw_sequences(mean, cov, whole, torch.Generator().manual_seed(seed)))]
    tasks = {
        PARTS: make_task(mean, cov, pairs),
        "whole sequences": make_task(mean, cov, entire),
        FORECAST: make_task(mean, cov, entire, TOKENS // 2),
    }
    exact, clouds = with_exact(tasks[PARTS], quick, say)
    learned, learned_clouds = with_trained(networks(out, mean, cov, steps, seed), tasks, draws, seed + 3, say)
    _figure(out, exact, clouds, learned_clouds)
    return {
        "headline": _headline(exact, learned["trained"]), "exact": exact, **learned, "pairs": len(tasks[PARTS].truth),
        "process": {"tokens": TOKENS, "width": WIDTH, "decay": 0.9, "angle": 0.6},
        "trained_levels": TRAINED_LEVELS, "train_steps": steps, "draws": draws,
    }  # fmt: skip


def _figure(out: Path, exact: dict[str, Any], clouds: list[Cloud], learned: dict[str, list[Cloud]]) -> None:
    levels = [float(K) for K in exact]
    lines = []
    for name in (*MATRICES, "posterior variance"):
        found = [row[name]["gap_nats_per_number"] for row in exact.values()]
        lines.append(Line(name, levels, [f["mean"] for f in found], [f["stderr"] for f in found]))
    truth, bound = "exact ln p, nats", "bound, nats"
    panels_figure(
        out / "likelihood.png",
        [
            Panel("exact denoiser: sub-sequences", truth, bound, clouds=clouds, diagonal=True),
            Panel("exact denoiser: mean gap", "K", "nats per number", lines=lines, log="xy"),
            Panel(f"trained: {PARTS}", truth, bound, clouds=learned[PARTS], diagonal=True),
            Panel(f"trained: {FORECAST}", truth, bound, clouds=learned[FORECAST], diagonal=True),
        ],
    )


def _headline(exact: dict[str, Any], learned: dict[str, Any]) -> list[str]:
    def text(found: dict[str, Any]) -> str:
        gap = found["gap_nats"]
        return f"gap {gap['mean']:.3f} +- {gap['stderr']:.3f} nats, correlation {found['correlation']:.4f}"

    return [
        *(f"exact denoiser, chain rule, K = {K}: {text(row['chain rule'])}" for K, row in exact.items()),
        *(f"{name}, {task}: {text(cell)}" for name, row in learned.items() for task, cell in row.items()),
    ]
