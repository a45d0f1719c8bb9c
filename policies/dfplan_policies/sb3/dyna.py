"""Dyna: transitions that the model imagines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dfplan_policies.belief import as_numpy
from dfplan_policies.protocol import FloatArray

Reward = Callable[[FloatArray, FloatArray, FloatArray], FloatArray]
"""From observations (n, O), actions (n, A) and next observations (n, O) to rewards (n,)."""


@dataclass(frozen=True)
class Transitions:
    """Hold single steps.

    Attributes:
        observations: (n, O).
        actions: (n, A), environment units.
        rewards: (n,).
        next_observations: (n, O).
        dones: bool (n,), whether the next observation is terminal.
    """

    observations: FloatArray
    actions: FloatArray
    rewards: FloatArray
    next_observations: FloatArray
    dones: FloatArray

    def __len__(self) -> int:
        """Count the steps."""
        return len(self.rewards)


def imagined_transitions(
    planner: Any, observations: Any, actions: Any, reward: Reward, *, generator: Any = None, steps: int = 1
) -> Transitions:
    """Roll the model forward from observations along actions, and cut the roll-outs into single steps.

    Args:
        planner: A `dfplan.DFPlanner` whose states see actions (interleaved tokens) and whose tokens are one step each.
        observations: (B, O), where the roll-outs begin.
        actions: (B, n, A), 1 <= n <= the planner's horizon.
        reward: Of each step; what the environment's own formula says of imagined states.
        generator: Of the noise, a `torch.Generator`.
        steps: Denoising steps per imagined state; with one it is the mean.

    Returns:
        B n transitions, roll-out by roll-out; none is terminal.

    Raises:
        ValueError: If the planner's layout cannot tell single steps, or a shape does not fit.
    """
    spec = planner.spec
    if spec.kind != "interleaved":
        raise ValueError(
            f"imagined transitions need a model whose states see actions, got {spec.kind} tokens; "
            "use a checkpoint trained with --tokens interleaved"
        )
    if spec.stride != 1:
        raise ValueError(
            f"imagined transitions need one environment step per token, got a stride of {spec.stride}: what lies "
            "between two tokens is not modelled; train with --stride 1"
        )
    starts, actions = np.atleast_2d(np.asarray(observations)), np.asarray(actions, dtype=np.float64)
    if actions.ndim != 3 or len(actions) != len(starts):
        raise ValueError(f"actions must have shape ({len(starts)}, n, A), got {actions.shape}; one row per observation")
    found = planner.imagine(starts.astype(np.float32), actions.astype(np.float32), steps=steps, generator=generator)
    states = as_numpy(found)
    before, after = (s.reshape(-1, states.shape[-1]) for s in (states[:, :-1], states[:, 1:]))
    done = actions.reshape(-1, actions.shape[-1])
    rewards = np.asarray(reward(before, done, after), dtype=np.float64)
    if rewards.shape != (len(done),):
        raise ValueError(f"reward must return one number per step, shape ({len(done)},), got {rewards.shape}")
    return Transitions(before, done, rewards, after, np.zeros(len(done), dtype=bool))
