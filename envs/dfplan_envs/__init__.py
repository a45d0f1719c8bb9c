"""Environments of dfplan: Gymnasium on MuJoCo, no torch.

Importing this registers the ids, and those that installed packages offer by an entry point in the group ``dfplan.envs``
(an `EnvInfo`, several of them, or a function that returns them); the simulator is loaded on first use.
"""

from __future__ import annotations

from dfplan_envs.plugins import register_offered
from dfplan_envs.registry import EnvInfo, episode_steps, list_envs, register_all, resolve
from dfplan_envs.scores import get_normalized_score, reference_scores

__all__ = ["EnvInfo", "episode_steps", "get_normalized_score", "list_envs", "reference_scores", "resolve"]

register_all()
register_offered()
