"""Small layouts, networks, data sets and checkpoints for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dfplan.checkpoint import Checkpoint
from dfplan.data.episodes import Episodes
from dfplan.layout import Layout
from dfplan.models import Network, NetworkConfig, make_denoiser
from dfplan.models.transformer import TransformerConfig, TransformerDenoiser
from dfplan.tokens import Normalizer, TokenSpec
from dfplan.windows import fit_normalizer


def small_spec(**changes: Any) -> TokenSpec:
    """Return a layout of 4-d states, 2-d actions, stride 3."""
    return TokenSpec(**{"obs_dim": 4, "act_dim": 2, "stride": 3, "horizon": 5, **changes})


def random_denoiser(spec: TokenSpec, *, seed: int = 0, **config: Any) -> TransformerDenoiser:
    """Build a network whose every weight is random: as it starts, its head is 0 and would hide any leak."""
    torch.manual_seed(seed)
    size = {"width": 16, "layers": 2, "heads": 2, "levels": 20, **config}
    model = TransformerDenoiser(spec, TransformerConfig(**size))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return model.eval()


def random_network(spec: Layout, config: NetworkConfig, *, seed: int = 0) -> Network:
    """Build a network of either kind whose every weight is random."""
    model, generator = make_denoiser(spec, config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return model.eval()


def identity_norm(spec: TokenSpec) -> Normalizer:
    """Return a normaliser that changes nothing."""
    O, A = spec.obs_dim, spec.act_dim  # noqa: E741
    return Normalizer(torch.zeros(O), torch.ones(O), torch.zeros(A), torch.ones(A), torch.ones(O))


def some_norm(spec: TokenSpec, seed: int = 0) -> Normalizer:
    """Return a normaliser with different numbers in every column."""
    g = torch.Generator().manual_seed(seed)

    def row(n: int, low: float) -> torch.Tensor:
        return low + torch.rand(n, generator=g)

    return Normalizer(row(spec.obs_dim, -0.5), row(spec.obs_dim, 0.5), row(spec.act_dim, -0.5), row(spec.act_dim, 0.5),
                      row(spec.obs_dim, 1.0))  # fmt: skip


def tiny_checkpoint(spec: TokenSpec | None = None, *, seed: int = 0, planner: Any = None, **config: Any) -> Checkpoint:
    """Build an untrained checkpoint with random weights."""
    spec = spec or small_spec()
    model = random_denoiser(spec, seed=seed, **config)
    options = {"precision": "fp32", "samples": 3, "steps": 6, **(planner or {})}
    return Checkpoint("tiny", "maze2d-umaze-v1", model, spec, some_norm(spec), options, {"data": {"id": "none"}})


def walks(episodes: int = 12, steps: int = 40, seed: int = 0) -> Episodes:
    """Make episodes of a ball that is pushed about: position and velocity, actions in [-1, 1]."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(steps // 2, steps + 1, episodes)
    observations, actions = [], []
    for length in lengths:
        action = np.clip(np.cumsum(rng.normal(size=(length, 2)) * 0.3, 0), -1, 1)
        state = np.concatenate([rng.uniform(-1, 1, 2), np.zeros(2)])
        rows = [state]
        for a in action:
            velocity = 0.9 * rows[-1][2:] + 0.1 * a
            rows.append(np.concatenate([rows[-1][:2] + 0.1 * velocity, velocity]))
        observations.append(np.array(rows))
        actions.append(action)
    total = int(lengths.sum())
    return Episodes(np.concatenate(observations), np.concatenate(actions), np.zeros(total), lengths)


def fitted(spec: TokenSpec, episodes: Episodes) -> Normalizer:
    """Fit the normaliser of a layout to episodes."""
    return fit_normalizer(episodes, spec.stride)
