"""`dfplan train`: from data to a checkpoint."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

WATCHED = ("loss", "future", "action")


def train(
    env: Annotated[str, typer.Option(help="Environment, for example maze2d-large.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Minari id, D4RL .hdf5, .npz, or an OGBench name (pointmaze-large-stitch), which is made in memory; "
            "the default makes the recipe's data in memory. Of pictures Minari ids, with commas."
        ),
    ] = None,
    obs: Annotated[
        str, typer.Option(help="Arm: state, or image: an autoencoder is trained first, and the policy on its latents.")
    ] = "state",
    encoder: Annotated[
        Path | None, typer.Option(help="image: folder of a trained autoencoder.", show_default="a new one is trained")
    ] = None,
    encoder_steps: Annotated[int, typer.Option(min=1, help="image: steps of training the autoencoder.")] = 6000,
    stitch: Annotated[
        float | None,
        typer.Option(help="Compose longer episodes with jumps of up to this distance between states that almost meet."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; one that exists is resumed.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    batch: Annotated[
        int | None, typer.Option(help="Windows per step, over all processes.", show_default="the recipe's, 128")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", show_default="the recipe's, 0.002")] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            help="adamw, or muon for the matrices in the transformer's blocks.", show_default="the recipe's, adamw"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, windows, levels, noise and generated data.")] = 0,
    stride: Annotated[int | None, typer.Option(help="Environment steps per token.")] = None,
    horizon: Annotated[int | None, typer.Option(help="Future tokens.")] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            help="Kind of token: path, bundle, interleaved or episode; the default is the recipe's (path in mazes)."
        ),
    ] = None,
    discount: Annotated[
        float | None,
        typer.Option(
            help="Of returns, per step: the goal token then holds the return that is wanted; 0: none. "
            "By default 0.99 where the task has no goal."
        ),
    ] = None,
    value_steps: Annotated[
        int, typer.Option(help="Steps of training what a plan is worth, if there are returns; 0: none.")
    ] = 2000,
    history: Annotated[int, typer.Option(help="Past tokens, of interleaved only.")] = 0,
    forgetful: Annotated[
        bool, typer.Option("--forgetful", help="episode: remember the last --horizon blocks only, 1: what is seen.")
    ] = False,
    phases: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="episode: first steps that blocks are cut from, up to --stride.",
            show_default="--stride; 1 for pictures, taken at the beginning of a block only",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="Numbers of an observation that are used, such as 0-19,24-26, or all.",
            show_default="the recipe's, else all",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Network: transformer or recurrent.")] = "transformer",
    width: Annotated[
        int | None, typer.Option(help="Channels of the network.", show_default="the recipe's, 192")
    ] = None,
    layers: Annotated[
        int | None, typer.Option(help="Blocks of the transformer.", show_default="the recipe's, 3")
    ] = None,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 4,
    positions: Annotated[
        str | None,
        typer.Option(
            help="Positions of the transformer: learned, or rotary (by causal order, beside the learned).",
            show_default="rotary for whole episodes, else learned",
        ),
    ] = None,
    octaves: Annotated[
        int | None,
        typer.Option(
            help="Sines and cosines of the transformer's input, which tell near states apart.",
            show_default="the recipe's, 0",
        ),
    ] = None,
    inverse: Annotated[
        int | None,
        typer.Option(
            help="Channels of the exact head for actions between clean states; 256 for path tokens with actions, or 0."
        ),
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="inverse: fit nothing but that head, for the checkpoint of --start.")
    ] = None,
    start: Annotated[str | None, typer.Option(metavar="NAME|DIR|HUB", help="Checkpoint that --only adds to.")] = None,
    noise: Annotated[str, typer.Option(help="Noise table: cosine or linear.")] = "cosine",
    prediction: Annotated[str, typer.Option(help="Head: v, x0 or eps.")] = "v",
    levels: Annotated[
        str,
        typer.Option(
            help="Levels in training: mixed, independent (the paper), ramp, shared (full sequence), teacher_forcing."
        ),
    ] = "mixed",
    weighting: Annotated[
        str, typer.Option(help="Loss weight by level: uniform, min_snr, fused_snr or fused_snr_bidirectional.")
    ] = "uniform",
    action_tokens: Annotated[
        int, typer.Option(help="Action tokens of path trained per window; 0 leaves actions to an executor.")
    ] = 2,
    no_goal: Annotated[
        float, typer.Option(help="Share of windows without a goal, for plans that are given none.")
    ] = 0.3,
    begin: Annotated[float, typer.Option(help="Share of windows that start where their episode does.")] = 0.0,
    causal: Annotated[
        float | None, typer.Option(help="Share of batches with causal attention; 0.7, or 1 for a model that is causal.")
    ] = None,
    differences: Annotated[
        str | None,
        typer.Option(
            help="Differences of numbers of an observation that are shown besides, such as 17-19:7-9, with --columns.",
            show_default="the recipe's",
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda, ... or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="Threads of torch; the default takes all cores.")] = None,
    save_every: Annotated[int, typer.Option(help="Steps between resumable states.")] = 500,
    evaluate_every: Annotated[int, typer.Option(help="Steps between evaluations in the environment; 0: never.")] = 0,
    evaluate_episodes: Annotated[int, typer.Option(help="Episodes of each such evaluation.")] = 10,
    tensorboard: Annotated[bool, typer.Option(help="Write TensorBoard files (extra tb).")] = False,
) -> None:
    """Train a Diffusion Forcing planner, or go on with a run that was stopped.

    Under torchrun every process trains on its share of each batch:
    torchrun --nproc_per_node 2 --no-python dfplan train --env maze2d-large
    """
    import torch

    from dfplan.cli.train_data import checkpoint_name, load_data, stitched
    from dfplan.cli.train_layout import discount_of, imitable, layout, learn_return, recipe_of, select, spaces_of
    from dfplan.models import make_config
    from dfplan.objective import ObjectiveConfig
    from dfplan.tokens import TokenSpec
    from dfplan.training import TrainConfig
    from dfplan.training import train as run
    from dfplan.windows import fit_normalizer

    if threads is not None:
        torch.set_num_threads(threads)
    if only is not None or start is not None:
        from dfplan.cli.train_inverse import fit_only

        fit_only(only, start, env, data, out, seed, 256 if inverse is None else inverse)
        return
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    env_id, main_process = _resolve(env), int(os.environ.get("RANK", "0")) == 0
    recipe = recipe_of(env_id, stride=stride, horizon=horizon, steps=steps, tokens=tokens)
    usual = {"width": 192, "layers": 3, "batch": 128, "lr": 2e-3, "optimizer": "adamw", **recipe.network}
    width, layers, batch = width or usual["width"], layers or usual["layers"], batch or usual["batch"]
    octaves = usual.get("octaves", 0) if octaves is None else octaves
    network: dict[str, Any] = {"width": width, "noise": noise, "prediction": prediction}
    whole = recipe.tokens == "episode"
    if model == "transformer":
        positions = positions or ("rotary" if whole else "learned")
        network |= {"layers": layers, "heads": heads, "positions": positions, "octaves": octaves}
        network["inverse"] = inverse if inverse is not None else 256 if recipe.tokens == "path" and action_tokens else 0
    causal_only = whole or model == "recurrent" or levels == "teacher_forcing"
    share = causal if causal is not None else 1.0 if causal_only else 0.7
    config = TrainConfig(
        steps=recipe.steps, batch=batch, lr=lr or usual["lr"], seed=seed, causal=share, precision=precision,
        save_every=save_every,
        optimizer=optimizer or (usual["optimizer"] if model == "transformer" else "adamw"),
        no_goal=no_goal,
        begin=begin,
        phases=phases or (recipe.stride if whole and not forgetful and obs == "state" else 1),
        model=make_config(model, network),
        objective=ObjectiveConfig(levels=levels, weighting=weighting, action_tokens=action_tokens),
    )  # fmt: skip
    folder, tell = out or Path("runs") / f"train-{env_id}", _say if main_process else lambda text: None
    eyes = None
    if obs == "image":
        from dfplan.cli.train_images import load_images

        episodes, origin, eyes = load_images(data, folder, encoder, encoder_steps, seed, tell)
    elif obs != "state":
        raise ValueError(f"--obs must be state or image, got {obs!r}")
    else:
        episodes, origin = load_data(env_id, data, seed, tell)
    if whole and recipe.gripper is not None:
        episodes = imitable(episodes, recipe.gripper, tell)
    usual_columns = recipe.columns if eyes is None else recipe.image_columns
    usual_apart = recipe.differences if eyes is None else recipe.image_differences
    apart = differences if differences is not None else usual_apart if columns is None else ""
    chosen = usual_columns if columns is None else columns
    if chosen and chosen != "all":
        episodes = select(episodes, chosen, apart)
    spec = layout(episodes, recipe, history, discount, not forgetful)
    if stitch is not None:
        episodes = stitched(episodes, stitch, spec.steps, seed)
        origin["stitched"] = episodes.meta["stitched"]
    provenance = _provenance(origin)
    if main_process:
        _say(f"{episodes.steps:,} steps in {len(episodes):,} episodes; run folder {folder}")
        _write_config(folder, env_id, config.to_dict(), spec.to_dict(), provenance)
    name = checkpoint_name(env_id, data) + ("-image" if eyes is not None else "")
    made_with = {} if eyes is None else {"obs": "image", "image_size": eyes.config.image_size}
    log = (
        _Log(folder, config.steps, env_id, evaluate_every, evaluate_episodes, seed, tensorboard, made_with)
        if main_process
        else None
    )
    norm = fit_normalizer(episodes, spec.stride, discount=discount_of(spec, recipe, discount))
    try:
        path = run(
            episodes, spec, norm, config, folder, name=name, env=env_id, planner=dict(recipe.planner),
            provenance=provenance, device=device, log=log, spaces=spaces_of(episodes),
            encoder=eyes,
        )  # fmt: skip
    finally:
        if log is not None:
            log.close()
    if main_process:
        if isinstance(spec, TokenSpec) and spec.returns and value_steps and not (path / "value.json").is_file():
            learn_return(episodes, spec, norm, path, value_steps, seed, _say)
        typer.echo(f"{path}")
        if name != "maze2d":  # a maze of your own is evaluated from Python, which can pass its rows
            _say(f"try it: dfplan eval --env {env_id} --checkpoint {path}")


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _resolve(env: str) -> str:
    """Complete an environment's name; where no simulator is installed the name is taken as it is."""
    try:
        from dfplan_envs import resolve
    except ImportError:
        return env
    return resolve(env)


def _provenance(origin: dict[str, Any]) -> dict[str, Any]:
    from dfplan import provenance

    return {
        "data": origin,
        "command": provenance.command(),
        "trained": time.strftime("%Y-%m-%d", time.gmtime()),
        "git": provenance.git(),
        "versions": provenance.versions(),
        "hardware": provenance.hardware(),
    }


def _write_config(folder: Path, env_id: str, config: Any, spec: Any, provenance: Any) -> None:
    import json

    from dfplan.data.files import atomic_path

    values = {"env": env_id, "training": config, "tokens": spec, **provenance}
    with atomic_path(folder / "config.json") as path:
        path.write_text(json.dumps(values, indent=2) + "\n")


class _Log:
    """Show a live line, write TensorBoard files, evaluate now and then."""

    def __init__(
        self, folder: Path, steps: int, env_id: str, every: int, episodes: int, seed: int, tensorboard: bool,
        made_with: dict[str, Any],
    ) -> None:  # fmt: skip
        from tqdm import tqdm

        self.made_with = made_with
        self.folder, self.env_id, self.every, self.episodes, self.seed = folder, env_id, every, episodes, seed
        self.bar: Any = tqdm(total=steps, desc=f"train {env_id}", file=sys.stderr, dynamic_ncols=True, unit="step")
        self.writer: Any = _tensorboard(folder / "tb") if tensorboard else None
        self.average: float | None = None

    def __call__(self, row: dict[str, Any]) -> None:
        """Take one step's numbers."""
        if "inverse_step" in row:
            if row["inverse_step"] % 100 == 0:
                self.bar.set_postfix_str(f"inverse head, step {row['inverse_step']}, loss {row['inverse_loss']:.4f}")
            return
        step, loss = int(row["step"]), float(row["loss"])
        self.average = loss if self.average is None else 0.98 * self.average + 0.02 * loss
        self.bar.n = step
        self.bar.set_postfix_str(f"loss {self.average:.4f} lr {row['lr']:.1e}", refresh=False)
        self.bar.update(0)
        if self.writer is not None and step % 10 == 0:
            for name, value in row.items():
                if name != "step":
                    self.writer.add_scalar(name, value, step)
        if self.every and (step % self.every == 0 or step == self.bar.total):
            self._evaluate(step)

    def _evaluate(self, step: int) -> None:
        """Run a few episodes with the checkpoint that was saved last."""
        from dfplan.evaluation import evaluate
        from dfplan.training import append_line
        from dfplan_policies import load_policy

        if not (self.folder / "checkpoint" / "config.json").is_file():
            return
        policy = load_policy("df", checkpoint=self.folder / "checkpoint", seed=self.seed)
        metrics = evaluate(policy, self.env_id, self.episodes, self.seed, env_kwargs=self.made_with).metrics
        kind = "score" if metrics["score"]["strict"]["mean"] is not None else "return"
        strict, success = metrics[kind]["strict"], metrics["success_rate"]
        append_line(self.folder / "evaluations.jsonl", {"step": step, "strict": strict, "success_rate": success})
        numbers = [f"strict {kind} {strict['mean']:.1f}" + (f" +- {strict['stderr']:.1f}" if strict["stderr"] else "")]
        numbers += [] if success is None else [f"success {success:.2f}"]
        self.bar.write(f"step {step}: {', '.join(numbers)} ({self.episodes} episodes)", file=sys.stderr)
        if self.writer is not None:
            self.writer.add_scalar(f"{kind}_strict", strict["mean"], step)

    def close(self) -> None:
        """Finish the line and the files."""
        self.bar.close()
        if self.writer is not None:
            self.writer.close()


def _tensorboard(folder: Path) -> Any:
    from dfplan.errors import missing_extra

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise missing_extra("tensorboard", "tb", "--tensorboard") from error
    return SummaryWriter(str(folder))
