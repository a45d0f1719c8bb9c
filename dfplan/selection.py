"""Judge candidate plans: when they arrive, whether they are possible, which one to take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]
"""From states (N, H+1, O) in environment units to values (N,), higher is better."""


def arrival_steps(states: Tensor, goal: Tensor, columns: tuple[int, ...], radius: float, stride: int) -> Tensor:
    """Compute when each plan first enters the goal disc.

    The entry is interpolated inside the token in which it happens, so that the result is finer than a token.

    Args:
        states: (..., H+1, O).
        goal: (..., G), broadcast against the leading axes of ``states``.
        columns: Observation columns of the goal.
        radius: Of the goal disc, environment units.
        stride: Environment steps per token.

    Returns:
        (...,) environment steps; infinity if the plan never gets there.
    """
    distance = (states[..., list(columns)] - goal.unsqueeze(-2)).norm(dim=-1)
    inside = distance <= radius
    first = inside.to(torch.int64).argmax(-1, keepdim=True)
    now = distance.gather(-1, first).squeeze(-1)
    before = distance.gather(-1, (first - 1).clamp_min(0)).squeeze(-1)
    share = ((before - radius) / (before - now).clamp_min(1e-9)).clamp(0, 1)
    index = first.squeeze(-1)
    steps = torch.where(index > 0, index - 1 + share, torch.zeros_like(share)) * stride
    return torch.where(inside.any(-1), steps, torch.full_like(steps, float("inf")))


def feasible(states: Tensor, max_move: Tensor, until: Tensor, stride: int, *, slack: float = 1.1) -> Tensor:
    """Check that no column moves further between two tokens than it ever did in the data.

    Args:
        states: (..., H+1, O).
        max_move: (O,), largest change over one token in the data; columns with infinity are not checked.
        until: (...,), arrival in environment steps; later moves do not count.
        stride: Environment steps per token.
        slack: Factor on ``max_move``.

    Returns:
        bool (...,).
    """
    moves = states.diff(dim=-2).abs()
    begins = torch.arange(moves.shape[-2], device=states.device) * stride
    counts = begins < until.unsqueeze(-1)
    return ((moves <= slack * max_move.to(states)).all(-1) | ~counts).all(-1)


def select(
    arrival: Tensor,
    possible: Tensor,
    states: Tensor,
    columns: tuple[int, ...],
    stride: int,
    *,
    penalty: Tensor | None = None,
) -> Tensor:
    """Choose the candidate that arrives first among the feasible ones.

    Ties (nobody arrives) go to the shortest path among feasible ones; if none is feasible, all compete.

    Args:
        arrival: (B, N) steps.
        possible: bool (B, N).
        states: (B, N, H+1, O).
        columns: Columns of the position.
        stride: Environment steps per token.
        penalty: (B, N) environment steps by which each counts as later; see `dfplan.plausibility`.

    Returns:
        int64 (B,).
    """
    length = states[..., list(columns)].diff(dim=-2).norm(dim=-1).sum(-1)
    horizon = float((states.shape[-2] - 1) * stride)
    late = torch.where(arrival.isfinite(), arrival, torch.full_like(arrival, 2 * horizon))
    cost = late + 1e-3 * length
    if penalty is not None:
        cost = cost + penalty
    worst = 4 * horizon if penalty is None else 4 * horizon + 2 * float(penalty.max())
    cost = cost + torch.where(possible, 0.0, worst)
    best: Tensor = cost.argmin(-1)
    return best


def arrival_score(goal: Tensor | None, columns: tuple[int, ...], radius: float, stride: int) -> Score:
    """Build the score that prefers an early arrival and then a short path: `select`'s order as a number.

    ``-(arrival + 1e-3 length)`` with arrival in environment steps; a plan that never arrives counts as twice the
    horizon.

    Args:
        goal: (G,) in environment units; None if there is none, then only the length counts.
        columns: Columns of the position, those of the goal if there is one.
        radius: Of the goal disc, environment units.
        stride: Environment steps per token.
    """

    def score(states: Tensor) -> Tensor:
        late = torch.full_like(states[..., 0, 0], 2.0 * (states.shape[-2] - 1) * stride)
        if goal is not None:
            arrival = arrival_steps(states, goal.to(states), columns, radius, stride)
            late = torch.where(arrival.isfinite(), arrival, late)
        length: Tensor = states[..., list(columns)].diff(dim=-2).norm(dim=-1).sum(-1)
        return -(late + 1e-3 * length)

    return score


def values(score: Score, states: Tensor) -> Tensor:
    """Compute values of candidates, float64 (N,) on the CPU; NaN counts as minus infinity.

    Args:
        score: The function.
        states: (N, H+1, O).

    Raises:
        ValueError: If it does not return one number per candidate.
    """
    with torch.no_grad():
        value = torch.as_tensor(score(states))
    if value.shape != states.shape[:1]:
        raise ValueError(f"a score must return one number per candidate, ({len(states)},), got {tuple(value.shape)}")
    return torch.where(value.isnan(), float("-inf"), value.double()).cpu()


@dataclass(frozen=True)
class Judge:
    """Give every candidate a value and say whether it is possible.

    Attributes:
        states: From clean tokens (N, n, D) to states (N, H+1, O) in environment units.
        score: From those states to values (N,), higher is better.
        possible: From those states to bool (N,), see `feasible`; None takes every candidate for possible.
    """

    states: Callable[[Tensor], Tensor]
    score: Score
    possible: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return values float64 (N,) and feasibility bool (N,) of tokens (N, n, D), on the CPU; NaN counts as worst."""
        with torch.no_grad():
            states = self.states(x)
            value = values(self.score, states)
            possible = torch.ones(len(x), dtype=torch.bool) if self.possible is None else self.possible(states)
        if possible.shape != x.shape[:1]:
            raise ValueError(f"feasibility needs one bool per candidate, ({len(x)},), got {tuple(possible.shape)}")
        return value, possible.cpu()


def best(value: Tensor, possible: Tensor) -> int:
    """Find the most valuable candidate among the possible ones; if none is possible, all compete. Ties: the first.

    Args:
        value: (N,).
        possible: bool (N,).
    """
    pool = possible if bool(possible.any()) else torch.ones_like(possible)
    index = pool.nonzero().squeeze(1)
    return int(index[value[index].argmax()])
