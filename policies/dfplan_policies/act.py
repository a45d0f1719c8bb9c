"""`ActPolicy`: the model as a policy, with no plan at all: denoise the next actions, execute them, ask again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dfplan_policies.belief import Believer, as_numpy, as_row, make_believer
from dfplan_policies.past import Past
from dfplan_policies.per_environment import PerEnvironmentPolicy, PolicyState
from dfplan_policies.plans import Telemetry
from dfplan_policies.protocol import FloatArray
from dfplan_policies.streams import stream
from dfplan_policies.wanted import target_of, wanted


@dataclass(frozen=True)
class ActMemory:
    """Remember one environment's episode.

    Attributes:
        episode: Its number.
        past: What was observed and done.
        pending: (m, A), actions still to execute.
        draws: Random streams used so far.
        evaluations: Network calls.
    """

    episode: int
    past: Past
    pending: FloatArray
    draws: int = 0
    evaluations: int = 0


class ActPolicy(PerEnvironmentPolicy[ActMemory]):
    """Ask ``planner.act`` for the next actions.

    Args:
        planner: A `dfplan.DFPlanner`.
        requery_every: Environment steps between two questions, 1..stride; the stride if None.
        goal: (G,), for observations that bring no ``desired_goal``.
        seed: With the episode's number and a count, seeds every random draw.
        steps: Denoising steps; with one the mean action is taken.
        obs_noise: Standard deviation of the sensor's noise in environment units.
        history: Whether the model is told what came before, if its layout has a history.
        target_return: As in `DFPolicy`.

    Raises:
        ValueError: If a number is out of range.
    """

    accepts_missing = True  # an action follows from the history and the goal alone if need be

    def __init__(
        self, planner: Any, requery_every: int | None = None, goal: FloatArray | None = None, *, seed: int = 0,
        steps: int = 10, obs_noise: Any = None, history: bool = True, target_return: float | str | None = None,
    ) -> None:  # fmt: skip
        stride = planner.spec.stride
        self.requery_every = stride if requery_every is None else requery_every
        if not 1 <= self.requery_every <= stride:
            raise ValueError(f"requery_every must lie in 1..{stride}, the stride, got {self.requery_every}")
        self.spaces, self.target = getattr(planner, "spaces", None), target_of(planner, target_return)
        self.planner, self.goal, self.seed, self.steps = planner, goal, seed, steps
        self.believer: Believer = make_believer(planner, obs_noise, history=history)

    def begin(self, episode: int) -> ActMemory:
        """Return an empty memory."""
        spec = self.planner.spec
        return ActMemory(episode, Past.empty(spec.obs_dim, spec.act_dim), np.zeros((0, spec.act_dim)))

    def telemetry(self, state: PolicyState[ActMemory]) -> list[Telemetry]:
        """Return what acting has cost so far in each environment's current episode."""
        return [Telemetry() if m is None else Telemetry((), m.evaluations) for m in state.memories]

    def act(self, memory: ActMemory, observation: FloatArray, goal: FloatArray | None) -> tuple[FloatArray, ActMemory]:
        """Act in one environment."""
        if not len(memory.pending):
            memory = self._ask(memory, observation, goal)
        action = self.limited(memory.pending[0])
        past = memory.past.after(observation, action, self.believer.needed)
        return action, replace(memory, past=past, pending=memory.pending[1:])

    def _ask(self, memory: ActMemory, observation: FloatArray, goal: FloatArray | None) -> ActMemory:
        missing, goal = bool(np.isnan(observation).any()), wanted(goal, self.target)
        found = self.planner.act(
            as_row(observation), None if goal is None else as_row(goal), steps=self.steps,
            obs_level=self.planner.levels if missing else self.believer.level,
            history=self.believer.history(memory.past), generator=stream(self.seed, memory.episode, memory.draws),
        )  # fmt: skip
        pending = as_numpy(found)[0][: self.requery_every]
        return replace(
            memory, pending=pending, draws=memory.draws + 1, evaluations=memory.evaluations + self.steps
        )  # fmt: skip
