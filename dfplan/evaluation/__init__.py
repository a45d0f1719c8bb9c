"""Judge policies: vectorised rollouts on matched starts, metrics with standard errors, reports."""

from __future__ import annotations

from dfplan.evaluation.evaluator import evaluate
from dfplan.evaluation.metrics import mean_stderr
from dfplan.evaluation.report import Report, flatten
from dfplan.evaluation.rollout import EpisodeRecord, episode_seed, run_episodes

__all__ = ["EpisodeRecord", "Report", "episode_seed", "evaluate", "flatten", "mean_stderr", "run_episodes"]
