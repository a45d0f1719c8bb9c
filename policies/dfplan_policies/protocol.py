"""The policy interface: stable-baselines3's ``predict``, batched over environments, with all memory in ``state``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
Observation = FloatArray | Mapping[str, FloatArray]


class Policy(Protocol):
    """Choose actions for a batch of environments.

    Every stable-baselines3 algorithm is such a policy as it is. ``predict`` is functional: it changes neither the
    state that is passed in nor anything hidden, so that the same call gives the same answer again.
    """

    def predict(
        self,
        observation: Any,
        state: Any | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[FloatArray, Any]:
        """Return the actions (B, A) and the state to pass to the next call.

        Args:
            observation: (B, O), or a dict of such arrays.
            state: What the last call returned; None at the very first.
            episode_start: bool (B,), True where an environment has just been reset; None means nowhere (or everywhere
                if ``state`` is None).
            deterministic: Whether to leave out exploration noise, where a policy has any.
        """
        ...


@runtime_checkable
class NumberedPolicy(Protocol):
    """A policy whose draws depend on the number of the episode, which can be told, and so not on the batch."""

    def start(self, episodes: list[int]) -> Any:
        """Return the state for environments that are about to begin the given episodes."""
        ...


@runtime_checkable
class TelemetryPolicy(Protocol):
    """A policy whose state tells what planning has cost."""

    def telemetry(self, state: Any) -> list[Any]:
        """Return one record per environment (`dfplan_policies.plans.Telemetry`)."""
        ...


def split_observation(
    observation: Observation, goal: FloatArray | None, *, missing: bool | str = False
) -> tuple[FloatArray, FloatArray | None, bool]:
    """Take an observation apart into what is measured and where to go.

    Args:
        observation: (B, O) or (O,), or a dict with ``observation`` and, for goal tasks, ``desired_goal``.
        goal: (G,) or (B, G), used if the observation brings none.
        missing: Whether a row may be all NaN, an observation that is missing; "partly" lets any number be NaN.

    Returns:
        Measured (B, O) float64, goal (B, G) float64 or None, and whether the observation was batched. Both are copies:
        a vector environment may write the next observation where this one was, and a policy may remember them.

    Raises:
        ValueError: If a key is missing, a shape does not fit or a value is not finite.
    """
    if isinstance(observation, Mapping):
        if "observation" not in observation:
            raise ValueError(
                f"a dict observation needs the key 'observation', got {sorted(observation)}; use GoalObservation"
            )
        measured = np.array(observation["observation"], dtype=np.float64)
        goal = observation.get("desired_goal", goal)
    else:
        measured = np.array(observation, dtype=np.float64)
    if measured.ndim not in (1, 2):
        raise ValueError(
            f"observation must have shape (B, O) or (O,), got {measured.shape}; stack one row per environment"
        )
    batched = measured.ndim == 2
    measured = np.atleast_2d(measured)
    finite = np.isfinite(measured).all(1)
    if missing == "partly":
        finite = ~np.isinf(measured).any(1)
    elif missing:
        finite |= np.isnan(measured).all(1)
    if not finite.all():
        raise ValueError(f"observation must be finite, got {measured.tolist()}; check the environment")
    return measured, _goal_rows(goal, len(measured)), batched


def _goal_rows(goal: FloatArray | None, rows: int) -> FloatArray | None:
    if goal is None:
        return None
    goal = np.atleast_2d(np.array(goal, dtype=np.float64))
    if goal.ndim != 2 or len(goal) not in (1, rows):
        raise ValueError(f"goal must have shape (G,) or ({rows}, G), got {goal.shape}; pass one goal per environment")
    return goal if len(goal) == rows else np.broadcast_to(goal, (rows, goal.shape[1]))
