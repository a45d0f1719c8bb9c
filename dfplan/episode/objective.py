"""Algorithm 1 on whole episodes: every token is noised to a level of its own, and sees a past at levels of its own.

Each episode goes through the network twice over, as what is to be denoised and as the past that it is denoised after
(`forced`). So every token of an episode is learned in every step, after a past as a policy has it: mostly clean. With
levels of the past drawn independently this has the law of Algorithm 1 for each token; what is added are the pasts that
are clean throughout or almost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dfplan.episode.layout import EpisodeSpec
from dfplan.episode.windows import EpisodeBatch
from dfplan.models.base import Cond
from dfplan.noise import add_noise, target_from
from dfplan.objective import TEACHER_FORCING, ObjectiveConfig, TrainableDenoiser
from dfplan.schedule import LEVEL_SAMPLERS

CLEAN, NOISY = 0.5, 0.3  # shares of episodes by their past; the others are forgotten in part


def past_levels(shape: tuple[int, int], levels: int, generator: torch.Generator) -> Tensor:
    """Draw the levels of pasts, int64 (B, n).

    In half of the rows all tokens are clean. In the others each token is clean with a probability that is drawn per
    row; if it is not, it is at a uniform level, in halves of the rows up to K / 10 and up to K (three tenths of all
    rows), or at K (a fifth): a network that has whole episodes by heart is of no use in a new one.
    """
    B = shape[0]
    uniform = torch.randint(0, levels + 1, shape, generator=generator)
    small = torch.randint(0, max(1, levels // 10) + 1, shape, generator=generator)
    which, share, half = (torch.rand((B, 1), generator=generator) for _ in range(3))
    noisy = torch.where(which < CLEAN + NOISY, torch.where(half < 0.5, small, uniform), levels)
    mostly = torch.where(torch.rand(shape, generator=generator) < share, 0, noisy)
    return torch.where(which < CLEAN, 0, mostly)


def episode_loss(
    model: TrainableDenoiser, batch: EpisodeBatch, spec: EpisodeSpec, levels: int, prediction: str,
    config: ObjectiveConfig, *, generator: torch.Generator, device: torch.device | str = "cpu",
) -> dict[str, Tensor]:  # fmt: skip
    """Compute the loss of a batch of episodes.

    Args:
        model: The denoiser to train.
        batch: Normalised episodes.
        spec: The layout.
        levels: K.
        prediction: ``"v"``, ``"x0"`` or ``"eps"``.
        config: ``levels`` chooses the past: ``"teacher_forcing"`` a clean one (next-token diffusion),
            ``"independent"`` Algorithm 1 to the letter, one pass, the past being the noisy tokens themselves; any
            other is as the module's text says, the tokens' own levels drawn by it. Every level counts alike.
        generator: Source of levels and noise, on the CPU.
        device: Where the model is.

    Returns:
        ``loss`` (scalar, to be minimised), and detached ``future`` (observations) and ``action``, its two parts.

    Raises:
        ValueError: For a ``weighting`` other than ``"uniform"``.

    Source:
        arXiv 2407.01392, Algorithm 1.
    """
    if config.weighting != "uniform":
        raise ValueError(f"whole episodes are trained with the weighting 'uniform' only, got {config.weighting!r}")
    shape = (batch.x0.shape[0], batch.x0.shape[1])
    law = "independent" if config.levels == TEACHER_FORCING else config.levels
    k = LEVEL_SAMPLERS[law](shape, levels, generator).clamp_min(1)
    past = torch.zeros_like(k) if config.levels == TEACHER_FORCING else past_levels(shape, levels, generator)
    k, past = (torch.where(batch.valid, v, levels) for v in (k, past))
    eps, other = (torch.randn(batch.x0.shape, generator=generator) for _ in range(2))
    parts = (batch.x0, batch.weight, eps, other, k, past)
    x0, weight, eps, other, k, past = (v.to(device, non_blocking=True) for v in parts)
    used = spec.column_mask().to(device)[batch.first : batch.first + shape[1]]
    x = add_noise(x0, k, eps, model.alpha_bar) * used
    target = target_from(prediction, x0, eps, k, model.alpha_bar)
    cond = Cond(causal=True, tokens=batch.first + torch.arange(shape[1], device=x.device))
    if config.levels == "independent":
        output = model.network(x, k, cond)
    else:
        output = model.forced(x, k, add_noise(x0, past, other, model.alpha_bar) * used, past, cond)
    error = ((output.float() - target) ** 2 * weight).sum(-1) / weight.sum(-1).clamp_min(1)
    counted = (weight.sum(-1) > 0).float()
    seen, done = (counted * (torch.arange(shape[1], device=x.device) % 2 == part) for part in (0, 1))
    mean = {name: (error * own).sum() / own.sum().clamp_min(1) for name, own in (("future", seen), ("action", done))}
    return {"loss": (mean["future"] + mean["action"]) / 2, **{n: v.detach() for n, v in mean.items()}}
