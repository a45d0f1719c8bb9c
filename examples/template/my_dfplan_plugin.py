"""A policy and an environment of one's own, in one file: copy it, rename it, change it.

`pip install -e .` in this folder; then `dfplan envs` and `dfplan policies` list them, and
`dfplan eval --env my-cart --policy my-pusher` puts them together.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dfplan_envs import EnvInfo
from dfplan_policies import PerEnvironmentPolicy, PolicyEntry, PolicyRequest


class Cart(gymnasium.Env[Any, Any]):
    """A cart on a rail is to be brought to the middle; observations are (position, velocity), the action is a force."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (Gymnasium's own way)
    dt_s = 0.1

    def __init__(self, drag: float = 0.1) -> None:
        self.drag = drag
        self.observation_space = spaces.Box(-10.0, 10.0, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.state = np.zeros(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Put the cart somewhere, at rest."""
        super().reset(seed=seed)
        self.state = np.array([self.np_random.uniform(-2.0, 2.0), 0.0])
        return self.state.astype(np.float32), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Push for 0.1 s."""
        x, v = self.state
        v += self.dt_s * (float(np.clip(action[0], -1, 1)) - self.drag * v)
        self.state = np.clip([x + self.dt_s * v, v], -10.0, 10.0)
        info = self._info()
        return self.state.astype(np.float32), float(info["success"]), False, False, info

    def _info(self) -> dict[str, Any]:
        distance = abs(float(self.state[0]))
        return {"success": distance < 0.1, "distance_to_goal": distance}


class Pusher(PerEnvironmentPolicy[int]):
    """Push towards the middle. The memory counts steps, to show where memory goes; it must not be changed in place."""

    def __init__(self, gain: float = 1.0, seed: int = 0) -> None:
        self.gain, self.seed = gain, seed

    def begin(self, episode: int) -> int:
        """Return the memory at the start of an episode."""
        return 0

    def act(self, memory: int, observation: Any, goal: Any) -> tuple[Any, int]:
        """Return the action and the next memory."""
        return np.clip([-self.gain * (observation[0] + 1.5 * observation[1])], -1.0, 1.0), memory + 1


def build(request: PolicyRequest) -> Pusher:
    """Make the policy; what is given on top of the common fields is in ``request.options``."""
    return Pusher(seed=request.seed, **request.options)


CART = EnvInfo(
    "my-cart-v0", "a cart to be brought to the middle", 60, {}, "my_dfplan_plugin:Cart", dt_s=0.1, scores=(0.0, 50.0)
)
PUSHER = PolicyEntry("my-pusher", "a PD law for the cart", build)
