"""Train a denoiser on plain sequences: forecasts, toys, anything that is a row of vectors.

The same network is trained as Diffusion Forcing or as one of the paper's baselines by the name of the level law:

* ``"independent"``: Diffusion Forcing, a level per token;
* ``"shared"``: full-sequence diffusion, a level per sequence (causal or not);
* ``"teacher_forcing"``: next-token diffusion, every noisy token sees the clean ones before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dfplan.errors import unknown_name
from dfplan.layout import SequenceSpec
from dfplan.models import Cond, Network, NetworkConfig, kind_of, make_denoiser
from dfplan.noise import add_noise, target_from
from dfplan.objective import TEACHER_FORCING
from dfplan.optimizers import make_optimizer
from dfplan.schedule import LEVEL_SAMPLERS
from dfplan.training import PRECISIONS, use_bf16


@dataclass(frozen=True)
class SequenceTraining:
    """Say how to train on sequences.

    Attributes:
        steps: Optimiser steps.
        batch: Windows per step.
        lr: Peak learning rate of AdamW; linear warm-up over 5 % of the steps, then a cosine to 0.
        levels: Level law: ``"independent"``, ``"mixed"``, ``"ramp"``, ``"shared"`` or ``"teacher_forcing"``.
        causal: Share of batches with causal attention; the others use full attention.
        ema: Decay of the averaged weights, which are what is returned.
        weight_decay: AdamW's, on matrices only.
        clip: Largest gradient norm.
        precision: ``"auto"`` (bf16 where the processor has it), ``"fp32"`` or ``"bf16"``.
        seed: Of weights, windows, levels and noise.
    """

    steps: int = 2000
    batch: int = 64
    lr: float = 2e-3
    levels: str = "independent"
    causal: float = 1.0
    ema: float = 0.995
    weight_decay: float = 0.01
    clip: float = 1.0
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        names = (*LEVEL_SAMPLERS, TEACHER_FORCING)
        if self.levels not in names:
            raise unknown_name("level law", self.levels, names)
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if self.steps < 1 or self.batch < 1 or self.lr <= 0 or self.clip <= 0:
            raise ValueError("steps and batch must be at least 1, lr and clip positive")
        if not 0 <= self.causal <= 1 or not 0 <= self.ema < 1:
            raise ValueError(f"causal must lie in [0, 1] and ema in [0, 1), got {self.causal} and {self.ema}")
        if self.levels == TEACHER_FORCING and self.causal < 1:
            raise ValueError(f"teacher forcing is causal; use causal=1, got {self.causal}")


def sequence_loss(
    model: Network, x0: Tensor, levels: str, generator: torch.Generator, *, causal: bool = True,
    valid: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Compute the mean squared error of the raw output over all valid tokens.

    Args:
        model: The denoiser.
        x0: (B, n, D) clean windows.
        levels: Level law, see the module's text.
        generator: Source of levels and noise, on the CPU.
        causal: Causal or full attention.
        valid: bool (B, n), False for padding, which is at level K and does not count; None if there is none.

    Source:
        arXiv 2407.01392, Algorithm 1; teacher forcing as in its section 4.1.
    """
    K, prediction, table = model.levels, model.config.prediction, model.alpha_bar
    law = "independent" if levels == TEACHER_FORCING else levels
    k = LEVEL_SAMPLERS[law]((x0.shape[0], x0.shape[1]), K, generator)
    eps = torch.randn(x0.shape, generator=generator).to(x0)
    keep = torch.ones_like(k, dtype=torch.bool) if valid is None else valid.cpu()
    k, keep = torch.where(keep, k, K).to(x0.device), keep.to(x0.device)
    x = add_noise(x0, k, eps, table)
    target = target_from(prediction, x0, eps, k, table)
    cond = Cond(causal=causal, tokens=torch.arange(x0.shape[1], device=x0.device))
    if levels == TEACHER_FORCING:
        clean_k = torch.where(keep, 0, K)
        output = model.forced(x, k, x0, clean_k, cond)
    else:
        output = model.network(x, k, cond)
    error = ((output.float() - target) ** 2).mean(-1)
    return (error * keep).sum() / keep.sum().clamp_min(1)


def train_sequences(
    data: Tensor, spec: SequenceSpec, network: NetworkConfig, config: SequenceTraining | None = None, *,
    progress: Callable[[int, float], None] | None = None,
) -> Network:  # fmt: skip
    """Train a denoiser on random windows of sequences.

    Args:
        data: float32 (N, L, D), L at least ``spec.tokens``, normalised to about zero mean and unit variance.
        spec: Width and window.
        network: Which network, and its size.
        config: How to train.
        progress: Called with (step, loss) after every step.

    Returns:
        The network with averaged weights, in evaluation mode. The same seed gives the same bits on a CPU.

    Raises:
        ValueError: If the data do not fit or are not finite, the loss is not finite, or a recurrent network is to have
            full attention.
    """
    config = config or SequenceTraining()
    if data.ndim != 3 or data.shape[2] != spec.width or data.shape[1] < spec.tokens or len(data) == 0:
        raise ValueError(
            f"data must have shape (N, L >= {spec.tokens}, {spec.width}) with N > 0, got {tuple(data.shape)}"
        )
    if kind_of(network) == "recurrent" and config.causal < 1:
        raise ValueError(f"a recurrent model is causal; use causal=1, got {config.causal}")
    if not bool(torch.isfinite(data).all()):
        raise ValueError("data hold NaN or infinity; clean them first")
    torch.manual_seed(config.seed)
    model = make_denoiser(spec, network).to(data.device)
    optimizer = make_optimizer(model, config)
    average = {n: p.detach().clone() for n, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(config.seed)
    bf16 = use_bf16(config.precision, data.device)
    warmup = max(1, config.steps // 20)
    for step in range(config.steps):
        rate = min(1.0, (step + 1) / warmup) * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / config.steps)))
        for group in optimizer.param_groups:
            group["lr"] = config.lr * float(rate)
        causal = bool(torch.rand((), generator=generator) < config.causal)
        with torch.autocast(data.device.type, torch.bfloat16, enabled=bf16):
            loss = sequence_loss(model, _windows(data, spec.tokens, config.batch, generator), config.levels, generator,
                             causal=causal)  # fmt: skip
        if not bool(torch.isfinite(loss)):
            raise ValueError(f"the loss is {float(loss.detach())} at step {step}; lower lr (now {config.lr})")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        decay = min(config.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                average[name].lerp_(parameter, 1 - decay)
        if progress is not None:
            progress(step + 1, float(loss.detach()))
    model.load_state_dict(average, strict=False)
    return model.eval()


def _windows(data: Tensor, tokens: int, batch: int, generator: torch.Generator) -> Tensor:
    """Cut random windows (batch, tokens, D)."""
    which = torch.randint(0, len(data), (batch,), generator=generator)
    start = torch.randint(0, data.shape[1] - tokens + 1, (batch,), generator=generator)
    return data[which[:, None].to(data.device), (start[:, None] + torch.arange(tokens)).to(data.device)]
