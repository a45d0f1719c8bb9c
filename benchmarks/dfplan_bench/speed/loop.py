"""Closed loop: one environment and one policy, with a plan every 50 steps, as fast as it goes and at 100 Hz."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from dfplan_bench.speed import ours
from dfplan_bench.speed.clock import threads
from dfplan_envs.wrappers import GoalObservation
from dfplan_policies import DFPolicy, PlanView

RATE_HZ, REPLAN = 100.0, 50
SETTINGS: dict[str, Mapping[str, Any]] = {
    "defaults": {},
    "5 steps, slope 0": ours.FAST,
    "defaults, asynchronous": {"asynchronous": True},
    "5 steps, slope 0, asynchronous": {**ours.FAST, "asynchronous": True},
}


def drive(policy: DFPolicy, steps: int, seed: int, rate_hz: float | None) -> dict[str, Any]:
    """Take control steps on the way to the goal (an episode ends where it is reached), and time each.

    Args:
        policy: What acts.
        steps: Control steps in all.
        seed: Of the starts.
        rate_hz: Steps a second that the loop keeps to where it can; None is as fast as it goes.

    Returns:
        Steps a second, and the time of a step (acting and simulating) in milliseconds. The first step of an episode,
        which always waits for a plan, is counted in the former only.
    """
    env = GoalObservation(gymnasium.make(f"{ours.MAZE}-v1", disable_env_checker=True))
    taken, busy, times, episode = 0, 0.0, [], 0
    plans: list[PlanView] = []
    while taken < steps:
        observation, info = env.reset(seed=seed + episode)
        state, reached, first, due = policy.start([episode]), False, True, time.perf_counter()
        while not reached and taken < steps:
            began = time.perf_counter()
            batch = {name: np.asarray(value)[None] for name, value in observation.items()}
            action, state = policy.predict(batch, state, np.array([first]))
            observation, _, terminated, truncated, info = env.step(action[0])
            spent = time.perf_counter() - began
            busy, taken = busy + spent, taken + 1
            if not first:
                times.append(spent)
            first, reached = False, bool(info["success"]) or terminated or truncated
            if rate_hz is not None:
                due = max(due + 1 / rate_hz, time.perf_counter())
                time.sleep(max(0.0, due - time.perf_counter()))
        plans += policy.telemetry(state)[0].plans
        episode += 1
    env.close()
    policy.close()
    ms = 1000 * np.array(times)
    return {
        "steps_per_second": taken / busy, "median_ms": float(np.median(ms)), "p99_ms": float(np.quantile(ms, 0.99)),
        "worst_ms": float(ms.max()), "share_over_10_ms": float((ms > 10).mean()), "steps": taken, "episodes": episode,
        "plans": len(plans), "plan_ms": 1000 * float(np.median([p.seconds for p in plans])),
    }  # fmt: skip


def closed_loop(quick: bool, seed: int) -> list[dict[str, Any]]:
    """Time all settings on two threads; the asynchronous ones at 100 Hz only, where a plan has time to be made."""
    rows, steps = [], 60 if quick else 2000
    for name, options in list(SETTINGS.items())[1::2] if quick else SETTINGS.items():
        for rate in (None, RATE_HZ):
            if rate is None and "asynchronous" in options:
                continue
            with threads(1 if "asynchronous" in options else 2):  # the other core controls
                policy = DFPolicy(ours.planner("auto"), replan_every=REPLAN, seed=seed, **options)
                ours.plan(policy.planner, **{k: v for k, v in options.items() if k != "asynchronous"})  # type: ignore[arg-type]
                found = drive(policy, steps, seed, rate)
            rows.append({"setting": name, "rate_hz": rate, **found})
    return rows
