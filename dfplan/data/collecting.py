"""Collect episodes from any Gymnasium environment with any policy, several environments side by side.

Episode `number` of a run depends on (seed, number) alone: its reset, its action noise, its random actions. The policy
is asked for each environment on its own, unless told otherwise, because a network's last bits depend on the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Env
from gymnasium.spaces import Box, Discrete, Space
from numpy.typing import NDArray

from dfplan.data.trajectories import Array, Observations

NOISE_STREAM = 1  # third word of the seed of what is drawn here; the environment's reset has two


@dataclass(frozen=True)
class CollectConfig:
    """Say how episodes are collected.

    Attributes:
        seed: With an episode's number it decides everything that is drawn here; at least 0.
        noise: Standard deviation of Gaussian noise on Box actions, in halves of the range; actions are clipped after.
        epsilon: Probability of a uniformly random action in place of the policy's, in [0, 1].
        max_steps: Steps after which an episode is cut; None leaves that to the environment.
        batched: Whether the policy is asked for all environments at once; the data may then depend on how many there
            are, in their last bits.
    """

    seed: int = 0
    noise: float = 0.0
    epsilon: float = 0.0
    max_steps: int | None = None
    batched: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        if not 0 <= self.noise < np.inf:
            raise ValueError(f"noise must be at least 0 and finite, got {self.noise}")
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon must lie in [0, 1], got {self.epsilon}")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {self.max_steps}")


@dataclass(frozen=True)
class Rollout:
    """Hold one episode of T steps: observations have T + 1 rows, actions and rewards T."""

    number: int
    observations: Observations
    actions: Array
    rewards: NDArray[np.float64]
    terminated: bool


def reset_seed(seed: int, number: int) -> int:
    """Return what episode `number` of a run is reset with; the evaluator resets with the same."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def check_exploration(space: Space[Any], config: CollectConfig, has_policy: bool = True) -> None:
    """Refuse noise that an action space cannot take.

    Raises:
        ValueError: for noise on a Discrete, or on a Box without bounds; says what to use instead.
    """
    if config.noise and isinstance(space, Discrete):
        raise ValueError("noise is for Box actions, got a Discrete; use epsilon (--epsilon) instead")
    drawn = config.noise or config.epsilon or not has_policy
    if drawn and isinstance(space, Box) and not space.is_bounded():
        raise ValueError(
            f"noise and random actions need a Box with finite bounds, got {space}; wrap the environment in "
            "gymnasium.wrappers.RescaleAction or ClipAction, or leave them out"
        )


def collect(
    envs: Sequence[Env[Any, Any]],
    policy: Any | None,
    numbers: Sequence[int],
    config: CollectConfig,
    on_step: Callable[[int], None] | None = None,
) -> Iterator[Rollout]:
    """Run the given episodes, `len(envs)` at a time, and yield each as soon as it has ended.

    Args:
        envs: Equal environments; they act side by side.
        policy: Anything with stable-baselines3's ``predict`` that answers in the environment's own actions; None draws
            all actions uniformly.
        numbers: Which episodes of the run.
        config: How.
        on_step: Called with the number of steps just taken.

    Raises:
        ValueError: for noise that the actions cannot take.
    """
    check_exploration(envs[0].action_space, config, policy is not None)
    for first in range(0, len(numbers), len(envs)):
        group = [_Running(env, number, config) for env, number in zip(envs, numbers[first:], strict=False)]
        together = config.batched and policy is not None
        asker: _Alone | _Together = _Together(policy, group) if together else _Alone(policy, group)
        active = list(range(len(group)))
        while active:
            answers = asker.actions(active)
            ended = [i for i in active if group[i].step(answers[i])]
            if on_step is not None:
                on_step(len(active))
            active = [i for i in active if i not in ended]
            for i in ended:
                yield group[i].rollout()


class _Running:
    """One environment in the middle of an episode."""

    def __init__(self, env: Env[Any, Any], number: int, config: CollectConfig) -> None:
        self.env, self.number, self.config = env, number, config
        self.draws = np.random.default_rng([config.seed, number, NOISE_STREAM])
        self.now, _ = env.reset(seed=reset_seed(config.seed, number))
        self.seen: list[Any] = [_copy(self.now)]
        self.actions: list[Any] = []
        self.rewards: list[float] = []
        self.terminated = False

    def step(self, answer: Any | None) -> bool:
        """Take the policy's action, or a random one for None; returns whether the episode has ended."""
        action = _explore(self.env.action_space, answer, self.config, self.draws)
        self.now, reward, terminated, truncated, _ = self.env.step(action)
        self.seen.append(_copy(self.now))
        self.actions.append(action)
        self.rewards.append(float(reward))
        self.terminated = bool(terminated)
        return self.terminated or bool(truncated) or len(self.rewards) == self.config.max_steps

    def rollout(self) -> Rollout:
        """Return the finished episode."""
        seen: Any = self.seen
        if isinstance(seen[0], Mapping):
            observations: Observations = {key: np.stack([row[key] for row in seen]) for key in seen[0]}
        else:
            observations = np.stack(seen)
        rewards = np.array(self.rewards, dtype=np.float64)
        return Rollout(self.number, observations, np.stack(self.actions), rewards, self.terminated)


def _copy(observation: Any) -> Any:
    """Copy an observation: some environments hand out the array that they go on writing to."""
    if isinstance(observation, Mapping):
        return {key: np.array(value) for key, value in observation.items()}
    return np.array(observation)


def _explore(space: Space[Any], answer: Any | None, config: CollectConfig, draws: np.random.Generator) -> Any:
    """Turn the policy's answer into the action that is taken; what is drawn does not depend on it."""
    if config.noise and isinstance(space, Box):
        bell = draws.standard_normal(space.shape)
    if (config.epsilon and draws.random() < config.epsilon) or answer is None:
        return _uniform(space, draws)
    if isinstance(space, Discrete):
        return np.int64(np.asarray(answer).item())
    if not isinstance(space, Box):
        return answer
    action = np.asarray(answer, dtype=np.float64).reshape(space.shape)
    if config.noise:
        action = action + config.noise * bell * (space.high.astype(np.float64) - space.low) / 2
    return np.clip(action.astype(space.dtype), space.low, space.high)


def _uniform(space: Space[Any], draws: np.random.Generator) -> Any:
    if isinstance(space, Discrete):
        return np.int64(draws.integers(space.start, space.start + space.n))
    if isinstance(space, Box):
        return draws.uniform(space.low, space.high).astype(space.dtype)
    raise ValueError(f"random actions are for Box and Discrete, got {space}")


def _first_state(policy: Any, numbers: list[int]) -> Any:
    """Begin the given episodes with a policy whose draws depend on their numbers; others have no say."""
    return policy.start(numbers) if hasattr(policy, "start") else None


class _Alone:
    """Ask the policy for one environment at a time, each with a memory of its own."""

    def __init__(self, policy: Any | None, group: list[_Running]) -> None:
        self.policy, self.group = policy, group
        self.states = [None if policy is None else _first_state(policy, [one.number]) for one in group]

    def actions(self, active: list[int]) -> dict[int, Any]:
        if self.policy is None:
            return dict.fromkeys(active)
        found = {}
        for i in active:
            start = np.array([not self.group[i].actions])
            answer, self.states[i] = self.policy.predict(
                _stack([self.group[i].now]), state=self.states[i], episode_start=start, deterministic=True
            )
            found[i] = answer[0]
        return found


class _Together:
    """Ask the policy for all environments at once; those whose episode has ended are shown their last observation."""

    def __init__(self, policy: Any, group: list[_Running]) -> None:
        self.policy, self.group = policy, group
        self.state = _first_state(policy, [one.number for one in group])
        self.begun = False

    def actions(self, active: list[int]) -> dict[int, Any]:
        starts = np.full(len(self.group), not self.begun)
        self.begun = True
        answers, self.state = self.policy.predict(
            _stack([one.now for one in self.group]), state=self.state, episode_start=starts, deterministic=True
        )
        return {i: answers[i] for i in active}


def _stack(observations: list[Any]) -> Any:
    if isinstance(observations[0], Mapping):
        return {key: np.stack([row[key] for row in observations]) for key in observations[0]}
    return np.stack(observations)
