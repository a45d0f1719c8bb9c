"""Fill the replay buffer of an off-policy algorithm with what another policy does, or with given transitions."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dfplan_policies.protocol import FloatArray
from dfplan_policies.sb3.dyna import Transitions


@dataclass(frozen=True)
class Filled:
    """Say what went into a buffer.

    Attributes:
        steps: Environment steps that were taken, all of them stored.
        returns: Return of each episode that ended.
    """

    steps: int
    returns: tuple[float, ...]


def fill_replay_buffer(
    model: Any,
    policy: Any,
    env: Any = None,
    steps: int = 1000,
    *,
    noise: float = 0.0,
    seed: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> Filled:
    """Let a policy act, and store its transitions as the algorithm itself would.

    Actions are stored in [-1, 1], as stable-baselines3 wants them; at the end of an episode the last observation is
    stored, not the first of the next, and a time limit is no terminal state.

    Args:
        model: An off-policy algorithm: SAC, TD3, DDPG, DQN.
        policy: Anything with ``predict``.
        env: A ``VecEnv`` with as many environments as the model has; the model's own if None. It is reset at the start,
            and the model begins its own learning with a reset.
        steps: Environment steps, rounded up to whole steps of the batch.
        noise: Standard deviation of Gaussian noise on the actions, in half the range of an action.
        seed: Of that noise.
        on_step: Called with the number of environment steps just taken.

    Returns:
        What was stored.

    Raises:
        ValueError: If a number is out of range, or there is no environment.
        TypeError: If the algorithm has no replay buffer.
    """
    buffer, env = _buffer(model), model.get_env() if env is None else env
    if env is None or steps < 1 or noise < 0:
        raise ValueError(
            f"fill_replay_buffer needs an environment, steps of at least 1 and noise of at least 0, got env={env}, "
            f"steps={steps}, noise={noise}"
        )
    if model.get_vec_normalize_env() is not None:
        raise ValueError(
            "fill_replay_buffer stores what the environment shows, but the model's is in a VecNormalize; "
            "build the model on the bare environment"
        )
    rng, n = np.random.default_rng(seed), int(env.num_envs)
    observation, state, starts = env.reset(), None, np.ones(n, dtype=bool)
    sums, returns, taken = np.zeros(n), [], 0
    while taken < steps:
        actions, state = policy.predict(observation, state=state, episode_start=starts, deterministic=True)
        scaled, actions = _scaled(model, np.asarray(actions), noise, rng)
        following, rewards, dones, infos = env.step(actions)
        buffer.add(observation, _last_seen(following, dones, infos), scaled, rewards, dones, infos)
        sums += rewards
        returns += [float(v) for v in sums[dones]]
        sums[dones] = 0.0
        observation, starts, taken = following, dones, taken + n
        if on_step is not None:
            on_step(n)
    _cut(buffer)
    model._last_obs = None  # learning begins with a reset of the environment, not in the middle of this episode
    return Filled(taken, tuple(returns))


def add_transitions(model: Any, transitions: Transitions) -> int:
    """Store given transitions, for example imagined ones, in the buffer of a model of one environment.

    Returns:
        How many.

    Raises:
        TypeError: If the algorithm has no replay buffer.
        ValueError: If the buffer is for several environments, or its observations are dictionaries.
    """
    buffer = _buffer(model)
    if buffer.n_envs != 1 or hasattr(model.observation_space, "spaces"):
        raise ValueError(
            f"transitions go into the buffer of one environment with array observations, got n_envs={buffer.n_envs} "
            f"and {type(model.observation_space).__name__}; build the model on one environment"
        )
    scaled = model.policy.scale_action(transitions.actions)
    for row in range(len(transitions)):
        one = slice(row, row + 1)
        buffer.add(
            transitions.observations[one], transitions.next_observations[one], scaled[one], transitions.rewards[one],
            transitions.dones[one], [{}],
        )  # fmt: skip
    return len(transitions)


def _buffer(model: Any) -> Any:
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None:
        raise TypeError(f"{type(model).__name__} has no replay buffer; use an off-policy algorithm, SAC, TD3 ...")
    return buffer


def _cut(buffer: Any) -> None:
    """Tell a buffer that needs whole episodes (HER) that the last one ends here."""
    if hasattr(buffer, "truncate_last_trajectory"):
        with warnings.catch_warnings():  # it warns of what is meant here
            warnings.simplefilter("ignore", UserWarning)
            buffer.truncate_last_trajectory()


def _scaled(model: Any, actions: Any, noise: float, rng: np.random.Generator) -> tuple[Any, Any]:
    """Return the actions as the buffer holds them, and as the environment takes them."""
    low = getattr(model.action_space, "low", None)
    if low is None:  # Discrete: there is nothing to scale
        return actions.reshape(-1, 1), actions
    scaled = model.policy.scale_action(actions.astype(np.float32))
    scaled = np.clip(scaled + noise * rng.standard_normal(scaled.shape), -1.0, 1.0).astype(np.float32)
    return scaled, model.policy.unscale_action(scaled)


def _last_seen(following: Any, dones: FloatArray, infos: list[dict[str, Any]]) -> Any:
    """Put the last observation of each episode that ended in place of the first of the next."""
    seen = copy.deepcopy(following)
    for i in np.flatnonzero(dones):
        last = infos[i].get("terminal_observation")
        if last is None:
            continue
        if isinstance(seen, dict):
            for key in seen:
                seen[key][i] = last[key]
        else:
            seen[i] = last
    return seen
