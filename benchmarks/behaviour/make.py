"""Make data of mixed quality: an SB3 agent learns, and at several ages it collects episodes.

    python benchmarks/behaviour/make.py pendulum

Stopped, it goes on: the agent from its last age, collecting from the last shard. The file is
``runs/behaviour/NAME/data.npz``; the agents lie beside it as ``agent-STEPS.zip``, safe to load with stable-baselines3.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dfplan.data.files import atomic_path


@dataclass(frozen=True)
class Task:
    """Say how data are made.

    Attributes:
        env: Gymnasium's id.
        algorithm: ``"sac"`` or ``"dqn"``.
        ages: Environment steps of learning after which the agent collects.
        episodes: How many each time.
        options: Arguments of the algorithm.
        noise: Of the actions while collecting, in halves of their range.
        epsilon: Share of random actions while collecting.
    """

    env: str
    algorithm: str
    ages: tuple[int, ...]
    episodes: int
    options: dict[str, Any] = field(default_factory=dict)
    noise: float = 0.0
    epsilon: float = 0.0


NET = {"policy_kwargs": {"net_arch": [128, 128]}}
TASKS = {
    "pendulum": Task(
        "Pendulum-v1", "sac", (500, 1500, 2500, 3500, 5000), 60, {**NET, "learning_starts": 300}, noise=0.1
    ),
    "halfcheetah": Task(
        "HalfCheetah-v5", "sac", (4_000, 10_000, 20_000, 35_000, 50_000), 40,
        {**NET, "batch_size": 128, "learning_starts": 2000, "learning_rate": 1e-3}, noise=0.1,
    ),
    "cartpole": Task(
        "CartPole-v1", "dqn", (2_000, 6_000, 10_000, 15_000, 20_000), 60,
        {"learning_rate": 1e-3, "learning_starts": 500, "train_freq": 4, "target_update_interval": 500,
         "exploration_fraction": 0.3, "gradient_steps": 2}, epsilon=0.1,
    ),
}  # fmt: skip


def learn(task: Task, folder: Path, seed: int) -> list[Path]:
    """Train the agent from age to age; returns its files."""
    import gymnasium
    import stable_baselines3

    algorithm: Any = {"sac": stable_baselines3.SAC, "dqn": stable_baselines3.DQN}[task.algorithm]
    files = [folder / f"agent-{age}.zip" for age in task.ages]
    if all(file.is_file() for file in files):
        return files
    agent = algorithm("MlpPolicy", gymnasium.make(task.env), seed=seed, device="cpu", **task.options)
    for i, (age, file) in enumerate(zip(task.ages, files, strict=True)):
        agent.learn(age - (task.ages[i - 1] if i else 0), reset_num_timesteps=i == 0, progress_bar=True)
        with atomic_path(file) as temporary:
            agent.save(temporary.with_suffix(".zip"))
            temporary.with_suffix(".zip").replace(temporary)
    return files


def run(*command: str) -> None:
    """Run a command of this package."""
    print("dfplan", *command, file=sys.stderr)
    subprocess.run([sys.executable, "-c", "from dfplan.cli import main; main()", *command], check=True)


def make(name: str, folder: Path, seed: int) -> Path:
    """Learn, collect and mix."""
    import torch

    torch.set_num_threads(1)
    task, data = TASKS[name], folder / "data.npz"
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for i, agent in enumerate(learn(task, folder, seed)):
        part = folder / f"part-{i}.npz"
        if not part.is_file():
            run("data", "collect", "--env", task.env, "--policy", f"sb3:{agent}", "--episodes", str(task.episodes),
                "--noise", str(task.noise), "--epsilon", str(task.epsilon), "--seed", str(seed + i),
                "--npz", str(part), "--out", str(folder / f"collect-{i}"))  # fmt: skip
        parts.append(str(part))
    if not data.is_file():
        run("data", "mix", *parts, "--npz", str(data))
    return data


def main() -> None:
    """Make one task's data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--out", type=Path, help="run folder (runs/behaviour/TASK)")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    print(make(chosen.task, chosen.out or Path("runs") / "behaviour" / chosen.task, chosen.seed))


if __name__ == "__main__":
    main()
