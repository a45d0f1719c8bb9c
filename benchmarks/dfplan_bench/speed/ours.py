"""Our planner as the benchmark times it: starts and goals, and its settings by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dfplan import DFPlanner, Plan
from dfplan.checkpoint import load_checkpoint
from dfplan.models import TransformerDenoiser
from dfplan.planner_config import PlannerConfig
from dfplan_bench.common import CAREFUL_PLAN

MAZE = "maze2d-large"
FAST: Mapping[str, Any] = {"steps": 5, "slope": 0.0}
VARIANTS: dict[str, Mapping[str, Any]] = {
    "defaults": {},
    "defaults, 50 candidates": {"samples": 50},
    "10 steps, slope 0.5, 16 candidates": CAREFUL_PLAN,
    "5 steps, slope 0": FAST,
    "5 steps, slope 0, 50 candidates": {**FAST, "samples": 50},
    "5 steps, slope 0, 4 candidates": {**FAST, "samples": 4},
}


def planner(precision: str = "fp32", device: str = "cpu", **options: Any) -> DFPlanner:
    """Load the bundled planner."""
    return DFPlanner.from_pretrained(MAZE, device=device, precision=precision, **options)


def lengthened(tokens: int, precision: str = "fp32") -> DFPlanner:
    """Build a planner of the same width whose plans have another number of tokens; its weights are random."""
    known = load_checkpoint(MAZE)
    spec = replace(known.plan_spec, horizon=tokens)
    torch.manual_seed(0)
    model = TransformerDenoiser(spec, known.model.config).eval()  # type: ignore[arg-type]
    return DFPlanner(replace(known, spec=spec, model=model), PlannerConfig(precision=precision))


def situations(environments: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw states (B, 4) and goals (B, 2) inside the maze's box."""
    g = torch.Generator().manual_seed(seed)
    obs = torch.zeros(environments, 4)
    obs[:, :2] = 1 + 6 * torch.rand(environments, 2, generator=g)
    return obs, torch.tensor([7.0, 9.0]).expand(environments, 2)


def plan(of: DFPlanner, environments: int = 1, seed: int = 0, **options: Any) -> Plan:
    """Plan once for every environment, with random streams of their own."""
    obs, goals = situations(environments, seed)
    sources = [torch.Generator().manual_seed(1000 * seed + b) for b in range(environments)]
    return of.plan(obs, goals, generator=sources, **options)
