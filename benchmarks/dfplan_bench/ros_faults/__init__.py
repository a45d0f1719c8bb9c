"""Faults of the robot's wire, one by one: three processes, and the verdict of a recorder that knows nothing of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run(
    out: Path, *, seed: int, quick: bool, say: Callable[[str], None], rows: str | None = None, rate: float = 100.0,
    minutes: float | None = None, kills: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run the bridge alone, then the fault table, then kills at random moments, then a minute under load.

    Args:
        out: Run folder.
        seed: Of the moments.
        quick: A handful of faults, each once in place of twice, 6 kills in place of 50.
        say: Where it says how it stands.
        rows: Parts, separated by commas: ``alone``, numbers of faults, ``kills``, ``load``; by default all.
        rate: Commands per second; at half the rate everything takes twice as long, for a computer that is busy.
        minutes: How long the load lasts.
        kills: How many there are.
    """
    os.environ["DFPLAN_FAULTS_HZ"] = f"{rate:g}"  # read by every process, this one too
    from dfplan_bench.ros_faults import table

    return table.run(out, seed=seed, quick=quick, say=say, rows=rows, minutes=minutes, kills=kills)


__all__ = ["run"]
