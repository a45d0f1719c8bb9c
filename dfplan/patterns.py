"""Training levels of interleaved tokens: a mixture of the questions that one set of weights will be asked.

Every sample draws one pattern. K is pure noise, 0 clean, "any" the level sampler's choice, and "asked" that choice in
half the samples and levels that are `apart` in the others:

========  ==============================  ========================================  ============================
pattern   future observations             action chunks                             the question
========  ==============================  ========================================  ============================
plan      any                             K                                         a path, its actions left out
joint     any                             those of the observation each leads to,   everything at once; the prior
                                          or a second draw (half each)
world     asked                           0                                         world model
inverse   0                               asked                                     inverse dynamics; causally a
                                                                                    policy that imitates
act       0 up to a random place, then K  0 up to it, one random, then K            the next action
========  ==============================  ========================================  ============================

Whatever the pattern, the state is sometimes noisy or missing, and so is the history.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dfplan.schedule import LevelSampler
from dfplan.tokens import CONTEXT, GOAL, STATE, TokenSpec

PATTERNS = ("plan", "joint", "world", "inverse", "act")


@dataclass(frozen=True)
class PatternConfig:
    """Say how often each question is trained.

    Attributes:
        plan: Share of samples with noisy observations and no actions.
        joint: Share with both noisy.
        world: Share with clean actions and noisy observations.
        inverse: Share with clean observations and noisy actions.
        act: Share with a clean beginning, one noisy action chunk and nothing after it.
        noisy_state: Share of samples whose state has a random level.
        missing_state: Share of samples whose state is at level K.
        no_history: Share of samples without any history.
        noisy_history: Share of samples whose past observations are each clean, missing or at a random level (a third
            each); the past actions are clean.
    """

    plan: float = 0.35
    joint: float = 0.1
    world: float = 0.3
    inverse: float = 0.2
    act: float = 0.05
    noisy_state: float = 0.1
    missing_state: float = 0.1
    no_history: float = 0.3
    noisy_history: float = 0.3

    def __post_init__(self) -> None:
        for name, share in vars(self).items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} is a share and must lie in [0, 1], got {share}")
        for names in (PATTERNS, ("noisy_state", "missing_state"), ("no_history", "noisy_history")):
            total = sum(getattr(self, name) for name in names)
            if total > 1 + 1e-9 or (names is PATTERNS and total < 1 - 1e-9):
                rule = "be 1" if names is PATTERNS else "be at most 1"
                raise ValueError(f"the shares {', '.join(names)} must together {rule}, got {total:g}")


def draw_pattern(
    spec: TokenSpec,
    batch: int,
    levels: int,
    sampler: LevelSampler,
    config: PatternConfig,
    generator: torch.Generator,
) -> Tensor:
    """Draw the levels of all tokens of an interleaved layout, int64 (B, T), the goal at 0.

    Args:
        spec: The layout.
        batch: B.
        levels: K.
        sampler: Draws (B, H) levels of what is noisy in a pattern.
        config: The shares.
        generator: Source of randomness.
    """
    B, H = batch, spec.horizon
    k = torch.zeros(B, spec.tokens, dtype=torch.int64)
    k[:, STATE] = _mixed((B,), levels, config.noisy_state, config.missing_state, generator)
    k[:, GOAL] = 0
    k[:, CONTEXT : spec.plan_tokens], k[:, spec.plan_tokens : spec.past_tokens] = _future(
        (B, H), levels, sampler, config, generator
    )
    if spec.history:
        k[:, spec.past_tokens :] = _history(spec, B, levels, config, generator)
    return k


def _future(
    shape: tuple[int, int], levels: int, sampler: LevelSampler, config: PatternConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw the levels of future observations and action chunks, each (B, H), by the pattern of each sample."""
    B, H = shape
    first, second = sampler(shape, levels, generator), sampler(shape, levels, generator)
    clean, noise = torch.zeros(shape, dtype=torch.int64), torch.full(shape, levels)
    together = torch.rand((B, 1), generator=generator) < 0.5
    place, here = torch.randint(0, H, (B, 1), generator=generator), torch.arange(H)
    any_level = torch.randint(1, levels + 1, (B, 1), generator=generator)
    ahead = torch.where(here < place, 0, levels)
    asked = torch.where(torch.rand((B, 1), generator=generator) < 0.5, apart(shape, levels, generator), first)
    options = {
        "plan": (first, noise),
        "joint": (first, torch.where(together, first, second)),
        "world": (asked, clean),
        "inverse": (clean, asked),
        "act": (ahead, torch.where(here == place, any_level, ahead)),
    }
    edges = torch.tensor([getattr(config, name) for name in PATTERNS]).cumsum(0)[:-1]
    which = torch.bucketize(torch.rand(B, generator=generator), edges, right=True)
    rows = torch.arange(B)
    obs, act = (torch.stack([options[name][part] for name in PATTERNS]) for part in (0, 1))
    return obs[which, rows], act[which, rows]


def apart(shape: tuple[int, int], levels: int, generator: torch.Generator) -> Tensor:
    """Draw levels that are clean (half of the tokens), pure noise (a quarter) or anything (a quarter), independently.

    A world model predicts a token from its clean predecessor, in one step from pure noise if it is to be fast; with
    uniform levels it would hardly ever have met either.
    """
    return _mixed(shape, levels, 0.25, 0.25, generator)


def _mixed(shape: tuple[int, ...], levels: int, noisy: float, missing: float, generator: torch.Generator) -> Tensor:
    """Draw levels that are 0, a share ``noisy`` of them uniform on 1..K, a share ``missing`` of them K."""
    u = torch.rand(shape, generator=generator)
    k = torch.randint(1, levels + 1, shape, generator=generator)
    k = torch.where(u < noisy, k, torch.zeros_like(k))
    return torch.where(u >= 1 - missing, torch.full_like(k, levels), k)


def _history(spec: TokenSpec, batch: int, levels: int, config: PatternConfig, generator: torch.Generator) -> Tensor:
    """Draw the levels of past observations and then of past action chunks, (B, 2h)."""
    h = spec.history
    corrupted = _mixed((batch, h), levels, 1 / 3, 1 / 3, generator)
    u = torch.rand((batch, 1), generator=generator)
    obs = torch.where(u < config.noisy_history, corrupted, torch.zeros_like(corrupted))
    k = torch.cat([obs, torch.zeros_like(obs)], 1)
    return torch.where(u >= 1 - config.no_history, torch.full_like(k, levels), k)
