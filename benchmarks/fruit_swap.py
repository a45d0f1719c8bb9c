"""Train what the benchmark `fruit-swap` compares with: into runs/fruit-swap, from the demonstrations.

cd runs/fruit-swap
dfplan data make fruit-swap --episodes 1500 --pushed 0.6 --no-minari --npz state-1.npz
dfplan data make fruit-swap --episodes 1000 --seed 1 --pushed 1 --pushes 3 --no-minari --npz state-2.npz
dfplan data mix state-1.npz state-2.npz --npz state.npz
cd ../..
python benchmarks/fruit_swap.py memoryless next-frame cloning
dfplan data make fruit-swap --episodes 600 --obs both
python benchmarks/fruit_swap.py memoryless-image next-frame-image

With objects that do not matter in a third of the demonstrations, as a policy of its own:

dfplan data make fruit-swap --episodes 280 --obs both --seed 1 --distracted 1 --distractors 6 --id ID
python benchmarks/fruit_swap.py fruit-swap-distracted

ID is fruit-swap/distracted-64-v0.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MADE = Path("runs") / "fruit-swap"
STATE = ["--data", str(MADE / "state.npz")]
IMAGE = [
    "--data",
    "fruit-swap/both-64-v0",
    "--obs",
    "image",
    "--encoder",
    str(MADE / "fruit-swap-image" / "encoder" / "checkpoint"),
]
DISTRACTED = "fruit-swap/both-64-v0,fruit-swap/distracted-64-v0"
FORGETFUL = ["--forgetful", "--horizon", "1", "--batch", "512", "--steps", "2000"]
NEXT = ["--levels", "teacher_forcing", "--steps", "4000"]
OPTIONS = {
    "fruit-swap": STATE,
    "memoryless": [*STATE, *FORGETFUL],
    "next-frame": [*STATE, *NEXT],
    "fruit-swap-image": [*IMAGE[:4], "--encoder-steps", "3000"],
    "fruit-swap-distracted": ["--data", DISTRACTED, "--obs", "image", "--encoder-steps", "3000"],
    "memoryless-image": [*IMAGE, *FORGETFUL],
    "next-frame-image": [*IMAGE, *NEXT],
}
CLONING_STEPS = 4000


def train(name: str, more: list[str]) -> None:
    """Train one of them; a run that was stopped goes on."""
    if name == "cloning":
        from dfplan.cli.train_layout import imitable, select
        from dfplan.data import load_episodes
        from dfplan.episode import EpisodeSpec
        from dfplan.recipes import RECIPES
        from dfplan_bench.fruit_swap import cloning

        recipe = RECIPES["fruit-swap"]
        episodes = imitable(load_episodes(STATE[1]), recipe.gripper or 0, print)
        episodes = select(episodes, recipe.columns, recipe.differences)
        widths = episodes.observations.shape[1], episodes.actions.shape[1]
        spec = EpisodeSpec(*widths, recipe.stride, recipe.horizon, recipe.dt_s)
        cloning.save(cloning.train(episodes, spec, CLONING_STEPS, 0), MADE / name)
        return
    if name not in OPTIONS:
        raise SystemExit(f"unknown name {name!r}; there are {', '.join([*OPTIONS, 'cloning'])}")
    command = ["dfplan", "train", "--env", "fruit-swap", "--out", str(MADE / name), *OPTIONS[name], *more]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    names = [word for word in sys.argv[1:] if not word.startswith("-") and not word.isdigit()]
    rest = [word for word in sys.argv[1:] if word not in names]
    for chosen in names:
        train(chosen, rest)
