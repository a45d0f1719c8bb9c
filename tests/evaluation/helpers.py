"""Policies and a tiny checkpoint for tests of the evaluator and the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from dfplan_policies import PerEnvironmentPolicy


class Scripted(PerEnvironmentPolicy[int]):
    """Push along ``first`` for ``steps`` steps, then along ``then``."""

    def __init__(self, first: Any, steps: int, then: Any) -> None:
        self.first, self.steps, self.then = np.array(first), steps, np.array(then)

    def begin(self, episode: int) -> int:
        return 0

    def act(self, memory: int, observation: Any, goal: Any) -> Any:
        return (self.first if memory < self.steps else self.then), memory + 1


class Failing(Scripted):
    """Raise, or kill the process, at a step."""

    def __init__(self, how: str, at: int = 5) -> None:
        super().__init__([0, 0], 1, [0, 0])
        self.how, self.at = how, at

    def act(self, memory: int, observation: Any, goal: Any) -> Any:
        if memory == self.at:
            if self.how == "dies":
                os._exit(3)
            raise {"value": ValueError("step of doom"), "interrupt": KeyboardInterrupt()}[self.how]
        return super().act(memory, observation, goal)


def jittery() -> Any:
    """A planning policy whose plans differ with every random draw."""
    from dfplan_policies import DFPolicy
    from tests.policies.fakes import FakePlanner

    return DFPolicy(FakePlanner(via=[(1.0, 2.0), (2.0, 1.0)], jitter=0.5), replan_every=40, seed=3)


def tiny_checkpoint(folder: Path, env: str = "maze2d-umaze-v1") -> Path:
    """Write an untrained checkpoint of a few thousand weights."""
    import torch

    from dfplan.checkpoint import Checkpoint, save_checkpoint
    from dfplan.models.transformer import TransformerConfig, TransformerDenoiser
    from dfplan.tokens import Normalizer, TokenSpec

    torch.manual_seed(0)
    spec = TokenSpec(4, 2, stride=15, horizon=6)
    model = TransformerDenoiser(spec, TransformerConfig(width=16, layers=1, heads=2, levels=10))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    one = torch.ones
    norm = Normalizer(torch.tensor([2.0, 2.0, 0, 0]), one(4), torch.zeros(2), one(2), one(4))
    planner = {"samples": 3, "steps": 4, "precision": "fp32"}
    return save_checkpoint(Checkpoint("tiny", env, model.eval(), spec, norm, planner), folder, half=False)
