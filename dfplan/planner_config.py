"""Defaults of a planner."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from dfplan.errors import unknown_name
from dfplan.training import PRECISIONS

ATTENTIONS = ("causal", "full")


@dataclass(frozen=True)
class PlannerConfig:
    """Default arguments of `DFPlanner.plan`.

    Attributes:
        samples: N, candidates per environment.
        schedule: Name of the scheduling matrix.
        slope: Slope of the zig-zag, rows per token.
        steps: Reverse steps per token.
        attention: ``"causal"`` or ``"full"``.
        warm_level: Share of K at which a warm-started plan begins.
        goal_radius: Radius of the goal disc, environment units.
        action_steps: Reverse steps for action tokens.
        plausibility: Weight of the model's own judgement in the selection: how many horizons later a candidate of
            median `dfplan.plausibility.surprise` counts than one that surprises nobody; 0 goes by arrival alone.
        plausibility_level: Share of K to which the tokens in question are noised for it.
        precision: ``"auto"`` (bf16 where the processor has it), ``"fp32"`` or ``"bf16"``.
        value_scale: Strength of the gradient of the checkpoint's learned return, in 1 / its standard deviation in the
            data; with 0 it chooses among candidates and does not push them.
        target_share: Return that policies ask for, in layouts with returns: the one this share of the data stays below.
        batched: Whether all environments go through the network together. It is faster for few samples each, and on a
            GPU; an environment's noise is the same, but its plan may differ in rounding with who else is there.
    """

    samples: int = 8
    schedule: str = "pyramid"
    slope: float = 0.2
    steps: int = 8
    attention: str = "causal"
    warm_level: float = 0.5
    goal_radius: float = 0.5
    action_steps: int = 1
    plausibility: float = 0.4
    plausibility_level: float = 0.6
    precision: str = "auto"
    value_scale: float = 0.0
    target_share: float = 0.95
    batched: bool = False

    def __post_init__(self) -> None:
        if self.attention not in ATTENTIONS:
            raise unknown_name("attention", self.attention, ATTENTIONS)
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        for name in ("samples", "steps", "action_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warm_level", "plausibility_level"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")
        check_weight(self.plausibility)
        if not (math.isfinite(self.value_scale) and self.value_scale >= 0):
            raise ValueError(f"value_scale must be 0 or more, got {self.value_scale}")
        if not 0 <= self.target_share <= 1:
            raise ValueError(f"target_share must lie in [0, 1], got {self.target_share}")

    def lag(self, slope: float | None, steps: int, block: int | None) -> float:
        """Return the slope to plan with: the one asked for, or else the default, steep enough for a tree's sub-plans.

        Args:
            slope: Rows per token, or None.
            steps: Reverse steps per token.
            block: Tokens of a sub-plan of the tree search, or None without one.
        """
        if slope is not None:
            return slope
        return self.slope if block is None else max(self.slope, steps / block)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PlannerConfig:
        """Build from a dictionary; an unknown entry is an error that names the nearest one."""
        names = [f.name for f in fields(cls)]
        for key in values:
            if key not in names:
                raise unknown_name("planner option", key, names)
        return cls(**values)


def check_weight(weight: float) -> float:
    """Check the weight of plausibility.

    Raises:
        ValueError: If it is negative or not finite.
    """
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"plausibility is a weight and must be 0 or more, got {weight}")
    return weight
