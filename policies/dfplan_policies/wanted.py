"""What a planner is asked for: the environment's goal, and the return that is wanted."""

from __future__ import annotations

from typing import Any

import numpy as np

from dfplan.errors import unknown_name
from dfplan_policies.protocol import FloatArray


def target_of(planner: Any, target_return: float | str | None) -> float | None:
    """Find the return to ask for, in rewards per step.

    Args:
        planner: A planner; only one whose layout holds returns is asked for any.
        target_return: The return; None takes the one that the planner's ``target_share`` of the data stays below,
            ``"none"`` asks for nothing.

    Returns:
        The return, or None if nothing is asked for.

    Raises:
        ValueError: If a return is given but the layout holds none, or it is not finite.
    """
    if isinstance(target_return, str):
        if target_return != "none":
            raise unknown_name("target_return", target_return, ("none", "a number"))
        return None
    spec = getattr(planner, "spec", None)
    if spec is None or not getattr(spec, "returns", False):
        if target_return is not None:
            raise ValueError(
                "this checkpoint was trained without returns, so none can be asked for; leave target_return out"
            )
        return None
    if target_return is None:
        return float(planner.norm.returns.at(planner.config.target_share))
    if not np.isfinite(target_return):
        raise ValueError(f"target_return must be finite, got {target_return}")
    return float(target_return)


def wanted(goal: FloatArray | None, target: float | None) -> FloatArray | None:
    """Put goal (G,) and return together, the return last; None if nothing is wanted."""
    if target is None:
        return goal
    return np.append(np.zeros(0) if goal is None else goal, target)
