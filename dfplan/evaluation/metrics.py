"""Turn episode records into numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dfplan.evaluation.rollout import Clock, EpisodeRecord
from dfplan_envs import get_normalized_score, list_envs


def mean_stderr(values: Sequence[float]) -> dict[str, float | None]:
    """Return the mean and its standard error, the sample standard deviation over sqrt(n).

    Returns:
        ``{"mean": ..., "stderr": ...}``; None where there are too few values (0 for a mean, 1 for a standard error).
    """
    n = len(values)
    array = np.asarray(values, dtype=np.float64)
    return {
        "mean": float(array.mean()) if n else None,
        "stderr": float(array.std(ddof=1)) / math.sqrt(n) if n > 1 else None,
    }


def wilson(successes: int, trials: int, z: float = 1.96) -> dict[str, float]:
    """Return a rate with its 95 % Wilson interval.

    Raises:
        ValueError: If there was no trial.
    """
    if trials < 1:
        raise ValueError(f"a rate needs at least one trial, got {trials}")
    p, zz = successes / trials, z * z / trials
    middle = (p + zz / 2) / (1 + zz)
    half = z / (1 + zz) * math.sqrt(p * (1 - p) / trials + zz / (4 * trials))
    return {"rate": p, "low": max(0.0, middle - half), "high": min(1.0, middle + half), "trials": trials}


def normalise(env_id: str, returns: Sequence[float]) -> list[float] | None:
    """Put returns on D4RL's scale times 100; None if the environment has no reference scores."""
    if all(info.reference_scores is None for info in list_envs() if info.id == env_id):
        return None
    return [100.0 * get_normalized_score(env_id, value) for value in returns]


def scores(env_id: str, records: Sequence[EpisodeRecord]) -> dict[str, Any]:
    """Compute returns and normalised scores, strict and latched; None where they are not defined."""
    strict = [r.strict_return for r in records]
    latched = [r.latched_return for r in records if r.latched_return is not None]
    kinds: dict[str, list[float] | None] = {
        "strict": strict,
        "latched": latched if len(latched) == len(records) else None,
    }
    out: dict[str, Any] = {"score": {}, "return": {}}
    for kind, returns in kinds.items():
        normalised = None if returns is None else normalise(env_id, returns)
        out["return"][kind] = mean_stderr(returns or [])
        out["score"][kind] = mean_stderr(normalised or [])
    return out


def planning(records: Sequence[EpisodeRecord]) -> dict[str, Any]:
    """Summarise plans: how many, how long, how many calls of the network."""
    plans = [plan for r in records for plan in r.telemetry.plans]
    steps = sum(r.steps for r in records)
    seconds = np.array([plan.seconds for plan in plans])
    evaluations = [plan.network_evaluations for plan in plans]
    for_actions = sum(r.telemetry.action_evaluations for r in records)
    return {
        "plans_per_episode": len(plans) / len(records),
        "stuck_plans_per_episode": sum(plan.stuck for plan in plans) / len(records),
        "plan_seconds": {
            "median": float(np.median(seconds)) if plans else None,
            "p95": float(np.percentile(seconds, 95)) if plans else None,
            "mean": float(seconds.mean()) if plans else None,
        },
        "network_evaluations": float(np.mean(evaluations)) if plans else 0.0,
        "network_evaluations_per_step": (sum(evaluations) + for_actions) / steps,
    }


def summarise(env_id: str, records: Sequence[EpisodeRecord], clock: Clock) -> dict[str, Any]:
    """Compute all numbers of a run.

    ``score.*`` are normalised (times 100), ``return.*`` are sums of rewards; a standard error is the sample standard
    deviation over the square root of the number of episodes. ``success_rate`` is None where the environment does not
    say what success is. ``network_evaluations`` is per plan, ``control_hz`` counts
    control steps per second of the whole loop in one process.
    """
    reached = [r.first_reach for r in records if r.first_reach is not None]
    return {
        **scores(env_id, records),
        "success_rate": len(reached) / len(records) if any(r.judged for r in records) else None,
        "success": wilson(len(reached), len(records)) if any(r.judged for r in records) else None,
        "stages": stage_rates(records),
        "first_reach_steps": {**mean_stderr(reached), "max": max(reached, default=None)},
        "collisions": mean_stderr([r.collisions for r in records]),
        "contact_steps": mean_stderr([int(r.contact.sum()) for r in records]),
        **planning(records),
        "control_hz": clock.steps / clock.loop_s if clock.loop_s > 0 else None,
        "policy_seconds_per_step": clock.policy_s / clock.steps if clock.steps else None,
        "predict_seconds": _quantiles(clock.calls_s),
    }


def stage_rates(records: Sequence[EpisodeRecord]) -> dict[str, dict[str, float]] | None:
    """Return, of a task in stages, the rate of episodes that came as far as each stage; None of other tasks."""
    found = [r.stage for r in records if r.stage is not None]
    if not found:
        return None
    last = max(3, *found)
    return {str(stage): wilson(sum(s >= stage for s in found), len(found)) for stage in range(1, last + 1)}


def _quantiles(seconds: Sequence[float]) -> dict[str, float | None]:
    known = np.array(seconds)
    return {name: float(np.percentile(known, q)) if len(known) else None for name, q in (("median", 50), ("p95", 95))}


def episode_details(env_id: str, records: Sequence[EpisodeRecord]) -> list[dict[str, Any]]:
    """List the numbers of each episode."""
    known = normalise(env_id, [r.strict_return for r in records])
    normalised: Sequence[float | None] = [None] * len(records) if known is None else known
    return [
        {
            "episode": r.number,
            "reset_seed": r.seed,
            "start": [float(v) for v in r.observations[0]],
            "goal": [float(v) for v in r.goal],
            "steps": r.steps,
            **({} if r.stage is None else {"stage": r.stage}),
            "strict_return": r.strict_return,
            "strict_score": score,
            "latched_return": r.latched_return,
            "success": r.first_reach is not None if r.judged else None,
            "first_reach_steps": r.first_reach,
            "collisions": r.collisions,
            "contact_steps": int(r.contact.sum()),
            "plans": len(r.telemetry.plans),
            "stuck_plans": sum(plan.stuck for plan in r.telemetry.plans),
            "plan_seconds": [plan.seconds for plan in r.telemetry.plans],
            "network_evaluations": sum(plan.network_evaluations for plan in r.telemetry.plans)
            + r.telemetry.action_evaluations,
        }
        for r, score in zip(records, normalised, strict=True)
    ]
