"""How a planner's guidance acts, besides what it wants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from dfplan.best_of import check_scales, cycle_scales
from dfplan.compose import classifier_free
from dfplan.models.base import Denoiser
from dfplan.montecarlo import MonteCarlo
from dfplan.sampler import LogCost
from dfplan.tokens import GOAL

if TYPE_CHECKING:
    from dfplan.value import ValueModel


@dataclass(frozen=True)
class Steering:
    """Say how candidates are steered.

    Attributes:
        monte_carlo: Futures over which the gradient of the guidance is averaged; None takes the predicted one.
        value: A learned return whose gradient is added, or None.
        value_scale: Its strength, in 1 / return; 0 leaves sampling alone, and the learned return only chooses.
        goal_weight: How closely the goal token is followed: 1 as the model does, more or less by composing the
            predictions with and without it (classifier-free guidance), at twice the cost.
        scales: What the guidance is multiplied by, candidate by candidate, in turn; empty is 1 for all. With several
            the planner chooses among weakly and strongly guided plans.
    """

    monte_carlo: MonteCarlo | None = None
    value: ValueModel | None = None
    value_scale: float = 1.0
    goal_weight: float = 1.0
    scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.value_scale < 0 or self.goal_weight < 0:
            raise ValueError(
                f"value_scale and goal_weight must be at least 0, got {self.value_scale} and {self.goal_weight}"
            )
        if self.scales:
            check_scales(self.scales)

    @classmethod
    def towards(cls, value: ValueModel | None, scale: float) -> Steering:
        """Steer by a learned return, if there is one; ``scale`` is in 1 / its standard deviation in training."""
        return cls() if value is None else cls(value=value, value_scale=scale / float(value.std))

    def denoiser(self, model: Denoiser, alpha_bar: Tensor) -> Denoiser:
        """Return the denoiser that follows the goal as closely as is wanted."""
        return model if self.goal_weight == 1 else classifier_free(model, (GOAL,), self.goal_weight, alpha_bar)

    def noisy_log_cost(self, tokens: Tensor) -> LogCost | None:
        """Return the learned return as a cost of the noisy tokens at positions ``tokens``."""
        if self.value is None or self.value_scale == 0:
            return None
        from dfplan.value import ValueGuidance

        return ValueGuidance(self.value, tokens, self.value_scale)

    def scales_of(self, samples: int, number: int = 0) -> Tensor | None:
        """Return each candidate's scale (samples,), candidates counted from ``number``, or None for 1."""
        return cycle_scales(self.scales, samples, number) if self.scales else None
