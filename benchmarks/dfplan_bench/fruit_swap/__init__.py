"""The robot-arm fruit swap: policies with and without memory, in the dark, pushed, from states and from pictures."""

from __future__ import annotations

from dfplan_bench.fruit_swap.table import run

__all__ = ["run"]
