"""How far the ball is from the planned states when the model's own actions move it.

    python benchmarks/open_loop_gap.py --json benchmarks/results/open-loop-gap-large.json

``open_loop``: the actions of one plan are applied one after the other, without feedback. ``requery``: the plan is kept,
and at every step the model is asked for the next action from the measured state. The ball is compared with the plan at
every token.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from tqdm import trange

import dfplan_envs  # noqa: F401  (registers the ids)
from dfplan import DFPlanner, Plan
from dfplan.evaluation import mean_stderr
from dfplan_bench.common import CAREFUL_PLAN
from result import finish


def rollout(
    env: Any, planner: DFPlanner, plan: Plan, tokens: int, requery: bool, generator: torch.Generator
) -> list[float]:
    """Return the distance between ball and plan, in cells, after 1..tokens tokens."""
    gaps = []
    state = env.get_state()
    for step in range(tokens * plan.stride):
        if requery:
            times = torch.tensor([[step + (i + 1.0) * plan.stride for i in range(4)]])
            action = planner.first_actions(state, plan.states_at(times), generator=generator)[0, 0]
        else:
            action = plan.actions[0, step]  # type: ignore[index]  # asked for with actions=True
        state = env.step(action.clamp(-1, 1).numpy())[0]
        if (step + 1) % plan.stride == 0:
            planned = plan.observations[0, (step + 1) // plan.stride, :2].numpy()
            gaps.append(float(np.linalg.norm(state[:2] - planned)))
    return gaps


def summarise(rows: list[list[float]], stride: int) -> list[dict[str, Any]]:
    """Turn gaps (starts, tokens), NaN past the arrival, into one entry per token."""
    out = []
    for t, column in enumerate(np.array(rows).T):
        found = column[np.isfinite(column)]
        p90 = float(np.quantile(found, 0.9)) if len(found) else None
        out.append({"steps": (t + 1) * stride, **mean_stderr(list(found)), "p90": p90, "starts": len(found)})
    return out


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="maze2d-large-v1")
    parser.add_argument("--checkpoint", default="maze2d-large")
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    planner, env = DFPlanner.from_pretrained(args.checkpoint), gym.make(args.env).unwrapped
    gaps: dict[str, list[list[float]]] = {"open_loop": [], "requery": []}
    for i in trange(args.starts):
        obs, info = env.reset(seed=args.seed * 100_000 + i)
        generator = torch.Generator().manual_seed(i)
        plan = planner.plan(obs, goal=info["goal"], actions=True, generator=generator, **CAREFUL_PLAN)
        arrival = float(plan.arrival_steps[0, plan.selected[0]])
        tokens = int(min(args.tokens, arrival // plan.stride))
        for name, rows in gaps.items():
            env.set_state(obs)
            found = rollout(env, planner, plan, tokens, name == "requery", generator)
            rows.append(found + [float("nan")] * (args.tokens - tokens))
    result: dict[str, Any] = {"benchmark": "open_loop_gap", "env": args.env, "checkpoint": args.checkpoint}
    result |= {"starts": args.starts, "seed": args.seed, "unit": "cells"}
    finish(result | {name: summarise(rows, planner.spec.stride) for name, rows in gaps.items()}, args.json)


if __name__ == "__main__":
    main()
