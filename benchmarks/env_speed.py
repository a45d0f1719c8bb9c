"""Measure the environment's bare steps per second on one core, and the data generator's.

    python benchmarks/env_speed.py --json benchmarks/results/env-speed.json
    python benchmarks/env_speed.py --env fruit-swap --steps 1000 --json benchmarks/results/env-speed-arm.json

Run it on an idle machine: the best of several rounds is reported, and the load beside it.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from tqdm import tqdm

import dfplan_envs
from dfplan_envs.maze2d import generate_tour
from result import finish


def best_rate(run: Any, steps: int, rounds: int) -> float:
    """Return steps per second of wall-clock time, the best of several rounds."""
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return steps / min(seconds)


def step_rate(env: gymnasium.Env[Any, Any], steps: int, rounds: int) -> float:
    """Time `step` with random actions, each held for ten steps, so that walls are met."""
    env.reset(seed=0)
    width = env.action_space.shape[0] if env.action_space.shape else 1
    drawn = np.random.default_rng(0).uniform(-1, 1, size=(steps // 10, width))
    actions = list(drawn.astype(np.float32).repeat(10, axis=0))

    def run() -> None:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return best_rate(run, len(actions), rounds)


def reset_rate(env: gymnasium.Env[Any, Any], resets: int, rounds: int) -> float:
    """Time `reset` without a seed."""

    def run() -> None:
        for _ in range(resets):
            env.reset()

    return best_rate(run, resets, rounds)


def measure(env_id: str, steps: int, rounds: int) -> dict[str, Any]:
    """Measure one environment."""
    full = dfplan_envs.resolve(env_id)
    env = gymnasium.make(full)
    found: dict[str, Any] = {
        "env": full,
        "bare_steps_per_second": round(step_rate(env.unwrapped, steps, rounds)),
        "wrapped_steps_per_second": round(step_rate(env, steps, rounds)),
        "resets_per_second": round(reset_rate(env.unwrapped, steps // 10, rounds)),
    }
    if env.has_wrapper_attr("maze"):
        maze = env.get_wrapper_attr("maze")
        made = best_rate(lambda: generate_tour(maze, steps, 0, True), steps, rounds)
        return {**found, "generated_steps_per_second": round(made)}
    dt_s = next(info.dt_s for info in dfplan_envs.list_envs() if info.id == full)
    return {**found, "times_real_time": round(found["bare_steps_per_second"] * dt_s, 1)}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", default=["maze2d-umaze", "maze2d-medium", "maze2d-large"], help="ids")
    parser.add_argument("--steps", type=int, default=100_000, help="steps per round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the best counts")
    parser.add_argument("--json", type=Path, help="write the result to this file too")
    arguments = parser.parse_args()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    rows = [measure(env_id, arguments.steps, arguments.rounds) for env_id in tqdm(arguments.env)]
    settings = {"steps": arguments.steps, "rounds": arguments.rounds, "load_before": load}
    finish({"benchmark": "env_speed", **settings, "rows": rows}, arguments.json)


if __name__ == "__main__":
    main()
