"""`dfplan finetune`: a planner acts, is trained on what it did, and acts again. Heavy imports are inside."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dfplan.cli import options as o
from dfplan.cli.data_common import AuthorOption, EmailOption, OverwriteFlag, say, stops_cleanly

INTERRUPTED = 130


def finetune_command(
    env: Annotated[str, typer.Option(help="Environment whose spaces are the checkpoint's, for example Pendulum-v1.")],
    checkpoint: o.CheckpointName = None,
    data: Annotated[
        str | None, typer.Option(help="Old data, Minari id or file; for mazes the default makes the recipe's.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times to collect and train; more than there are go on.")] = 5,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes collected per round.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps per round.")] = 500,
    share: Annotated[float, typer.Option(help="Share of training windows that are cut out of the replay.")] = 0.5,
    noise: Annotated[
        float, typer.Option(help="Std of Gaussian noise on Box actions while collecting, in halves of their range.")
    ] = 0.0,
    epsilon: Annotated[float, typer.Option(help="Probability of a random action while collecting.")] = 0.0,
    target_return: Annotated[
        str | None,
        typer.Option(metavar="NUMBER|none", help="Return to ask for, in rewards per step, if there are returns."),
    ] = None,
    samples: o.Samples = None,
    lr: Annotated[float, typer.Option(help="Peak learning rate of a round.")] = 3e-4,
    batch: Annotated[int, typer.Option(help="Windows per optimiser step.")] = 128,
    ema: Annotated[float, typer.Option(help="Decay of the averaged weights, which act.")] = 0.995,
    value_steps: Annotated[
        int, typer.Option(help="Steps per round of the learned return, if there is one; 0 keeps it as it is.")
    ] = 500,
    evaluate_episodes: Annotated[
        int, typer.Option(help="Episodes without noise before the first round and after each; 0: none.")
    ] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of starts, noise, windows and levels.")] = 0,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    device: o.Device = "cpu",
    threads: o.Threads = None,
    save_every: Annotated[int, typer.Option(help="Optimiser steps between resumable states.")] = 100,
    dataset_id: Annotated[
        str | None,
        typer.Option("--id", help="Also write the replay into Minari's folder, under this id.", metavar="ID"),
    ] = None,
    overwrite: OverwriteFlag = False,
    author: AuthorOption = "dfplan",
    author_email: EmailOption = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; one that exists is resumed.")] = None,
    json: o.Json = False,
) -> None:
    """Fine-tune a planner online: collect with it, train on old data and replay, and again.

    Stopped at any moment and called again, it goes on where it was, to the same bits.
    """
    with stops_cleanly():
        import torch

        from dfplan.checkpoint import locate, read_config
        from dfplan.cli.train import _provenance
        from dfplan.cli.train_data import load_data
        from dfplan.finetuning import FinetuneConfig, finetune
        from dfplan_envs import resolve

        if threads is not None:
            torch.set_num_threads(threads)
        o.check_device(device)
        env_id = resolve(env)
        folder = out or Path("runs") / f"finetune-{env_id.rpartition('/')[2].replace(':', '-')}"
        chosen = o.given(target_return=o.number_or_word(target_return), samples=samples)
        config = FinetuneConfig(
            rounds, episodes, steps, share, noise, epsilon, lr, batch, ema, value_steps, evaluate_episodes, seed,
            precision, save_every, chosen,
        )  # fmt: skip
        if dataset_id is not None:
            from dfplan.cli.data_common import check_outputs

            check_outputs(dataset_id, True, None, overwrite, f"leave --id out, the replay is in {folder}")
        source = o.choose_checkpoint(checkpoint, env_id)
        o.warn_if_foreign(str(read_config(locate(source)).get("env", "")), env_id)
        old, origin = load_data(env_id, data, seed, say)
        shown = _Show()
        try:
            path = finetune(
                source, env_id, old, config, folder, device=device, about=_provenance(origin), log=shown, progress=True
            )
        except KeyboardInterrupt:
            shown.close()
            say(f"\nstopped in {shown.doing}; the same command goes on from there")
            raise typer.Exit(INTERRUPTED) from None
        finally:
            shown.close()
        if dataset_id is not None:
            _register(folder, dataset_id, overwrite, env_id, author, author_email)
        _report(folder, path, env_id, json)


def _register(
    folder: Path, dataset_id: str, overwrite: bool, env_id: str, author: str, author_email: str | None
) -> None:
    """Write the replay into Minari's folder: a copy of the run's own dataset under another id."""
    from dfplan.cli.data_common import authors
    from dfplan.data.minari_io import copy_minari
    from dfplan.finetuning.results import MINARI, REPLAY_ID

    copy_minari(folder / MINARI / REPLAY_ID, dataset_id, overwrite=overwrite, metadata=authors(author, author_email))
    say(f"replay: {dataset_id}; train on it: dfplan train --env {env_id} --data {dataset_id}")


class _Show:
    """Show what goes on as bars, and a line for each finished round."""

    def __init__(self) -> None:
        self.doing, self.key = "its first steps", ("", -1)
        self.bar: Any = None
        self.said: set[str] = set()

    def __call__(self, event: dict[str, Any]) -> None:
        """Take one event of `dfplan.finetuning.finetune`."""
        stage, number = event["stage"], event["round"]
        if stage == "note":
            if event["text"] not in self.said:
                self.said.add(event["text"])
                say(event["text"])
        elif stage == "result":
            self.close()
            say(describe(event["row"]))
        else:
            self._advance(stage, number, event)

    def _advance(self, stage: str, number: int, event: dict[str, Any]) -> None:
        from tqdm import tqdm

        if (stage, number) != self.key:
            self.close()
            self.key, self.doing = (stage, number), f"round {number} ({stage})"
            if stage == "evaluate":  # it has a bar of its own
                return
            self.bar = tqdm(total=event["total"], desc=f"round {number}: {stage}", file=sys.stderr, dynamic_ncols=True)
        if self.bar is not None:
            self.bar.n = event["done"]
            self.bar.set_postfix_str(event.get("text", ""), refresh=False)
            self.bar.update(0)

    def close(self) -> None:
        """Finish the bar."""
        if self.bar is not None:
            self.bar.close()
        self.bar = None


def describe(row: dict[str, Any]) -> str:
    """Tell a round in one line."""
    parts = []
    for name, found in (("collected", row["collected"]), ("evaluated", row["evaluated"])):
        if found is not None:
            error = found["return"]["stderr"]
            spread = "" if error is None else f" ± {error:.2f}"
            parts.append(f"{name} {found['return']['mean']:.2f}{spread} ({found['episodes']} episodes)")
    return f"round {row['round']}, {row['env_steps']:,} steps: {', '.join(parts) or 'nothing judged'}"


def _report(folder: Path, path: Path, env_id: str, as_json: bool) -> None:
    import json

    metrics = json.loads((folder / "metrics.json").read_text())
    if as_json:
        typer.echo(json.dumps({**metrics, "checkpoint": str(path)}))
        return
    for row in metrics["rounds"]:
        typer.echo(describe(row))
    typer.echo(f"{path}")
    say(f"run folder: {folder}; try it: dfplan eval --env {env_id} --checkpoint {path}")
