"""Train a value model: regression on the returns of windows whose tokens are noised to random levels.

The mean squared error is least for the conditional mean, so that a regression on clean returns from noisy tokens gives
``E[return | noisy tokens]`` with nothing more to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dfplan.errors import unknown_name
from dfplan.layout import SequenceSpec
from dfplan.noise import add_noise
from dfplan.objective import ObjectiveConfig, draw_levels
from dfplan.schedule import LEVEL_SAMPLERS
from dfplan.tokens import CONTEXT, GOAL, Normalizer, TokenSpec, unpack_states
from dfplan.value.model import ValueConfig, ValueModel
from dfplan.windows import Batch

DrawBatch = Callable[[int, np.random.Generator], Batch]
Returns = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class ValueTraining:
    """Say how to train.

    Attributes:
        steps: Optimiser steps.
        batch: Windows per step.
        lr: Peak learning rate of AdamW; linear warm-up over 5 % of the steps, then a cosine to 5 % of it.
        warmup: Share of the steps with linear warm-up.
        weight_decay: AdamW's.
        clip: Largest gradient norm.
        ema: Decay of the averaged weights, which are what is returned.
        levels: Name of the level sampler, as in training the denoiser.
        noisy_state: Share of samples whose state token has a random level.
        seed: Of initial weights, windows, levels and noise.
    """

    steps: int = 3000
    batch: int = 128
    lr: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.995
    levels: str = "mixed"
    noisy_state: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.levels not in LEVEL_SAMPLERS:
            raise unknown_name("level sampler", self.levels, LEVEL_SAMPLERS)
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup", "ema", "noisy_state"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.lr <= 0 or self.clip <= 0:
            raise ValueError(f"lr and clip must be positive, got {self.lr} and {self.clip}")


def window_return(
    spec: TokenSpec,
    norm: Normalizer,
    reward: Callable[[Tensor], Tensor] | None = None,
    *,
    discount: float = 1.0,
) -> Returns:
    """Build the function that computes the return of windows: ``sum_t discount^t r_t`` over the tokens that are valid.

    Args:
        spec: The layout.
        norm: The statistics.
        reward: From states (B, H, O) in environment units to rewards (B, H) per token; None sums the rewards that
            bundles hold over the steps of each token.
        discount: Per token, in [0, 1].

    Returns:
        A function from a `Batch` to returns (B,).

    Raises:
        ValueError: If there is no reward to take, or the discount is out of range.
    """
    if reward is None and not spec.rewards:
        raise ValueError("this layout holds no rewards; pass reward=, a function of states (B, H, O)")
    if not 0 <= discount <= 1:
        raise ValueError(f"discount must lie in [0, 1], got {discount}")
    weight = discount ** torch.arange(spec.horizon, dtype=torch.float32)

    def returns(batch: Batch) -> Tensor:
        future = slice(CONTEXT, spec.plan_tokens)
        if reward is None:
            held = norm.reward_back(batch.x0[:, future, spec.reward_slice]).sum(-1)
        else:
            held = reward(unpack_states(spec, norm, batch.x0)[:, 1:])
        return (held * batch.valid[:, future] * weight).sum(-1)

    return returns


def start_return(spec: TokenSpec, norm: Normalizer) -> Returns:
    """Build the function that reads the return of a window's start (`dfplan.returns`), in rewards per step.

    Raises:
        ValueError: If the layout or the statistics hold no returns.
    """
    stats = norm.returns
    if not spec.returns or stats is None:
        raise ValueError("this layout holds no returns; use window_return, or a layout with returns=True")

    def returns(batch: Batch) -> Tensor:
        return batch.x0[:, GOAL, spec.return_column] * stats.std + stats.mean

    return returns


def train_value(
    draw: DrawBatch,
    returns: Returns,
    spec: TokenSpec | SequenceSpec,
    config: ValueConfig | None = None,
    training: ValueTraining | None = None,
    *,
    device: str = "cpu",
    progress: Callable[[int, float], None] | None = None,
    initial: ValueModel | None = None,
) -> ValueModel:
    """Train a value model; a few minutes on a CPU with the defaults.

    Args:
        draw: Draws windows, for example ``WindowSampler(...).draw``.
        returns: From a batch of clean windows to their returns (B,), for example `window_return`.
        spec: The layout; action tokens of the kind ``path`` are not shown to the model.
        config: Size of the network; the levels must be the denoiser's.
        training: How to train.
        device: Where to.
        progress: Called with (step, loss) after every step; a loss of 1 is the variance of the returns.
        initial: A trained model of the same layout and size to go on from, its scale included; it stays as it is.

    Returns:
        The model with averaged weights, in evaluation mode. The same seed gives the same bits on a CPU.

    Raises:
        ValueError: If returns are not one finite number per window, or the loss is not finite.
    """
    config, training = config or ValueConfig(), training or ValueTraining()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = ValueModel(spec, config).to(device)
    if initial is None:
        sample = _returns(returns, draw(2048, np.random.default_rng([training.seed, 1])))
        model.set_scale(float(sample.mean()), float(sample.std()))
    else:
        model.load_state_dict(initial.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    average = {n: p.detach().clone() for n, p in model.named_parameters()}
    for step in range(training.steps):
        rng = np.random.default_rng([training.seed, 2, step])
        loss = _loss(model, draw(training.batch, rng), returns, training, rng)
        if not bool(torch.isfinite(loss)):
            raise ValueError(f"the loss is {float(loss.detach())} at step {step}; lower lr (now {training.lr})")
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, training)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        optimizer.step()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                average[name].lerp_(parameter, 1 - min(training.ema, (step + 1) / (step + 10)))
        if progress is not None:
            progress(step + 1, float(loss.detach()))
    model.load_state_dict(average, strict=False)
    return model.eval()


def _rate(step: int, training: ValueTraining) -> float:
    warmup = max(1, round(training.warmup * training.steps))
    if step < warmup:
        return training.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, training.steps - warmup)
    return training.lr * (0.05 + 0.95 * 0.5 * (1 + float(np.cos(np.pi * progress))))


def _loss(
    model: ValueModel, batch: Batch, returns: Returns, training: ValueTraining, rng: np.random.Generator
) -> Tensor:
    """Compute the mean squared error, in units of the variance of the returns."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    spec, target = model.spec, _returns(returns, batch)
    tokens = torch.arange(
        spec.plan_tokens if isinstance(spec, TokenSpec) and spec.kind != "interleaved" else spec.tokens
    )
    valid = batch.valid[:, tokens]
    if isinstance(spec, TokenSpec):
        noising = ObjectiveConfig(levels=training.levels, noisy_state=training.noisy_state)
        k = draw_levels(spec, valid, tokens.expand(len(valid), -1), model.levels, noising, generator)
    else:
        shape = (len(valid), len(tokens))
        k = torch.where(valid, LEVEL_SAMPLERS[training.levels](shape, model.levels, generator), model.levels)
    x0 = batch.x0[:, tokens]
    device = model.position.device
    x = add_noise(x0, k, torch.randn(x0.shape, generator=generator), model.alpha_bar.cpu())
    value: Tensor = model(x.to(device), k.to(device), tokens)
    return (((value - target.to(value)) / model.std) ** 2).mean()


def _returns(returns: Returns, batch: Batch) -> Tensor:
    value = returns(batch)
    if value.shape != batch.x0.shape[:1]:
        raise ValueError(
            f"returns must be one number per window, shape {tuple(batch.x0.shape[:1])}, got {tuple(value.shape)}"
        )
    if not bool(value.isfinite().all()):
        raise ValueError("returns hold NaN or infinity; check the rewards")
    return value.float()
