"""The loop: collect, train, evaluate; whatever is finished is on disk, and what is not is done again to the same bits.

Episode ``n`` is collected by the policy after round ``n // episodes`` and depends on the seed and ``n`` otherwise.
Training has its own exact resume (`dfplan.training`); a round counts when its ``round.json`` is there.
"""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from dfplan.checkpoint import VALUE_FILES, load_checkpoint
from dfplan.data.collecting import collect
from dfplan.data.episodes import Episodes
from dfplan.data.shards import ShardFolder
from dfplan.evaluation import evaluate, mean_stderr
from dfplan.evaluation.files import write_json
from dfplan.finetuning.config import FinetuneConfig
from dfplan.finetuning.folder import EVALUATION, RESULT, open_run
from dfplan.finetuning.results import copy_whole, publish
from dfplan.finetuning.task import Log, Task, make_task
from dfplan.returns import discounted_returns
from dfplan.tokens import Normalizer
from dfplan.training import TrainConfig, train, window_source
from dfplan.training_state import Start
from dfplan.value import ValueTraining, save_value, start_return, train_value
from dfplan.windows import Replay


def finetune(
    checkpoint: str | Path,
    env_id: str,
    data: Episodes,
    config: FinetuneConfig,
    folder: str | Path,
    *,
    device: str = "cpu",
    about: dict[str, Any] | None = None,
    log: Log | None = None,
    progress: bool = False,
) -> Path:
    """Fine-tune a planner online, or go on with the run that ``folder`` holds.

    Each round the policy acts in ``config.episodes`` episodes, which join the replay; the network is then trained on
    windows of which ``config.share`` are cut out of the replay and the others out of the data. Weights, their average
    and the optimiser's moments go on from round to round. The units of the network stay: layout and normaliser are the
    checkpoint's; of the returns' statistics only the quantiles, by which a return is asked for, become the mixture's.

    The folder gets ``checkpoint/``, the replay (``replay.npz``, and ``minari/replay-v0`` with the extra ``minari``),
    ``config.json``, ``metrics.json``, ``metrics.jsonl`` (a line per round) and ``learning_curve.png`` (extra ``viz``).

    Args:
        checkpoint: Bundled name, folder or Hub id.
        env_id: Any registered id whose spaces are those of the checkpoint.
        data: What the checkpoint was trained on, or other data of its columns.
        config: How.
        folder: Run folder.
        device: Where networks run.
        about: Stored, plain JSON values.
        log: Called with what happens: ``stage``, ``round``, ``done`` and ``total``, or ``row`` of a finished round, or
            ``text``.
        progress: Whether evaluations show a bar on standard error.

    Returns:
        The checkpoint's folder.

    Raises:
        ValueError: If checkpoint, environment and data do not go together, or the folder is another run's.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("fine-tuning runs in one process; start it without torchrun")
    folder = Path(folder)
    task = make_task(checkpoint, env_id, data, config, folder, device, log or (lambda row: None), progress)
    with closing(task.env):
        stored = open_run(folder, task.identity(), config.rounds, about or {})["about"]
        shards = ShardFolder(folder / "collected", task.identity())
        for number in range(config.rounds + 1):
            fresh = bool(number) and _round(task, shards, number, stored)
            fresh |= _evaluate(task, number)
            if fresh or number == config.rounds:
                publish(task, shards, number, stored)
    return folder / "checkpoint"


def _round(task: Task, shards: ShardFolder, number: int, about: dict[str, Any]) -> bool:
    """Collect and train; returns whether there was anything to do."""
    place = task.round(number)
    if (place / RESULT).is_file():
        return False
    _collect(task, shards, number)
    seen = task.replay(shards, number)
    replay, norm = Replay(seen, task.config.share), _norm(task, seen)
    config = task.config.training(task.base, number)
    _train(task, number, config, norm, replay, about)
    _train_value(task, number, config, norm, replay)
    new = seen.select(range((number - 1) * task.config.episodes, len(seen)))
    collected = {"episodes": len(new), "steps": new.steps, "return": mean_stderr(new.returns.tolist())}
    write_json(place / RESULT, {"round": number, "env_steps": seen.steps, "collected": collected})
    if number > 1:
        shutil.rmtree(task.round(number - 1) / "state", ignore_errors=True)  # no later round starts from there
    return True


def _collect(task: Task, shards: ShardFolder, number: int) -> None:
    """Collect what a round lacks; what has ended is kept whatever happens."""
    per, missing = task.config.episodes, shards.missing(number * task.config.episodes)
    if not missing:
        return
    policy = task.policy(number - 1)
    say = {"stage": "collect", "round": number, "total": per}
    task.log({**say, "done": per - len(missing)})
    try:
        for done, rollout in enumerate(collect([task.env], policy, missing, task.config.collecting()), 1):
            shards.add(rollout)
            task.log({**say, "done": per - len(missing) + done, "text": f"return {rollout.rewards.sum():.1f}"})
    finally:
        shards.flush()


def _norm(task: Task, seen: Episodes) -> Normalizer:
    """Return the checkpoint's statistics; of its returns the scale stays and the quantiles become the mixture's."""
    stats, share = task.base.norm.returns, task.config.share
    if stats is None:
        return task.base.norm
    both = (task.data, seen)
    parts = [discounted_returns(e.rewards, e.lengths, e.terminated, stats.discount) for e in both]
    return replace(task.base.norm, returns=stats.for_mixture(parts, [1 - share, share]))


def _train(
    task: Task, number: int, config: TrainConfig, norm: Normalizer, replay: Replay, about: dict[str, Any]
) -> None:
    """Train from where the last round ended."""
    first, base, place = number == 1, task.base, task.round(number)
    start = Start.from_weights(base.model.state_dict()) if first else Start.from_run(task.round(number - 1))
    origin = {
        **about,
        "finetuned": {**task.identity(), "round": number, "replay": replay.identity()["episodes"]},
        "base": base.provenance,
    }

    def watch(row: dict[str, Any]) -> None:
        text = f"loss {row['loss']:.4f}"
        task.log({"stage": "train", "round": number, "done": row["step"], "total": config.steps, "text": text})

    train(
        task.data, base.spec, norm, config, place, name=base.name, env=task.env_id, planner=base.planner,
        provenance=origin, device=task.device, log=watch, spaces=base.spaces, initial=start, replay=replay,
    )  # fmt: skip


def _train_value(task: Task, number: int, config: TrainConfig, norm: Normalizer, replay: Replay) -> None:
    """Let the learned return go on to be trained on the mixture, or keep it; nothing if there is none."""
    before, place, spec = task.checkpoint(number - 1), task.checkpoint(number), task.base.plan_spec
    if task.base.value is None or (place / VALUE_FILES[1]).is_file():
        return
    steps = task.config.value_steps
    if not steps or not spec.returns:
        copy_whole(before, place, VALUE_FILES)
        return
    value = load_checkpoint(before, device=task.device).value or task.base.value
    windows = window_source(task.data, spec, norm, replace(config, no_goal=0.0), replay)

    def watch(step: int, loss: float) -> None:
        say = {"stage": "learned return", "round": number, "done": step, "total": steps}
        task.log({**say, "text": f"loss {loss:.3f}"})

    training = ValueTraining(steps=steps, lr=config.lr, seed=config.seed)
    new = train_value(
        windows.draw, start_return(spec, norm), spec, value.config, training, device=task.device, progress=watch,
        initial=value,
    )  # fmt: skip
    about = {"steps": steps, "seed": config.seed, "of": "the return of a window's start", "round": number}
    save_value(new, place, about=about)


def _evaluate(task: Task, number: int) -> bool:
    """Judge the policy after a round, without noise; returns whether there was anything to do."""
    config, path = task.config, task.round(number) / EVALUATION
    if not config.evaluate_episodes or path.is_file():
        return False
    task.log({"stage": "evaluate", "round": number, "done": 0, "total": config.evaluate_episodes})
    report = evaluate(
        task.policy(number), task.env_id, config.evaluate_episodes, config.evaluation_seed, progress=task.progress
    )
    kept = {key: report.metrics[key] for key in ("episodes", "seed", "success_rate")}
    strict = {key: report.metrics[key]["strict"] for key in ("return", "score")}
    write_json(path, {**kept, **strict, "returns": [r.strict_return for r in report.records]})
    return True
