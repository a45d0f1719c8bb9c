"""What a planner returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dfplan.tree import TreeResult


@dataclass(frozen=True)
class Plan:
    """Hold one plan per environment, in environment units.

    Attributes:
        observations: (B, H+1, O), the selected plan: states every ``stride`` steps, the first is the current state.
        actions: (B, H*F, A), the model's own actions along the selected plan, or None if they were not asked for.
        score: (B,), higher is better: minus the steps to the goal (minus infinity if no candidate gets there), or the
            value that a score of your own gives it.
        candidates: (B, N, H+1, O), all samples.
        arrival_steps: (B, N), environment steps until the goal; infinity for a candidate that never gets there.
        feasible: bool (B, N), whether a candidate never moves further per token than anything in the data.
        selected: int64 (B,), index of the selected candidate.
        goal: (B, G) or None.
        schedule: int64 (M+1, n), the scheduling matrix that was walked, context tokens first.
        trace: (M+1, B, N, H+1, O), all candidates after every row, or None.
        stride: F, environment steps per token.
        dt_s: Seconds per environment step.
        network_evaluations: Calls of the denoiser per environment.
        seconds: Wall-clock seconds per environment.
        search: The trees that were searched, one per environment, or None.
        surprise: (B, N, H), how far each token is from what the model foretells from its neighbours (normalised units
            squared; see `dfplan.plausibility`), or None if candidates were not chosen by it.
        rewards: (B, H*F), the rewards that the selected plan foresees, or None if the layout holds none.
    """

    observations: Tensor
    actions: Tensor | None
    score: Tensor
    candidates: Tensor
    arrival_steps: Tensor
    feasible: Tensor
    selected: Tensor
    goal: Tensor | None
    schedule: Tensor
    trace: Tensor | None
    stride: int
    dt_s: float
    network_evaluations: int
    seconds: float
    search: tuple[TreeResult, ...] | None = None
    surprise: Tensor | None = None
    rewards: Tensor | None = None

    def __len__(self) -> int:
        """Count the environments."""
        return len(self.observations)

    def states_at(self, steps: Tensor) -> Tensor:
        """Interpolate the selected plan linearly at environment steps.

        Args:
            steps: (B, n), steps after the current state, clamped to the plan.

        Returns:
            (B, n, O).
        """
        H = self.observations.shape[1] - 1
        u = (steps.to(self.observations) / self.stride).clamp(0, H)
        low = u.floor().clamp(max=H - 1)
        left, right = low.long(), low.long() + 1
        rows = torch.arange(len(self), device=u.device)[:, None]
        share = (u - low).unsqueeze(-1)
        return (1 - share) * self.observations[rows, left] + share * self.observations[rows, right]
