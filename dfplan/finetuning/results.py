"""What a run leaves behind: metrics, the replay, a learning curve, and the checkpoint after the last round."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from gymnasium import Env
from gymnasium.envs.registration import EnvSpec

from dfplan.checkpoint import CONFIG, VALUE_FILES, WEIGHTS
from dfplan.data.files import atomic_path
from dfplan.data.minari_io import save_minari
from dfplan.data.npz import save_npz
from dfplan.data.shards import ShardFolder
from dfplan.evaluation import mean_stderr
from dfplan.evaluation.files import plain, write_json
from dfplan.finetuning.folder import EVALUATION, RESULT
from dfplan.finetuning.task import Task
from dfplan.plotting import Line, Panel, panels_figure

REPLAY_ID, MINARI = "replay-v0", "minari"  # the dataset's id in the run's own folder of datasets
CURVE = "learning_curve.png"


def publish(task: Task, shards: ShardFolder, number: int, about: dict[str, Any]) -> None:
    """Write the results after a round; each file appears whole or not at all, the checkpoint last."""
    found = rows(task, number)
    text = "".join(json.dumps(plain(row)) + "\n" for row in found)
    with atomic_path(task.folder / "metrics.jsonl") as path:
        path.write_text(text)
    whole = {
        "env": task.env_id,
        "base": task.base.name,
        "seed": task.config.seed,
        "evaluation_seed": task.config.evaluation_seed,
        "data": {"episodes": len(task.data), "return": mean_stderr(task.data.returns.tolist())},
        "rounds": found,
    }
    write_json(task.folder / "metrics.json", whole)
    if number:
        _publish_replay(task, shards, number, about)
        copy_whole(task.checkpoint(number), task.folder / "checkpoint", (WEIGHTS, *VALUE_FILES, CONFIG))
    try:
        draw_curve(whole, task.folder / CURVE)
    except ImportError as error:
        task.log({"stage": "note", "round": number, "text": f"no learning curve: {error}"})
    task.log({"stage": "result", "round": number, "row": found[-1]})


def rows(task: Task, number: int) -> list[dict[str, Any]]:
    """Return one entry per round, the first of before any: what was collected in it, and the evaluation after it."""
    found = []
    for n in range(number + 1):
        row: dict[str, Any] = {"round": n, "env_steps": 0, "collected": None}
        if n:
            row |= json.loads((task.round(n) / RESULT).read_text())
        judged = task.round(n) / EVALUATION
        found.append({**row, "evaluated": json.loads(judged.read_text()) if judged.is_file() else None})
    return found


def draw_curve(metrics: dict[str, Any], path: Path) -> Path:
    """Draw returns over the environment steps that the policy has learned from; bands are standard errors.

    Raises:
        ImportError: If the extra ``viz`` is not installed.
    """
    found = metrics["rounds"]
    judged = [(row["env_steps"], row["evaluated"]["return"]) for row in found if row["evaluated"]]
    acting = [(a["env_steps"], b["collected"]["return"]) for a, b in pairwise(found)]
    lines = [_line("evaluated, without noise", judged), _line("while collecting", acting)]
    end, level = max(found[-1]["env_steps"], 1), metrics["data"]["return"]["mean"]
    reference = Line("mean of the old data", [0, end], [level, level], dashed=True)
    panel = Panel(
        f"{metrics['env']}: {metrics['base']} fine-tuned", "environment steps learned from", "return",
        lines=[*(line for line in lines if len(line.x)), reference],
    )  # fmt: skip
    return panels_figure(path, [panel], height_in=3.2, dpi=120)


def _line(label: str, points: list[tuple[int, dict[str, Any]]]) -> Line:
    errors = [found["stderr"] or 0.0 for _, found in points]
    return Line(label, [step for step, _ in points], [found["mean"] for _, found in points], errors)


def copy_whole(source: Path, target: Path, names: Iterable[str]) -> None:
    """Copy those of the named files that are there, each whole or not at all, in the given order."""
    for name in names:
        if (source / name).is_file():
            with atomic_path(target / name) as path:
                path.write_bytes((source / name).read_bytes())


def _publish_replay(task: Task, shards: ShardFolder, number: int, about: dict[str, Any]) -> None:
    command = str(about.get("command", "dfplan.finetuning.finetune"))
    replay = task.replay(shards, number, command)
    save_npz(replay, task.folder / "replay.npz")
    try:
        save_minari(
            task.native(shards, number), REPLAY_ID, meta=replay.meta, env_spec=_storable(task.env),
            metadata=replay_metadata(task, number, command), overwrite=True, root=task.folder / MINARI,
        )  # fmt: skip
    except ImportError as error:
        task.log({"stage": "note", "round": number, "text": f"no Minari dataset, replay.npz only: {error}"})


def _storable(env: Env[Any, Any]) -> EnvSpec | None:
    """Return an environment's specification; None if it names its class by itself and not by a text."""
    try:
        if env.spec is not None:
            env.spec.to_json()
    except (ValueError, TypeError):
        return None
    return env.spec


def replay_metadata(task: Task, number: int, command: str) -> dict[str, Any]:
    """Describe the replay in Minari's own keys."""
    return {
        "author": {"dfplan"},
        "algorithm_name": f"DFPolicy, {task.base.name} fine-tuned online",
        "description": f"{task.env_id}: {number * task.config.episodes} episodes of {number} rounds of fine-tuning.",
        "requirements": ["gymnasium>=1.0"],
        "code_permalink": command,
    }
