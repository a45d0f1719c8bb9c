"""Hierarchy: SAC with hindsight (HER) learns short moves in umaze; planners lead it through mazes it has never seen.

The agent sees where the next sub-goal is from here and its own velocity, never where it is. In training the umaze
planner proposes the sub-goals; in the larger mazes their own planners do, and the agent is not trained any further.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sb3_common import CHEAP, finish, goal_env, judged, learn, mean_line, options, part, planner, say, small_sac
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env

from dfplan.plotting import Panel
from dfplan_policies.sb3 import PlannerGoalWrapper, RelativeGoal

NAME = "sb3-hierarchy"


@cache
def remembered(size: str) -> Any:
    """Return a function that proposes paths; the first plan of each episode is made once and kept."""
    wrapper = PlannerGoalWrapper(goal_env(f"maze2d-multi-{size}-v1"), planner(f"maze2d-{size}"), **CHEAP)
    kept: dict[Any, Any] = {}

    def propose(observation: Any, goal: Any, episode: int, count: int) -> Any:
        key = (episode, count, observation.tobytes())
        if key not in kept:
            kept[key] = wrapper.propose(observation, goal, episode, count)
        return kept[key]

    return propose


def env_of(size: str, limit: int | None, ahead: float) -> Any:
    """Make a maze with goals all over it, seen through sub-goals."""
    return PlannerGoalWrapper(goal_env(f"maze2d-multi-{size}-v1", limit), remembered(size), ahead)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run it."""
    args = options(__doc__, NAME, argv, steps=12_000, ahead=0.6, episodes=8, train_freq=3)
    sizes, limit = ("umaze", "medium", "large"), None
    if args.short:
        args.steps, args.episodes, args.seeds, limit, sizes = 150, 1, 1, 50, ("umaze", "medium")
    every, starts = args.steps // (2 if args.short else 8), range(1000, 1000 + args.episodes)
    tests = {size: env_of(size, limit, args.ahead) for size in sizes}

    def run(seed: int) -> list[dict[str, float]]:
        env = make_vec_env(lambda: env_of("umaze", limit, args.ahead), 1, seed=seed)
        features = {"columns": (2, 3), "scale": args.ahead}
        model = small_sac(
            env, seed, args.train_freq, max(limit or 300, args.steps // 12) + 1, gamma=0.95,
            replay_buffer_class=HerReplayBuffer,
            policy_kwargs={"features_extractor_class": RelativeGoal, "features_extractor_kwargs": features},
        )  # fmt: skip
        judge = lambda: {size: judged(model, test, starts)["success"] for size, test in tests.items()}  # noqa: E731
        return learn(model, judge, args.steps, every, f"hierarchy {seed}")

    curves = [part(args, f"her-{seed}", lambda seed=seed: run(seed)) for seed in range(args.seeds)]
    ends = {size: [float(curve[-1][size]) for curve in curves] for size in sizes}
    say(f"success at the end: {ends}")
    lines = [mean_line(size, curves, size) for size in sizes]
    panel = Panel("Trained in umaze, led by planners", "environment steps", "success", lines, ylim=(-0.05, 1.05))
    return finish(args, NAME, {"curves": curves, "ends": ends}, [panel])


if __name__ == "__main__":
    main()
