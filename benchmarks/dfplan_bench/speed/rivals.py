"""Plan once with each of the three designs: their own rows, candidates and guidance, on random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dfplan_bench.speed.designs import ForcingTransformer, TemporalUNet, VeteranTransformer

DDIM, TOKENS = 50, 81


@dataclass(frozen=True)
class Rival:
    """Describe a design and its settings.

    Attributes:
        label: Its name.
        settings: What a plan consists of, in words.
        build: Makes the network.
        rows: Calls of the network in a plan; all cost the same.
        candidates: Plans per environment that it samples.
        shape: (n, D) of one sample.
        walk: Takes the first rows of a plan: (network, samples (B, n, D), how many rows) -> samples.
    """

    label: str
    settings: str
    build: Callable[[], nn.Module]
    rows: int
    candidates: int
    shape: tuple[int, int]
    walk: Callable[[nn.Module, Tensor, int], Tensor]


def forcing(model: nn.Module, x: Tensor, rows: int) -> Tensor:
    """Denoise along the pyramid, guided to a goal by the gradient of the distance through the network."""
    t, goal = torch.arange(TOKENS, device=x.device), torch.tensor([7.0, 9.0], device=x.device)
    table = torch.cos(0.5 * torch.pi * torch.arange(DDIM + 1, device=x.device) / DDIM) ** 2
    for m in range(rows):
        k, k_next = ((DDIM + t - row).clamp(0, DDIM).expand(len(x), -1) for row in (m, m + 1))
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            x0 = model(leaf, k)
            distance = (x0.unflatten(-1, (10, 6))[..., :2] - goal).norm(dim=-1)
            (gradient,) = torch.autograd.grad(-distance.mean((1, 2)).sum(), leaf)
        a, b = table[k].unsqueeze(-1), table[k_next].unsqueeze(-1)
        eps = (x - a.sqrt() * x0.detach()) / (1 - a).clamp_min(1e-4).sqrt()
        step = b.sqrt() * x0.detach() + (1 - b).sqrt() * eps + 0.1 * gradient
        x = torch.where((k == k_next).unsqueeze(-1), x, step)
    return x


def diffuser(model: nn.Module, x: Tensor, rows: int) -> Tensor:
    """Take ancestral steps; the first and the last state are written over with what is known."""
    betas = torch.linspace(1e-4, 0.02, 256, device=x.device)
    left = torch.cumprod(1 - betas, 0)
    known, source = torch.zeros(len(x), 2, 4, device=x.device), torch.Generator(x.device).manual_seed(0)
    with torch.no_grad():
        for i in range(255, 255 - rows, -1):
            x0 = model(x, torch.full((len(x),), i, device=x.device)).clamp(-1, 1)
            before = left[i - 1] if i else torch.ones((), device=x.device)
            mean = (
                betas[i] * before.sqrt() / (1 - left[i]) * x0 + (1 - before) * (1 - betas[i]).sqrt() / (1 - left[i]) * x
            )
            x = mean + (betas[i] * (1 - before) / (1 - left[i])).sqrt() * torch.randn(
                x.shape, generator=source, device=x.device
            )
            x[:, [0, -1], :4] = known
    return x


def veteran(model: nn.Module, x: Tensor, rows: int) -> Tensor:
    """Take DDIM steps; the first state is written over with the known one."""
    table = torch.cos(0.5 * torch.pi * torch.arange(21, device=x.device) / 20).clamp_min(1e-3)
    with torch.no_grad():
        for i in range(20, 20 - rows, -1):
            eps = model(x, torch.full((len(x),), i / 20, device=x.device))
            a, b = table[i], table[i - 1]
            x = b * (x - (1 - a**2).sqrt() * eps) / a + (1 - b**2).clamp_min(0).sqrt() * eps
            x[:, 0] = 0
    return x


RIVALS = {
    "forcing": Rival(
        "Diffusion Forcing v1.5", "12 layers, width 128, 81 tokens of 10 steps, 129 rows of a pyramid of 50 DDIM "
        "steps, a backward pass each", ForcingTransformer, DDIM + TOKENS - 2, 1, (TOKENS, 60), forcing,
    ),
    "diffuser": Rival(
        "Diffuser", "temporal U-Net 32 x (1, 4, 8), horizon 384, 256 steps", TemporalUNet, 256, 1, (384, 6), diffuser
    ),
    "veteran": Rival(
        "Diffusion Veteran", "transformer of depth 2, width 256, 32 tokens, 20 DDIM steps, 50 candidates",
        VeteranTransformer, 20, 50, (32, 4), veteran,
    ),
}  # fmt: skip
