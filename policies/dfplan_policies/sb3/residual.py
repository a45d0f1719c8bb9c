"""Residual learning: an agent corrects a policy's actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dfplan_policies.loops import AgentLoop
from dfplan_policies.protocol import FloatArray, NumberedPolicy, Policy


class ResidualActionWrapper(gymnasium.Wrapper[Any, Any, Any, Any], gymnasium.utils.RecordConstructorArgs):
    """Add an agent's correction to what a policy does.

    ``a = clip(base + scale * (high - low) / 2 * residual, low, high)`` with the residual in [-1, 1]; a residual of 0
    is the policy itself. The policy's state is kept here and begins anew at every reset: ``reset(seed=s)`` begins the
    policy's episode number s, a reset without a seed the one after the last.

    Args:
        env: An environment with bounded Box actions.
        policy: Anything with ``predict``; a fast one, since it acts in every step of training.
        scale: Largest correction, in half the range of an action; above 0.
        observe_base: Whether the agent sees what the policy is about to do: as the key ``base_action`` of dict
            observations, as more columns of others.

    Raises:
        ValueError: If the scale is not positive, or the spaces do not fit.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], policy: Policy, scale: float = 0.3, *, observe_base: bool = False
    ) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(
            self, _disable_deepcopy=True, policy=policy, scale=scale, observe_base=observe_base
        )
        gymnasium.Wrapper.__init__(self, env)
        box = env.action_space
        if not isinstance(box, spaces.Box) or not box.is_bounded():
            raise ValueError(f"residuals need bounded Box actions, got {box}; rescale them, or use another algorithm")
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}; 0.3 lets the agent change a third of the range")
        self.scale, self.observe_base = scale, observe_base
        self._box, self._half = box, (box.high - box.low) / 2
        self._agent, self._episode = AgentLoop(policy), -1
        self._numbered = isinstance(policy, NumberedPolicy)
        self._seen: Any = None
        self._base: FloatArray | None = None
        self.action_space = spaces.Box(-1.0, 1.0, box.shape, np.float32)
        if observe_base:
            self.observation_space = self._with_base(env.observation_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and the policy."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._episode = self._episode + 1 if seed is None else seed
        self._agent.reset(self._episode if self._numbered else None)
        return self._shown(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Execute the corrected action; ``info`` has it as ``action`` and the policy's own as ``base_action``."""
        base = self._base_action()
        residual = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        whole = np.clip(base + self.scale * self._half * residual, self._box.low, self._box.high)
        whole = whole.astype(self._box.dtype)
        observation, reward, terminated, truncated, info = self.env.step(whole)
        return (
            self._shown(observation),
            float(reward),
            terminated,
            truncated,
            {**info, "base_action": base, "action": whole},
        )

    def _base_action(self) -> FloatArray:
        """Ask the policy, once per observation."""
        if self._base is None:
            self._base = np.clip(self._agent(self._seen), self._box.low, self._box.high)
        return self._base

    def _shown(self, observation: Any) -> Any:
        """Remember the observation, and add the policy's action if it is to be seen."""
        self._seen, self._base = observation, None
        if not self.observe_base:
            return observation
        base = self._base_action()
        if isinstance(observation, Mapping):
            return {**observation, "base_action": base.astype(self._box.dtype)}
        seen = np.asarray(observation)
        return np.concatenate([seen, base]).astype(seen.dtype)

    def _with_base(self, space: Any) -> spaces.Space[Any]:
        """Return the observation space with the policy's action."""
        if isinstance(space, spaces.Dict):
            return spaces.Dict({**space.spaces, "base_action": self._box})
        if isinstance(space, spaces.Box) and len(space.shape) == 1:
            low, high = np.concatenate([space.low, self._box.low]), np.concatenate([space.high, self._box.high])
            return spaces.Box(low.astype(space.dtype), high.astype(space.dtype), dtype=space.dtype.type)
        raise ValueError(f"observe_base needs vector or dict observations, got {space}; pass observe_base=False")
