"""Behaviour cloning on the data of any task: a small network from observation columns to action columns."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from dfplan.spaces import Spaces
from dfplan_policies.per_environment import PerEnvironmentPolicy
from dfplan_policies.protocol import FloatArray

if TYPE_CHECKING:
    from dfplan.data import Episodes

WIDTH, BATCH, RATE = 256, 256, 1e-3


class CloningPolicy(PerEnvironmentPolicy[int]):
    """Take the action that the network regressed for the observation.

    Args:
        network: From normalised observation columns to action columns.
        mean: (O,).
        std: (O,).
        spaces: How columns follow from the environment's spaces.
    """

    def __init__(self, network: nn.Module, mean: torch.Tensor, std: torch.Tensor, spaces: Spaces) -> None:
        self.network, self.mean, self.std, self.spaces = network, mean, std, spaces

    def begin(self, episode: int) -> int:
        """Remember nothing but the number."""
        return episode

    def act(self, memory: int, observation: FloatArray, goal: FloatArray | None) -> tuple[FloatArray, int]:
        """Return the network's action."""
        with torch.no_grad():
            x = (torch.as_tensor(observation, dtype=torch.float32) - self.mean) / self.std
            return self.network(x).numpy(), memory


def clone(episodes: Episodes, spaces: Spaces, steps: int, seed: int) -> CloningPolicy:
    """Regress actions on observations: mean squared error, or cross entropy for discrete actions.

    Args:
        episodes: The data.
        spaces: Their spaces.
        steps: Optimiser steps of 256 transitions.
        seed: Of weights and batches.
    """
    rows = np.arange(int(episodes.lengths.sum())) + np.repeat(np.arange(len(episodes.lengths)), episodes.lengths)
    obs, act = torch.from_numpy(episodes.observations[rows]), torch.from_numpy(np.ascontiguousarray(episodes.actions))
    mean, std = obs.mean(0), obs.std(0).clamp_min(1e-6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = (obs.shape[1], WIDTH, WIDTH, act.shape[1])
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())][:-1]
        network = nn.Sequential(*layers)
    optimizer, generator = torch.optim.Adam(network.parameters(), RATE), torch.Generator().manual_seed(seed)
    discrete = spaces.action.kind == "discrete"
    for _ in tqdm(range(steps), desc="behaviour cloning", file=sys.stderr, unit="step"):
        chosen = torch.randint(len(obs), (BATCH,), generator=generator)
        found, wanted = network((obs[chosen] - mean) / std), act[chosen]
        loss = nn.functional.cross_entropy(found, wanted.argmax(-1)) if discrete else ((found - wanted) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return CloningPolicy(network.eval(), mean, std, spaces)
