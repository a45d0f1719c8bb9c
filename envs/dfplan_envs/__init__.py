"""Environments of dfplan: Gymnasium on MuJoCo, no torch.

Importing this registers the ids; the simulator is loaded on first use.
"""

from __future__ import annotations

from dfplan_envs.registry import EnvInfo, list_envs, register_all, resolve
from dfplan_envs.scores import get_normalized_score, reference_scores

__all__ = ["EnvInfo", "get_normalized_score", "list_envs", "reference_scores", "resolve"]

register_all()
