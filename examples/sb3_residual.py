"""Residual learning: SAC learns a correction on top of a planner that is cheap and slow on its feet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sb3_common import (
    CHEAP,
    finish,
    goal_env,
    judged,
    learn,
    level_line,
    mean_line,
    options,
    part,
    planner,
    say,
    small_sac,
)
from stable_baselines3.common.env_util import make_vec_env

from dfplan.plotting import Panel
from dfplan_policies import DFPolicy
from dfplan_policies.sb3 import ResidualActionWrapper

NAME = "sb3-residual"


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run it."""
    args = options(
        __doc__, NAME, argv, env="maze2d-umaze-dense-v1", steps=12_000, scale=0.5, lookahead=0.3, episodes=16,
        train_freq=3,
    )  # fmt: skip
    limit = None
    if args.short:
        args.steps, args.episodes, args.seeds, limit = 120, 2, 1, 40
    every, starts = args.steps // (3 if args.short else 12), range(1000, 1000 + args.episodes)

    def base() -> DFPolicy:
        follow = {"lookahead": args.lookahead, "gain_p": 4.0}  # short-sighted and soft: it leaves room
        return DFPolicy(planner(), "path", replan_every=300, executor_options=follow, **CHEAP)

    def wrapped() -> Any:
        return ResidualActionWrapper(goal_env(args.env, limit), base(), args.scale, observe_base=True)

    def run(seed: int) -> list[dict[str, float]]:
        env = make_vec_env(wrapped, 1, seed=seed)
        model = small_sac(env, seed, args.train_freq, min(600, args.steps // 4), ent_coef="auto_0.1")
        model.actor.mu.weight.data.mul_(0.01)  # the first correction is none
        test = wrapped()
        return learn(model, lambda: judged(model, test, starts), args.steps, every, f"residual {seed}")

    alone = part(args, "base", lambda: judged(base(), goal_env(args.env, limit), starts))
    say(f"base policy: {alone}")
    curves = [part(args, f"residual-{seed}", lambda seed=seed: run(seed)) for seed in range(args.seeds)]
    ends = [float(curve[-1]["return"]) for curve in curves]
    result = {"base": alone, "curves": curves, "ends": ends, "gain": float(np.mean(ends)) - alone["return"]}
    say(f"base {alone['return']:.1f}, with corrections {np.mean(ends):.1f}")
    lines = [
        mean_line("with SAC's corrections", curves, "return"),
        level_line("base policy", alone["return"], args.steps),
    ]
    return finish(args, NAME, result, [Panel("Corrections on top of a planner", "environment steps", "return", lines)])


if __name__ == "__main__":
    main()
