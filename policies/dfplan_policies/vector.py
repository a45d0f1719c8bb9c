"""Gymnasium's vector environments: a loop that tells the policy which of them begin anew, in every autoreset mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan_policies.loops import EpisodeOutcome
from dfplan_policies.protocol import NumberedPolicy, Policy

Flags = NDArray[np.bool_]


class VectorLoop:
    """Act in a vector environment, and keep the policy's state and its ``episode_start`` in between.

    When an episode has ended, the environment may begin the next in the same step (``SAME_STEP``), in the next one,
    whose action counts for nothing (``NEXT_STEP``), or not at all (``DISABLED``; it is reset here then).

    Args:
        policy: Anything with ``predict``.
        envs: A Gymnasium vector environment.
        deterministic: Passed on.

    Attributes:
        state: The policy's state.
        live: bool (n,), whether the last step was one of an episode; False where it began an episode instead.
    """

    def __init__(self, policy: Policy, envs: Any, *, deterministic: bool = True) -> None:
        from gymnasium.vector import VectorEnv

        if not isinstance(envs, VectorEnv):
            raise TypeError(
                f"VectorLoop needs a Gymnasium vector environment, got {type(envs).__name__}; "
                "use gymnasium.make_vec, or AgentLoop for a single one"
            )
        self.policy, self.envs, self.deterministic = policy, envs, deterministic
        mode = envs.metadata.get("autoreset_mode")
        self._mode = str(getattr(mode, "name", mode)).upper()
        self.state: Any = None
        self.live = self._starts = self._over = np.zeros(envs.num_envs, dtype=bool)
        self._now: Any = None

    def reset(
        self, *, seed: Any = None, options: Any = None, episodes: Sequence[int] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all environments and begin their episodes.

        Args:
            seed: Passed on: one for all, or a list.
            options: Passed on.
            episodes: Numbers of the episodes, which decide the policy's draws; 0 for all if None.

        Raises:
            ValueError: If the policy's episodes have no numbers, or there are too few or too many.
        """
        n = self.envs.num_envs
        if episodes is not None and not isinstance(self.policy, NumberedPolicy):
            raise ValueError(f"{type(self.policy).__name__} has no start(episodes), so episodes= says nothing to it")
        if episodes is not None and len(episodes) != n:
            raise ValueError(f"episodes must hold {n} numbers, one per environment, got {len(episodes)}")
        self._now, info = self.envs.reset(seed=seed, options=options)
        numbers = [0] * n if episodes is None else list(episodes)
        self.state = self.policy.start(numbers) if isinstance(self.policy, NumberedPolicy) else None
        self._starts, self._over = np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
        self.live = ~self._starts
        return self._now, info

    def step(self) -> tuple[Any, NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        """Let the policy act in all environments; returns what their ``step`` does.

        Raises:
            RuntimeError: If the loop was not reset.
        """
        if self._now is None:
            raise RuntimeError("the loop has no observation yet; call reset() first")
        if self._mode == "DISABLED" and self._over.any():
            self._now, _ = self.envs.reset(options={"reset_mask": self._over.copy()})
            self._starts, self._over = self._over, np.zeros_like(self._over)
        actions, self.state = self.policy.predict(
            self._now, state=self.state, episode_start=self._starts, deterministic=self.deterministic
        )
        self._now, rewards, terminated, truncated, infos = self.envs.step(actions)
        over = np.asarray(terminated) | np.asarray(truncated)
        waiting = self._over if self._mode == "NEXT_STEP" else np.zeros_like(over)  # they have begun in this step
        self.live, self._over = ~waiting, over
        self._starts = over.copy() if self._mode == "SAME_STEP" else waiting
        return self._now, np.asarray(rewards), terminated, truncated, infos


def run_vector_episodes(policy: Policy, envs: Any, episodes: int, *, seed: int = 0) -> list[list[EpisodeOutcome]]:
    """Run episodes in every environment of a vector.

    The outcome is that of single environments: number ``i`` is reset with ``seed + i`` and from then on without a seed,
    and with a policy whose episodes have numbers its episode ``j`` is number ``i * episodes + j``.

    Args:
        policy: Anything with ``predict``.
        envs: A vector environment with a time limit.
        episodes: Of each environment, at least 1.
        seed: 0 or more.

    Returns:
        For each environment its episodes, in order.

    Raises:
        ValueError: If a number is out of range.
    """
    if episodes < 1 or seed < 0:
        raise ValueError(f"episodes must be at least 1 and seed 0 or more, got {episodes} and {seed}")
    loop, n = VectorLoop(policy, envs), envs.num_envs
    numbers = [i * episodes for i in range(n)] if isinstance(policy, NumberedPolicy) else None
    loop.reset(seed=seed, episodes=numbers)
    found: list[list[EpisodeOutcome]] = [[] for _ in range(n)]
    total, steps, success = np.zeros(n), np.zeros(n, dtype=int), np.zeros(n, dtype=bool)
    while any(len(own) < episodes for own in found):
        _, rewards, terminated, truncated, infos = loop.step()
        total, steps = total + np.where(loop.live, rewards, 0.0), steps + loop.live
        over = loop.live & (terminated | truncated)
        success |= loop.live & _succeeded(infos, over, n)
        for i in np.flatnonzero(over):
            if len(found[i]) < episodes:
                found[i].append(EpisodeOutcome(float(total[i]), int(steps[i]), bool(success[i])))
            total[i], steps[i], success[i] = 0.0, 0, False
    return found


def _succeeded(infos: dict[str, Any], over: Flags, n: int) -> Flags:
    """Read which environments say that they have succeeded, those that have begun anew in what they said last."""
    last = infos.get("final_info")
    now, then = _said(infos, n), _said(last, n) if isinstance(last, dict) else np.zeros(n, dtype=bool)
    return np.where(over, then, now) if last is not None else now


def _said(infos: dict[str, Any], n: int) -> Flags:
    """Read ``is_success``, or ``success``, where an environment has it."""
    for name in ("is_success", "success"):
        if name in infos:
            asked = infos.get(f"_{name}", np.ones(n, dtype=bool))
            said: Flags = np.logical_and(np.asarray(infos[name], dtype=bool), np.asarray(asked, dtype=bool))
            return said
    return np.zeros(n, dtype=bool)
