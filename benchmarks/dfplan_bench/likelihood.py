"""The variational bound against exact log-likelihoods of random sub-sequences (arXiv 2407.01392, Theorem 3.1).

The process is linear and Gaussian, so that ``ln p(x_A)`` of any sub-sequence A is known, and so is the best denoiser.
With that one, what is left between bound and truth is the error of K finite steps. With trained ones it is the quality
of the network too: Diffusion Forcing, whose training shows every pattern of levels, and full-sequence diffusion, whose
training shows one level at a time.
"""

from __future__ import annotations

from collections.abc import Callable
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


def trained_bounds(model: Any, pairs: Pairs, matrix: Matrix, causal: bool, draws: int, seed: int) -> Tensor:
    """Estimate the bounds (pairs,) with a trained network."""
    draw, found = normal_like(torch.Generator().manual_seed(seed)), []
    for where, x0 in pairs:
        S = matrix(len(where), len(model.alpha_bar) - 1)
        bound = subsequence_bound(
            model, x0.float(), model.alpha_bar, order=torch.arange(TOKENS), subset=where, schedule=S, causal=causal,
            draw=draw, draws=draws,
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

    laws = {"Diffusion Forcing": ("independent", 1.0), "full-sequence diffusion": ("shared", 0.0)}
    return {
        name: trained(
            out, levels, data, spec, network,
            SequenceTraining(steps=steps, batch=64, levels=levels, causal=causal, seed=seed),
        )
        for name, (levels, causal) in laws.items()
    }  # fmt: skip


def run(out: Path, *, seed: int = 0, quick: bool = False, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Bound the same random sub-sequences with the exact denoiser and with trained ones."""
    mean, cov = rotation(TOKENS)
    pairs = random_pairs(mean, cov, 4 if quick else 50, 4, seed + 2)
    whole = [(torch.arange(TOKENS), draw_sequences(mean, cov, 2 if quick else 50, torch.Generator().manual_seed(seed)))]
    truth, numbers = _truth(mean, cov, pairs)
    exact: dict[str, Any] = {}
    clouds = []
    for K in LEVELS[:1] if quick else LEVELS:
        say(f"exact denoiser, K = {K}, {len(truth)} sub-sequences")
        model = GaussianDenoiser(mean, cov, alpha_bar_table("cosine", K))
        row = {name: exact_bounds(model, pairs, matrix, "forward") for name, matrix in MATRICES.items()}
        row["posterior variance"] = exact_bounds(model, pairs, MATRICES["full sequence"], "posterior")
        exact[str(K)] = {name: compare(bounds, truth, numbers) for name, bounds in row.items()}
        clouds.append(Cloud(f"K = {K}", truth.numpy(), row["chain rule"].numpy()))
    learned: dict[str, Any] = {}
    learned_clouds = []
    steps, draws = (30, 1) if quick else (3000, 4)
    for name, (network, seconds) in networks(out, mean, cov, steps, seed).items():
        say(f"{name}, K = {TRAINED_LEVELS}")
        forcing = name == "Diffusion Forcing"
        matrix = MATRICES["chain rule" if forcing else "full sequence"]
        parts = {}
        for part, sequences in (("sub-sequences", pairs), ("whole sequences", whole)):
            bounds = trained_bounds(network, sequences, matrix, forcing, draws, seed + 3)
            parts[part] = compare(bounds, *_truth(mean, cov, sequences))
            if part == "sub-sequences":
                learned_clouds.append(Cloud(name, truth.numpy(), bounds.numpy()))
        learned[name] = {**parts, "train_seconds": seconds}
    forcing_bounds, full_bounds = (np.asarray(cloud.y) for cloud in learned_clouds)
    learned["Diffusion Forcing above full sequence, nats"] = mean_interval(forcing_bounds - full_bounds)
    _figure(out, exact, clouds, learned_clouds)
    return {
        "headline": _headline(exact, learned), "exact": exact, "trained": learned, "pairs": len(truth),
        "process": {"tokens": TOKENS, "width": WIDTH, "decay": 0.9, "angle": 0.6},
        "trained_levels": TRAINED_LEVELS, "train_steps": steps, "draws": draws,
    }  # fmt: skip


def _truth(mean: Tensor, cov: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Return the exact log-likelihoods of all pairs, and how many numbers each has."""
    true = [log_likelihood(mean, cov, x0, where) for where, x0 in pairs]
    numbers = [torch.full((len(x0),), float(WIDTH * len(where))) for where, x0 in pairs]
    return torch.cat(true), torch.cat(numbers)


def _figure(out: Path, exact: dict[str, Any], clouds: list[Cloud], learned: list[Cloud]) -> None:
    levels = [float(K) for K in exact]
    lines = []
    for name in (*MATRICES, "posterior variance"):
        found = [row[name]["gap_nats_per_number"] for row in exact.values()]
        lines.append(Line(name, levels, [f["mean"] for f in found], [f["stderr"] for f in found]))
    truth, bound = "exact ln p, nats", "bound, nats"
    panels_figure(
        out / "likelihood.png",
        [
            Panel("exact denoiser, chain rule", truth, bound, clouds=clouds, diagonal=True),
            Panel(f"trained, K = {TRAINED_LEVELS}", truth, bound, clouds=learned, diagonal=True),
            Panel("exact denoiser: mean gap", "K", "nats per number", lines=lines, log="xy"),
        ],
    )


def _headline(exact: dict[str, Any], learned: dict[str, Any]) -> list[str]:
    def text(found: dict[str, Any]) -> str:
        gap = found["gap_nats"]
        return f"gap {gap['mean']:.3f} +- {gap['stderr']:.3f} nats, correlation {found['correlation']:.4f}"

    return [
        *(f"exact denoiser, chain rule, K = {K}: {text(row['chain rule'])}" for K, row in exact.items()),
        *(f"{name}: {text(row['sub-sequences'])}" for name, row in learned.items() if "sub-sequences" in row),
    ]
