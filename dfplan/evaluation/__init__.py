"""Judge policies: vectorised rollouts on matched starts, metrics with standard errors, reports."""

from __future__ import annotations

from dfplan.evaluation.evaluator import evaluate
from dfplan.evaluation.metrics import mean_stderr, wilson
from dfplan.evaluation.report import Report, flatten
from dfplan.evaluation.rollout import EpisodeRecord, episode_seed, run_episodes
from dfplan.evaluation.tasks import TaskReport, evaluate_tasks

__all__ = [
    "EpisodeRecord",
    "Report",
    "TaskReport",
    "episode_seed",
    "evaluate",
    "evaluate_tasks",
    "flatten",
    "mean_stderr",
    "run_episodes",
    "wilson",
]
