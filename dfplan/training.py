"""Train a denoiser: EMA, gradient clipping, bf16 where it pays, exact resume, several processes by torchrun.

Whatever is random in step i is drawn from (seed, rank, i), so a run that was killed goes on as if nothing had
happened, bit for bit on a CPU, and no generator state needs to be stored.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from dfplan.checkpoint import Checkpoint, save_checkpoint, tensor_digest
from dfplan.episode import EpisodeBatch, EpisodeSpec, episode_loss
from dfplan.errors import unknown_name
from dfplan.inverse_training import InverseTraining, fit_inverse
from dfplan.models import Network, NetworkConfig, TransformerConfig, TransformerDenoiser, kind_of, make_denoiser
from dfplan.objective import TEACHER_FORCING, ObjectiveConfig, diffusion_forcing_loss
from dfplan.optimizers import OPTIMIZERS, make_optimizer
from dfplan.spaces import Spaces
from dfplan.tokens import Normalizer, TokenSpec
from dfplan.training_data import Layouts, Windows, source_of, split_episodes, window_source
from dfplan.training_state import STATE, Start, load_state, save_state
from dfplan.windows import Batch, EpisodeArrays, Replay

if TYPE_CHECKING:
    from dfplan.vision import ImageAutoencoder

PRECISIONS = ("auto", "fp32", "bf16")
Log = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainConfig:
    """Say how to train.

    Attributes:
        steps: Optimiser steps.
        batch: Windows per step, over all processes.
        lr: Peak learning rate; linear warm-up, then a cosine to 5 % of it.
        warmup: Steps of linear warm-up.
        weight_decay: On matrices only.
        clip: Largest gradient norm.
        ema: Decay of the averaged weights, which are what is saved.
        causal: Share of batches with causal attention; the others use full attention.
        precision: ``"auto"`` (bf16 where the processor has it), ``"fp32"`` or ``"bf16"``.
        seed: Of initial weights, windows, levels and noise.
        end_goal: Share of the windows with a goal whose goal is where the episode ended.
        no_goal: Share of windows without a goal.
        begin: Share of the windows that start where their episode does.
        phases: Whole episodes: first steps that their blocks are cut from, 1 to the layout's stride.
        optimizer: ``"adamw"`` or ``"muon"``; see `dfplan.optimizers.make_optimizer`.
        save_every: Steps between resumable states.
        validate_every: Steps between validations on held-out episodes.
        holdout: Share of episodes held out.
        model: The network.
        objective: How a batch is noised.
    """

    steps: int = 10_000
    batch: int = 128
    lr: float = 2e-3
    warmup: int = 300
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    causal: float = 0.7
    precision: str = "auto"
    seed: int = 0
    end_goal: float = 0.5
    no_goal: float = 0.3
    begin: float = 0.0
    phases: int = 1
    optimizer: str = "adamw"
    save_every: int = 500
    validate_every: int = 1000
    holdout: float = 0.02
    model: NetworkConfig = field(default_factory=TransformerConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "phases", "save_every", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("causal", "end_goal", "no_goal", "begin", "ema", "holdout"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.lr <= 0 or self.clip <= 0:
            raise ValueError(f"lr and clip must be positive, got {self.lr} and {self.clip}")
        if self.optimizer not in OPTIMIZERS:
            raise unknown_name("optimizer", self.optimizer, OPTIMIZERS)
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        causal_only = kind_of(self.model) == "recurrent" or self.objective.levels == TEACHER_FORCING
        if causal_only and self.causal < 1:
            raise ValueError(f"a recurrent model and teacher forcing are causal; use causal=1, got {self.causal}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = {**asdict(self), "model": self.model.to_dict()}
        if not self.begin:  # what is not in use is left out, so that old runs resume
            del values["begin"]
        if self.phases == 1:
            del values["phases"]
        if self.optimizer == "adamw":
            del values["optimizer"]
        if kind_of(self.model) != "transformer":  # the transformer's entry stays as it was, so that old runs resume
            values["model"]["kind"] = kind_of(self.model)
        return values


class LossModule(nn.Module):
    """Wrap model and loss in one forward call, so that DDP sees it."""

    def __init__(self, model: Network, config: TrainConfig, spec: Layouts) -> None:
        super().__init__()
        self.model, self.config, self.spec = model, config, spec

    def forward(self, batch: Batch | EpisodeBatch, causal: bool, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss and its parts for one batch."""
        model = self.model
        if isinstance(self.spec, EpisodeSpec):
            whole, prediction = cast(EpisodeBatch, batch), model.config.prediction
            return episode_loss(
                model, whole, self.spec, model.levels, prediction, self.config.objective, generator=generator,
                device=model.device,
            )  # fmt: skip
        return diffusion_forcing_loss(
            model, cast(Batch, batch), self.spec, model.levels, model.config.prediction, self.config.objective,
            causal=causal, generator=generator, device=model.device,
        )  # fmt: skip


def use_bf16(precision: str, device: torch.device) -> bool:
    """Decide whether to run the forward pass in bf16; on a CPU only where it has bf16 instructions."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("amx_tile"))


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of optimiser step ``step`` (0-based)."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@contextmanager
def processes() -> Iterator[tuple[int, int]]:
    """Join torchrun's process group if there is one; yield (rank, world size)."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1
        return
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield torch.distributed.get_rank(), world
        torch.distributed.barrier()  # a process that leaves while the other is in a collective aborts it
    finally:
        torch.distributed.destroy_process_group()


def train(
    episodes: EpisodeArrays,
    spec: Layouts,
    norm: Normalizer,
    config: TrainConfig,
    folder: str | Path,
    *,
    name: str,
    env: str = "",
    planner: dict[str, Any] | None = None,
    provenance: dict[str, Any] | None = None,
    device: str = "cpu",
    log: Log | None = None,
    spaces: Spaces | None = None,
    initial: Start | None = None,
    replay: Replay | None = None,
    encoder: ImageAutoencoder | None = None,
) -> Path:
    """Train a denoiser, or go on with the run that ``folder`` holds.

    The folder gets ``state/`` (to resume), ``metrics.jsonl`` (one object per log) and ``checkpoint/`` (EMA weights and
    everything needed to act, rewritten at every save).

    Args:
        episodes: The data.
        spec: Token layout.
        norm: Statistics of the data.
        config: How to train.
        folder: Run folder.
        name: Name of the checkpoint.
        env: Environment id, stored.
        planner: Defaults of the planner, stored.
        provenance: Where it all comes from, stored.
        device: ``"cpu"``, ``"cuda"``, ...; ignored under torchrun with GPUs, where each process takes its own.
        spaces: How columns follow from the environment's spaces, stored; None if they are the same.
        log: Called on rank 0 after every step with step, loss and so on.
        initial: Weights to start from in place of random ones, and the optimiser's moments if it is to go on. The
            average then starts from theirs and has no warm-up, and an inverse head stays as it is.
        replay: Episodes of the same columns from which a share of the windows is drawn; none of them is held out.

        encoder: The image autoencoder of the observations, to be saved with the checkpoint.

    Returns:
        The checkpoint folder.

    Raises:
        ValueError: If the folder holds a run with another configuration, layout or statistics of the data, or the loss
            is not finite.
    """
    folder = Path(folder)
    with processes() as (rank, world):
        if world > 1 and torch.cuda.is_available():
            device = f"cuda:{rank % torch.cuda.device_count()}"
        return _train(
            episodes, spec, norm, config, folder, rank, world, torch.device(device), name, env, planner, provenance,
            log, spaces, initial, replay, encoder,
        )  # fmt: skip


def _train(
    episodes: EpisodeArrays, spec: Layouts, norm: Normalizer, config: TrainConfig, folder: Path, rank: int, world:
        int,
    device: torch.device, name: str, env: str, planner: dict[str, Any] | None, provenance: dict[str, Any] | None, log:
        Log | None, spaces: Spaces | None, initial: Start | None, replay: Replay | None,
    encoder: ImageAutoencoder | None,
) -> Path:  # fmt: skip
    if config.batch % world:
        raise ValueError(f"batch must be divisible by the number of processes, got {config.batch} and {world}")
    training, heldout = split_episodes(episodes, config.holdout, config.seed)
    windows = source_of(training, spec, norm, config, replay)
    torch.manual_seed(config.seed)
    model = make_denoiser(spec, config.model).to(device)
    resumed = (folder / "state" / STATE).is_file()
    _prepare_inverse(
        model, training, spec, norm, config, log if rank == 0 else None, fit=not resumed and initial is None
    )
    loss_module: nn.Module = LossModule(model, config, spec)
    if world > 1:
        loss_module = nn.parallel.DistributedDataParallel(loss_module, find_unused_parameters=False)
    optimizer = make_optimizer(model, config, config.optimizer)
    ema = {n: p.detach().clone() for n, p in model.named_parameters()}
    identity = {**config.to_dict(), "tokens": spec.to_dict(), "statistics": tensor_digest(norm.tensors())[:12]}
    told = getattr(episodes, "imitated", None)
    if told is not None and not told.all():
        identity["imitated"] = tensor_digest({"imitated": torch.from_numpy(told)})[:12]
    if norm.returns is not None:
        identity["returns"] = norm.returns.to_dict()
    if initial is not None:
        identity["initial"] = initial.digest()[:12]
    if replay is not None:
        identity["replay"] = replay.identity()
    if initial is not None and not resumed:
        initial.restore(model, optimizer, ema)
    step = load_state(folder / "state", model, optimizer, ema, identity) if resumed else 0
    meta = {**(provenance or {}), "training": config.to_dict()}
    checkpoint = Checkpoint(name, env, model, spec, norm, planner or {}, meta, spaces, encoder=encoder)
    bf16 = use_bf16(config.precision, device)
    began, first = time.perf_counter(), step
    while step < config.steps:
        decay = config.ema if initial is not None else min(config.ema, (step + 1) / (step + 10))
        row = _step(loss_module, model, optimizer, ema, windows, config, step, rank, world, bf16, decay)
        step += 1
        last = step == config.steps
        if rank == 0:
            row |= {"step": step, "seconds_per_step": (time.perf_counter() - began) / (step - first)}
            if heldout is not None and (last or step % config.validate_every == 0):
                row |= validate(model, ema, heldout, spec, norm, config, bf16)
            if last or step % config.save_every == 0:
                save_checkpoint(checkpoint, folder / "checkpoint", weights=ema)
                save_state(folder / "state", model, optimizer, ema, step, identity)
            if last or step % 50 == 0:
                append_line(folder / "metrics.jsonl", row)
            if log is not None:
                log(row)
    return folder / "checkpoint"


def _prepare_inverse(
    model: Network, episodes: EpisodeArrays, spec: Layouts, norm: Normalizer, config: TrainConfig,
    log: Log | None, *, fit: bool,
) -> None:  # fmt: skip
    """Fit the inverse head, if there is one, before everything else, and leave it out of what is trained."""
    if isinstance(model, TransformerDenoiser) and model.inverse is not None and isinstance(spec, TokenSpec):
        if fit:

            def watch(step: int, loss: float) -> None:
                if log is not None:
                    log({"inverse_step": step, "inverse_loss": loss})

            settings = InverseTraining(seed=config.seed)
            fit_inverse(model.inverse, episodes, spec, norm, model.alpha_bar, settings, log=watch)
        model.inverse.requires_grad_(False)


def _step(
    loss_module: nn.Module, model: Network, optimizer: torch.optim.Optimizer, ema: dict[str, Tensor],
    windows: Windows, config: TrainConfig, step: int, rank: int, world: int, bf16: bool,
    decay: float,
) -> dict[str, Any]:  # fmt: skip
    rng = np.random.default_rng([config.seed, rank, step])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    causal = np.random.default_rng([config.seed, step]).random() < config.causal  # the same on every rank
    lr = learning_rate(step, config)
    for group in optimizer.param_groups:
        group["lr"] = lr
    batch = windows.draw(config.batch // world, rng)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        parts = loss_module(batch, bool(causal), generator)
    loss = parts["loss"]
    if not bool(torch.isfinite(loss)):
        raise ValueError(
            f"the loss is {float(loss.detach())} at step {step}; "
            f"lower lr (now {config.lr}) and resume from the last saved state"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    optimizer.step()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            ema[name].lerp_(parameter, 1 - decay)
    return {**{n: float(v.detach()) for n, v in parts.items()}, "grad_norm": float(norm), "lr": lr}


@torch.no_grad()
def validate(
    model: Network,
    ema: dict[str, Tensor],
    heldout: EpisodeArrays,
    spec: Layouts,
    norm: Normalizer,
    config: TrainConfig,
    bf16: bool,
) -> dict[str, float]:
    """Compute the EMA weights' loss on held-out windows, on the same draws every time, causal and full."""
    windows = source_of(heldout, spec, norm, config)
    own = {n: p.detach().clone() for n, p in model.named_parameters()}
    out: dict[str, float] = {}
    try:
        model.load_state_dict(ema)
        for causal in (True, False) if config.causal < 1 else (True,):
            generator = torch.Generator().manual_seed(1)
            batch = windows.draw(256, np.random.default_rng(1))
            with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
                parts = LossModule(model, config, spec)(batch, causal, generator)
            out |= {f"heldout_{n}_{'causal' if causal else 'full'}": float(v) for n, v in parts.items() if n != "loss"}
    finally:
        model.load_state_dict(own)
    return out


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON object to a log file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


__all__ = ["TrainConfig", "learning_rate", "make_optimizer", "train", "use_bf16", "validate", "window_source"]
