"""Time calls side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def seconds(call: Callable[[], Any], repeats: int, *, device: str = "cpu", warm: int = 1) -> float:
    """Return the median wall-clock seconds of a call; the first ``warm`` calls do not count."""
    times = []
    for i in range(warm + repeats):
        _wait(device)
        began = time.perf_counter()
        call()
        _wait(device)
        if i >= warm:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use a number of threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def exponent(x: list[float], y: list[float]) -> float:
    """Fit b in ``y = a x^b`` by least squares of the logarithms."""
    u, v = (torch.tensor(values, dtype=torch.float64).log() for values in (x, y))
    u, v = u - u.mean(), v - v.mean()
    return float((u * v).sum() / (u * u).sum())
