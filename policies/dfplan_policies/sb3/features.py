"""What an agent that is driven by sub-goals looks at: where the sub-goal is from here, and how fast it moves."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor


class RelativeGoal(BaseFeaturesExtractor):  # type: ignore[misc]
    """Show ``desired_goal - achieved_goal`` and some columns of the observation, and so forget where the maze is.

    What an agent learns in one maze then holds in another. Hindsight (HER) works as ever, since the goals themselves
    are kept apart in the buffer.

    Args:
        observation_space: Dict with ``observation`` (O,), ``achieved_goal`` (G,), ``desired_goal`` (G,).
        columns: Columns of ``observation`` that are shown, for example those of the velocity.
        scale: What the difference is divided by, the distance of a usual sub-goal.
    """

    def __init__(self, observation_space: Any, columns: tuple[int, ...] = (2, 3), scale: float = 1.0) -> None:
        super().__init__(observation_space, len(columns) + observation_space["achieved_goal"].shape[0])
        self.columns, self.scale = list(columns), scale

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Return features (B, G + columns)."""
        away = (observations["desired_goal"] - observations["achieved_goal"]) / self.scale
        return torch.cat([away, observations["observation"][:, self.columns]], dim=1)
