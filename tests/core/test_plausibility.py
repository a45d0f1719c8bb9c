"""Plausibility: the model's own judgement of a plan, against denoisers whose answers are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dfplan.models.base import Cond
from dfplan.noise import alpha_bar_table, normal_like
from dfplan.plausibility import penalty, surprise
from dfplan.selection import select
from tests.core.gaussian import GaussianDenoiser, chain

K, D = 50, 2


class Line:
    """Foretells every hidden token as the mean of its clean neighbours; remembers what it was shown."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Cond]] = []

    def __call__(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        self.calls.append((x, k, cond))
        left, right = torch.roll(x, 1, 1), torch.roll(x, -1, 1)
        return torch.where((k > 0).unsqueeze(-1), (left + right) / 2, x)


def ask(model: Any, x: Tensor, c: int = 1, seed: int = 0, **options: Any) -> Tensor:
    n = x.shape[1]
    arguments: dict[str, Any] = {
        "k": torch.zeros(n, dtype=torch.int64), "tokens": torch.arange(n), "columns": [0, 1], "level": 30,
        "alpha_bar": alpha_bar_table("cosine", K), "mask": torch.ones(n, D), "causal": False,
        "draw": normal_like(torch.Generator().manual_seed(seed)),
    }  # fmt: skip
    return surprise(model, x, torch.arange(n) >= c, **{**arguments, **options})


def test_every_token_is_judged_once_by_its_clean_neighbours() -> None:
    # Catches: a token judged while its neighbours are noisy too, given tokens noised, one parity left out.
    line = torch.linspace(0, 1, 9)[None, :, None].expand(3, 9, D).clone()
    line[1, 4] += torch.tensor([0.0, 0.6])
    model = Line()
    found = ask(model, torch.cat([line, torch.zeros(3, 1, D)], 1)[:, :9], c=1)
    assert found.shape == (3, 8)
    inner = found[:, :-1]  # the last token has no neighbour to the right
    assert float(inner[0].max()) < 1e-10
    expected = torch.tensor([0, 0, 0.09, 0.36, 0.09, 0, 0])
    torch.testing.assert_close(inner[1], expected, atol=1e-6, rtol=0)
    assert len(model.calls) == 2
    hidden = torch.stack([k[0] > 0 for _, k, _ in model.calls])
    assert not bool(hidden[:, 0].any()) and bool((hidden[:, 1:].sum(0) == 1).all())
    for x, k, _ in model.calls:
        assert torch.equal(x[k == 0], line[k == 0])
        assert bool((x[k > 0] != line[k > 0]).all()) and set(k[k > 0].tolist()) == {30}


def test_the_gaussian_world_finds_its_own_samples_plausible() -> None:
    # Catches: the wrong level for the hidden tokens, errors of the noisy token instead of the clean one.
    mean, cov = chain(6, D)
    table = alpha_bar_table("cosine", K).double()
    options: dict[str, Any] = {"c": 0, "alpha_bar": table, "mask": torch.ones(6, D).double()}
    model, root = GaussianDenoiser(mean, cov, table), torch.linalg.cholesky(cov)
    draws = torch.randn(4000, 6 * D, generator=torch.Generator().manual_seed(1)).double()
    own = mean + (draws @ root.T).reshape(-1, 6, D)
    found = ask(model, own, **options)
    signal = float(table[30])
    for token in range(6):
        hidden = [i for t in range(token % 2, 6, 2) for i in (D * t, D * t + 1)]
        shown = [i for i in range(6 * D) if i not in hidden]
        left = cov[hidden][:, hidden] - cov[hidden][:, shown] @ torch.linalg.solve(
            cov[shown][:, shown], cov[shown][:, hidden]
        )
        total = signal * left + (1 - signal) * torch.eye(len(hidden)).double()
        posterior = (left - signal * left @ torch.linalg.solve(total, left)).diagonal()
        place = hidden.index(D * token)
        expected = posterior[place] + posterior[place + 1]
        torch.testing.assert_close(found[:, token].mean(), expected, rtol=0.08, atol=0)
    moved = own.clone()
    moved[:, 3] += 4 * cov.diagonal().mean().sqrt()
    assert float((ask(model, moved, **options)[:, 3] > found[:, 3]).double().mean()) > 0.9


def test_penalty_counts_up_to_arrival_and_has_no_unit() -> None:
    # Catches: tokens after the goal counted, a weight that depends on the unit, the mean for the median.
    s = torch.tensor([[1.0, 1, 1, 9], [2, 2, 2, 9], [8, 8, 8, 9]])
    arrival = torch.tensor([25.0, 30.0, 30.0])
    found = penalty(s, arrival, 10, 0.4)
    torch.testing.assert_close(found, 0.4 * 40 * torch.tensor([3.0, 6.0, 24.0]) / 6.0)
    torch.testing.assert_close(penalty(7 * s, arrival, 10, 0.4), found)
    assert float(penalty(s, torch.full((3,), float("inf")), 10, 1.0)[0]) == pytest.approx(40 * 12 / 15)
    assert bool((penalty(torch.zeros(3, 4), arrival, 10, 0.4) == 0).all())


def test_a_later_but_plausible_candidate_is_chosen_and_feasibility_still_comes_first() -> None:
    # Catches: a penalty with the wrong sign, one that outweighs feasibility.
    states = torch.zeros(1, 3, 5, 4)
    arrival = torch.tensor([[20.0, 24.0, 10.0]])
    possible = torch.tensor([[True, True, False]])
    late = torch.tensor([[9.0, 1.0, 0.0]])
    assert int(select(arrival, possible, states, (0, 1), 10)) == 0
    assert int(select(arrival, possible, states, (0, 1), 10, penalty=late)) == 1
    assert int(select(arrival, possible, states, (0, 1), 10, penalty=1000 * late)) == 1


def test_a_given_token_that_is_noisy_stays_as_it_is() -> None:
    # Catches: an observation known to be noisy noised once more, or called clean.
    model, x = Line(), torch.randn(2, 5, D, generator=torch.Generator().manual_seed(2))
    levels = torch.tensor([7, 0, 0, 0, 0])
    ask(model, x, c=1, k=levels)
    for seen, k, _ in model.calls:
        assert torch.equal(seen[:, 0], x[:, 0]) and bool((k[:, 0] == 7).all())


def test_the_planner_judges_positions_of_future_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: velocities judged for positions, context among the judged, the wrong level or attention.
    from dfplan import planning
    from tests.core.test_planner import PLANNERS, H, situation

    asked: list[dict[str, Any]] = []

    def spy(model: Any, x: Tensor, free: Tensor, **options: Any) -> Tensor:
        asked.append({"x": x, "free": free, **options})
        return torch.ones(len(x), int(free.sum()))

    monkeypatch.setattr(planning, "surprise", spy)
    planner, (obs, goals) = PLANNERS["path"], situation()
    plan = planner.plan(obs, goals, samples=3, attention="full", generator=torch.Generator().manual_seed(0))
    assert len(asked) == 3 and torch.equal(plan.surprise, torch.ones(3, 3, H))
    for b, found in enumerate(asked):
        assert found["free"].tolist() == [False, False] + [True] * H and found["tokens"].tolist() == list(range(H + 2))
        assert not bool(found["k"].any()) and found["causal"] is False
        assert found["level"] == round(planner.config.plausibility_level * planner.levels)
        width = planner.spec.obs_dim
        positions = planner.norm.obs_back(
            torch.nn.functional.pad(found["x"][:, 2:, found["columns"]], (0, width - 2))
        )[..., :2]  # fmt: skip
        torch.testing.assert_close(positions, plan.candidates[b, :, 1:, :2], atol=1e-4, rtol=1e-4)
    asked.clear()
    planner.plan(obs, goals, samples=1)
    planner.plan(obs, goals, samples=3, plausibility=0)
    assert not asked
