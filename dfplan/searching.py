"""Plan for a batch of environments: one batch of candidates each, as many as fit into a budget, or a tree search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor

from dfplan.best_of import Stopwatch, seeded
from dfplan.context import Context
from dfplan.planning import (
    Drawn,
    Setting,
    Walk,
    beginning,
    choose,
    cost_of,
    draw_batch,
    joined,
    judge,
    known_state,
    states_of,
)
from dfplan.ragged import Descent
from dfplan.sampler import Samples
from dfplan.selection import Judge, arrival_score
from dfplan.tree import TreeConfig, TreeResult, tree_search

MOST_TOGETHER = 1024  # candidates of all environments that go through the network at once, for memory's sake


def plan_each(
    s: Setting, walk: Walk, given: Sequence[Context], goals: Tensor | None, priors: Tensor | None,
    generators: Sequence[torch.Generator | None],
) -> list[dict[str, Any]]:  # fmt: skip
    """Plan for every environment, each on its own unless ``walk.batched``.

    Args:
        s: Model, layout, statistics.
        walk: How to sample, and how long.
        given: What is known, one row per environment.
        goals: (B, G) or None.
        priors: States (B, n, O) to start from, or None.
        generators: Source of noise, one per environment.

    Returns:
        One result per environment, for `dfplan.planning.join`.
    """
    goal = [None] * len(given) if goals is None else list(goals)
    prior = [None] * len(given) if priors is None else list(priors)
    if walk.search is not None:
        rows = [search_one(s, walk, walk.search, *row) for row in zip(given, goal, prior, generators, strict=True)]
        return _equally_many(rows)
    if walk.budget_ms is None:
        draw = _draw_together if walk.batched else _draw_apart
        drawn = draw(s, walk, given, prior, generators)
        return [choose(s, walk, d, goal[b], generators[b]) for b, d in enumerate(drawn)]
    parts = _draw_until(s, walk, given, prior, generators)
    return [choose(s, walk, joined(p), goal[b], generators[b]) for b, p in enumerate(parts)]


def _draw_apart(
    s: Setting, walk: Walk, given: Sequence[Context], prior: Sequence[Tensor | None],
    generators: Sequence[torch.Generator | None],
) -> list[Drawn]:  # fmt: skip
    """Draw each environment's candidates on its own."""
    return [draw_batch(s, walk, *row) for row in zip(given, prior, generators, strict=True)]


def _draw_together(
    s: Setting, walk: Walk, given: Sequence[Context], prior: Sequence[Tensor | None],
    generators: Sequence[torch.Generator | None],
) -> list[Drawn]:  # fmt: skip
    """Draw the candidates of environments that know the same tokens at the same levels as one batch.

    Every environment's noise comes from its own generator, as it does when it is alone.
    """
    patterns: dict[tuple[Any, ...], list[int]] = {}
    for b, context in enumerate(given):
        patterns.setdefault((*context.tokens.tolist(), *context.k[0].tolist()), []).append(b)
    size, found = max(1, MOST_TOGETHER // walk.samples), {}  # type: int, dict[int, Drawn]
    for rows in patterns.values():
        for part in (rows[i : i + size] for i in range(0, len(rows), size)):
            contexts, priors = [given[b] for b in part], [p for b in part if (p := prior[b]) is not None]
            whole = replace(
                contexts[0], x=torch.cat([c.x for c in contexts]), k=torch.cat([c.k for c in contexts])
            )  # fmt: skip
            drawn = draw_batch(
                s, walk, whole, torch.stack(priors) if priors else None, [generators[b] for b in part]
            )  # fmt: skip
            found |= dict(zip(part, _parted(drawn, len(part)), strict=True))
    return [found[b] for b in range(len(given))]


def _parted(drawn: Drawn, environments: int) -> list[Drawn]:
    """Take the candidates of several environments apart, those of one after the other's."""
    trace, out = drawn.out.trace, drawn.out
    traces = [None] * environments if trace is None else list(trace.chunk(environments, 1))
    parts = zip(*(v.chunk(environments) for v in (drawn.given.x, drawn.given.k, out.x)), traces, strict=True)
    return [
        Drawn(replace(drawn.given, x=x0, k=k), replace(out, x=x, trace=rows), drawn.calls) for x0, k, x, rows in parts
    ]


def _draw_until(
    s: Setting, walk: Walk, given: Sequence[Context], prior: Sequence[Tensor | None],
    generators: Sequence[torch.Generator | None],
) -> list[list[Drawn]]:  # fmt: skip
    """Draw a batch for every environment in turn until the budget is used up.

    Batch j of an environment has a random stream of its own, so a longer budget only adds candidates.
    """
    watch = Stopwatch(walk.budget_ms)
    seeds, parts = [_seed(g) for g in generators], [[] for _ in given]  # type: list[int], list[list[Drawn]]
    for j in count():
        for b, context in enumerate(given):
            parts[b].append(draw_batch(s, walk, context, prior[b], seeded(seeds[b], j), j * walk.samples))
        watch.lap()
        if not watch.more():
            break
    return parts


def _seed(generator: torch.Generator | None) -> int:
    """Draw a seed."""
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (1,), generator=generator, device=device))


def search_one(
    s: Setting, walk: Walk, config: TreeConfig, given: Context, goal: Tensor | None, prior: Tensor | None,
    generator: Any,
) -> dict[str, Any]:  # fmt: skip
    """Search a tree of sub-plans for one environment; its best plans are the candidates, the best first.

    Args:
        s: Model, layout, statistics.
        walk: How to sample; ``walk.samples`` is how many candidates are returned at most.
        config: The search.
        given: State, goal and history (one row). A state that is not clean is sampled first, once.
        goal: (G,) or None.
        prior: States (n, O) to start from, or None.
        generator: Source of the state, the first noise and the seed of the search.

    Raises:
        ValueError: If an option is given that a tree search does not have.
    """
    _check(walk)
    given, calls = known_state(s, walk, given, generator)
    free, begin = beginning(s, walk, 1, prior, generator)
    tokens = torch.cat([given.tokens, free])
    descent = Descent(
        walk.steering.denoiser(s.model, s.alpha_bar), s.alpha_bar, tokens, s.order[tokens], walk.causal, walk.eta,
        cost_of(s, walk.guidance, given), walk.steering.noisy_log_cost(tokens), s.mask[tokens],
    )  # fmt: skip
    S = torch.cat([given.k[0].expand(len(walk.S), -1), walk.S], 1)
    columns = s.spec.goal_columns or tuple(range(s.spec.obs_dim))
    score = walk.score or arrival_score(goal, columns, s.goal_radius, s.spec.stride)
    judged = Judge(lambda x: states_of(s, given, x), score, lambda states: judge(s, states, goal)[1])
    found = tree_search(descent, S, torch.cat([given.x, begin], 1), judged, config, seed=_seed(generator))
    ranked = _ranked(found)[: walk.samples]
    out = Samples(found.x[ranked.to(found.x.device)], S, found.network_evaluations, 0, None)
    drawn = Drawn(given.repeated(len(ranked)), out, calls + found.network_evaluations, found.value[ranked])
    return choose(s, walk, drawn, goal, generator) | {"search": found}


def _check(walk: Walk) -> None:
    if walk.trace or walk.hold != "copy" or walk.steering.monte_carlo is not None or walk.steering.scales:
        raise ValueError(
            "a tree search keeps no trace, copies held tokens, takes guidance at the predicted future and has its own "
            "scales; pass trace=False, hold='copy', and a steering without monte_carlo and scales"
        )


def _ranked(found: TreeResult) -> Tensor:
    """Order the plans of a tree: possible ones first, then by value, then as they were found."""
    by_value = found.value.argsort(descending=True, stable=True)
    return by_value[(~found.possible[by_value]).long().argsort(stable=True)]


def _equally_many(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep as many candidates of every environment as each of them has; the first is the chosen one."""
    N = min(len(row["states"]) for row in rows)
    return [row | {name: row[name][:N] for name in ("states", "arrival", "possible")} for row in rows]


def tree_options(options: dict[str, Any]) -> tuple[TreeConfig, dict[str, Any]]:
    """Part options into those of a tree search and the rest."""
    names = {field.name for field in fields(TreeConfig)}
    config = TreeConfig(**{name: value for name, value in options.items() if name in names})
    return config, {name: value for name, value in options.items() if name not in names}


def shared(config: TreeConfig | None, budget_ms: float | None, environments: int) -> TreeConfig | None:
    """Give every environment its share of the time budget of a search."""
    if config is None:
        return None
    whole = config.budget_ms if budget_ms is None else budget_ms
    return replace(config, budget_ms=None if whole is None else whole / max(1, environments))
