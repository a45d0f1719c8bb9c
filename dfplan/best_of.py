"""Best of N: draw candidates with different guidance scales until the time is up, keep the best."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dfplan.sampler import Samples
from dfplan.selection import Judge, best

META_ACTIONS = (0.0, 0.1, 0.5, 1.0, 2.0)
Run = Callable[[Tensor, torch.Generator], Samples]
"""From guidance scales (B,) and a generator to B sampled candidates; sample b is guided with scale b."""
Clock = Callable[[], float]
"""Returns seconds since some fixed moment."""


@dataclass(frozen=True)
class BestOf:
    """Hold the candidates of one search in the order in which they were drawn.

    Attributes:
        x: (N, n, D) clean tokens.
        value: float64 (N,), their scores, higher is better.
        possible: bool (N,).
        scales: (N,), the guidance scale of each.
        chosen: Index of the best.
        S: int64 (M+1, n), the matrix that was walked.
        batches: Batches drawn.
        network_evaluations: Calls of the denoiser.
        milliseconds: Time taken.
    """

    x: Tensor
    value: Tensor
    possible: Tensor
    scales: Tensor
    chosen: int
    S: Tensor
    batches: int
    network_evaluations: int
    milliseconds: float


def cycle_scales(scales: Sequence[float], count: int, begin: int = 0) -> Tensor:
    """Deal guidance scales to samples ``begin`` .. ``begin + count - 1``: sample i gets ``scales[i % len(scales)]``.

    Args:
        scales: The set of meta-actions, each at least 0.
        count: Samples.
        begin: Number of the first one.

    Returns:
        float64 (count,).

    Raises:
        ValueError: If there is no scale, or one is negative or not finite.
    """
    check_scales(scales)
    return torch.tensor([scales[i % len(scales)] for i in range(begin, begin + count)], dtype=torch.float64)


def check_scales(scales: Sequence[float]) -> None:
    """Raise ValueError unless there is at least one scale and all are finite and at least 0."""
    if len(scales) == 0 or not all(0 <= s < float("inf") for s in scales):
        raise ValueError(
            f"scales must be one or more finite numbers of at least 0, got {tuple(scales)}; 0 is no guidance"
        )


def seeded(seed: int, *path: int) -> torch.Generator:
    """Build a generator that belongs to a seed and a path of integers: other paths draw independent numbers."""
    digest = hashlib.blake2b(repr((int(seed), *map(int, path))).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def check_budget(budget_ms: float | None) -> None:
    """Raise ValueError unless a budget is None or a number above 0."""
    if budget_ms is not None and not budget_ms > 0:
        raise ValueError(f"budget_ms must be above 0, got {budget_ms}; pass None for no limit of time")


class Stopwatch:
    """Measure batches and say whether another one fits into a budget.

    Args:
        budget_ms: Time budget in milliseconds; None for no limit.
        clock: Returns seconds.

    Attributes:
        elapsed_ms: Time until the end of the last batch.
        longest_ms: Time of the longest batch.
    """

    def __init__(self, budget_ms: float | None, clock: Clock = time.perf_counter) -> None:
        check_budget(budget_ms)
        self.budget_ms, self._clock, self._began = budget_ms, clock, clock()
        self.elapsed_ms = self.longest_ms = 0.0

    def lap(self) -> float:
        """Note that a batch has ended; returns the time since the beginning in milliseconds."""
        now = 1e3 * (self._clock() - self._began)
        self.longest_ms, self.elapsed_ms = max(self.longest_ms, now - self.elapsed_ms), now
        return now

    def more(self) -> bool:
        """Return whether a batch as long as the longest so far would end within the budget; the first one may begin."""
        return self.budget_ms is None or self.elapsed_ms + self.longest_ms <= self.budget_ms


def best_of(
    run: Run,
    judge: Judge,
    *,
    seed: int,
    most: int = 16,
    batch: int = 16,
    scales: Sequence[float] = META_ACTIONS,
    budget_ms: float | None = None,
    clock: Clock = time.perf_counter,
) -> BestOf:
    """Draw batch after batch until the budget or the candidates are used up; return them and the best one.

    At least one batch is drawn, and none is begun that would probably end too late. Batch j draws from the stream
    ``(seed, j)``, so the candidates of a smaller budget are the first ones of a larger one.

    Args:
        run: Samples one batch, see `Run`; usually `dfplan.sampler.sample` with ``scales=``.
        judge: Values and feasibility of clean tokens.
        seed: Of all random numbers.
        most: N, candidates at most.
        batch: Candidates per batch.
        scales: Guidance scales, dealt in turn.
        budget_ms: Time budget in milliseconds; None draws all ``most``.
        clock: Returns seconds; for tests.

    Returns:
        `BestOf`.

    Raises:
        ValueError: If a number is out of range.
    """
    if most < 1 or batch < 1:
        raise ValueError(f"most and batch must be at least 1, got {most} and {batch}")
    watch = Stopwatch(budget_ms, clock)
    parts: list[tuple[Samples, Tensor, Tensor, Tensor]] = []
    drawn = 0
    while drawn < most and watch.more():
        dealt = cycle_scales(scales, min(batch, most - drawn), drawn)
        out = run(dealt, seeded(seed, len(parts)))
        parts.append((out, *judge(out.x), dealt))
        drawn += len(dealt)
        watch.lap()
    value, possible = torch.cat([p[1] for p in parts]), torch.cat([p[2] for p in parts])
    return BestOf(
        x=torch.cat([p[0].x for p in parts]), value=value, possible=possible, scales=torch.cat([p[3] for p in parts]),
        chosen=best(value, possible), S=parts[0][0].S, batches=len(parts),
        network_evaluations=sum(p[0].network_evaluations for p in parts), milliseconds=watch.elapsed_ms,
    )  # fmt: skip
