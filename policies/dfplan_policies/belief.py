"""Where the ball is if its observation is noisy or missing: the model's own answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dfplan.context import History, level_of_noise
from dfplan_policies.past import Past
from dfplan_policies.plans import hermite
from dfplan_policies.protocol import FloatArray


@dataclass(frozen=True)
class Belief:
    """Say where the ball is.

    Attributes:
        state: (O,), the best guess, for what needs a state.
        shown: (O,), what a plan is to be told, NaN if nothing.
        level: Level of ``shown``.
        calls: Calls of the network that this took.
    """

    state: FloatArray
    shown: FloatArray
    level: int
    calls: int = 0


@dataclass(frozen=True)
class Believer:
    """Ask a planner for states.

    Attributes:
        planner: A `dfplan.DFPlanner`.
        level: Level of measured observations, from the sensor's noise.
        trust: Level that a plan gives to an imagined state, so that it is not taken for a measurement.
        use_history: Whether the planner is told what came before.
    """

    planner: Any
    level: int
    trust: int
    use_history: bool

    @property
    def needed(self) -> int:
        """Steps of the past that matter: the longest gap that can be imagined, and the history before it."""
        spec = self.planner.spec
        return int((spec.horizon + spec.history) * spec.stride)

    def history(self, past: Past) -> History | None:
        """Return the history tokens of a past, if the layout has any."""
        spec = self.planner.spec
        if not self.use_history or not spec.history:
            return None
        return past.history(spec.stride, spec.history, self.planner.levels, self.level)

    def believe(self, past: Past, observation: FloatArray, generator: Callable[[], torch.Generator]) -> Belief:
        """Estimate the state (O,) now.

        A clean observation is the state. From a noisy one and the history the model gives the mean. If it is missing,
        the model imagines what the actions since the last measurement have led to; a last token that is not full yet is
        filled with the last action and read part-way. If nothing was measured for too long, there is the history alone.
        """
        spec, K = self.planner.spec, self.planner.levels
        if not np.isnan(observation).any():
            if self.level == 0 or spec.kind != "interleaved":
                return Belief(observation, observation, self.level)
            return Belief(self._estimate(past, observation, self.level, generator), observation, self.level, 1)
        ago = past.since_measured()
        if ago is None or ago > spec.horizon * spec.stride:
            return Belief(self._estimate(past, observation, K, generator), observation, K, 1)
        state = self._imagine(past, ago, generator)
        return Belief(state, state, self.trust, -(-ago // spec.stride))

    def _estimate(
        self, past: Past, observation: FloatArray, level: int, generator: Callable[[], torch.Generator]
    ) -> FloatArray:
        found = self.planner.estimate(
            as_row(observation), obs_level=level, history=self.history(past), generator=generator()
        )
        mean: FloatArray = as_numpy(found)[0, 0]
        return mean

    def _imagine(self, past: Past, ago: int, generator: Callable[[], torch.Generator]) -> FloatArray:
        """Roll the model forward from the last measurement, ``ago`` steps back, along the actions since."""
        spec = self.planner.spec
        now, chunks = len(past), -(-ago // spec.stride)
        done = past.act[now - ago :]
        filler = np.repeat(done[-1:], chunks * spec.stride - ago, axis=0)
        states = self.planner.imagine(
            as_row(past.obs[now - ago]), as_row(np.vstack([done, filler])), obs_level=self.level,
            history=self.history(past.before(ago)), steps=1, generator=generator(),
        )  # fmt: skip
        now_state: FloatArray = hermite(as_numpy(states)[0], np.array([ago / spec.stride]), spec.stride * spec.dt_s)[0]
        return now_state


def make_believer(planner: Any, obs_noise: Any = None, *, history: bool = True, trust: float = 0.05) -> Believer:
    """Make what estimates states.

    Args:
        planner: A `dfplan.DFPlanner`.
        obs_noise: Standard deviation of the sensor's noise in environment units, a number or (O,); None is no noise.
        history: Whether the planner is told what came before.
        trust: Share of K at which a plan takes an imagined state.

    Raises:
        ValueError: If ``trust`` is out of range.
    """
    if not 0 <= trust <= 1:
        raise ValueError(f"trust is a share of K and must lie in [0, 1], got {trust}")
    noise, table = 0.0 if obs_noise is None else obs_noise, planner.checkpoint.model.alpha_bar
    level = int(level_of_noise(planner.spec, planner.norm, table, noise, 1)[0])
    return Believer(planner, level, round(trust * planner.levels), history)


def as_row(values: FloatArray) -> torch.Tensor:
    """Return a batch of one."""
    return torch.as_tensor(np.asarray(values, dtype=np.float32)[None])


def as_numpy(values: Any) -> FloatArray:
    """Return a tensor as float64 in numpy."""
    return np.asarray(values.detach().cpu().numpy(), dtype=np.float64)
