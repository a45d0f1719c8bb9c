"""Check and convert what callers hand to a planner: observations, goals, generators, earlier plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dfplan.plan import Plan
from dfplan.tokens import TokenSpec

Generators = torch.Generator | Sequence[torch.Generator] | None


def check_obs(spec: TokenSpec, obs: Any, device: torch.device) -> Tensor:
    """Check and convert observations to float32 (B, O).

    Raises:
        ValueError: If the shape is wrong or a value is not finite.
    """
    o = torch.as_tensor(obs, dtype=torch.float32, device=device)
    o = o.unsqueeze(0) if o.ndim == 1 else o
    if o.ndim != 2 or o.shape[1] != spec.obs_dim:
        raise ValueError(f"obs must have shape (B, {spec.obs_dim}) or ({spec.obs_dim},), got {tuple(o.shape)}")
    if not bool(torch.isfinite(o).all()):
        raise ValueError("obs holds NaN or infinity; a plan from an unknown state is no plan")
    return o


def check_goal(spec: TokenSpec, goal: Any, B: int, device: torch.device) -> Tensor | None:
    """Check and convert goals to float32 (B, G); None stays None.

    Raises:
        ValueError: If the shape is wrong or a value is not finite.
        TypeError: If the layout has no goal.
    """
    if goal is None:
        return None
    if not spec.goal_columns:
        raise TypeError("this checkpoint was trained without goals; pass goal=None and use guidance")
    g = torch.as_tensor(goal, dtype=torch.float32, device=device)
    g = g.unsqueeze(0) if g.ndim == 1 else g
    if g.shape not in ((B, len(spec.goal_columns)), (1, len(spec.goal_columns))):
        raise ValueError(f"goal must have shape (B={B}, {len(spec.goal_columns)}), got {tuple(g.shape)}")
    if not bool(torch.isfinite(g).all()):
        raise ValueError("goal holds NaN or infinity; pass None if no goal is known")
    return g.expand(B, -1)


def check_states(spec: TokenSpec, states: Any, B: int, device: torch.device) -> Tensor:
    """Check and convert planned states to float32 (B, n, O), 1 <= n <= H.

    Raises:
        ValueError: If the shape is wrong.
    """
    out = torch.as_tensor(states, dtype=torch.float32, device=device)
    out = out.unsqueeze(0) if out.ndim == 2 else out
    n = out.shape[1]
    if out.shape != (B, n, spec.obs_dim) or not 1 <= n <= spec.horizon:
        raise ValueError(
            f"plan_states must have shape (B={B}, n in 1..{spec.horizon}, O={spec.obs_dim}), got {tuple(out.shape)}"
        )
    return out


def share_generators(generator: Generators, B: int) -> list[torch.Generator | None]:
    """Return one generator per environment.

    Raises:
        ValueError: If their number is wrong.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return [generator] * B
    if len(generator) != B:
        raise ValueError(f"pass one generator, or one per environment ({B}), got {len(generator)}")
    return list(generator)


def warm_states(spec: TokenSpec, warm_start: Plan | None, elapsed: Any, B: int) -> Tensor | None:
    """Read the states (B, H, O) that an earlier plan has at the times of the new one's tokens.

    Raises:
        ValueError: If it is not a plan of as many environments, or ``elapsed`` has another shape.
    """
    if warm_start is None:
        return None
    if len(warm_start) != B:
        raise ValueError(f"warm_start must hold one plan per environment ({B}), got {len(warm_start)}")
    since = torch.as_tensor(elapsed, dtype=torch.float32)
    if since.shape not in ((), (1,), (B,)):
        raise ValueError(f"elapsed must be a number or have shape ({B},), got {tuple(since.shape)}")
    times = (torch.arange(spec.horizon, dtype=torch.float32) + 1) * spec.stride
    return warm_start.states_at(since.expand(B)[:, None] + times)
