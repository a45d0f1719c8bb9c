"""Sample the candidate plans of one environment, choose one, and join the environments' results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dfplan.actions import denoise_actions
from dfplan.guidance import CheckedGuidance, Guidance
from dfplan.models.base import Denoiser
from dfplan.noise import add_noise, normal_like
from dfplan.plan import Plan
from dfplan.planner_inputs import Generators
from dfplan.sampler import LogCost, Samples, sample
from dfplan.schedule import make_schedule
from dfplan.selection import arrival_steps, feasible, select
from dfplan.tokens import CONTEXT, GOAL, STATE, Normalizer, TokenSpec, goal_token, unpack_actions


@dataclass(frozen=True)
class Setting:
    """Hold what sampling needs of a planner.

    Attributes:
        model: The denoiser.
        spec: The layout.
        norm: The statistics.
        alpha_bar: Table (K+1,).
        order: int64 (T,), causal order.
        mask: float (T, D), 1 in the columns that a token uses.
        device: Where the model is.
        goal_radius: Radius of the goal disc, environment units.
        action_steps: Reverse steps for action tokens.
    """

    model: Denoiser
    spec: TokenSpec
    norm: Normalizer
    alpha_bar: Tensor
    order: Tensor
    mask: Tensor
    device: torch.device
    goal_radius: float
    action_steps: int


@dataclass(frozen=True)
class Walk:
    """Say how candidates are sampled.

    Attributes:
        samples: N, candidates.
        S: int64 (M+1, H), levels of the future tokens.
        causal: Causal or full attention.
        eta: 0 (DDIM) to 1 (DDPM).
        hold: ``"copy"`` or ``"resample"``.
        guidance: In environment units, or None.
        actions: Whether to fill in the actions along the selected plan.
        trace: Whether to keep all candidates after every row.
    """

    samples: int
    S: Tensor
    causal: bool
    eta: float
    hold: str
    guidance: Guidance | None
    actions: bool
    trace: bool


def plan_one(
    s: Setting, walk: Walk, obs: Tensor, goal: Tensor | None, prior: Tensor | None, generator: torch.Generator | None
) -> dict[str, Any]:
    """Sample candidates for one environment and choose one.

    Args:
        s: Model, layout, statistics.
        walk: How to sample.
        obs: Current observation (O,).
        goal: (G,) or None.
        prior: States (H, O) to start from, or None.
        generator: Source of noise.
    """
    spec, S, N = s.spec, walk.S, walk.samples
    # An unknown goal would be at level K: leaving it out is the same.
    context = [STATE] if goal is None else [STATE, GOAL]
    tokens = torch.tensor([*context, *range(CONTEXT, spec.plan_tokens)])
    mask, draw = s.mask[tokens].to(s.device), normal_like(generator)
    x = torch.zeros(N, len(tokens), spec.width, device=s.device)
    x[:, 0, spec.obs_slice] = s.norm.obs(obs)
    if goal is not None:
        x[:, 1] = goal_token(spec, s.norm, goal[None])
    future = slice(len(context), None)
    clean = torch.zeros_like(x[:, future])
    if prior is not None:
        clean[..., spec.obs_slice] = s.norm.obs(prior.to(s.device))
    x[:, future] = add_noise(clean, S[0].expand(N, -1), draw(clean), s.alpha_bar) * mask[future]
    full_S = torch.cat([torch.zeros(len(S), len(context), dtype=torch.int64), S], 1)
    out = sample(
        s.model, full_S, x, alpha_bar=s.alpha_bar, tokens=tokens, order=s.order[tokens], causal=walk.causal,
        eta=walk.eta, hold=walk.hold, log_cost=_log_cost(s, walk.guidance, len(context)), draw=draw, mask=mask,
        trace=walk.trace,
    )  # fmt: skip
    return _choose(s, walk, out, goal, len(context), generator)


def _log_cost(s: Setting, guidance: Guidance | None, context: int) -> LogCost | None:
    """Turn guidance on states in environment units into a cost of tokens."""
    if guidance is None:
        return None
    checked = guidance if isinstance(guidance, CheckedGuidance) else CheckedGuidance(guidance)

    def log_cost(x0_hat: Tensor, k: Tensor) -> Tensor:
        keep = [0, *range(context, x0_hat.shape[1])]
        return checked(s.norm.obs_back(x0_hat[:, keep, s.spec.obs_slice]), k[keep])

    return log_cost


def _choose(
    s: Setting, walk: Walk, out: Samples, goal: Tensor | None, context: int, generator: torch.Generator | None
) -> dict[str, Any]:
    """Judge the candidates, choose one and fill in its actions."""
    spec = s.spec
    keep = [0, *range(context, out.x.shape[1])]
    states = s.norm.obs_back(out.x[:, keep, spec.obs_slice])
    arrival, possible = _judge(s, states, goal)
    columns = spec.goal_columns or tuple(range(spec.obs_dim))
    chosen = int(select(arrival[None], possible[None], states[None], columns, spec.stride))
    calls, actions = out.network_evaluations, None
    if walk.actions:
        actions = _plan_actions(s, out.x[chosen : chosen + 1, keep], walk.causal, generator)[0]
        calls += s.action_steps if spec.kind == "path" else 0
    trace = None if out.trace is None else s.norm.obs_back(out.trace[:, :, keep, spec.obs_slice])
    return {
        "states": states, "arrival": arrival, "possible": possible, "chosen": chosen, "actions": actions,
        "calls": calls, "S": out.S, "trace": trace,
    }  # fmt: skip


def _judge(s: Setting, states: Tensor, goal: Tensor | None) -> tuple[Tensor, Tensor]:
    """Find arrival steps (N,) and feasibility (N,) of candidates (N, H+1, O)."""
    spec, never = s.spec, torch.full((1,), float("inf"), device=s.device)
    limit, columns = never.repeat(spec.obs_dim), list(spec.goal_columns)
    limit[columns] = s.norm.max_move.to(limit)[columns]
    arrival = (
        never.repeat(len(states))
        if goal is None
        else arrival_steps(states, goal, spec.goal_columns, s.goal_radius, spec.stride)
    )
    return arrival, feasible(states, limit, arrival, spec.stride)


def _plan_actions(s: Setting, plan: Tensor, causal: bool, generator: torch.Generator | None) -> Tensor:
    """Denoise the actions along a clean plan (1, H+1, D): (1, H*F, A)."""
    if s.spec.kind == "bundle":
        return unpack_actions(s.spec, s.norm, plan[:, 1:])
    tokens = torch.cat([torch.tensor([STATE]), CONTEXT + torch.arange(2 * s.spec.horizon)])
    return actions_along(s, plan, tokens, s.action_steps, causal, generator)


def actions_along(s: Setting, x: Tensor, tokens: Tensor, steps: int, causal: bool, generator: Generators) -> Tensor:
    """Denoise the action tokens that follow clean tokens.

    Args:
        s: Model, layout, statistics.
        x: Clean normalised tokens (B, n, D).
        tokens: int64 (n + c,), their positions, then those of the c action tokens.
        steps: Reverse steps, 1..K.
        causal: Causal or full attention.
        generator: Source of noise.

    Returns:
        Actions (B, c*F, A), environment units.
    """
    ladder = make_schedule("full_sequence", 1, len(s.alpha_bar) - 1, steps=steps)[:, 0]
    mask, draw = s.mask.to(s.device), normal_like(generator)
    chunks = denoise_actions(s.model, x, tokens, ladder, s.alpha_bar, mask=mask, causal=causal, draw=draw)
    return unpack_actions(s.spec, s.norm, chunks)


def join(s: Setting, rows: list[dict[str, Any]], goal: Tensor | None, seconds: float) -> Plan:
    """Stack the environments' results into one `Plan` on the CPU."""

    def stack(name: str) -> Tensor:
        return torch.stack([r[name] for r in rows]).cpu()

    candidates, selected, arrival = stack("states"), torch.tensor([r["chosen"] for r in rows]), stack("arrival")
    index = torch.arange(len(rows))
    first = rows[0]
    return Plan(
        observations=candidates[index, selected],
        actions=None if first["actions"] is None else stack("actions"),
        score=-arrival[index, selected],
        candidates=candidates,
        arrival_steps=arrival,
        feasible=stack("possible"),
        selected=selected,
        goal=None if goal is None else goal.cpu(),
        schedule=first["S"],
        trace=None if first["trace"] is None else torch.stack([r["trace"] for r in rows], 1).cpu(),
        stride=s.spec.stride,
        dt_s=s.spec.dt_s,
        network_evaluations=first["calls"],
        seconds=seconds,
    )
