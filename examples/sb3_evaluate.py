"""Planners and algorithms side by side in stable-baselines3's own evaluation: evaluate_policy, Monitor, EvalCallback.

A SAC run is followed by an EvalCallback; the planner, and a policy that knows nothing, are judged by the same callback
on the same environments. Ends in a learning curve with the others as levels, and in an animation of the planner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sb3_common import CHEAP, finish, goal_env, level_line, options, part, planner, say
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from dfplan.plotting import Line, Panel, frames_gif
from dfplan_policies import DFPolicy, load_policy, run_episode
from dfplan_policies.sb3 import judge

NAME = "sb3-evaluate"


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run it."""
    args = options(__doc__, NAME, argv, env="maze2d-umaze-dense-v1", steps=12_000, episodes=10)
    if args.short:
        args.steps, args.episodes = 200, 2
    limit = 40 if args.short else None
    every = args.steps // (3 if args.short else 12)

    def environments(n: int) -> Any:
        return make_vec_env(lambda: goal_env(args.env, limit), n, seed=0)  # each in a Monitor

    pool = {
        "planner": DFPolicy(planner(), **CHEAP),
        "random": load_policy("random", act_dim=2),
    }

    def levels() -> dict[str, Any]:
        found: dict[str, Any] = {}
        callback = EvalCallback(environments(1), n_eval_episodes=args.episodes, eval_freq=1, verbose=0)
        for name, policy in pool.items():
            mean, spread = evaluate_policy(policy, environments(2), n_eval_episodes=args.episodes)
            by_callback = judge(callback, policy, environments(1))
            found[name] = {"mean": float(mean), "std": float(spread), "by_callback": by_callback}
            say(f"{name}: {found[name]}")
        return found

    def training() -> dict[str, Any]:
        log = args.out / "log"
        callback = EvalCallback(
            environments(1), n_eval_episodes=args.episodes, eval_freq=every, log_path=str(log), verbose=0
        )
        model = SAC("MultiInputPolicy", environments(1), learning_starts=100, seed=0, device="cpu", train_freq=2,
                    policy_kwargs={"net_arch": [64, 64]})  # fmt: skip
        model.learn(args.steps, callback=callback)
        means = [sum(row) / len(row) for row in callback.evaluations_results]
        return {"steps": [int(s) for s in callback.evaluations_timesteps], "mean": [float(m) for m in means]}

    result = {"levels": part(args, "levels", levels), "sac": part(args, "sac", training)}
    sac = result["sac"]
    lines = [Line("SAC", sac["steps"], sac["mean"])]
    lines += [level_line(name, row["by_callback"], args.steps) for name, row in result["levels"].items()]
    try:
        seen = goal_env(args.env, limit, render_mode="rgb_array")
        frames = run_episode(pool["planner"], seen, 0, frame_every=4).frames
        frames_gif(args.out / f"{NAME}.gif", frames)
    except Exception as error:  # noqa: BLE001  (no OpenGL here: the numbers do not need it)
        say(f"no animation: {error}")
    return finish(args, NAME, result, [Panel("One callback for all", "environment steps", "return", lines)])


if __name__ == "__main__":
    main()
