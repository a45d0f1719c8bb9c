"""Bookkeeping that all our own policies share: one immutable memory per environment, restarted by ``episode_start``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dfplan.spaces import Spaces
from dfplan_policies.protocol import FloatArray, Observation, split_observation

M = TypeVar("M")


@dataclass(frozen=True)
class PolicyState(Generic[M]):
    """Hold what a policy remembers of a batch of environments.

    Attributes:
        episodes: Number of the episode that each environment is in; with the policy's seed it decides all draws.
        memories: One memory per environment; None where an episode is about to begin.
    """

    episodes: tuple[int, ...]
    memories: tuple[M | None, ...]


class PerEnvironmentPolicy(ABC, Generic[M]):
    """Act in every environment of a batch on its own, so that none depends on who else is there."""

    goal: FloatArray | None = None
    spaces: Spaces | None = None  # how observations and actions become columns; None if they are columns
    accepts_missing: bool | str = False  # whether an observation may be missing, a row of NaN; or "partly"

    @abstractmethod
    def begin(self, episode: int) -> M:
        """Return the memory at the start of an episode."""

    @abstractmethod
    def act(self, memory: M, observation: FloatArray, goal: FloatArray | None) -> tuple[FloatArray, M]:
        """Return the action (A,) and the next memory for one environment; must not change ``memory``."""

    def start(self, episodes: list[int]) -> PolicyState[M]:
        """Return the state for environments that are about to begin the given episodes.

        Args:
            episodes: Episode numbers, one per environment. Without this call the episodes of each environment count
                from 0.
        """
        return PolicyState(tuple(int(number) for number in episodes), (None,) * len(episodes))

    def predict(
        self,
        observation: Observation,
        state: PolicyState[M] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[FloatArray, PolicyState[M]]:
        """Choose actions; see `Policy.predict`.

        Args:
            observation: (B, O), (O,), or a dict with ``observation`` and ``desired_goal``.
            state: What the last call returned, or None.
            episode_start: bool (B,), True where an environment has just been reset.
            deterministic: Has no effect: all draws come from the policy's seed and the episode's number.

        Returns:
            Actions as the environment takes them, float32 (B, A) or (A,) for an unbatched observation (int64 (B,) or
            () for Discrete ones), and the next state.

        Raises:
            ValueError: If a shape does not fit.
        """
        columns, batched = self._columns(observation)
        measured, goals, shaped = split_observation(columns, self.goal, missing=self.accepts_missing)
        batched = shaped if batched is None else batched
        state = self._restart(state, episode_start, len(measured))
        actions, memories = [], []
        for i, (episode, kept) in enumerate(zip(state.episodes, state.memories, strict=True)):
            memory = self.begin(episode) if kept is None else kept
            action, memory = self.act(memory, measured[i], None if goals is None else goals[i])
            actions.append(np.asarray(action, dtype=np.float32))
            memories.append(memory)
        out = np.array(actions)
        if self.spaces is not None:
            out = self.spaces.action.decode(out)
        return (out if batched else out[0]), PolicyState(state.episodes, tuple(memories))

    def limited(self, action: FloatArray) -> FloatArray:
        """Clip columns of actions (..., A) to what the environment takes."""
        if self.spaces is not None:
            return self.spaces.action.limit(action)
        clipped: FloatArray = np.minimum(np.maximum(action, -1.0), 1.0)  # cheaper than np.clip on so few numbers
        return clipped

    def _columns(self, observation: Observation) -> tuple[Observation, bool | None]:
        """Turn observations into columns, a row each, by the spaces of the training data.

        Returns:
            What `split_observation` takes, and whether there was a batch; None leaves that to be seen from the shape.
        """
        if self.spaces is None:
            return observation, None
        codec = self.spaces.observation
        if codec.kind != "goal" and isinstance(observation, Mapping):  # a goal that the model has no use for
            observation = observation.get("observation", observation)
        columns = np.atleast_2d(codec.encode(observation))
        goal = codec.goal(observation)
        return (columns if goal is None else {"observation": columns, "desired_goal": goal}), codec.batched(observation)

    def _restart(self, state: PolicyState[M] | None, episode_start: Any, rows: int) -> PolicyState[M]:
        """Forget the memories of the environments that have been reset and count their episodes on."""
        if state is None:
            return self.start([0] * rows)
        if len(state.memories) != rows:
            raise ValueError(
                f"state is for {len(state.memories)} environments, got {rows} observations; "
                "pass state=None to begin anew"
            )
        if episode_start is None:
            return state
        starts = np.atleast_1d(np.asarray(episode_start, dtype=bool))
        if starts.shape != (rows,):
            raise ValueError(
                f"episode_start must have shape ({rows},), got {starts.shape}; pass one flag per environment"
            )
        fresh = [bool(s) and m is not None for s, m in zip(starts, state.memories, strict=True)]
        episodes = tuple(e + f for e, f in zip(state.episodes, fresh, strict=True))
        return PolicyState(episodes, tuple(None if f else m for f, m in zip(fresh, state.memories, strict=True)))
