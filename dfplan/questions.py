"""Five questions to one set of weights: what is clean and what is noisy decides which.

================  ================  ======================  =============  =============================================
question          state             future observations     actions        answer
================  ================  ======================  =============  =============================================
`plan`            clean             noisy                   absent         a path (`dfplan.planning`)
`act`             clean             absent                  first noisy    the next action chunk: a policy
`imagine`         clean             noisy                   clean          what actions lead to: a world model
`infer_actions`   clean             clean                   noisy          what led along states: inverse dynamics
`prior`           noisy             noisy                   noisy          what the data look like
================  ================  ======================  =============  =============================================

Absent is the same as level K: nobody looks at a token of pure noise. A state that is measured with noise, or not at
all, has a level of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dfplan.context import Context
from dfplan.planner_inputs import Generators, share_generators
from dfplan.planning import Setting, actions_along, check_learned_state, denoise, state_samples
from dfplan.schedule import make_schedule
from dfplan.tokens import CONTEXT, STATE, unpack_actions


@dataclass(frozen=True)
class Trajectories:
    """Hold states and actions in environment units.

    Attributes:
        observations: (N, H+1, O), every ``stride`` steps.
        actions: (N, H*F, A).
    """

    observations: Tensor
    actions: Tensor


def _parts(generator: Generators, rows: Tensor, B: int) -> Generators:
    """Choose the generators of some rows of a batch."""
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    every = share_generators(generator, B)
    return [g for g in (every[int(row)] for row in rows) if g is not None]


def act(s: Setting, given: Context, steps: int, causal: bool, generator: Generators) -> Tensor:
    """Denoise the next action chunk: the policy question.

    Args:
        s: Model, layout, statistics.
        given: State, goal and history, at their levels.
        steps: Reverse steps, 1..K; with one the result is the conditional mean.
        causal: Causal or full attention.
        generator: One, or one per environment.

    Returns:
        Actions (B, F, A), environment units, not clipped.
    """
    K, B = len(s.alpha_bar) - 1, len(given.x)
    S, free = make_schedule("full_sequence", 1, K, steps=steps), torch.tensor([s.spec.action_token(0)])
    found = torch.zeros(B, 1, s.spec.width, device=s.device)
    for rows, part in given.groups(K):
        out = denoise(s, part, free, S, causal=causal, generator=_parts(generator, rows, B))
        found[rows.to(s.device)] = out.x[:, -1:]
    return unpack_actions(s.spec, s.norm, found)


def estimate(s: Setting, given: Context, samples: int, steps: int, causal: bool, generator: Generators) -> Tensor:
    """Estimate the state from a noisy observation or none, the goal and the history.

    Args:
        s: Model, layout, statistics.
        given: What is known, at its levels.
        samples: N, samples per environment.
        steps: Reverse steps from K; with one the result is the conditional mean.
        causal: Causal or full attention.
        generator: One, or one per environment.

    Returns:
        (B, N, O), environment units.

    Raises:
        ValueError: If the layout's state is never learned.
    """
    state, _ = _clean_states(s, given, samples, steps, causal, generator)
    return s.norm.obs_back(state[..., s.spec.obs_slice])


def _clean_states(
    s: Setting, given: Context, samples: int, steps: int, causal: bool, generator: Generators
) -> tuple[Tensor, int]:
    """Return normalised state tokens (B, N, D): those that are clean as they are, the others sampled."""
    K, B = len(s.alpha_bar) - 1, len(given.x)
    found, calls = given.x[:, :1].repeat_interleave(samples, 1), 0
    for rows, part in given.groups(K):
        if STATE in part.tokens and int(part.k[0, 0]) == 0:
            continue
        state, used = state_samples(s, part.repeated(samples), steps, causal, _parts(generator, rows, B))
        found[rows.to(s.device)] = state.reshape(len(rows), samples, -1)
        calls += used
    return found, calls


def imagine(
    s: Setting, given: Context, actions: Tensor, samples: int, schedule: str | Tensor, slope: float, steps: int,
    generator: Generators,
) -> Tensor:  # fmt: skip
    """Denoise the states that actions lead to: the world-model question.

    Args:
        s: Model, layout, statistics.
        given: State and history, at their levels.
        actions: (B, n*F, A), environment units.
        samples: N, futures per environment.
        schedule: Name of the scheduling matrix, or the matrix (M+1, n).
        slope: Of a zig-zag.
        steps: Reverse steps per token, 1..K.
        generator: One, or one per environment.

    Returns:
        (B, N, n+1, O), environment units; the first state is the observed one, or the estimate of it.

    Raises:
        ValueError: If actions of this layout are not seen by the states.
    """
    spec, K, B = s.spec, len(s.alpha_bar) - 1, len(actions)
    check_visible_actions(spec.kind)
    n = actions.shape[1] // spec.stride
    S = make_schedule(schedule, n, K, steps=steps, slope=slope)
    state, _ = _clean_states(s, given, samples, steps, True, generator)
    given = given.repeated(samples).with_state(state.flatten(0, 1))
    chunks = torch.zeros(B * samples, n, spec.width, device=s.device)
    chunks[..., spec.act_slice] = s.norm.act(actions).reshape(B, n, spec.act_columns).repeat_interleave(samples, 0)
    given = given.added(spec.plan_tokens + torch.arange(n), chunks)
    found = torch.zeros(B * samples, n, spec.width, device=s.device)
    for rows, part in given.groups(K):
        own = _parts(generator, rows[::samples] // samples, B)
        out = denoise(s, part, CONTEXT + torch.arange(n), S, causal=True, generator=own)
        found[rows.to(s.device)] = out.x[:, -n:]
    x = torch.cat([state.unsqueeze(2), found.reshape(B, samples, n, -1)], 2)
    return s.norm.obs_back(x[..., spec.obs_slice])


def check_visible_actions(kind: str) -> None:
    """Refuse layouts in which actions do not have a level of their own, or are seen by nobody.

    Raises:
        ValueError: For the kinds ``path`` and ``bundle``.
    """
    reason = {
        "path": "in path tokens no state sees an action, so actions cannot be asked what they lead to",
        "bundle": "in bundle tokens actions share the level of their states, so they cannot be given",
    }
    if kind in reason:
        raise ValueError(f"{reason[kind]}; use a checkpoint trained with --tokens interleaved")


def infer_actions(s: Setting, states: Tensor, chunks: int, steps: int, causal: bool, generator: Generators) -> Tensor:
    """Denoise the actions that lead along states: the inverse-dynamics question.

    Args:
        s: Model, layout, statistics.
        states: (B, n+1, O), environment units, the first one measured.
        chunks: How many chunks to ask for, 1..n; the states after them are seen with full attention.
        steps: Reverse steps, 1..K; with one the result is the conditional mean.
        causal: Causal or full attention (always full for interleaved tokens).
        generator: As in `act`.

    Returns:
        Actions (B, chunks*F, A), environment units, not clipped.

    Raises:
        ValueError: If the layout has no action tokens.
    """
    if not s.spec.chunked:
        raise ValueError("bundle tokens carry their actions; use plan(actions=True).actions[:, :stride]")
    x = torch.zeros(*states.shape[:2], s.spec.width, device=s.device)
    x[..., s.spec.obs_slice] = s.norm.obs(states)
    return actions_along(s, x, chunks, steps, causal, generator)


def prior(
    s: Setting, samples: int, schedule: str | Tensor, slope: float, steps: int, causal: bool,
    generator: torch.Generator | None,
) -> Trajectories:  # fmt: skip
    """Sample states and actions from nothing: every token starts as noise, the state too.

    Args:
        s: Model, layout, statistics.
        samples: N.
        schedule: Name of the scheduling matrix, or a matrix (M+1, 2H+1) in causal order: the state, the first chunk of
            actions, the state it leads to, and so on.
        slope: Of a zig-zag.
        steps: Reverse steps per token, 1..K.
        causal: Causal or full attention.
        generator: Source of noise.

    Raises:
        ValueError: If the layout's state is never learned.
    """
    check_learned_state(s.spec)
    spec, H = s.spec, s.spec.horizon
    S = make_schedule(schedule, 2 * H + 1, len(s.alpha_bar) - 1, steps=steps, slope=slope)
    free = torch.cat([torch.tensor([STATE]), CONTEXT + torch.arange(2 * H)])
    nothing = torch.zeros(samples, 0, spec.width, device=s.device)
    given = Context(free[:0], nothing, torch.zeros(samples, 0, dtype=torch.int64))
    x = denoise(s, given, free, torch.cat([S[:, ::2], S[:, 1::2]], 1), causal=causal, generator=generator).x
    states = s.norm.obs_back(x[:, : H + 1, spec.obs_slice])
    return Trajectories(states.cpu(), unpack_actions(spec, s.norm, x[:, H + 1 :]).cpu())
