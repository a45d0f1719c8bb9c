"""Guidance: costs in environment units whose gradient steers every token while it is denoised.

A guidance is a function ``log_c(states, k) -> (B,)`` of the predicted clean states (B, H+1, O) in environment units
and the levels of those tokens (H+1,); higher is better. ``states[:, 0]`` is the current state, which never moves.

The scale of a guidance means the same at every batch size, horizon, number of levels K and number of steps:

- *Batch*: one number per sample, never a mean or sum over samples.
- *Horizon*, three kinds. A **goal** is one factor per plan. A **constraint** (`DiscObstacle`, `StateBounds`,
  `Smoothness`) is a product of one factor per token, so log c is a *sum* over tokens: what pushes a token that violates
  it depends on that token (and the tokens next to it) alone, and tokens that obey add exactly 0. A **reward** is a
  *mean* over tokens (`RewardGuidance`) or a sum with fixed exponential weights (`LookAheadReward`): what the whole plan
  gains by one unit of reward per token is ``scale``, long or short.
- *K and steps*: log c never looks at how many levels there are. The sampler multiplies its gradient by a coefficient
  that sums up to the same total pull however finely the levels are walked.

Guidances are combined by `all_of`, `any_of` and `tempered`. There are no operators: ``a + b`` of two log-likelihoods
could mean either of the first two.
"""

from __future__ import annotations

from dfplan.guidance.base import Guidance
from dfplan.guidance.bounds import StateBounds
from dfplan.guidance.checked import CheckedGuidance
from dfplan.guidance.combine import AllOf, AnyOf, Tempered, all_of, any_of, tempered
from dfplan.guidance.goal import GoalGuidance
from dfplan.guidance.obstacle import DiscObstacle
from dfplan.guidance.reward import LookAheadReward, RewardGuidance
from dfplan.guidance.smoothness import Smoothness

__all__ = [
    "AllOf",
    "AnyOf",
    "CheckedGuidance",
    "DiscObstacle",
    "GoalGuidance",
    "Guidance",
    "LookAheadReward",
    "RewardGuidance",
    "Smoothness",
    "StateBounds",
    "Tempered",
    "all_of",
    "any_of",
    "tempered",
]
