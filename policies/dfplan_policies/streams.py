"""Random streams that depend on nothing but who asks and how often."""

from __future__ import annotations

import numpy as np
import torch


def stream(seed: int, episode: int, count: int) -> torch.Generator:
    """Return a generator that is decided by a policy's seed, the episode's number and a count of earlier streams."""
    state = np.random.SeedSequence([seed, episode, count]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
