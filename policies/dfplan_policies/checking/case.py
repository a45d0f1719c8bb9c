"""What a policy is checked on: observations from the environment itself, and ways to run along them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Env, spaces
from numpy.typing import NDArray

from dfplan_policies.protocol import NumberedPolicy

Array = NDArray[Any]
Observation = Any  # an array, or a dict of arrays


class PolicyCheckError(ValueError):
    """Say which rule a policy breaks, what was seen, and what to do.

    Args:
        name: The rule's name, a key of `RULES`.
        rule: The rule.
        seen: What was seen.
        remedy: What to do.
    """

    def __init__(self, name: str, rule: str, seen: str, remedy: str) -> None:
        super().__init__(f"[{name}] {rule}; got {seen}; {remedy}")
        self.name, self.rule, self.seen, self.remedy = name, rule, seen, remedy

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.rule, self.seen, self.remedy)


@dataclass(frozen=True)
class Case:
    """Hold a policy, an action space and observations.

    Attributes:
        policy: What is checked.
        space: The environment's action space.
        observations: One batch (n, ...) per step.
    """

    policy: Any
    space: spaces.Space[Any]
    observations: tuple[Observation, ...]

    @property
    def rows(self) -> int:
        """n, environments."""
        return count(self.observations[0])

    @property
    def steps(self) -> int:
        """Steps of observations."""
        return len(self.observations)

    def begin(self, numbers: Sequence[int]) -> Any:
        """Return the state for environments that begin the given episodes; None where episodes have no numbers."""
        return self.policy.start(list(numbers)) if isinstance(self.policy, NumberedPolicy) else None

    def act(self, t: int, state: Any, starts: Any = None, rows: Any = slice(None), **options: Any) -> tuple[Array, Any]:
        """Ask for the actions at a step, for some rows."""
        found: tuple[Array, Any] = ask(self.policy, pick(self.observations[t], rows), state, starts, **options)
        return found

    def roll(self, state: Any, first: int = 0, last: int | None = None, rows: Any = slice(None)) -> tuple[Array, Any]:
        """Return the actions (steps, n, ...) along the observations of some steps, and the state after them."""
        actions = []
        for t in range(first, self.steps if last is None else last):
            action, state = self.act(t, state, None, rows)
            actions.append(action)
        return np.stack(actions), state

    def mapped(self, change: Callable[[Array], Array]) -> Case:
        """Return the case with other arrays in place of the observations."""
        return Case(self.policy, self.space, tuple(each(o, change) for o in self.observations))


def ask(policy: Any, observation: Observation, state: Any, starts: Any, *, deterministic: bool = True) -> Any:
    """Call ``predict`` the way everything here does."""
    return policy.predict(observation, state=state, episode_start=starts, deterministic=deterministic)


def make_case(policy: Any, env: Env[Any, Any], *, seed: int, rows: int, steps: int) -> Case:
    """Collect observations of ``rows`` episodes under random actions.

    Raises:
        ValueError: If a space is not served.
    """
    served = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    if not isinstance(env.action_space, served):
        raise ValueError(
            f"check_policy serves Box, Discrete, MultiDiscrete and MultiBinary actions, got {env.action_space}; "
            "wrap the environment, for example in gymnasium.wrappers.FlattenAction"
        )
    env.action_space.seed(seed)
    found = [_walk(env, seed + row, steps) for row in range(rows)]
    return Case(policy, env.action_space, tuple(stack([walk[t] for walk in found]) for t in range(steps)))


def _walk(env: Env[Any, Any], seed: int, steps: int) -> list[Observation]:
    """Return the observations of one episode under random actions; one that ends early is begun again."""
    observation, _ = env.reset(seed=seed)
    seen = [_copied(observation)]
    while len(seen) < steps:
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            observation, _ = env.reset()
        seen.append(_copied(observation))
    return seen


def _copied(observation: Observation) -> Observation:
    if isinstance(observation, Mapping):
        return {key: np.array(value) for key, value in observation.items()}
    if isinstance(observation, tuple):
        raise ValueError(
            "check_policy serves array and dict observations, got a tuple; use gymnasium's FlattenObservation"
        )
    return np.array(observation)


def each(observation: Observation, change: Callable[[Array], Array]) -> Observation:
    """Change every array of an observation."""
    if isinstance(observation, Mapping):
        return {key: change(value) for key, value in observation.items()}
    return change(observation)


def fill(observation: Observation, values: Observation) -> None:
    """Write values into the arrays of an observation."""
    if isinstance(observation, Mapping):
        for key, array in observation.items():
            array[...] = values[key]
    else:
        observation[...] = values


def stack(observations: Sequence[Observation]) -> Observation:
    """Stack single observations to a batch."""
    if isinstance(observations[0], Mapping):
        return {key: np.stack([o[key] for o in observations]) for key in observations[0]}
    return np.stack(observations)


def pick(observation: Observation, rows: Any) -> Observation:
    """Take rows of a batch; an integer takes a single observation."""
    return each(observation, lambda value: value[rows])


def count(observation: Observation) -> int:
    """Count the rows of a batch."""
    return len(next(iter(observation.values())) if isinstance(observation, Mapping) else observation)


def equal(one: Observation, other: Observation) -> bool:
    """Compare two observations bit by bit."""
    if isinstance(one, Mapping):
        return all(np.array_equal(one[key], other[key], equal_nan=one[key].dtype.kind == "f") for key in one)
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
