"""Check and convert what callers hand to a planner: observations, goals, generators, earlier plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dfplan.context import Context, History, build_context, check_history, check_level
from dfplan.errors import unknown_name
from dfplan.plan import Plan
from dfplan.planner_config import ATTENTIONS
from dfplan.tokens import Normalizer, TokenSpec

Generators = torch.Generator | Sequence[torch.Generator] | None


def check_attention(name: str) -> bool:
    """Check the name of an attention; returns whether it is causal.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in ATTENTIONS:
        raise unknown_name("attention", name, ATTENTIONS)
    return name == "causal"


def check_samples(samples: int) -> int:
    """Check a number of candidates.

    Raises:
        ValueError: If it is below 1.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    return samples


def check_obs(spec: TokenSpec, obs: Any, device: torch.device) -> Tensor:
    """Check the shape of observations and convert them to float32 (B, O).

    Raises:
        ValueError: If the shape is wrong.
    """
    o = torch.as_tensor(obs, dtype=torch.float32, device=device)
    o = o.unsqueeze(0) if o.ndim == 1 else o
    if o.ndim != 2 or o.shape[1] != spec.obs_dim:
        raise ValueError(f"obs must have shape (B, {spec.obs_dim}) or ({spec.obs_dim},), got {tuple(o.shape)}")
    return o


def check_finite(obs: Tensor, level: Tensor, levels: int) -> Tensor:
    """Return observations (B, O) with zeros where they are missing (level K).

    Raises:
        ValueError: If one that is not missing is not finite.
    """
    missing = (level == levels).to(obs.device)
    if not bool(torch.isfinite(obs[~missing]).all()):
        raise ValueError(
            "obs holds NaN or infinity; a plan from an unknown state is no plan. "
            f"Say that an observation is missing by obs_level={levels}"
        )
    return torch.where(missing[:, None], torch.zeros_like(obs), obs)


def check_goal(spec: TokenSpec, goal: Any, B: int, device: torch.device) -> Tensor | None:
    """Check and convert goals to float32 (B, G); None stays None.

    Raises:
        ValueError: If the shape is wrong or a value is not finite.
        TypeError: If the layout has no goal.
    """
    if goal is None:
        return None
    if not spec.goal_width:
        raise TypeError("this checkpoint was trained without goals; pass goal=None and use guidance")
    g = torch.as_tensor(goal, dtype=torch.float32, device=device)
    g = g.unsqueeze(0) if g.ndim == 1 else g
    if g.shape not in ((B, spec.goal_width), (1, spec.goal_width)):
        last = ", the return that is wanted last" if spec.returns else ""
        raise ValueError(f"goal must have shape (B={B}, {spec.goal_width}){last}, got {tuple(g.shape)}")
    if not bool(torch.isfinite(g).all()):
        raise ValueError("goal holds NaN or infinity; pass None if no goal is known")
    return g.expand(B, -1)


def check_states(spec: TokenSpec, states: Any, B: int, device: torch.device, *, first: int = 0) -> Tensor:
    """Check and convert planned states to float32 (B, first + n, O), 1 <= n <= H.

    Args:
        spec: The layout.
        states: (B, first + n, O) or (first + n, O).
        B: Number of environments.
        device: Where to.
        first: Measured states that precede the planned ones, 0 or 1.

    Raises:
        ValueError: If the shape is wrong or a value is not finite.
    """
    out = torch.as_tensor(states, dtype=torch.float32, device=device)
    out = out.unsqueeze(0) if out.ndim == 2 else out
    n = out.shape[1] - first if out.ndim == 3 else 0
    if out.shape != (B, first + n, spec.obs_dim) or not 1 <= n <= spec.horizon:
        name, shape = ("states", "n+1 with n") if first else ("plan_states", "n")
        raise ValueError(
            f"{name} must have shape (B={B}, {shape} in 1..{spec.horizon}, O={spec.obs_dim}), got {tuple(out.shape)}"
        )
    if not bool(torch.isfinite(out).all()):
        raise ValueError("planned states hold NaN or infinity; pass finite ones")
    return out


def check_actions(spec: TokenSpec, actions: Any, B: int, device: torch.device) -> Tensor:
    """Check and convert actions to float32 (B, n*F, A), 1 <= n <= H.

    Raises:
        ValueError: If the shape is wrong or a value is not finite.
    """
    out = torch.as_tensor(actions, dtype=torch.float32, device=device)
    out = out.unsqueeze(0) if out.ndim == 2 else out
    n, rest = divmod(out.shape[1], spec.stride) if out.ndim == 3 else (0, 0)
    if out.ndim != 3 or len(out) != B or out.shape[2] != spec.act_dim or rest or not 1 <= n <= spec.horizon:
        raise ValueError(
            f"actions must have shape (B={B}, n*{spec.stride} with n in 1..{spec.horizon}, A={spec.act_dim}), "
            f"got {tuple(out.shape)}"
        )
    if not bool(torch.isfinite(out).all()):
        raise ValueError("actions hold NaN or infinity; pass finite ones")
    return out


def check_horizon(spec: TokenSpec, horizon: int | None) -> int:
    """Return the number of future tokens to use.

    Raises:
        ValueError: If it is not in 1..H.
    """
    n = spec.horizon if horizon is None else horizon
    if not 1 <= n <= spec.horizon:
        raise ValueError(f"horizon must lie in 1..{spec.horizon}, the length of training, got {n}")
    return n


def or_default(value: Any, default: Any) -> Any:
    """Return ``value``, or ``default`` if it is None."""
    return default if value is None else value


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


def warm_states(spec: TokenSpec, warm_start: Plan | None, elapsed: Any, B: int, n: int) -> Tensor | None:
    """Read the states (B, n, O) that an earlier plan has at the times of the new one's tokens.

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
    times = (torch.arange(n, dtype=torch.float32) + 1) * spec.stride
    return warm_start.states_at(since.expand(B)[:, None] + times)


def read_known(
    spec: TokenSpec, norm: Normalizer, alpha_bar: Tensor, device: torch.device, obs: Any, goal: Any, level: Any,
    noise: Any, history: History | None,
) -> tuple[Context, Tensor | None]:  # fmt: skip
    """Check what is known and turn it into tokens; returns them and the goals (B, G), without returns.

    Raises:
        ValueError: If a shape, a level or a number is wrong.
        TypeError: If the layout has no goal but one is given.
    """
    measured, levels = check_obs(spec, obs, device), len(alpha_bar) - 1
    B = len(measured)
    k = check_level(spec, norm, alpha_bar, level, noise, B)
    measured = check_finite(measured, k, levels)
    goals = check_goal(spec, goal, B, device)
    past = check_history(spec, history, B, levels, device)
    context = build_context(spec, norm, alpha_bar, measured, k, goals, past)
    places = len(spec.goal_columns)
    return context, goals[:, :places] if goals is not None and places else None
