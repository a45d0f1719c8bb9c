"""Warm start: SAC's buffer is filled by a planner, critics and actor begin with that; against learning from scratch.

The same seeds, networks and evaluations for both. Counted are the environment steps of learning, and beside them those
that include the planner's own. The threshold is a share of the planner's mean return above that of random actions.
"""

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
from dfplan_policies import DFPolicy, load_policy
from dfplan_policies.sb3 import fill_replay_buffer, imitate_buffer

NAME = "sb3-warm-start"


def reached(curve: list[dict[str, float]], threshold: float) -> int | None:
    """Return the steps at which a curve is first at the threshold, or None."""
    return next((int(p["steps"]) for p in curve if p["return"] >= threshold), None)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run it."""
    args = options(
        __doc__, NAME, argv, env="maze2d-umaze-dense-v1", policy="df", steps=9_000, fill=3_000, pretrain=2_000,
        imitate=2_000, noise=0.3, share=0.8, episodes=8, train_freq=3, lr=1e-3, gamma=0.98,
    )  # fmt: skip
    limit = None
    if args.short:
        args.steps, args.fill, args.pretrain, args.imitate, args.episodes, args.seeds, limit = 120, 80, 10, 10, 2, 1, 40
    every, starts = args.steps // (3 if args.short else 15), range(1000, 1000 + args.episodes)

    def teacher() -> Any:
        return DFPolicy(planner(), **CHEAP) if args.policy == "df" else load_policy(args.policy, act_dim=2)

    def run(arm: str, seed: int) -> dict[str, Any]:
        env = make_vec_env(lambda: goal_env(args.env, limit), 1, seed=seed)
        begin = 0 if arm == "warm" else min(1000, args.steps // 4)
        model = small_sac(
            env, seed, args.train_freq, begin, learning_rate=args.lr, gamma=args.gamma, ent_coef="auto_0.02"
        )
        extra = 0
        if arm == "warm":
            filled = fill_replay_buffer(model, teacher(), steps=args.fill, noise=args.noise, seed=seed)
            extra = filled.steps
            say(f"warm {seed}: {extra} steps of the planner, return {np.mean(filled.returns or (np.nan,)):.1f}")
            model._setup_learn(1)  # a logger, which train() wants
            model.train(args.pretrain, model.batch_size)
            if args.imitate:
                loss = imitate_buffer(model, args.imitate)[-1]
                say(f"warm {seed}: the actor imitates the buffer, loss {loss:.3f}")
        test = goal_env(args.env, limit)
        curve = learn(model, lambda: judged(model, test, starts), args.steps, every, f"{arm} {seed}")
        return {"curve": curve, "planner_steps": extra}

    levels = part(args, "levels", lambda: {
        name: judged(policy, goal_env(args.env, limit), starts)["return"]
        for name, policy in (("planner", teacher()), ("random", load_policy("random", act_dim=2)))
    })  # fmt: skip
    threshold = levels["random"] + args.share * (levels["planner"] - levels["random"])
    arms: dict[str, list[Any]] = {"warm": [], "scratch": []}
    for seed in range(args.seeds):
        for arm, found in arms.items():
            found.append(part(args, f"{arm}-{seed}", lambda arm=arm, seed=seed: run(arm, seed)))
    steps = {arm: [reached(row["curve"], threshold) for row in rows] for arm, rows in arms.items()}
    extra = [row["planner_steps"] for row in arms["warm"]]
    result = {
        "levels": levels, "threshold": threshold, "arms": arms, "steps_to_threshold": steps,
        "with_planner_steps": [None if s is None else s + e for s, e in zip(steps["warm"], extra, strict=True)],
        "not_reached_within": args.steps,
    }  # fmt: skip
    say(f"threshold {threshold:.1f} reached after {steps}; with the planner's steps {result['with_planner_steps']}")
    lines = [mean_line(arm, [row["curve"] for row in rows], "return") for arm, rows in arms.items()]
    lines += [level_line("threshold", threshold, args.steps)]
    return finish(args, NAME, result, [Panel("SAC with a planner's episodes", "environment steps", "return", lines)])


if __name__ == "__main__":
    main()
