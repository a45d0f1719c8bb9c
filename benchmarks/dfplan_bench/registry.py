"""Which benchmarks there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from dfplan.errors import unknown_name

Say = Callable[[str], None]
Run = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Benchmark:
    """Describe a benchmark.

    Attributes:
        name: How it is asked for.
        claim: What it tests, in a line.
        minutes: About how long it takes on two cores, training included.
    """

    name: str
    claim: str
    minutes: float

    def load(self) -> Run:
        """Import its ``run(out: Path, *, seed: int, quick: bool, say: Say) -> dict``."""
        run: Run = import_module(f"dfplan_bench.{self.name.replace('-', '_')}").run
        return run


BENCHMARKS = {
    b.name: b
    for b in (
        Benchmark("cross", "with memory only what the data did; without it, pieces are put together anew", 6),
        Benchmark("rollout", "stabilised roll-outs stay on the attractor far past the training horizon", 15),
        Benchmark("schedules", "schedules and Monte Carlo Guidance: reward, variance and cost", 10),
        Benchmark("likelihood", "the variational bound against exact log-likelihoods of sub-sequences", 10),
        Benchmark("corrupted", "missing and noisy observations, labelled as such or not", 20),
        Benchmark("five-questions", "planner, policy, world model, inverse dynamics and prior from one checkpoint", 10),
        Benchmark("forecasting", "probabilistic forecasts of many series: CRPS against baselines", 20),
        Benchmark("ogbench", "OGBench's pointmaze by the stock protocol: navigate and stitch in three mazes", 25),
        Benchmark("maze2d", "the whole table of maze2d: scores, the ladder of what each part is worth, references", 90),
        Benchmark("returns", "plans for reward from data of mixed quality, against the data and behaviour cloning", 40),
        Benchmark("fruit-swap", "the robot arm's fruit swap: memory, darkness, pushes, states and pictures", 120),
        Benchmark(
            "ros-faults", "the robot's bridge: every fault on the wire, by an independent recorder's verdict", 15
        ),
        Benchmark("cache", "remembering a history against computing it again", 2),
        Benchmark("acting", "what a call of predict costs outside the network, by policy and batch size", 1),
        Benchmark("speed", "time per plan against three known designs, closed loop, horizon and batch curves", 15),
        Benchmark("speed-scores", "what cheaper and late plans cost in executed score, on matched starts", 20),
        Benchmark("speed-training", "score of maze2d-umaze on the way through its training", 15),
    )
}


def find_benchmark(name: str) -> Benchmark:
    """Look a benchmark up.

    Raises:
        ValueError: If there is none of this name; the nearest is named.
    """
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]


def folder(path: Path) -> Path:
    """Make a run folder."""
    path.mkdir(parents=True, exist_ok=True)
    return path
