"""Tree search over sub-plans, on toys with exact denoisers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dfplan.best_of import best_of, seeded
from dfplan.models.base import Cond
from dfplan.noise import normal_like
from dfplan.sampler import sample
from dfplan.schedule import make_schedule
from dfplan.selection import Judge
from dfplan.tree import TreeConfig, TreeResult, jumpy, sub_plan_rows, tree_search
from dfplan.uct import back_up, rewards, select_leaves, uct_scores
from tests.core.deceptive import DESCENT, GOAL, JUDGE, MODEL, ORDER, TABLE, Clock, K, S, T, cost, run, start
from tests.core.gaussian import F64

SCALES = (0.0, 2.0, 16.0)
CONFIG = TreeConfig(scales=SCALES, copies=3, block=2, expansions=24, batch=4, skip=5)


def search(
    seed: int = 0, descent: Any = DESCENT, judge: Judge = JUDGE, matrix: Tensor = S, **changes: Any
) -> TreeResult:
    clock = changes.pop("clock", None)
    config = replace(CONFIG, **changes)
    extra = {} if clock is None else {"clock": clock}
    return tree_search(descent, matrix, start(), judge, config, seed=seed, **extra)


# ---- the pure functions


def test_uct_in_closed_form() -> None:
    # Catches: a wrong logarithm, root or weight; a visited child before one that never was; virtual visits that earn.
    totals, visits = torch.tensor([3.0, 1.0, 0.0], dtype=F64), torch.tensor([4.0, 1.0, 0.0], dtype=F64)
    virtual = torch.tensor([2.0, 0.0, 0.0], dtype=F64)
    scores = uct_scores(totals, visits, virtual, 9.0, 0.7)
    expected = [3 / 6 + 0.7 * math.sqrt(math.log(9) / 6), 1 / 1 + 0.7 * math.sqrt(math.log(9) / 1), math.inf]
    assert scores.tolist() == pytest.approx(expected)
    assert uct_scores(totals, visits, virtual, 0.0, 0.7)[:2].tolist() == pytest.approx([0.5, 1.0])
    under_way = uct_scores(totals, visits, torch.ones(3, dtype=F64), 9.0, 0.0)
    assert under_way.tolist() == pytest.approx([3 / 5, 1 / 2, 0.0])


def test_values_become_rewards() -> None:
    # Catches: a scale set by impossible plans, a reward for them, a division by 0, infinities that become NaN.
    inf, yes = float("inf"), torch.tensor([True, True, True, False])
    assert rewards(torch.tensor([1.0, 3.0, 2.0, 9.0]), yes).tolist() == [0.0, 1.0, 0.5, 0.0]
    assert rewards(torch.tensor([1.0, 3.0, 2.0, 9.0]), ~yes).tolist() == [0.0, 0.0, 0.0, 0.5]
    none = torch.zeros(4, dtype=torch.bool)
    assert rewards(torch.tensor([1.0, 3.0, 2.0, 9.0]), none).tolist() == [0.0, 0.25, 0.125, 1.0]
    assert rewards(torch.tensor([-inf, 3.0, 2.0, inf]), ~none).tolist() == [0.0, 1.0, 0.0, 1.0]
    assert rewards(torch.tensor([-inf, -inf, -inf, -inf]), ~none).tolist() == [0.0] * 4


def test_visits_and_rewards_are_summed_over_subtrees() -> None:
    # Catches: a node that does not count itself, a root that counts itself, sums that stop one level up.
    visits, totals = back_up([-1, 0, 0, 1, 1, 3], torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))
    assert visits.tolist() == [5, 4, 1, 2, 1, 1]
    assert totals.tolist() == pytest.approx([1.5, 1.3, 0.2, 0.8, 0.4, 0.5])


def pick(
    parents: list[int], reward: list[float], *, batch: int, width: int = 2, c: float = 1.0, finished: Any = ()
) -> Any:
    visits, totals = back_up(parents, torch.tensor(reward))
    ended = [i in finished for i in range(len(parents))]
    return select_leaves(parents, ended, visits, totals, width=width, batch=batch, exploration=c)


def test_children_that_were_never_made_come_first() -> None:
    # Catches: a good child that is expanded before its siblings exist.
    assert pick([-1], [], batch=3, width=3) == [(0, 0), (0, 1), (0, 2)]
    assert pick([-1, 0], [1.0], batch=1, width=3) == [(0, 1)]
    assert pick([-1, 0, 0], [0.0, 1.0], batch=1, c=0.0) == [(2, 0)]
    assert pick([-1, 0, 0, 1, 1, 1], [0.0, 1.0, 1.0, 1.0, 0.9], batch=1, width=2, c=0.0) == [(2, 0)]


def test_virtual_visits_spread_a_batch() -> None:
    # Catches: a batch that makes one child many times or crowds into one subtree.
    parents, reward = [-1, 0, 0, 0], [1.0, 0.9, 0.8]
    picks = pick(parents, reward, batch=3, width=3, c=0.5)
    assert [node for node, _ in picks] == [1, 2, 3]
    assert pick(parents, reward, batch=1, width=3, c=0.0) == [(1, 0)]
    many = pick(parents, reward, batch=100, width=3)
    assert sorted(many) == [(node, child) for node in (1, 2, 3) for child in range(3)]


def test_nothing_is_picked_below_a_finished_node() -> None:
    # MCTD's pitfall. Catches: a finished node that is expanded, a subtree of finished ones that swallows picks.
    parents, reward = [-1, 0, 0, 1, 1], [1.0, 0.0, 1.0, 1.0]
    assert pick(parents, reward, batch=9, finished={3, 4}) == [(2, 0), (2, 1)]
    assert pick(parents, reward, batch=9, finished={2, 3, 4}) == []
    assert pick(parents, reward, batch=1, c=0.0, finished={3}) == [(4, 0)]


def test_sub_plans_end_when_their_tokens_are_clean() -> None:
    # Catches: rows one off, context or warm tokens counted, a block that follows positions instead of the order.
    two = make_schedule("pyramid", 5, K, steps=10, slope=4.0)
    assert sub_plan_rows(two, torch.arange(5), 2) == (0, 14, 22, 26)
    assert sub_plan_rows(two, torch.arange(5), 5) == sub_plan_rows(two, torch.arange(5), 99) == (0, 26)
    for row, tokens in ((14, 2), (22, 4)):
        assert bool((two[row, :tokens] == 0).all()) and int(two[row - 1, tokens - 1]) > 0
    context = torch.cat([torch.full((len(two), 2), 3), torch.zeros(len(two), 1, dtype=torch.int64), two], 1)
    assert sub_plan_rows(context, torch.tensor([0, 0, 0, 1, 2, 3, 4, 5]), 2) == (0, 14, 22, 26)
    assert sub_plan_rows(two.flip(1), torch.arange(5), 2) == (0, 26)  # the first token is clean last
    assert sub_plan_rows(two.flip(1), torch.arange(5).flip(0), 2) == (0, 14, 22, 26)
    assert sub_plan_rows(make_schedule("full_sequence", 5, K, steps=10), torch.arange(5), 2) == (0, 10)


def test_a_completion_jumps() -> None:
    # Catches: a completion that forgets its first or last row, or walks all of them.
    matrix = make_schedule("pyramid", 5, K, steps=10, slope=4.0)
    assert torch.equal(jumpy(matrix, 14, 5), matrix[[14, 19, 24, 26]])
    assert torch.equal(jumpy(matrix, 16, 5), matrix[[16, 21, 26]])
    assert torch.equal(jumpy(matrix, 20, 99), matrix[[20, 26]]) and torch.equal(jumpy(matrix, 26, 5), matrix[[26]])
    assert torch.equal(jumpy(matrix, 0, 1), matrix)


# ---- the search


class Spy:
    """Pass calls on and remember their levels."""

    def __init__(self) -> None:
        self.k: list[Tensor] = []

    def __call__(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        self.k.append(k.clone())
        return MODEL(x, k, cond)


def test_a_search_beats_the_best_of_as_many_samples() -> None:
    # No single scale is best: the tree takes none and then the strongest. Catches: one scale for a whole plan, scales
    # that are averaged. Best of N sends at least as many samples through the network as the tree with each single
    # scale, and twice as many with the set.
    plain, mixed, tree, ways = [], [], [], []
    for seed in range(6):
        found = search(seed)
        N = -(-found.sample_evaluations // (len(S) - 1))
        mixed.append(float(best_of(run, JUDGE, seed=seed, most=2 * N, batch=2 * N, scales=SCALES).value.max()))
        plain.append(
            max(float(best_of(run, JUDGE, seed=seed, most=N, batch=N, scales=(s,)).value.max()) for s in SCALES)
        )
        tree.append(float(found.value[found.chosen]))
        node = found.nodes[found.chosen + 1]
        ways.append((found.nodes[node.parent].scale, node.scale))
    gaps = [t - max(a, b) for t, a, b in zip(tree, plain, mixed, strict=True)]
    assert sum(gap > 0.5 for gap in gaps) >= 5
    assert sum(tree) / 6 > max(sum(plain), sum(mixed)) / 6 + 0.5
    assert ways.count((0.0, 16.0)) >= 5


def test_one_scale_and_one_child_is_plain_sampling() -> None:
    # Catches: guidance, noise or rows that differ from the sampler's; a completion that moves a finished plan.
    options = {"alpha_bar": TABLE, "tokens": ORDER, "order": ORDER, "log_cost": cost}
    for eta in (0.0, 0.8):
        out = search(seed=5, descent=replace(DESCENT, eta=eta), scales=(2.0,), copies=1, block=4, expansions=1)
        draw = normal_like(seeded(5, 0))
        x, scales = draw(start()), torch.tensor([2.0])
        whole = sample(MODEL, S, x, eta=eta, scales=scales, draw=draw, **options)
        torch.testing.assert_close(out.x, whole.x, rtol=1e-12, atol=1e-12)
        assert out.network_evaluations == out.sample_evaluations == whole.network_evaluations == len(S) - 1
        assert out.nodes[1].finished and out.rows == (0, len(S) - 1)


def test_a_chain_with_its_parents_noise_is_plain_sampling() -> None:
    # Catches: a child that starts from its parent's completion, or from other noise; rows lost between sub-plans.
    x = torch.randn(1, T, 1, dtype=F64, generator=torch.Generator().manual_seed(1))
    config = replace(CONFIG, scales=(2.0,), copies=1, renew=False, expansions=9)
    out = tree_search(DESCENT, S, x, JUDGE, config, seed=0)
    whole = sample(MODEL, S, x, alpha_bar=TABLE, tokens=ORDER, order=ORDER, log_cost=cost, scales=torch.tensor([2.0]))
    assert out.expansions == 2 and out.depth == 2 and [n.row for n in out.nodes] == [0, 10, 20]
    torch.testing.assert_close(out.x[-1:], whole.x, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(out.x[0], out.x[1])  # the first one jumps


def test_a_leaf_is_scored_after_a_jumpy_completion() -> None:
    # MCTD's pitfall. Catches: a one-step guess of the clean tokens, a completion that walks every row or is lost.
    spy = Spy()
    out = search(descent=replace(DESCENT, model=spy), scales=(0.0,), copies=1, expansions=1)
    seen = [k[0].tolist() for k in spy.k]
    assert seen == S[:10].tolist() + S[[10, 15]].tolist()
    assert out.network_evaluations == 12 and not out.nodes[1].finished
    options = {"alpha_bar": TABLE, "tokens": ORDER, "order": ORDER, "log_cost": cost, "scales": torch.zeros(1)}
    x = sample(MODEL, S[:11], normal_like(seeded(0, 0))(start()), finish=False, **options).x
    whole = sample(MODEL, S[[10, 15, 20]], x, **options).x
    torch.testing.assert_close(out.x, whole)
    assert out.value.tolist() == pytest.approx([-abs(float(whole[0, -1, 0]) - GOAL)])


def test_finished_nodes_cost_nothing() -> None:
    # MCTD's pitfall. Catches: a finished node that is walked or completed again, a search that never ends when all is
    # found. 3 children of 12 calls and 9 grandchildren of 10; the network is called once for a batch.
    spy = Spy()
    out = search(descent=replace(DESCENT, model=spy), copies=1, expansions=10_000, batch=200)
    assert out.expansions == 3 + 9 and out.depth == 2
    assert out.sample_evaluations == 3 * 12 + 9 * 10 == sum(len(k) for k in spy.k)
    assert out.network_evaluations == 12 + 10 == len(spy.k)
    assert [n.finished for n in out.nodes] == [False] * 4 + [True] * 9


def test_a_batch_of_leaves_at_different_depths_shares_its_calls() -> None:
    # Catches: one call per leaf or per depth.
    spy = Spy()
    out = search(descent=replace(DESCENT, model=spy), copies=2, batch=4, expansions=8)
    assert {len(n.path) for n in out.nodes[5:]} == {1, 2}
    assert out.network_evaluations == len(spy.k) == 12 + 12
    mixed = spy.k[12]
    assert len(mixed) == 4 and len(mixed.unique(dim=0)) == 2


def test_what_a_node_holds_depends_on_its_place_alone() -> None:
    # Catches: noise that depends on the batch or on the order of expansion; siblings of one scale that are equal;
    # different bits for the same seed.
    uneven = make_schedule("pyramid", T, K, steps=10, slope=4.0)  # sub-plans of 10 rows, then of 4
    options: dict[str, Any] = {"scales": (4.0,), "copies": 3, "block": 1, "expansions": 12, "matrix": uneven}
    options |= {"descent": replace(DESCENT, eta=0.5)}
    one, many = search(batch=1, **options), search(batch=2, **options)
    plans = {node.path: one.x[i] for i, node in enumerate(one.nodes[1:])}
    common = [(many.x[i], plans[n.path]) for i, n in enumerate(many.nodes[1:]) if n.path in plans]
    assert len(common) >= 6 and {len(n.path) for n in many.nodes[3:5]} == {1, 2}  # the second batch is a mixed one
    torch.testing.assert_close(*(torch.stack(x) for x in zip(*common, strict=True)), rtol=1e-9, atol=1e-9)
    assert len(one.x.unique(dim=0)) == 12
    assert len(search(scales=(4.0,), expansions=3, batch=3).x.unique(dim=0)) == 3  # siblings, without other noise
    again = search(batch=2, **options)
    assert torch.equal(again.x, many.x) and again.nodes == many.nodes
    assert not torch.equal(search(seed=1, batch=2, **options).x, many.x)


def test_the_scale_of_one_child_changes_no_other() -> None:
    # MCTD's pitfall. Catches: scales averaged over the batch.
    one = search(scales=(0.0, 2.0, 16.0), copies=1, expansions=3, batch=3).x
    two = search(scales=(0.0, 2.0, 4.0), copies=1, expansions=3, batch=3).x
    assert torch.equal(one[:2], two[:2]) and not torch.allclose(one[2], two[2])


def test_the_tree_that_is_returned_is_consistent() -> None:
    # Catches: values of other nodes, wrong parents or counts, a best plan that is not the best, an impossible one.
    judge = replace(JUDGE, possible=lambda states: states[:, -1, 0] < 2.5)
    out = search(judge=judge)
    assert out.expansions == 24 == len(out.x) and out.nodes[0].visits == 24
    value, possible = judge(out.x)
    assert torch.equal(value, out.value) and torch.equal(possible, out.possible) and not bool(possible.all())
    assert out.value[out.chosen] == value[possible].max() and bool(possible[out.chosen])
    earned = rewards(value, possible)
    for i, node in enumerate(out.nodes[1:], 1):
        parent = out.nodes[node.parent]
        assert node.path[:-1] == parent.path and node.parent < i and node.row == (10, 20)[len(node.path) - 1]
        assert node.scale == SCALES[node.path[-1] % 3] and node.value == float(value[i - 1])
        below = [j for j, n in enumerate(out.nodes[1:]) if n.path[: len(node.path)] == node.path]
        assert node.visits == len(below) and node.mean == pytest.approx(float(earned[below].mean()))
    assert [p.expansions for p in out.history] == [4, 8, 12, 16, 20, 24]
    values = [p.value for p in out.history]
    assert values[-1] == float(out.value[out.chosen]) and out.history[-1].network_evaluations == out.network_evaluations


def test_the_budget_is_kept() -> None:
    # Catches: a budget in seconds, one that is overrun by a batch, no batch at all. A longer one only adds nodes.
    short = search(budget_ms=1.0, clock=Clock(0.5))
    middle = search(budget_ms=500.0, clock=Clock(0.2, 0.1, 0.1))  # 400 ms have passed; one like the first: 600
    long = search(clock=Clock(*[9.0] * 6))
    assert [out.expansions for out in (short, middle, long)] == [4, 12, 24]
    assert middle.milliseconds == pytest.approx(400.0) and len(middle.history) == 3
    for less in (short, middle):
        assert torch.equal(less.x, long.x[: len(less.x)])
        assert less.value[less.chosen] <= long.value[long.chosen]


def test_context_and_warm_tokens_keep_their_place() -> None:
    # Catches: a context token that is moved, a warm token that is replaced by noise.
    matrix = torch.cat([torch.zeros(21, 1, dtype=torch.int64), S[:, 1:].clamp(max=K // 2)], 1)
    x = torch.tensor([-1.0, -0.4, 0.1, 0.2], dtype=F64).reshape(1, T, 1)
    out = tree_search(DESCENT, matrix, x, JUDGE, replace(CONFIG, expansions=3, batch=3, copies=1), seed=0)
    assert bool((out.x[:, 0] == -1).all())
    again = tree_search(DESCENT, matrix, x, JUDGE, replace(CONFIG, expansions=3, batch=3, copies=1), seed=9)
    assert torch.equal(out.x, again.x)  # there was no noise to draw


def test_noise_alone_can_branch() -> None:
    # Catches: a search without a cost that needs one.
    out = search(descent=replace(DESCENT, log_cost=None), scales=(0.0,), copies=4)
    assert len({round(v, 9) for v in out.value.tolist()}) == out.expansions == 20


def test_bad_input_is_refused() -> None:
    for changes, text in (
        ({"scales": ()}, "scales must be one or more finite numbers"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"batch": 201}, "batch must be at most 200, got 201"),
        ({"skip": 0}, "skip must be at least 1"),
        ({"block": 0}, "block must be at least 1"),
        ({"expansions": 0}, "expansions must be at least 1"),
        ({"copies": 0}, "copies must be at least 1"),
        ({"exploration": -1.0}, "exploration must be a finite number of at least 0"),
        ({"renew": False}, "copies of a scale differ by noise alone"),
        ({"budget_ms": -5.0}, "budget_ms must be above 0, got -5"),
    ):
        with pytest.raises(ValueError, match=text):
            replace(CONFIG, **changes)
    with pytest.raises(ValueError, match="need a guidance to scale; pass one"):
        search(descent=replace(DESCENT, log_cost=None))
    with pytest.raises(ValueError, match=r"x \(1, n, D\) and S \(M\+1, n\) must agree in n, got \(2, 4, 1\)"):
        tree_search(DESCENT, S, start(2), JUDGE, CONFIG, seed=0)
    with pytest.raises(ValueError, match="S moves no token"):
        search(matrix=S[:1])
