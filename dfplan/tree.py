"""Monte Carlo tree search over sub-plans: which guidance scale for which part of the plan.

A node holds tokens denoised to some row of the scheduling matrix. Its children denoise the next ``block`` tokens, each
with a guidance scale and noise of its own; a child's value is that of a complete plan, made by jumping over most of the
rows that are left. What a node holds is a function of the seed and of its place in the tree alone, so neither the batch
size nor the order of expansion changes it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dfplan.best_of import META_ACTIONS, Clock, Stopwatch, check_budget, check_scales, seeded
from dfplan.noise import normal_like
from dfplan.ragged import Descent, Walked, stack_rows, walk_each
from dfplan.selection import Judge, best
from dfplan.uct import back_up, rewards, select_leaves


@dataclass(frozen=True)
class TreeConfig:
    """Set up `tree_search`.

    Attributes:
        scales: Guidance scales a child may have.
        copies: Children per scale, each with noise of its own.
        block: Tokens that a sub-plan finishes.
        expansions: Children made at most.
        batch: Children made in the same calls of the network, 1..200.
        skip: Rows that a completion jumps at once.
        exploration: Weight of the second term of UCT (values are scaled to 0..1).
        renew: Whether a child draws the tokens that are still pure noise anew; if not, children differ by scale alone.
        budget_ms: Time budget in milliseconds; None for no limit.
    """

    scales: tuple[float, ...] = META_ACTIONS
    copies: int = 1
    block: int = 4
    expansions: int = 64
    batch: int = 8
    skip: int = 10
    exploration: float = 1.0
    renew: bool = True
    budget_ms: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(float(s) for s in self.scales))
        check_scales(self.scales)
        for name in ("copies", "block", "expansions", "batch", "skip"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch > 200:
            raise ValueError(f"batch must be at most 200, got {self.batch}; larger ones only blur the search")
        if not 0 <= self.exploration < float("inf"):
            raise ValueError(f"exploration must be a finite number of at least 0, got {self.exploration}; 1 is usual")
        if self.copies > 1 and not self.renew:
            raise ValueError("copies of a scale differ by noise alone; pass renew=True, or copies=1")
        check_budget(self.budget_ms)

    @property
    def width(self) -> int:
        """Children that a node can have."""
        return len(self.scales) * self.copies


@dataclass(frozen=True)
class Node:
    """Describe one node of a finished search.

    Attributes:
        parent: Index of the parent; -1 for the root.
        path: Child numbers from the root.
        scale: Guidance scale of its sub-plan (0 for the root).
        row: Row of the matrix that its tokens have reached.
        value: Score of its complete plan (minus infinity for the root).
        possible: Whether that plan is feasible.
        finished: Whether the node has reached the last row.
        visits: Plans scored in its subtree, its own included.
        mean: Their mean reward, 0 (worst plan of the tree) to 1 (best); 0 for an impossible plan.
    """

    parent: int
    path: tuple[int, ...]
    scale: float
    row: int
    value: float
    possible: bool
    finished: bool
    visits: int
    mean: float


@dataclass(frozen=True)
class Progress:
    """Hold the state of a search after one batch.

    Attributes:
        expansions: Children made.
        network_evaluations: Calls of the denoiser.
        milliseconds: Time taken.
        value: Score of the best plan so far.
    """

    expansions: int
    network_evaluations: int
    milliseconds: float
    value: float


@dataclass(frozen=True)
class TreeResult:
    """Hold the outcome of a search.

    Attributes:
        x: (N, n, D), the complete plans of all nodes but the root, in the order of ``nodes[1:]``.
        value: float64 (N,), their scores.
        possible: bool (N,).
        chosen: Index of the best of them; its node is ``nodes[chosen + 1]``.
        nodes: The tree, parents before children.
        rows: Rows of the matrix at which sub-plans begin and end.
        history: Progress after every batch.
        network_evaluations: Calls of the denoiser.
        sample_evaluations: Samples that went through it, summed over its calls.
        milliseconds: Time taken.
    """

    x: Tensor
    value: Tensor
    possible: Tensor
    chosen: int
    nodes: tuple[Node, ...]
    rows: tuple[int, ...]
    history: tuple[Progress, ...]
    network_evaluations: int
    sample_evaluations: int
    milliseconds: float

    @property
    def expansions(self) -> int:
        """Children made."""
        return len(self.nodes) - 1

    @property
    def depth(self) -> int:
        """Sub-plans on the longest path."""
        return max(len(node.path) for node in self.nodes)


def sub_plan_rows(S: Tensor, order: Tensor, block: int) -> tuple[int, ...]:
    """Find the rows at which sub-plans end: the j-th when the first ``j * block`` free tokens are clean.

    Args:
        S: int64 (M+1, n).
        order: int64 (n,), causal order of the tokens.
        block: Tokens per sub-plan.

    Returns:
        Rows 0 = r_0 < r_1 < ... = M. With a matrix that finishes all tokens together there is one sub-plan.
    """
    free = (S[0] > S[-1]).nonzero().squeeze(1)
    free = free[order[free].argsort(stable=True)]
    clean = (S[:, free] > S[-1, free]).sum(0).cummax(0).values  # the first row at which a token and all before it rest
    ends = [int(clean[min(i + block, len(free)) - 1]) for i in range(0, len(free), block)]
    last = len(S) - 1
    return tuple(sorted({0, *ends, last}))


def jumpy(S: Tensor, row: int, skip: int) -> Tensor:
    """Thin out what is left of a matrix: rows ``row``, ``row + skip``, ``row + 2 skip``, ... and always the last."""
    last = len(S) - 1
    return S[[*range(row, last, skip), last]]


@dataclass
class _Tree:
    """The tree as it grows: one entry per node, the root first; ``plans`` and what follows leave the root out."""

    x: list[Tensor]
    parents: list[int] = field(default_factory=lambda: [-1])
    paths: list[tuple[int, ...]] = field(default_factory=lambda: [()])
    plans: list[Tensor] = field(default_factory=list)
    value: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    possible: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))
    calls: int = 0
    samples: int = 0
    history: list[Progress] = field(default_factory=list)


def tree_search(
    d: Descent,
    S: Tensor,
    x: Tensor,
    judge: Judge,
    config: TreeConfig | None = None,
    *,
    seed: int,
    clock: Clock = time.perf_counter,
) -> TreeResult:
    """Search for the best plan among sub-plans with different guidance scales and noise.

    Args:
        d: What is denoised and how.
        S: int64 (M+1, n), the scheduling matrix. A sub-plan should still be undecided when the one before it is clean:
            use a slope of about ``steps / block`` or more.
        x: (1, n, D), tokens at the levels of the first row.
        judge: Values and feasibility of clean tokens.
        config: Budget, scales, size of sub-plans.
        seed: Of all random numbers.
        clock: Returns seconds; for tests.

    Returns:
        `TreeResult`; at least one batch of children is made.

    Raises:
        ValueError: If shapes do not fit, or there are scales and no cost for them to scale.

    Source:
        arXiv 2502.07202 (sub-plans, meta-actions, jumpy completion) and 2506.09498 (batches of leaves). A node is
        expanded at most once per child, and subtrees that hold nothing new are left out: with a given seed they would
        repeat themselves.
    """
    c = config or TreeConfig()
    _check(d, S, x, c)
    rows = sub_plan_rows(S, d.order, c.block)
    tree, visits, totals = _Tree([x[0]]), torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    watch = Stopwatch(c.budget_ms, clock)
    while watch.more():
        left = min(c.batch, c.expansions - len(tree.plans))
        finished = [len(path) == len(rows) - 1 for path in tree.paths]
        picks = select_leaves(
            tree.parents, finished, visits, totals, width=c.width, batch=left, exploration=c.exploration
        )
        if not picks:
            break
        _expand(tree, picks, d, S, rows, judge, c, seed)
        visits, totals = back_up(tree.parents, rewards(tree.value, tree.possible))
        top = float(tree.value[best(tree.value, tree.possible)])
        tree.history.append(Progress(len(tree.plans), tree.calls, watch.lap(), top))
    return _result(tree, rows, visits, totals, c)


def _check(d: Descent, S: Tensor, x: Tensor, c: TreeConfig) -> None:
    if x.ndim != 3 or len(x) != 1 or S.ndim != 2 or S.shape[1] != x.shape[1]:
        raise ValueError(f"x (1, n, D) and S (M+1, n) must agree in n, got {tuple(x.shape)} and {tuple(S.shape)}")
    if not bool((S[0] > S[-1]).any()):
        raise ValueError("S moves no token; the first row must be noisier than the last somewhere")
    if not d.guided and any(s != 0 for s in c.scales):
        raise ValueError(
            f"scales {c.scales} need a guidance to scale; pass one, or scales=(0,) and copies to branch by noise"
        )


def _expand(
    tree: _Tree, picks: Sequence[tuple[int, int]], d: Descent, S: Tensor, rows: tuple[int, ...], judge: Judge,
    c: TreeConfig, seed: int,
) -> None:  # fmt: skip
    """Make children: walk their sub-plans in one batch, then complete and score them in another."""
    paths = [(*tree.paths[node], child) for node, child in picks]
    spans = [(rows[len(p) - 1], rows[len(p)]) for p in paths]
    scales = torch.tensor([c.scales[child % len(c.scales)] for _, child in picks], dtype=torch.float64)
    draw = normal_like([seeded(seed, *p) for p in paths])
    x = torch.stack([tree.x[node] for node, _ in picks])
    if c.renew:
        noise = torch.stack([S[a] for a, _ in spans]) == len(d.alpha_bar) - 1
        x = torch.where(noise.to(x.device).unsqueeze(-1), d.noise(draw, x), x)
    sub = walk_each(d, stack_rows([S[a : b + 1] for a, b in spans]), x, scales=scales, draw=draw)
    rest = stack_rows([jumpy(S, b, c.skip) for _, b in spans])
    whole = walk_each(d, rest, sub.x, scales=scales, draw=normal_like([seeded(seed, *p, -1) for p in paths]))
    _record(tree, picks, paths, sub, whole, judge)


def _record(
    tree: _Tree, picks: Sequence[tuple[int, int]], paths: list[tuple[int, ...]], sub: Walked, whole: Walked,
    judge: Judge,
) -> None:  # fmt: skip
    value, possible = judge(whole.x)
    tree.x += list(sub.x)
    tree.plans += list(whole.x)
    tree.parents += [node for node, _ in picks]
    tree.paths += paths
    tree.value, tree.possible = torch.cat([tree.value, value]), torch.cat([tree.possible, possible])
    tree.calls += sub.network_evaluations + whole.network_evaluations
    tree.samples += sub.sample_evaluations + whole.sample_evaluations


def _result(tree: _Tree, rows: tuple[int, ...], visits: Tensor, totals: Tensor, c: TreeConfig) -> TreeResult:
    value, possible = [float("-inf"), *tree.value.tolist()], [False, *tree.possible.tolist()]
    nodes = tuple(
        Node(
            parent=tree.parents[i], path=path, scale=c.scales[path[-1] % len(c.scales)] if path else 0.0,
            row=rows[len(path)], value=value[i], possible=possible[i], finished=len(path) == len(rows) - 1,
            visits=int(visits[i]), mean=float(totals[i] / visits[i].clamp_min(1)),
        )
        for i, path in enumerate(tree.paths)
    )  # fmt: skip
    return TreeResult(
        x=torch.stack(tree.plans), value=tree.value, possible=tree.possible, chosen=best(tree.value, tree.possible),
        nodes=nodes, rows=rows, history=tuple(tree.history), network_evaluations=tree.calls,
        sample_evaluations=tree.samples, milliseconds=tree.history[-1].milliseconds,
    )  # fmt: skip
