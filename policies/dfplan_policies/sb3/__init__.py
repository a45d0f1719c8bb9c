"""Planners inside stable-baselines3's loops (extra ``sb3``): buffers, residuals, sub-goals, pools.

The wrappers need Gymnasium alone; whatever needs stable-baselines3 says so when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfplan_policies.sb3.buffers import Filled, add_transitions, fill_replay_buffer
    from dfplan_policies.sb3.dyna import Transitions, imagined_transitions
    from dfplan_policies.sb3.features import RelativeGoal
    from dfplan_policies.sb3.imitation import imitate_buffer
    from dfplan_policies.sb3.pool import PoolMember, judge
    from dfplan_policies.sb3.residual import ResidualActionWrapper
    from dfplan_policies.sb3.subgoals import PlannerGoalWrapper

_LAZY = {
    "Filled": "buffers",
    "PlannerGoalWrapper": "subgoals",
    "PoolMember": "pool",
    "RelativeGoal": "features",
    "ResidualActionWrapper": "residual",
    "Transitions": "dyna",
    "add_transitions": "buffers",
    "fill_replay_buffer": "buffers",
    "imagined_transitions": "dyna",
    "imitate_buffer": "imitation",
    "judge": "pool",
}

__all__ = [
    "Filled",
    "PlannerGoalWrapper",
    "PoolMember",
    "RelativeGoal",
    "ResidualActionWrapper",
    "Transitions",
    "add_transitions",
    "fill_replay_buffer",
    "imagined_transitions",
    "imitate_buffer",
    "judge",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"dfplan_policies.sb3.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'dfplan_policies.sb3' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
