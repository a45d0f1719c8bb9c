"""A small layout of whole episodes, its networks and its data, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dfplan.checkpoint import Checkpoint
from dfplan.data.episodes import Episodes
from dfplan.episode import EpisodeModel, EpisodeSpec
from dfplan.models import RecurrentConfig, TransformerConfig
from tests.core.tiny import random_network, some_norm

K = 20
SPEC = EpisodeSpec(obs_dim=3, act_dim=2, stride=2, blocks=5)
KINDS = ("learned", "rotary", "recurrent")


def checkpoint(kind: str = "rotary", spec: EpisodeSpec = SPEC, **fields: Any) -> Checkpoint:
    """Build a checkpoint with random weights and a normaliser that changes every column."""
    size: dict[str, Any] = {"width": 16, "levels": K}
    config: Any = RecurrentConfig(**size)
    if kind != "recurrent":
        config = TransformerConfig(**size, layers=2, heads=2, positions=kind, octaves=2 if kind == "rotary" else 0)
    model = random_network(spec, config)
    return Checkpoint("tiny", "fruit-swap-v0", model, spec, some_norm(spec), **fields)  # type: ignore[arg-type]


def model_of(kind: str = "rotary", spec: EpisodeSpec = SPEC, steps: int = 4, **fields: Any) -> EpisodeModel:
    """Build a model that remembers."""
    return EpisodeModel(checkpoint(kind, spec, **fields), steps)


def told(rows: int = 3, blocks: int = SPEC.blocks, spec: EpisodeSpec = SPEC) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw what was seen (B, N + 1, O) and done (B, N, F, A)."""
    g = torch.Generator().manual_seed(5)
    seen = torch.randn(rows, blocks + 1, spec.obs_dim, generator=g)
    return seen, torch.rand(rows, blocks, spec.stride, spec.act_dim, generator=g) * 2 - 1


def counted(lengths: list[int], obs_dim: int = 3, act_dim: int = 2) -> Episodes:
    """Make episodes whose every number tells episode, step and column: 100 e + t + c / 8, actions half a step on."""
    seen = [[[100 * e + t + c / 8 for c in range(obs_dim)] for t in range(n + 1)] for e, n in enumerate(lengths)]
    done = [[[100 * e + t + 0.5 + c / 8 for c in range(act_dim)] for t in range(n)] for e, n in enumerate(lengths)]
    total = sum(lengths)
    rows, acts = (np.concatenate([np.array(part, np.float32) for part in parts]) for parts in (seen, done))
    return Episodes(rows, acts, np.zeros(total), np.array(lengths))
