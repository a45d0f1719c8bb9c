"""Algorithm 1: noise every token to a level of its own and regress what was there.

Departures from the paper, each an argument: context tokens (state, goal) are mostly clean instead of noised like the
others, because that is how they are used; levels may be drawn from zig-zag ramps and shared levels besides independent
ones (``levels="mixed"``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from dfplan.errors import unknown_name
from dfplan.models.base import Cond
from dfplan.noise import add_noise, target_from
from dfplan.patterns import PatternConfig, draw_pattern
from dfplan.schedule import LEVEL_SAMPLERS
from dfplan.tokens import CONTEXT, GOAL, STATE, TokenSpec
from dfplan.weights import WEIGHTINGS, loss_weights
from dfplan.windows import Batch

TEACHER_FORCING = "teacher_forcing"


class TrainableDenoiser(Protocol):
    """A denoiser whose raw head output is trained."""

    alpha_bar: Tensor

    def network(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        """Return the raw output (B, n, D)."""
        ...

    def forced(self, x: Tensor, k: Tensor, clean: Tensor, clean_k: Tensor, cond: Cond) -> Tensor:
        """Return the raw output (B, n, D) when every noisy token sees clean ones before it."""
        ...


@dataclass(frozen=True)
class ObjectiveConfig:
    """Say how training noises a batch.

    Attributes:
        levels: Name of the level sampler: ``"independent"`` is the paper's, ``"shared"`` full-sequence diffusion;
            ``"teacher_forcing"`` is next-token diffusion, where every noisy token sees the clean ones before it.
        noisy_state: Share of samples whose state token has a random level (a noisy or missing observation).
        action_tokens: Action tokens per sample of the kind ``path``: the first chunk and random others.
        action_weight: Weight of an action token of the kind ``path`` in the loss; any other token has 1.
        patterns: Which questions the samples of the kind ``interleaved`` are about.
        weighting: Name of the weight by level, a key of `dfplan.weights.WEIGHTINGS`; ``"uniform"`` counts every level
            of the raw output alike.
    """

    levels: str = "mixed"
    noisy_state: float = 0.1
    action_tokens: int = 2
    action_weight: float = 4.0
    weighting: str = "uniform"
    patterns: PatternConfig = field(default_factory=PatternConfig)

    def __post_init__(self) -> None:
        names = (*LEVEL_SAMPLERS, TEACHER_FORCING)
        if self.levels not in names:
            raise unknown_name("level sampler", self.levels, names)
        if self.weighting not in WEIGHTINGS:
            raise unknown_name("weighting", self.weighting, WEIGHTINGS)
        if not 0.0 <= self.noisy_state <= 1.0:
            raise ValueError(f"noisy_state is a share and must lie in [0, 1], got {self.noisy_state}")
        if self.action_tokens < 0 or self.action_weight < 0:
            raise ValueError("action_tokens and action_weight must be at least 0")


def draw_tokens(spec: TokenSpec, batch: int, config: ObjectiveConfig, generator: torch.Generator) -> Tensor:
    """Choose the token positions that are present, int64 (B, n).

    All plan tokens, and for the kind ``path`` the first action chunk and random others: action tokens are leaves, so
    training on a few of them is unbiased and cheap. All tokens for the kind ``interleaved``.
    """
    if spec.kind == "interleaved":
        return torch.arange(spec.tokens).expand(batch, -1)
    plan = torch.arange(spec.plan_tokens).expand(batch, -1)
    count = min(config.action_tokens, spec.horizon) if spec.kind == "path" else 0
    if count == 0:
        return plan
    first = torch.full((batch, 1), spec.plan_tokens)
    if spec.horizon == 1:
        return torch.cat([plan, first], 1)
    others = (
        spec.plan_tokens + 1 + torch.rand((batch, spec.horizon - 1), generator=generator).argsort(1)[:, : count - 1]
    )
    return torch.cat([plan, first, others], 1)


def draw_levels(
    spec: TokenSpec, valid: Tensor, tokens: Tensor, levels: int, config: ObjectiveConfig, generator: torch.Generator
) -> Tensor:
    """Draw the levels of the tokens that are present, int64 (B, n).

    Invalid tokens (padding, a goal that is not known) are at K. Future tokens follow the level sampler; action tokens
    have independent uniform levels. The kind ``interleaved`` mixes patterns, see `dfplan.patterns`.
    """
    B, n = tokens.shape
    law = "independent" if config.levels == TEACHER_FORCING else config.levels
    if spec.kind == "interleaved":
        k = draw_pattern(spec, B, levels, LEVEL_SAMPLERS[law], config.patterns, generator)
        return torch.where(valid, k, torch.full_like(k, levels))
    k = torch.randint(0, levels + 1, (B, n), generator=generator)
    k[:, CONTEXT : spec.plan_tokens] = LEVEL_SAMPLERS[law]((B, spec.horizon), levels, generator)
    noisy = torch.rand(B, generator=generator) < config.noisy_state
    k[:, STATE] = torch.where(noisy, k[:, STATE], torch.zeros(B, dtype=torch.int64))
    k[:, GOAL] = 0
    return torch.where(valid, k, torch.full_like(k, levels))


def take_tokens(values: Tensor, tokens: Tensor) -> Tensor:
    """Take the tokens that are present out of (B, T, ...): (B, n, ...)."""
    return values[torch.arange(len(values), device=values.device)[:, None], tokens]


def level_weights(
    spec: TokenSpec, tokens: Tensor, k: Tensor, alpha_bar: Tensor, prediction: str, weighting: str
) -> Tensor:
    """Compute the weight by level of the tokens that are present, float64 (B, n); see `dfplan.weights`.

    A token that the layout shows to no other (an action token of the kind ``path``) tells the others nothing.
    """
    leaf = spec.attention(False).sum(0) == 1
    return loss_weights(weighting, k, spec.order()[tokens], alpha_bar, prediction, leaf=leaf[tokens])


def diffusion_forcing_loss(
    model: TrainableDenoiser,
    batch: Batch,
    spec: TokenSpec,
    levels: int,
    prediction: str,
    config: ObjectiveConfig,
    *,
    causal: bool,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Compute the Diffusion Forcing loss of one batch.

    Every token's squared error is averaged over the columns that count, then tokens are averaged with their weights,
    so that the loss of a network that outputs 0 is about 1 for a v-prediction at any horizon and width.

    Args:
        model: The denoiser to train.
        batch: Normalised windows.
        spec: The layout.
        levels: K.
        prediction: ``"v"``, ``"x0"`` or ``"eps"``; what the raw head output stands for.
        config: How to noise.
        causal: Causal or full attention in this batch.
        generator: Source of levels, token choice and noise (on the CPU, so that every device trains on the same
            numbers).
        device: Where the model is.

    Returns:
        ``loss`` (scalar, to be minimised), and detached ``future`` and ``action``, its two parts before the weight by
        level, so that runs with different weights can be compared.

    Source:
        arXiv 2407.01392, Algorithm 1.
    """
    tokens = draw_tokens(spec, len(batch.x0), config, generator)
    k = draw_levels(spec, take_tokens(batch.valid, tokens), tokens, levels, config, generator)
    x0, weight = take_tokens(batch.x0, tokens), take_tokens(batch.weight, tokens)
    if spec.kind == "interleaved":  # many tokens are given, and there is nothing to learn about those
        weight = weight * (k > 0).unsqueeze(-1)
    eps = torch.randn(x0.shape, generator=generator)
    by_level = level_weights(spec, tokens, k, model.alpha_bar, prediction, config.weighting).float()
    x0, weight, eps, k, tokens, by_level = (
        v.to(device, non_blocking=True) for v in (x0, weight, eps, k, tokens, by_level)
    )
    x = add_noise(x0, k, eps, model.alpha_bar)
    target = target_from(prediction, x0, eps, k, model.alpha_bar)
    cond = Cond(causal=causal, tokens=tokens)
    if config.levels == TEACHER_FORCING:
        clean_k = torch.where(take_tokens(batch.valid.to(device), tokens), 0, levels)
        output = model.forced(x, k, x0, clean_k, cond)
    else:
        output = model.network(x, k, cond)
    error = ((output.float() - target) ** 2 * weight).sum(-1) / weight.sum(-1).clamp_min(1)
    counted = (weight.sum(-1) > 0).float()
    per_token = counted.clone()
    per_token[:, spec.plan_tokens :] *= config.action_weight if spec.kind == "path" else 1.0
    loss = (error * per_token * by_level).sum() / per_token.sum().clamp_min(1e-9)
    future, action = slice(CONTEXT, spec.plan_tokens), slice(spec.plan_tokens, spec.past_tokens)
    parts = {
        name: (error[:, part].sum() / counted[:, part].sum().clamp_min(1)).detach()
        for name, part in (("future", future), ("action", action))
    }
    return {"loss": loss, **parts}
