"""The ``mppi`` and ``cem`` policies: sampling model predictive control in a simulator that is given from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dfplan.errors import unknown_name
from dfplan_policies.per_environment import PerEnvironmentPolicy
from dfplan_policies.protocol import FloatArray

Floats = NDArray[np.float64]
METHODS = ("mppi", "cem")


class Oracle(Protocol):
    """Know the true dynamics and the map; `dfplan_envs.maze2d.MazeOracle` is one."""

    def simulate(self, states: Any, actions: Any) -> Any:
        """Return the states (N, H + 1, O) that actions (N, H, A) lead to from states (N, O)."""
        ...

    def steps_to_go(self, positions: Any, goal: Any) -> Any:
        """Return the least number of steps (...) from positions (..., 2) to the goal (2,), 0 where it is reached."""
        ...


@dataclass(frozen=True)
class Controls:
    """Hold what the policy remembers of an environment.

    Attributes:
        episode: Number of the episode.
        step: Steps taken in it.
        blocks: (H / block, A), the sequence in use; its first block is being executed.
    """

    episode: int
    step: int
    blocks: Floats


class SamplingMPC(PerEnvironmentPolicy[Controls]):
    """Sample action sequences around the last ones, simulate them all, improve the sequence, execute its beginning.

    A sequence holds each action for ``block`` steps and costs

    ``J = sum_{t=1..H} min(1, d(s_t)) + d(s_H)``

    with ``d`` the least number of steps to the goal: the steps that are not at the goal. Every ``block`` steps the
    sequence moves on by one block and is improved ``iterations`` times, with noise that shrinks from one to the next:
    ``"mppi"`` takes the mean weighted by ``exp(-(J - min J) / temperature)``, ``"cem"`` that of the best ``elites``.

    Args:
        oracle: Dynamics and distances.
        method: ``"mppi"`` or ``"cem"``.
        samples: Sequences per iteration, at least 2; the sequence in use is one of them.
        horizon: H, steps; a multiple of ``block``.
        block: Steps that an action is held, and between improvements.
        iterations: Improvements each time, at least 1.
        noise: Standard deviation of the first iteration's noise; each later one has half.
        temperature: Of the weights, in steps (mppi).
        elites: How many are averaged, at most ``samples`` (cem).
        act_dim: A.
        seed: With episode and step, decides the noise.
        goal: (G,), for observations that bring no ``desired_goal``.

    Raises:
        ValueError: If a number is out of range.

    Source:
        MPPI: Williams et al. 2017, arXiv 1509.01149. CEM: Rubinstein 1999.
    """

    def __init__(
        self,
        oracle: Oracle,
        *,
        method: str = "mppi",
        samples: int = 128,
        horizon: int = 50,
        block: int = 5,
        iterations: int = 2,
        noise: float = 1.0,
        temperature: float = 0.5,
        elites: int = 12,
        act_dim: int = 2,
        seed: int = 0,
        goal: FloatArray | None = None,
    ) -> None:
        if method not in METHODS:
            raise unknown_name("method", method, METHODS)
        for name, value, least in (("samples", samples, 2), ("block", block, 1), ("iterations", iterations, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if horizon < block or horizon % block:
            raise ValueError(f"horizon must be a multiple of block ({block}), got {horizon}; round it")
        if noise <= 0 or temperature <= 0:
            raise ValueError(f"noise and temperature must be positive, got {noise} and {temperature}")
        if not 1 <= elites <= samples:
            raise ValueError(f"elites must lie in [1, {samples}], got {elites}")
        self.oracle, self.method, self.samples, self.block = oracle, method, samples, block
        self.iterations, self.noise, self.temperature, self.elites = iterations, noise, temperature, elites
        self.shape, self.seed, self.goal = (horizon // block, act_dim), seed, goal

    def begin(self, episode: int) -> Controls:
        """Start from no action at all."""
        return Controls(episode, 0, np.zeros(self.shape))

    def act(self, memory: Controls, observation: FloatArray, goal: FloatArray | None) -> tuple[FloatArray, Controls]:
        """Return the action of this step; every ``block`` steps improve the sequence first."""
        if goal is None:
            raise ValueError(
                f"the {self.method} policy needs a goal, got none; "
                "wrap the environment in GoalObservation or pass goal="
            )
        blocks = memory.blocks
        if memory.step % self.block == 0:
            if memory.step:
                blocks = np.concatenate([blocks[1:], blocks[-1:]])
            rng = np.random.default_rng([self.seed, memory.episode, memory.step])
            blocks = self.improve(blocks, np.asarray(observation), np.asarray(goal), rng)
        return blocks[0], Controls(memory.episode, memory.step + 1, blocks)

    def improve(self, blocks: Floats, state: FloatArray, goal: FloatArray, rng: np.random.Generator) -> Floats:
        """Return a better sequence (H / block, A), values in [-1, 1]."""
        for iteration in range(self.iterations):
            noise = self.noise * 0.5**iteration * rng.standard_normal((self.samples, *self.shape))
            noise[0] = 0.0
            tried = np.clip(blocks + noise, -1.0, 1.0)
            cost = self.costs(tried, state, goal)
            if self.method == "mppi":
                weights = np.exp(-(cost - cost.min()) / self.temperature)
                blocks = np.tensordot(weights / weights.sum(), tried, axes=1)
            else:
                blocks = tried[np.argsort(cost, kind="stable")[: self.elites]].mean(0)
        return blocks

    def costs(self, blocks: Floats, state: FloatArray, goal: FloatArray) -> Floats:
        """Return J (N,) of sequences (N, H / block, A) from a state (O,)."""
        actions = np.repeat(blocks, self.block, axis=1)
        states = self.oracle.simulate(np.broadcast_to(state, (len(blocks), len(state))), actions)
        left: Floats = self.oracle.steps_to_go(states[:, 1:, :2], goal)
        return np.asarray(np.minimum(left, 1.0).sum(1) + left[:, -1])
