"""Policies with stable-baselines3's ``predict``: the Diffusion Forcing policy, its executors, and references.

Heavy modules are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfplan_policies.act import ActPolicy
    from dfplan_policies.baselines.mlp import MLPPolicy
    from dfplan_policies.baselines.random import RandomPolicy
    from dfplan_policies.baselines.replay import ReplayPolicy
    from dfplan_policies.baselines.sampling_mpc import SamplingMPC
    from dfplan_policies.baselines.sb3 import SB3Policy
    from dfplan_policies.baselines.waypoint import WaypointPolicy
    from dfplan_policies.checking import PolicyCheckError, check_policy
    from dfplan_policies.df import DFPolicy
    from dfplan_policies.episode import EpisodePolicy
    from dfplan_policies.executors import EXECUTORS, make_executor
    from dfplan_policies.lerobot import LeRobotAdapter
    from dfplan_policies.loops import AgentLoop, EpisodeOutcome, FunctionalPolicy, run_episode
    from dfplan_policies.mpc import ModelPredictivePolicy
    from dfplan_policies.per_environment import PerEnvironmentPolicy, PolicyState
    from dfplan_policies.plans import PlanView, Telemetry
    from dfplan_policies.protocol import NumberedPolicy, Policy, TelemetryPolicy
    from dfplan_policies.registry import PolicyEntry, PolicyRequest, find_policy, load_policy, policies
    from dfplan_policies.vector import VectorLoop, run_vector_episodes

_LAZY = {
    "ActPolicy": "act",
    "AgentLoop": "loops",
    "DFPolicy": "df",
    "EXECUTORS": "executors",
    "FunctionalPolicy": "loops",
    "LeRobotAdapter": "lerobot",
    "MLPPolicy": "baselines.mlp",
    "ModelPredictivePolicy": "mpc",
    "NumberedPolicy": "protocol",
    "EpisodeOutcome": "loops",
    "EpisodePolicy": "episode",
    "PerEnvironmentPolicy": "per_environment",
    "PlanView": "plans",
    "PolicyCheckError": "checking",
    "Policy": "protocol",
    "PolicyEntry": "registry",
    "PolicyRequest": "registry",
    "PolicyState": "per_environment",
    "RandomPolicy": "baselines.random",
    "ReplayPolicy": "baselines.replay",
    "SB3Policy": "baselines.sb3",
    "SamplingMPC": "baselines.sampling_mpc",
    "Telemetry": "plans",
    "TelemetryPolicy": "protocol",
    "VectorLoop": "vector",
    "WaypointPolicy": "baselines.waypoint",
    "check_policy": "checking",
    "find_policy": "registry",
    "load_policy": "registry",
    "make_executor": "executors",
    "policies": "registry",
    "run_episode": "loops",
    "run_vector_episodes": "vector",
}

__all__ = [
    "EXECUTORS",
    "ActPolicy",
    "AgentLoop",
    "DFPolicy",
    "EpisodeOutcome",
    "EpisodePolicy",
    "FunctionalPolicy",
    "LeRobotAdapter",
    "MLPPolicy",
    "ModelPredictivePolicy",
    "NumberedPolicy",
    "PerEnvironmentPolicy",
    "PlanView",
    "Policy",
    "PolicyCheckError",
    "PolicyEntry",
    "PolicyRequest",
    "PolicyState",
    "RandomPolicy",
    "ReplayPolicy",
    "SB3Policy",
    "SamplingMPC",
    "Telemetry",
    "TelemetryPolicy",
    "VectorLoop",
    "WaypointPolicy",
    "check_policy",
    "find_policy",
    "load_policy",
    "make_executor",
    "policies",
    "run_episode",
    "run_vector_episodes",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"dfplan_policies.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'dfplan_policies' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
