"""A linear-Gaussian world on an interleaved layout, a planner that knows it, and the exact law of its answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import dfplan.planning
from dfplan.checkpoint import Checkpoint
from dfplan.noise import alpha_bar_table
from dfplan.planner import DFPlanner, PlannerConfig
from dfplan.tokens import GOAL, STATE, Normalizer, TokenSpec
from tests.core.gaussian import F64, GaussianDenoiser, Impulses, Law, condition

SPEC = TokenSpec(1, 1, stride=2, horizon=3, kind="interleaved", history=2, goal_columns=(0,), rest_columns=())
NORM = Normalizer(torch.tensor([0.7]), torch.tensor([1.5]), torch.tensor([-0.2]), torch.tensor([0.8]), torch.ones(1))


@dataclass(frozen=True)
class World:
    """Hold the joint law of all tokens, flat (T * D,): observations in column 0, the two actions in columns 1 and 2."""

    mean: Tensor
    cov: Tensor

    @staticmethod
    def entry(name: str, i: int = 0, part: int = 0) -> int:
        """Return the flat index of ``o`` (i = -h..H, 0 the state), ``a`` (i = -h..-1, 1..H; two parts) or ``g``."""
        h, D = SPEC.history, SPEC.width
        if name == "g":
            return GOAL * D
        if name == "o":
            token = STATE if i == 0 else (1 + i if i > 0 else SPEC.past_tokens + h + i)
            return token * D
        token = SPEC.plan_tokens + i - 1 if i > 0 else SPEC.past_tokens + 2 * h + i
        return token * D + 1 + part

    def given(self, known: dict[int, float], asked: list[int], noise: dict[int, float] | None = None) -> Law:
        """Condition on entries that are known, some of them with noise of a variance; returns the law of ``asked``."""
        cov = self.cov.clone()
        for index, variance in (noise or {}).items():  # ``asked`` must then not hold these entries
            cov[index, index] += variance
        order = [*known, *asked]
        mask = torch.arange(len(order)) < len(known)
        if not known:
            return Law(self.mean[asked], self.cov[asked][:, asked])
        values = torch.tensor(list(known.values()), dtype=F64)
        return Law(*condition(self.mean[order], cov[order][:, order], mask, values))


def world(seed: int = 0) -> World:
    """Build o' = 0.9 o + 0.4 a1 - 0.3 a2 + w, a1 = -0.5 o + v, a2 = 0.6 a1 + 0.2 o + u, goal = last o + noise."""
    size = SPEC.tokens * SPEC.width
    sources = 1 + 3 * (SPEC.history + SPEC.horizon) + 1
    effect, mean = torch.zeros(size, sources, dtype=F64), torch.zeros(size, dtype=F64)
    new = iter(range(sources))
    e = World.entry

    def put(index: int, parts: dict[int, float], constant: float, scale: float) -> None:
        for other, weight in parts.items():
            effect[index] += weight * effect[other]
            mean[index] += weight * mean[other]
        mean[index] += constant
        effect[index, next(new)] += scale

    h, H = SPEC.history, SPEC.horizon
    put(e("o", -h), {}, 0.3, 1.1)
    for i in range(-h, H):
        chunk, here, there = (i if i < 0 else i + 1), e("o", i), e("o", i + 1)
        first, second = e("a", chunk, 0), e("a", chunk, 1)
        put(first, {here: -0.5}, 0.1, 0.6)
        put(second, {first: 0.6, here: 0.2}, -0.1, 0.5)
        put(there, {here: 0.9, first: 0.4, second: -0.3}, 0.2, 0.3)
    put(e("g"), {e("o", H): 1.0}, 0.0, 0.2)
    return World(mean, effect @ effect.T)


class ExactModel(GaussianDenoiser):
    """The exact denoiser with what a planner reads of a network."""

    device = torch.device("cpu")

    @property
    def levels(self) -> int:
        """K."""
        return len(self.alpha_bar) - 1


def exact_planner(K: int) -> DFPlanner:
    """Return a planner of the world above with K levels; its normalised values are those of the world."""
    joint = world()
    model = ExactModel(
        joint.mean.reshape(SPEC.tokens, SPEC.width), joint.cov, alpha_bar_table("cosine", K), SPEC.order()
    )
    checkpoint: Any = Checkpoint("exact", "none", model, SPEC, NORM, {}, {})  # type: ignore[arg-type]
    planner = DFPlanner(checkpoint, PlannerConfig(precision="fp32", schedule="autoregressive"))
    planner._model = model  # which computes anew what another would remember
    return planner


class Counter:
    """A source of noise that answers 0 and counts."""

    def __init__(self) -> None:
        self.width = 0

    def __call__(self, like: Tensor) -> Tensor:
        """Return zeros like (B, n, D)."""
        self.width += like[0].numel()
        return torch.zeros_like(like)


def answered_law(monkeypatch: pytest.MonkeyPatch, answer: Callable[[int], Tensor]) -> Law:
    """Compute the exact law of an answer that is affine in the noise drawn for it.

    Args:
        monkeypatch: Replaces the noise by unit impulses.
        answer: From a number of rows B to (B, n), every row asking the same.
    """
    counter = Counter()
    monkeypatch.setattr(dfplan.planning, "normal_like", lambda generator: counter)
    answer(1)
    impulses = Impulses(1)
    monkeypatch.setattr(dfplan.planning, "normal_like", lambda generator: impulses)
    out = answer(1 + counter.width).double()
    effect = out[1:] - out[0]
    return Law(out[0], effect.T @ effect)
