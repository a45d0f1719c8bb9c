"""Pull plans towards a goal, at their end or at any time."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dfplan.errors import unknown_name
from dfplan.guidance.base import Numbers, check_not_negative, per_column


@dataclass(frozen=True)
class GoalGuidance:
    """Pull plans towards a goal: ``log c = -scale * distance^2``, distance in environment units.

    Attributes:
        goal: (G,) or (B, G).
        columns: Observation columns of the goal.
        scale: Strength, 1 / (2 variance) of a Gaussian on the goal.
        when: ``"end"``: the last token; ``"any_time"``: the mean over all future tokens of minus the plain distance
            (the paper's ``-sum |p_t - g|``), which rewards being there early.
    """

    goal: Numbers
    columns: tuple[int, ...] = (0, 1)
    scale: float = 1.0
    when: str = "end"

    def __post_init__(self) -> None:
        if self.when not in ("end", "any_time"):
            raise unknown_name("time of goal guidance", self.when, ("end", "any_time"))
        check_not_negative("scale", self.scale)
        object.__setattr__(self, "goal", per_column("goal", self.goal, self.columns))

    def __call__(self, states: Tensor, k: Tensor) -> Tensor:
        """Return log c (B,) of states (B, H+1, O)."""
        goal = per_column("goal", self.goal, self.columns).to(states).reshape(-1, 1, len(self.columns))
        gap = states[:, 1:, list(self.columns)] - goal
        if self.when == "end":
            return -self.scale * (gap[:, -1] ** 2).sum(-1)
        return -self.scale * (gap**2).sum(-1).add(1e-8).sqrt().mean(-1)
