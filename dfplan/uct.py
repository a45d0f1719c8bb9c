"""Upper confidence bounds on a tree: which nodes to expand next, several at once. Pure functions.

A tree is a list of parents (parents before children, -1 for the root) with one reward per node but the root.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def uct_scores(totals: Tensor, visits: Tensor, virtual: Tensor, parent_visits: float, exploration: float) -> Tensor:
    """Score children: ``total / n + exploration sqrt(ln(parent) / n)``, n with virtual visits, which earned nothing.

    Args:
        totals: (C,), summed rewards.
        visits: (C,), visits that were scored.
        virtual: (C,), visits under way; they count as visits with reward 0.
        parent_visits: Visits of the parent, those under way included.
        exploration: Weight of the second term.

    Returns:
        (C,); infinity for a child that was never visited.

    Source:
        UCB1 on trees; virtual visits as in arXiv 2506.09498.
    """
    n = visits + virtual
    second = torch.sqrt(math.log(max(parent_visits, 1.0)) / n.clamp_min(1e-9))
    return torch.where(n > 0, totals / n.clamp_min(1e-9) + exploration * second, float("inf"))


def rewards(value: Tensor, possible: Tensor) -> Tensor:
    """Scale values to 0..1 over the possible plans; impossible ones earn 0 (if none is possible, all count).

    Args:
        value: float64 (N,), minus infinity allowed.
        possible: bool (N,).
    """
    pool = (possible if bool(possible.any()) else torch.ones_like(possible)) & (value > float("-inf"))
    known = value[pool & value.isfinite()]
    if len(known) == 0:
        return pool.double()
    low, span = known.min(), known.max() - known.min()
    scaled = ((value - low) / span).clamp(0, 1) if span > 0 else torch.full_like(value, 0.5)
    return torch.where(pool, scaled, 0.0)


def back_up(parents: Sequence[int], reward: Tensor) -> tuple[Tensor, Tensor]:
    """Sum visits and rewards over subtrees.

    Args:
        parents: Parent of every node, parents first; -1 for the root, which was not scored.
        reward: (nodes - 1,), rewards of all but the root.

    Returns:
        Visits and totals, float64 (nodes,).
    """
    visits = torch.ones(len(parents), dtype=torch.float64)
    visits[0] = 0.0
    totals = torch.cat([torch.zeros(1, dtype=torch.float64), reward.double()])
    for i in range(len(parents) - 1, 0, -1):
        visits[parents[i]] += visits[i]
        totals[parents[i]] += totals[i]
    return visits, totals


def select_leaves(
    parents: Sequence[int],
    finished: Sequence[bool],
    visits: Tensor,
    totals: Tensor,
    *,
    width: int,
    batch: int,
    exploration: float,
) -> list[tuple[int, int]]:
    """Choose which children to make next, as (node, child number), several at once.

    Each pick goes down from the root by UCT to the first node that has a child to make, and leaves a virtual visit on
    its way, so that the next pick tends to go elsewhere. A finished node has no children, and a subtree in which
    nothing is left to make is not entered.

    Args:
        parents: Parent of every node, parents first; siblings in the order of their child numbers.
        finished: Whether a node has reached the last row.
        visits: (nodes,), from `back_up`.
        totals: (nodes,), from `back_up`.
        width: Children that a node can have.
        batch: Picks at most.
        exploration: Weight of the second term of UCT.

    Returns:
        At most ``batch`` picks; none if the tree is exhausted.
    """
    children: list[list[int]] = [[] for _ in parents]
    for i in range(1, len(parents)):
        children[parents[i]].append(i)
    made, virtual = [len(c) for c in children], torch.zeros_like(visits)
    picks: list[tuple[int, int]] = []
    while len(picks) < batch:
        usable = _open(parents, finished, made, width)
        if not usable[0]:
            break
        node, way = 0, [0]
        while made[node] == width:
            kids = [c for c in children[node] if usable[c]]
            here = float(visits[node] + virtual[node])
            node = kids[int(uct_scores(totals[kids], visits[kids], virtual[kids], here, exploration).argmax())]
            way.append(node)
        picks.append((node, made[node]))
        made[node] += 1
        virtual[way] += 1
    return picks


def _open(parents: Sequence[int], finished: Sequence[bool], made: Sequence[int], width: int) -> list[bool]:
    """Find the nodes in whose subtree a child can be made."""
    usable = [made[i] < width and not finished[i] for i in range(len(parents))]
    for i in range(len(parents) - 1, 0, -1):
        usable[parents[i]] = usable[parents[i]] or usable[i]
    return usable
