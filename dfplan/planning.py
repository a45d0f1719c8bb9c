"""Sample the candidate plans of one environment, choose one, and join the environments' results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dfplan.actions import denoise_actions
from dfplan.context import Context
from dfplan.guidance import CheckedGuidance, Guidance
from dfplan.models.base import Denoiser
from dfplan.noise import Draw, add_noise, normal_like
from dfplan.plan import Plan
from dfplan.planner_inputs import Generators
from dfplan.plausibility import penalty, surprise
from dfplan.sampler import LogCost, Samples, sample
from dfplan.schedule import make_schedule, start_below
from dfplan.selection import Score, arrival_steps, best, feasible, select, values
from dfplan.steering import Steering
from dfplan.tokens import CONTEXT, STATE, Normalizer, TokenSpec, unpack_actions, unpack_rewards
from dfplan.tree import TreeConfig
from dfplan.value.worth import worth


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
        plausibility_level: Noise level at which the plausibility of candidates is judged.
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
    plausibility_level: int = 1


@dataclass(frozen=True)
class Walk:
    """Say how candidates are sampled.

    Attributes:
        samples: N, candidates.
        S: int64 (M+1, n), levels of the future tokens.
        steps: Reverse steps of a state that is not measured cleanly.
        causal: Causal or full attention.
        eta: 0 (DDIM) to 1 (DDPM).
        hold: ``"copy"`` or ``"resample"``.
        guidance: In environment units, or None.
        steering: How guidance acts.
        actions: Whether to fill in the actions along the selected plan.
        trace: Whether to keep all candidates after every row.
        score: Values of candidates, states (N, n+1, O) to (N,); None prefers an early arrival.
        budget_ms: Time budget of all environments together in milliseconds; None draws one batch.
        search: Search a tree of sub-plans instead of drawing whole plans.
        plausibility: Weight of the candidates' plausibility in the selection, 0 for none.
        batched: Whether the environments go through the network together (without a budget and a search).
    """

    samples: int
    S: Tensor
    steps: int
    causal: bool
    eta: float
    hold: str
    guidance: Guidance | None
    steering: Steering
    actions: bool
    trace: bool
    score: Score | None = None
    budget_ms: float | None = None
    search: TreeConfig | None = None
    plausibility: float = 0.0
    batched: bool = False


@dataclass(frozen=True)
class Drawn:
    """Hold candidates of one environment before one is chosen.

    Attributes:
        given: What was given to each of the N candidates, a row each.
        out: N samples.
        calls: Calls of the network.
        value: float64 (N,), their values if they are known.
    """

    given: Context
    out: Samples
    calls: int
    value: Tensor | None = None


def joined(parts: Sequence[Drawn]) -> Drawn:
    """Put batches of candidates of one environment one after the other."""
    first = parts[0]
    if len(parts) == 1:
        return first
    trace = None if first.out.trace is None else torch.cat([p.out.trace for p in parts if p.out.trace is not None], 1)
    given = replace(first.given, x=torch.cat([p.given.x for p in parts]), k=torch.cat([p.given.k for p in parts]))
    out = replace(first.out, x=torch.cat([p.out.x for p in parts]), trace=trace)
    return Drawn(given, out, sum(p.calls for p in parts))


def denoise(
    s: Setting, given: Context, free: Tensor, S: Tensor, *, causal: bool, generator: Generators, eta: float = 0.0,
    hold: str = "copy", guidance: Guidance | None = None, trace: bool = False, begin: Tensor | None = None,
    steering: Steering | None = None, number: int = 0,
) -> Samples:  # fmt: skip
    """Denoise free tokens, given others at constant levels.

    Args:
        s: Model, layout, statistics.
        given: The given tokens; the same levels in all rows of the batch.
        free: int64 (f,), positions of the free tokens.
        S: int64 (M+1, f), their levels.
        causal: Causal or full attention.
        generator: One, or one per equal block of the batch.
        eta: 0 (DDIM) to 1 (DDPM).
        hold: ``"copy"`` or ``"resample"``.
        guidance: In environment units, or None.
        trace: Whether to keep the tokens after every row.
        begin: Free tokens (B, f, D) at the levels of the first row; noised zeros if None.
        steering: How guidance acts.
        number: Number of the first sample of each block, with which its guidance scale is dealt.

    Returns:
        `Samples` of the given and then the free tokens.
    """
    c, draw, steer = len(given.tokens), normal_like(generator), steering or Steering()
    blocks = len(generator) if isinstance(generator, Sequence) else 1
    scales = steer.scales_of(len(given.x) // blocks, number)
    tokens, level = torch.cat([given.tokens, free]), given.k[0]
    mask = s.mask[tokens].to(s.device)
    if begin is None:
        begin = noised(s, torch.zeros(len(given.x), len(free), s.spec.width, device=s.device), free, S, draw)
    walked = torch.cat([level.expand(len(S), -1), S], 1)
    return sample(
        steer.denoiser(s.model, s.alpha_bar), walked, torch.cat([given.x, begin], 1), alpha_bar=s.alpha_bar,
        tokens=tokens, order=s.order[tokens],
        causal=causal, eta=eta, hold=hold, log_cost=cost_of(s, guidance, given), draw=draw, mask=mask, trace=trace,
        finish=torch.arange(len(tokens)) >= c, monte_carlo=steer.monte_carlo,
        noisy_log_cost=steer.noisy_log_cost(tokens), scales=None if scales is None else scales.repeat(blocks),
    )  # fmt: skip


def noised(s: Setting, clean: Tensor, tokens: Tensor, S: Tensor, draw: Draw) -> Tensor:
    """Noise clean tokens (B, f, D) to the levels of the first row of S."""
    noisy = add_noise(clean, S[0].expand(len(clean), -1), draw(clean), s.alpha_bar)
    return noisy * s.mask[tokens].to(s.device)


def state_samples(s: Setting, given: Context, steps: int, causal: bool, generator: Generators) -> tuple[Tensor, int]:
    """Sample the state from what is known of it: a noisy token or none, the goal and the history.

    From a measured noisy token the steps are random (DDPM): the deterministic ones would always lead to the same state.

    Args:
        s: Model, layout, statistics.
        given: The same levels in all rows of the batch.
        steps: Reverse steps from K; with one the result is the conditional mean.
        causal: Causal or full attention.
        generator: One, or one per equal block of the batch.

    Returns:
        Normalised state tokens (B, D), and the calls of the network.

    Raises:
        ValueError: If the layout's state is never learned.
    """
    check_learned_state(s.spec)
    K = len(s.alpha_bar) - 1
    position, known = torch.tensor([STATE]), given.tokens == STATE
    S, begin, eta = make_schedule("full_sequence", 1, K, steps=steps), None, 0.0
    if bool(known.any()):
        level = int(given.k[0, known])
        S, begin, eta = start_below(S, level), given.x[:, known.to(given.x.device)], 1.0
    out = denoise(
        s, given.without(STATE), position, S, causal=causal, generator=generator, eta=eta, begin=begin
    )  # fmt: skip
    return out.x[:, -1], out.network_evaluations


def check_learned_state(spec: TokenSpec) -> None:
    """Refuse layouts whose state is always given.

    Raises:
        ValueError: For the kinds ``path`` and ``bundle``.
    """
    if spec.kind != "interleaved":
        raise ValueError(
            f"{spec.kind} tokens are trained with the state given, so it cannot be estimated; use a checkpoint trained "
            "with --tokens interleaved, or pass the observation"
        )


def known_state(s: Setting, walk: Walk, given: Context, generator: Any) -> tuple[Context, int]:
    """Sample the state where it is not known cleanly, once per row; returns context and network calls."""
    if STATE not in given.tokens or (s.spec.kind == "interleaved" and int(given.k[0, 0]) > 0):
        state, calls = state_samples(s, given, walk.steps, walk.causal, generator)
        return given.with_state(state), calls
    return given, 0


def beginning(s: Setting, walk: Walk, samples: int, prior: Tensor | None, generator: Any) -> tuple[Tensor, Tensor]:
    """Return the positions (n,) of the future tokens, and those tokens (N, n, D) at the levels of the first row."""
    n = walk.S.shape[1]
    free = CONTEXT + torch.arange(n)
    clean = torch.zeros(samples, n, s.spec.width, device=s.device)
    if prior is not None:
        clean[..., s.spec.obs_slice] = s.norm.obs(prior.to(s.device))
    return free, noised(s, clean, free, walk.S, normal_like(generator))


def draw_batch(
    s: Setting, walk: Walk, given: Context, prior: Tensor | None, generator: Any, number: int = 0
) -> Drawn:  # fmt: skip
    """Sample candidates for one environment, or for several that know the same tokens at the same levels.

    Args:
        s: Model, layout, statistics.
        walk: How to sample.
        given: State, goal and history (a row per environment), what is missing left out. A state that is not clean is
            sampled first, once per candidate.
        prior: States (n, O), or (E, n, O) for several environments, to start from, or None.
        generator: Source of noise, a list of one per environment if there are several.
        number: Number of the first candidate of each.
    """
    given, calls = known_state(s, walk, given.repeated(walk.samples), generator)
    if prior is not None and prior.ndim == 3:
        prior = prior.repeat_interleave(walk.samples, 0)
    free, begin = beginning(s, walk, len(given.x), prior, generator)
    out = denoise(
        s, given, free, walk.S, causal=walk.causal, generator=generator, eta=walk.eta, hold=walk.hold,
        guidance=walk.guidance, trace=walk.trace, begin=begin, steering=walk.steering, number=number,
    )  # fmt: skip
    return Drawn(given, out, calls + out.network_evaluations)


def states_of(s: Setting, given: Context, x: Tensor) -> Tensor:
    """Read states (..., n+1, O) in environment units from tokens (..., c+n, D) of which the first c are given.

    A first state that is noisy and stays so (in layouts that do not learn it) is read as it was measured.
    """
    c, part = len(given.tokens), s.spec.obs_slice
    first = given.x[:, :1, part] / s.alpha_bar[given.k[:, :1].to(s.device)].sqrt().to(given.x).unsqueeze(-1)
    future = x[..., c:, part]
    first = first.repeat_interleave(future.shape[-3] // len(first), 0)
    return s.norm.obs_back(torch.cat([first.expand(*future.shape[:-2], -1, -1), future], -2))


def cost_of(s: Setting, guidance: Guidance | None, given: Context) -> LogCost | None:
    """Turn guidance on states in environment units into a cost of tokens."""
    if guidance is None:
        return None
    checked = guidance if isinstance(guidance, CheckedGuidance) else CheckedGuidance(guidance)
    c = len(given.tokens)

    def log_cost(x0_hat: Tensor, k: Tensor) -> Tensor:
        return checked(states_of(s, given, x0_hat), k[[0, *range(c, x0_hat.shape[1])]])

    return log_cost


def choose(s: Setting, walk: Walk, drawn: Drawn, goal: Tensor | None, generator: Any) -> dict[str, Any]:
    """Judge the candidates, choose one and fill in its actions."""
    spec, given, out = s.spec, drawn.given, drawn.out
    c, states = len(given.tokens), states_of(s, given, out.x)
    arrival, possible = judge(s, states, goal)
    value = drawn.value if walk.score is None or drawn.value is not None else values(walk.score, states)
    if value is None and not spec.goal_columns:
        tokens = torch.cat([given.tokens, CONTEXT + torch.arange(out.x.shape[1] - c)])
        value = worth(spec, s.norm, walk.steering.value, out.x, out.S[-1], tokens, c)
    calls, actions, surprises = drawn.calls, None, None
    if value is None:
        columns = spec.goal_columns or tuple(range(spec.obs_dim))
        late = None
        if walk.plausibility > 0 and len(states) > 1:
            surprises = _surprises(s, walk, drawn, list(columns), generator)
            late, calls = penalty(surprises, arrival, spec.stride, walk.plausibility)[None], calls + 2
        chosen = int(select(arrival[None], possible[None], states[None], columns, spec.stride, penalty=late))
    else:
        chosen = best(value, possible.cpu())
    if walk.actions:
        row = slice(chosen, chosen + 1)
        actions = _plan_actions(s, given.x[row, :1], out.x[row, c:], walk.causal, generator)[0]
        calls += s.action_steps if spec.chunked else 0
    return {
        "states": states, "arrival": arrival, "possible": possible, "chosen": chosen, "actions": actions,
        "calls": calls, "S": out.S, "surprises": surprises,
        "rewards": unpack_rewards(spec, s.norm, out.x[chosen, c:]) if spec.rewards else None,
        "trace": None if out.trace is None else states_of(s, given, out.trace),
        "score": -arrival[chosen] if value is None or (goal is not None and walk.score is None)
        else value[chosen].float(),
    }  # fmt: skip


def _surprises(s: Setting, walk: Walk, drawn: Drawn, columns: list[int], generator: Any) -> Tensor:
    """Ask the model how far each token of each candidate is from what it would have foretold: (N, n)."""
    c, x = len(drawn.given.tokens), drawn.out.x
    tokens = torch.cat([drawn.given.tokens, CONTEXT + torch.arange(x.shape[1] - c)])
    first = s.spec.obs_slice.start
    return surprise(
        s.model, x, torch.arange(len(tokens)) >= c, k=drawn.out.S[-1], tokens=tokens,
        columns=[first + column for column in columns], level=s.plausibility_level, alpha_bar=s.alpha_bar,
        mask=s.mask[tokens].to(x.device), causal=walk.causal, draw=normal_like(generator),
    )  # fmt: skip


def judge(s: Setting, states: Tensor, goal: Tensor | None) -> tuple[Tensor, Tensor]:
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


def _plan_actions(s: Setting, state: Tensor, plan: Tensor, causal: bool, generator: Generators) -> Tensor:
    """Denoise the actions along a clean plan (1, n, D) from a state (1, 1, D): (1, n*F, A)."""
    if not s.spec.chunked:
        return unpack_actions(s.spec, s.norm, plan)
    return actions_along(s, torch.cat([state, plan], 1), plan.shape[1], s.action_steps, causal, generator)


def actions_along(s: Setting, states: Tensor, chunks: int, steps: int, causal: bool, generator: Generators) -> Tensor:
    """Denoise action tokens, given clean states: the inverse-dynamics question.

    Args:
        s: Model, layout, statistics.
        states: Normalised tokens (B, 1 + n, D), the state and n future ones.
        chunks: How many chunks to denoise, 1..n.
        steps: Reverse steps, 1..K.
        causal: Causal or full attention; interleaved tokens need full, since a chunk comes before what it leads to.
        generator: Source of noise.

    Returns:
        Actions (B, chunks*F, A), environment units.
    """
    n = states.shape[1] - 1
    tokens = torch.cat([torch.tensor([STATE]), CONTEXT + torch.arange(n), s.spec.plan_tokens + torch.arange(chunks)])
    ladder = make_schedule("full_sequence", 1, len(s.alpha_bar) - 1, steps=steps)[:, 0]
    mask, draw = s.mask.to(s.device), normal_like(generator)
    causal = causal and s.spec.kind == "path"
    found = denoise_actions(s.model, states, tokens, ladder, s.alpha_bar, mask=mask, causal=causal, draw=draw)
    return unpack_actions(s.spec, s.norm, found)


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
        score=stack("score"),
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
        search=tuple(r["search"] for r in rows) if "search" in first else None,
        surprise=None if first.get("surprises") is None else stack("surprises"),
        rewards=None if first.get("rewards") is None else stack("rewards"),
    )
