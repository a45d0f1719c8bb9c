"""Arrival, feasibility and choice on plans made by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dfplan.plan import Plan
from dfplan.selection import arrival_steps, feasible, select

GOAL = torch.tensor([3.0, 0.0])
INF = float("inf")


def line(*xs: float) -> Tensor:
    """Make a plan (n, 2 + 1) along the x axis; the third column is a distraction."""
    return torch.tensor([[x, 0.0, 99.0] for x in xs])


def arrive(*xs: float) -> float:
    return float(arrival_steps(line(*xs), GOAL, (0, 1), 0.5, 10))


def test_arrival_is_interpolated_inside_a_token() -> None:
    # Catches: whole tokens only, steps off by one, the stride forgotten, the distance to the centre.
    assert arrive(0, 1, 2, 3) == pytest.approx(25)  # 2.5 is crossed half way through the third token
    assert arrive(0, 1, 2.5, 9) == pytest.approx(20)  # on the edge counts
    assert arrive(0, 2.0, 2.8, 3) == pytest.approx(10 + 10 * 0.5 / 0.8)


def test_arrival_at_the_start_and_never() -> None:
    # Catches: minus one token, the last token taken for an arrival, NaN where the distance does not change.
    assert arrive(3, 9, 9, 9) == 0
    assert arrive(0, 1, 2, 2.4) == INF
    assert arrive(0, 0, 0, 0) == INF
    beside = line(0, 1, 2, 3) + torch.tensor([0.0, 10.0, 0.0])
    assert float(arrival_steps(beside, GOAL, (0, 1), 0.5, 10)) == INF


def test_first_arrival_counts() -> None:
    # Catches: the last or the nearest visit.
    assert arrive(0, 3, 0, 3) == pytest.approx(10 * 2.5 / 3)


def test_arrival_of_many_plans_at_once() -> None:
    # Catches: a goal of another environment; broadcasting over the wrong axis.
    states = torch.stack([line(0, 1, 2, 3), line(3, 3, 3, 3)])[:, None].expand(2, 4, 4, 3)
    goals = torch.tensor([[3.0, 0.0], [50.0, 0.0]])
    found = arrival_steps(states, goals[:, None], (0, 1), 0.5, 10)
    assert found.shape == (2, 4) and found[0].tolist() == pytest.approx([25.0] * 4) and found[1].tolist() == [INF] * 4


def test_feasible_means_no_move_beyond_the_data() -> None:
    # Catches: a slack that is forgotten, columns without a limit that are checked, moves that are signed.
    limit = torch.tensor([1.0, INF, INF])
    never = torch.tensor(INF)
    assert bool(feasible(line(0, 1, 2, 3), limit, never, 10))
    assert bool(feasible(line(0, -1.09, 0), limit, never, 10))
    assert not bool(feasible(line(0, -1.11, -2), limit, never, 10))
    assert not bool(feasible(line(0, 1.2, 2), limit, never, 10, slack=1.0))
    assert not bool(feasible(line(0, 1, 2, 3), torch.tensor([0.5, 1.0, 1.0]), never, 10))
    tall = torch.stack([torch.zeros(3), 100 * torch.arange(3.0), torch.zeros(3)], 1)
    assert bool(feasible(tall, limit, never, 10))
    assert not bool(feasible(tall, torch.tensor([1.0, 99.0 / 1.1, INF]), never, 10))


def test_moves_after_arrival_do_not_count() -> None:
    # Catches: plans refused for what they would do behind the goal; the token of arrival that is let off.
    limit, plan = torch.tensor([1.0, INF, INF]), line(0, 1, 2, 9)
    assert not bool(feasible(plan, limit, torch.tensor(INF), 10))
    assert bool(feasible(plan, limit, torch.tensor(20.0), 10))
    assert not bool(feasible(plan, limit, torch.tensor(20.1), 10))


def choose(arrival: list[float], possible: list[bool], plans: list[Tensor]) -> int:
    return int(select(torch.tensor([arrival]), torch.tensor([possible]), torch.stack(plans)[None], (0, 1), 10))


def test_the_first_to_arrive_is_chosen() -> None:
    # Catches: the last, the shortest path, the first in the list.
    plans = [line(0, 1, 3), line(0, 9, 3), line(0, 0, 0)]
    assert choose([30.0, 12.0, INF], [True] * 3, plans) == 1


def test_impossible_plans_lose_unless_nothing_else_is_left() -> None:
    # Catches: a plan through a wall that arrives first; a choice among none.
    plans = [line(0, 1, 3)] * 3
    assert choose([15.0, 2.0, 19.0], [True, False, True], plans) == 0
    assert choose([INF, 2.0, INF], [True, False, True], plans) == 0
    assert choose([15.0, 2.0, 19.0], [False] * 3, plans) == 1


def test_the_shortest_path_wins_among_equals() -> None:
    # Catches: ties that go to the first; lengths over all columns.
    plans = [line(0, 5, 0), line(0, 1, 0), line(0, 9, 9)]
    plans[1][:, 2] = torch.tensor([0.0, 500.0, 0.0])
    assert choose([INF] * 3, [True] * 3, plans) == 1
    assert choose([8.0] * 3, [True] * 3, plans) == 1


def test_each_environment_chooses_for_itself() -> None:
    # Catches: an index into the flattened candidates.
    arrival = torch.tensor([[5.0, 3.0], [1.0, 9.0]])
    states = torch.stack([line(0, 1, 2)] * 4).reshape(2, 2, 3, 3)
    assert select(arrival, torch.ones(2, 2, dtype=torch.bool), states, (0, 1), 10).tolist() == [1, 0]


# ---- Plan


def plan(states: Tensor) -> Plan:
    B, n = states.shape[:2]
    return Plan(
        observations=states, actions=None, score=torch.zeros(B), candidates=states[:, None],
        arrival_steps=torch.zeros(B, 1), feasible=torch.ones(B, 1, dtype=torch.bool),
        selected=torch.zeros(B, dtype=torch.int64), goal=None, schedule=torch.zeros(1, n - 1, dtype=torch.int64),
        trace=None, stride=10, dt_s=0.01, network_evaluations=1, seconds=0.0,
    )  # fmt: skip


def test_states_of_a_plan_are_interpolated_in_steps() -> None:
    # Catches: tokens taken for steps, extrapolation behind the end, one environment's plan used for all.
    p = plan(torch.stack([line(0, 1, 4), line(10, 20, 40)]))
    steps = torch.tensor([[0.0, 5.0, 10.0, 12.0, 20.0, 99.0], [-5.0, 1.0, 15.0, 19.0, 20.0, 30.0]])
    found = p.states_at(steps)
    assert found.shape == (2, 6, 3) and len(p) == 2 and bool((found[..., 2] == 99).all())
    expected = torch.tensor([[0, 0.5, 1, 1.6, 4, 4], [10, 11, 30, 38, 40, 40]])
    torch.testing.assert_close(found[..., 0], expected)
