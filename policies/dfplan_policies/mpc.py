"""`ModelPredictivePolicy`: optimise actions in the model's own imagination, beginning with its own proposals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dfplan_policies.belief import Belief, Believer, as_numpy, as_row, make_believer
from dfplan_policies.past import Past
from dfplan_policies.per_environment import PerEnvironmentPolicy, PolicyState
from dfplan_policies.plans import Telemetry
from dfplan_policies.protocol import FloatArray
from dfplan_policies.streams import stream
from dfplan_policies.wanted import target_of, wanted

Cost = Callable[[Tensor, Tensor | None], Tensor]
"""From imagined states (N, n+1, O) and the goal (G,) or None, environment units, to costs (N,); lower is better."""


def distance_to_goal(states: Tensor, goal: Tensor | None, columns: Sequence[int] | None = None) -> Tensor:
    """Return the mean distance (N,) of the imagined positions from the goal.

    Args:
        states: (N, n+1, O).
        goal: (G,).
        columns: Where the position stands among the columns of a state; the first G if None.

    Raises:
        ValueError: If there is no goal.
    """
    if goal is None:
        raise ValueError("the cost is the distance to a goal, but there is none; pass cost=, or observations with one")
    place = states[:, 1:, list(range(len(goal)) if columns is None else columns)]
    mean: Tensor = (place - goal).norm(dim=-1).mean(-1)
    return mean


@dataclass(frozen=True)
class MPCMemory:
    """Remember one environment's episode.

    Attributes:
        episode: Its number.
        past: What was observed and done.
        plan: (m, A), the actions chosen last, those already executed left out.
        age: Steps since they were chosen.
        draws: Random streams used so far.
        evaluations: Network calls, at least.
        costs: What the last choice was imagined to cost, before and after it was improved.
    """

    episode: int
    past: Past
    plan: FloatArray
    age: int = 0
    draws: int = 0
    evaluations: int = 0
    costs: tuple[float, float] = (float("nan"), float("nan"))


class ModelPredictivePolicy(PerEnvironmentPolicy[MPCMemory]):
    """Choose actions by the cross-entropy method, with ``planner.imagine`` as the simulator.

    The first candidates are the model's own: the actions that it infers along plans of its own, and those chosen last
    time, shifted. Each round imagines all candidates in one call, keeps the best and draws new ones around them; the
    noise of a draw is the same for all steps of a token, which is as fine as the model's states are.

    Args:
        planner: A `dfplan.DFPlanner` whose states see actions (interleaved tokens).
        replan_every: Environment steps between two choices; two tokens if None.
        goal: (G,), for observations that bring no ``desired_goal``.
        seed: With the episode's number and a count, seeds every random draw.
        cost: Of imagined states; the mean distance to the goal if None.
        horizon: Tokens to look ahead; all that the model has if None.
        candidates: N, candidates per round.
        proposals: How many of the first ones are the model's own.
        rounds: Rounds of improvement; 0 takes the best proposal.
        elites: How many candidates the next ones are drawn around.
        spread: Standard deviation of the first noise, in those of the actions in the data.
        obs_noise: Standard deviation of the sensor's noise in environment units.
        history: Whether the model is told what came before, if its layout has a history.
        target_return: What the proposals are asked for, as in `DFPolicy`.

    Raises:
        ValueError: If a number is out of range, or states do not see actions.
    """

    accepts_missing = True

    def __init__(
        self, planner: Any, replan_every: int | None = None, goal: FloatArray | None = None, *, seed: int = 0,
        cost: Cost | None = None, horizon: int | None = None, candidates: int = 48, proposals: int = 16,
        rounds: int = 3, elites: int = 8, spread: float = 0.3, obs_noise: Any = None, history: bool = True,
        target_return: float | str | None = None,
    ) -> None:  # fmt: skip
        spec = planner.spec
        if spec.kind != "interleaved":
            raise ValueError(
                f"the policy 'mpc' needs a model whose states see actions, got {spec.kind} tokens; "
                "use a checkpoint trained with --tokens interleaved"
            )
        self.replan_every = 2 * spec.stride if replan_every is None else replan_every
        self.horizon = spec.horizon if horizon is None else horizon
        if not 1 <= elites <= candidates or not 1 <= proposals <= candidates or rounds < 0 or spread < 0:
            raise ValueError(
                "elites and proposals must lie in 1..candidates, rounds and spread be at least 0, got "
                f"elites={elites}, proposals={proposals}, candidates={candidates}, rounds={rounds}, spread={spread}"
            )
        if not 1 <= self.horizon <= spec.horizon or not 1 <= self.replan_every <= self.horizon * spec.stride:
            raise ValueError(
                f"horizon must lie in 1..{spec.horizon} and replan_every inside it, got {self.horizon} and "
                f"{self.replan_every}"
            )
        self.planner, self.goal, self.seed = planner, goal, seed
        self.spaces, self.target = getattr(planner, "spaces", None), target_of(planner, target_return)
        self.cost: Cost = partial(distance_to_goal, columns=spec.goal_columns) if cost is None else cost
        self.candidates, self.proposals, self.rounds, self.elites = candidates, proposals, rounds, elites
        self.spread = spread
        self.believer: Believer = make_believer(planner, obs_noise, history=history)

    def begin(self, episode: int) -> MPCMemory:
        """Return an empty memory."""
        spec = self.planner.spec
        return MPCMemory(episode, Past.empty(spec.obs_dim, spec.act_dim), np.zeros((0, spec.act_dim)))

    def telemetry(self, state: PolicyState[MPCMemory]) -> list[Telemetry]:
        """Return what acting has cost so far in each environment's current episode."""
        return [Telemetry() if m is None else Telemetry((), m.evaluations) for m in state.memories]

    def act(self, memory: MPCMemory, observation: FloatArray, goal: FloatArray | None) -> tuple[FloatArray, MPCMemory]:
        """Act in one environment."""
        if not len(memory.plan) or memory.age >= self.replan_every:
            memory = self._choose(memory, observation, goal)
        action = memory.plan[0]
        past = memory.past.after(observation, action, self.believer.needed)
        return action, replace(memory, past=past, plan=memory.plan[1:], age=memory.age + 1)

    def _choose(self, memory: MPCMemory, observation: FloatArray, goal: FloatArray | None) -> MPCMemory:
        """Improve candidates in imagination and take the best that was seen."""
        generator = stream(self.seed, memory.episode, memory.draws)
        belief = self.believer.believe(memory.past, observation, lambda: generator)
        target = None if goal is None else torch.tensor(np.array(goal), dtype=torch.float32)
        actions = self._first(memory, belief, target, generator)
        costs = self._imagined(actions, belief, memory.past, target, generator)
        first = float(costs[: self.proposals].min())
        best, best_cost = actions[costs.argmin()], float(costs.min())
        for _ in range(self.rounds):
            elite = actions[costs.argsort()[: self.elites]]
            actions = torch.cat([best[None], self._around(elite, self.candidates - 1, self._apart(elite), generator)])
            costs = self._imagined(actions, belief, memory.past, target, generator)
            if float(costs.min()) < best_cost:
                best, best_cost = actions[costs.argmin()], float(costs.min())
        used = memory.evaluations + (1 + self.rounds) * self.horizon + self.planner.config.steps + belief.calls
        return replace(
            memory, plan=as_numpy(best), age=0, draws=memory.draws + 1, evaluations=used, costs=(first, best_cost)
        )  # fmt: skip

    def _first(self, memory: MPCMemory, belief: Belief, goal: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return the first candidates (N, n*F, A): proposals, the last choice shifted, and draws around them."""
        asked = wanted(None if goal is None else as_numpy(goal), self.target)
        goals = None if asked is None else as_row(asked)
        plan = self.planner.plan(
            as_row(belief.shown), goals, samples=self.proposals, horizon=self.horizon, obs_level=belief.level,
            history=self.believer.history(memory.past), generator=generator,
        )  # fmt: skip
        along = self.planner.infer_actions(plan.candidates[0], steps=1, generator=generator).cpu().clamp(-1, 1)
        steps = self.horizon * self.planner.spec.stride
        if len(memory.plan):
            rest = torch.as_tensor(memory.plan, dtype=torch.float32)[:steps]
            last = along[:1].clone()
            last[0, : len(rest)] = rest
            along = torch.cat([along, last])
        more = self.candidates - len(along)
        return torch.cat([along, self._around(along, more, self._widest(), generator)]) if more > 0 else along

    def _apart(self, elite: Tensor) -> Tensor:
        """Return how far apart the elite is per token (n, A): at most the first spread, at least a tenth of it."""
        means = elite.reshape(len(elite), self.horizon, self.planner.spec.stride, -1).mean(2)
        widest = self._widest()
        return torch.maximum(torch.minimum(means.std(0, unbiased=False), widest), 0.1 * widest)

    def _widest(self) -> Tensor:
        """Return the spread (n, A) of the first draws."""
        widest: Tensor = (self.planner.norm.act_std.cpu() * self.spread).expand(self.horizon, -1)
        return widest

    def _around(self, centres: Tensor, count: int, scale: Tensor, generator: torch.Generator) -> Tensor:
        """Draw candidates (count, n*F, A) around given ones; ``scale`` (n, A) is the spread per token."""
        which = torch.randint(0, len(centres), (count,), generator=generator)
        noise = torch.randn((count, *scale.shape), generator=generator) * scale
        return (centres[which] + noise.repeat_interleave(self.planner.spec.stride, 1)).clamp(-1, 1)

    def _imagined(
        self, actions: Tensor, belief: Belief, past: Past, goal: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """Return what candidates (N, n*F, A) cost in imagination, (N,)."""
        history = self.believer.history(past)
        states = self.planner.imagine(
            as_row(belief.state).expand(len(actions), -1), actions, steps=1, generator=generator,
            history=None if history is None else repeated(history, len(actions)),
        )  # fmt: skip
        costs = self.cost(states.cpu(), goal)
        if costs.shape != (len(actions),):
            raise ValueError(f"a cost must return one number per candidate, shape ({len(actions)},), got "
                             f"{tuple(costs.shape)}")  # fmt: skip
        return costs


def repeated(history: Any, n: int) -> Any:
    """Return a history of one environment for ``n`` rows."""
    rows = {name: value.expand(n, *value.shape[1:]) for name, value in vars(history).items() if value is not None}
    return replace(history, **rows)
