"""The ``waypoint`` policy: a dataset's own controller, given from outside."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from dfplan_policies.per_environment import PerEnvironmentPolicy
from dfplan_policies.protocol import FloatArray


class Controller(Protocol):
    """A controller that heads for a target; `dfplan_envs.maze2d.WaypointController` is one.

    Acting may set attributes anew and draw from a random generator, but not change a list or a dict in place, except to
    add to a cache.
    """

    def act(self, observation: Any, target: Any) -> Any:
        """Return the action (A,) for a measured state (O,) and a target (G,)."""
        ...


ControllerFactory = Callable[[np.random.Generator], Controller]


class WaypointPolicy(PerEnvironmentPolicy[Controller]):
    """Let a controller drive, a new one for each episode.

    Args:
        controller: Makes a controller from a random generator, for example ``partial(WaypointController, "large")``.
        seed: With the episode's number, seeds that generator.
        goal: (G,), for observations that bring no ``desired_goal``.
    """

    def __init__(self, controller: ControllerFactory, *, seed: int = 0, goal: FloatArray | None = None) -> None:
        self.controller, self.seed, self.goal = controller, seed, goal

    def begin(self, episode: int) -> Controller:
        """Make the episode's controller."""
        return self.controller(np.random.default_rng([self.seed, episode]))

    def act(
        self, memory: Controller, observation: FloatArray, goal: FloatArray | None
    ) -> tuple[FloatArray, Controller]:
        """Let a copy of the controller act, so that the state that was passed in stays as it is."""
        if goal is None:
            raise ValueError(
                "the waypoint policy needs a goal, got none; wrap the environment in GoalObservation or pass goal="
            )
        controller = _fork(memory)
        return np.asarray(controller.act(observation, goal)), controller


def _fork(controller: Controller) -> Controller:
    """Copy a controller with random generators of its own; what it never changes in place is shared."""
    fork = copy.copy(controller)
    for name, value in vars(controller).items():
        if isinstance(value, np.random.Generator):
            setattr(fork, name, copy.deepcopy(value))
    return fork
