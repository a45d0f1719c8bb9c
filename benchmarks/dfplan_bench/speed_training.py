"""What training costs until the planner scores: maze2d-umaze by the recipe, judged again and again on the way.

The averaged weights are saved at fixed steps of one training run and each is judged on the same starts; next to it
stands the training time of this machine up to there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dfplan import DFPlanner, TokenSpec
from dfplan.data import episodes_from_tours
from dfplan.evaluation import evaluate
from dfplan.plotting import Line, Panel, panels_figure
from dfplan.recipes import recipe_for
from dfplan.training import TrainConfig, train
from dfplan.windows import fit_normalizer
from dfplan_bench.common import mean_interval
from dfplan_bench.parts import kept
from dfplan_envs import get_normalized_score
from dfplan_envs.maze2d import generate_tour
from dfplan_policies import DFPolicy

MAZE, ENV = "maze2d-umaze", "maze2d-umaze-v1"
STEPS, EVERY, EPISODES, DATA_STEPS, SHARD = 3000, 250, 24, 200_000, 100_000


class Saver:
    """Copy the checkpoint at fixed steps, and count the seconds of training without what is done in between.

    Args:
        folder: The training's run folder.
        every: Steps between copies.
        total: Steps of the training.
    """

    def __init__(self, folder: Path, every: int, total: int) -> None:
        self.folder, self.every = folder, every
        self.bar = tqdm(total=total, desc=f"train {MAZE}", unit="step")
        self.seconds, self.last = 0.0, time.perf_counter()

    def __call__(self, row: dict[str, Any]) -> None:
        """Take one step's numbers."""
        self.seconds += time.perf_counter() - self.last
        step = int(row["step"])
        if step % self.every == 0:
            shutil.copytree(self.folder / "checkpoint", self.folder / f"at-{step}", dirs_exist_ok=True)
            (self.folder / f"at-{step}" / "seconds.txt").write_text(f"{self.seconds}\n")
        self.bar.update(1)
        self.last = time.perf_counter()


def trained(folder: Path, steps: int, every: int, data_steps: int, seed: int) -> list[int]:
    """Train, unless it has been done; returns the steps at which there is a checkpoint."""
    marks = list(range(every, steps + 1, every))
    if all((folder / f"at-{step}" / "seconds.txt").is_file() for step in marks):
        return marks
    recipe = recipe_for(ENV)
    shards = range(0, data_steps, SHARD)
    tours = [generate_tour("umaze", min(SHARD, data_steps - begin), [seed, begin], noisy=True) for begin in shards]
    episodes = episodes_from_tours(tours)
    spec = TokenSpec(episodes.observations.shape[1], episodes.actions.shape[1], recipe.stride, recipe.horizon)
    shutil.rmtree(folder, ignore_errors=True)
    config = TrainConfig(steps=steps, seed=seed, save_every=every, holdout=0.0, warmup=min(300, steps // 4))
    saver = Saver(folder, every, steps)
    train(episodes, spec, fit_normalizer(episodes, spec.stride), config, folder, name=MAZE, env=ENV, log=saver)
    saver.bar.close()
    return marks


def judge(folder: Path, episodes: int, seed: int) -> dict[str, Any]:
    """Score one checkpoint."""
    report = evaluate(DFPolicy(DFPlanner.from_pretrained(folder), seed=seed), ENV, episodes, seed)
    scores = [100.0 * get_normalized_score(ENV, r.strict_return) for r in report.records]
    return {"score": mean_interval(scores), "success_rate": report.metrics["success_rate"]}


def run(out: Path, *, seed: int = 0, quick: bool = False, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train once, judge every checkpoint."""
    steps, every, episodes, data_steps = (8, 4, 2, 20_000) if quick else (STEPS, EVERY, EPISODES, DATA_STEPS)
    folder = out / f"train-{steps}-{every}-{seed}"
    rows = []
    for step in tqdm(trained(folder, steps, every, data_steps, seed), desc="judge", unit="checkpoint"):
        at = folder / f"at-{step}"
        what = {"step": step, "steps": steps, "every": every, "data": data_steps, "episodes": episodes, "seed": seed}

        def one(at: Path = at) -> dict[str, Any]:
            return judge(at, episodes, seed)

        seconds = float((at / "seconds.txt").read_text())
        rows.append({"step": step, "seconds": seconds, **kept(out, "judged", what, one)})
    line = Line("", [r["step"] for r in rows], [r["score"]["mean"] for r in rows],
                [r["score"]["stderr"] if r["score"]["count"] > 1 else 0.0 for r in rows])  # fmt: skip
    panels_figure(out / "speed-training.png", [Panel(MAZE, "training steps", "strict score", lines=[line])])
    best = max(rows, key=lambda r: r["score"]["mean"])
    headline = [f"{MAZE}: {best['score']['mean']:.1f} after {best['step']} steps, {best['seconds'] / 60:.1f} minutes"]
    return {
        "headline": headline, "rows": rows, "steps": steps, "batch": TrainConfig().batch, "data_steps": data_steps,
        "episodes": episodes, "maze": MAZE, "threads": torch.get_num_threads(),
    }  # fmt: skip
