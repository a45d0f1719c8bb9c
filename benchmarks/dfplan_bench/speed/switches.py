"""Where the time goes: each saving switched on one after the other, with the time of a plan before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from dfplan import DFPlanner, itinerary, planning, sampler
from dfplan_bench.speed import ours
from dfplan_bench.speed.clock import seconds, threads

STACK = ("idle tokens left out", "finished tokens remembered", "weights and levels laid out", "walk worked out once")


@contextmanager
def switched(planner: DFPlanner, on: int) -> Iterator[Callable[[], None]]:
    """Switch on the first ``on`` savings of ``STACK`` only; yields what to call before each plan."""
    model, real = planner.checkpoint.model, sampler.sample
    with ExitStack() as stack:
        plain = partial(real, skip=on > 0, cache=on > 1)
        stack.enter_context(patch.object(planning, "sample", plain))
        stack.callback(setattr, model, "prepare", True)
        model.prepare = on > 2
        yield itinerary._kept.clear if on < len(STACK) else lambda: None


def time_stack(samples: int, repeats: int) -> list[dict[str, Any]]:
    """Time a plan with none of the savings, with the first, the first two ...; they change nothing but time."""
    planner, found = ours.planner("fp32"), []
    for on in range(len(STACK) + 1):
        with switched(planner, on) as before:

            def once(before: Callable[[], None] = before) -> None:
                before()
                ours.plan(planner, samples=samples)

            found.append(seconds(once, repeats))
    return [
        {"saving": name, "candidates": samples, "before_s": a, "after_s": b}
        for name, a, b in zip(STACK, found, found[1:], strict=False)
    ]  # fmt: skip


def time_options(samples: int, repeats: int) -> list[dict[str, Any]]:
    """Time the savings that are options: each against the defaults in float32 on one thread."""
    fp32, bf16 = ours.planner("fp32"), ours.planner("bf16")
    earlier = ours.plan(fp32, samples=samples)
    calls: dict[str, Callable[[], Any]] = {
        "bf16": lambda: ours.plan(bf16, samples=samples),
        "5 steps, slope 0": lambda: ours.plan(fp32, samples=samples, **ours.FAST),
        "5 steps, slope 0, bf16": lambda: ours.plan(bf16, samples=samples, **ours.FAST),
        "warm start (half of the levels)": lambda: ours.plan(fp32, samples=samples, warm_start=earlier, elapsed=50),
    }
    before = seconds(lambda: ours.plan(fp32, samples=samples), repeats)
    rows = [
        {"saving": name, "candidates": samples, "before_s": before, "after_s": seconds(call, repeats)}
        for name, call in calls.items()
    ]
    longer = seconds(lambda: ours.plan(fp32, samples=samples, steps=20, slope=1.0), repeats)
    rows.insert(0, {"saving": "8 steps, slope 0.2 for 20 steps, slope 1", "candidates": samples,
                    "before_s": longer, "after_s": before})  # fmt: skip
    if (torch.get_num_threads(), samples) == (1, 8):
        with threads(2):
            after = seconds(calls["bf16"], repeats)
        rows.append({"saving": "bf16, two threads", "candidates": samples, "before_s": before, "after_s": after})
    return rows


def time_batch(environments: int, samples: int, repeats: int) -> dict[str, Any]:
    """Time environments planned one after the other and in one batch, seconds of all of them."""
    apart, together = ours.planner("fp32"), ours.planner("fp32", batched=True)
    return {
        "saving": f"{environments} environments in one batch", "candidates": samples,
        "before_s": seconds(lambda: ours.plan(apart, environments, samples=samples), repeats),
        "after_s": seconds(lambda: ours.plan(together, environments, samples=samples), repeats),
    }  # fmt: skip


def savings(quick: bool) -> list[dict[str, Any]]:
    """Time all of them on one thread."""
    repeats = 1 if quick else 7
    with threads(1):
        rows = [row for samples in ((1,) if quick else (1, 8)) for row in time_stack(samples, repeats)]
        rows += [row for samples in ((1,) if quick else (1, 8)) for row in time_options(samples, repeats)]
        for samples in (1,) if quick else (1, 8):
            rows.append(time_batch(2 if quick else 16, samples, 1 if quick else 3))
    return rows
