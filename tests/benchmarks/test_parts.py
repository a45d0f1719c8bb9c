"""The pieces that the reproductions are judged with: scores, distances, exact denoisers and forecasts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dfplan.models import Cond
from dfplan.noise import add_noise, alpha_bar_table
from dfplan_bench.common import wilson
from dfplan_bench.cross import CORNERS, crossings, outcomes
from dfplan_bench.forecasting import AHEAD, CONTEXT, crps_sum, exact_forecast, make_world, simulate
from dfplan_bench.processes import energy_distance, in_wall, lorenz
from dfplan_bench.toys import CHANCE, LOSS, SURE, WIN, true_reward, two_routes

F64 = torch.float64


def test_wilson_is_the_textbook_interval() -> None:
    # Catches: the normal interval, which leaves [0, 1] and is empty at 0 successes.
    found = wilson(0, 100)
    assert found["low"] == pytest.approx(0, abs=1e-12) and found["high"] == pytest.approx(0.0370, abs=1e-4)
    found = wilson(50, 100)
    assert (found["low"], found["high"]) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    with pytest.raises(ValueError, match="at least one trial"):
        wilson(0, 0)


def test_crps_of_a_gaussian_is_its_closed_form() -> None:
    # Catches: a missing factor 1/2, a biased spread, a sum over series after the score instead of before.
    g = torch.Generator().manual_seed(0)
    samples = 50 + torch.randn(1, 4000, 1, 2, generator=g, dtype=F64)  # the sum is N(100, 2)
    sd = math.sqrt(2)
    z = 1 / sd
    density, below = math.exp(-z * z / 2) / math.sqrt(2 * math.pi), 0.5 * (1 + math.erf(z / math.sqrt(2)))
    exact = sd * (z * (2 * below - 1) + 2 * density - 1 / math.sqrt(math.pi))
    truth = torch.full((1, 1, 2), 50.5, dtype=F64)
    assert float(crps_sum(samples, truth)) * 101 == pytest.approx(exact, rel=0.05)


def test_crps_spread_is_half_the_mean_distance_between_samples() -> None:
    # Catches: a rank formula that is off by one.
    x = torch.tensor([3.0, 1.0, 7.0, 4.0], dtype=F64)
    pairs = (x[:, None] - x[None, :]).abs().sum() / (4 * 3)
    found = float(crps_sum(x.reshape(1, 4, 1, 1), torch.full((1, 1, 1), 2.0, dtype=F64))) * 2.0
    assert found == pytest.approx(float((x - 2).abs().mean() - pairs / 2))


def test_energy_distance_is_zero_for_the_same_law_and_known_for_points() -> None:
    # Catches: self-distances that count a point with itself, a missing root.
    x, y = torch.zeros(10, 2, dtype=F64), torch.ones(10, 2, dtype=F64)
    assert energy_distance(x, y) == pytest.approx(math.sqrt(2 * math.sqrt(2)))
    assert energy_distance(x, x) == 0.0


def test_the_ball_is_in_a_wall_where_the_maze_says_so() -> None:
    # Catches: rows and columns swapped, another offset than the maze's own.
    states = torch.tensor([[1.0, 1.0], [2.0, 1.0], [2.0, 3.0], [0.0, 0.0], [-9.0, 2.0], [1.25, 3.25]])
    assert in_wall(states).tolist() == [False, True, False, True, True, False]


def test_lorenz_has_the_attractors_known_statistics() -> None:
    # Catches: a wrong equation; the means of x and y are 0 by symmetry, that of z is 23.5 to 23.6.
    found = lorenz(400, 40, 0)
    assert found.mean[:2].abs().max() < 0.6 and float(found.mean[2]) == pytest.approx(23.55, abs=0.3)
    assert found.std.tolist() == pytest.approx([7.92, 9.01, 8.62], rel=0.04)


def test_straight_crossings_are_counted_as_such() -> None:
    # Catches: a V counted as a crossing, ends far from every corner counted as arrived.
    paths, start = crossings(300, 0)
    assert outcomes(paths, start)["cross"]["rate"] == 1.0
    turned = paths.clone()
    turned[:, -1] = CORNERS[(start + 1) % 4]
    assert outcomes(turned, start)["V"]["rate"] == 1.0
    turned[:, -1] = 0.0
    assert outcomes(turned, start)["nowhere"]["rate"] == 1.0


def test_the_lotterys_denoiser_is_the_posterior_mean() -> None:
    # Catches: a causal token that sees later ones, a level-K token that tells something, wrong component weights.
    table = alpha_bar_table("cosine", 100)
    toy, g = two_routes(table), torch.Generator().manual_seed(0)
    which = torch.multinomial(toy.weight, 400_000, replacement=True, generator=g)
    x0 = (toy.mean[which] + toy.std[which] * torch.randn(400_000, 2, generator=g, dtype=F64)).unsqueeze(-1)
    k = torch.tensor([60, 75])
    x = add_noise(x0, k.expand(400_000, 2), torch.randn(x0.shape, generator=g, dtype=F64), table)
    for causal in (True, False):
        x0_hat = toy(x, k.expand(400_000, 2), Cond(causal=causal))
        error = x0 - x0_hat  # orthogonal to every function of what may be seen
        for feature in (x[:, 0], x[:, 0] ** 2, *(() if causal else (x[:, 1],))):
            assert (error[:, 0] * feature).mean().abs() < 0.005
        assert (error[:, 1] * x[:, 1]).mean().abs() < 0.005
    few, levels = x[:100], k.expand(100, 2)
    other = torch.stack([few[:, 0], few[:, 1] + 1], 1)
    first, again = (toy(v, levels, Cond(causal=True))[:, 0] for v in (few, other))
    assert torch.equal(first, again)
    blind = toy(x, torch.tensor([[60, 100]]).expand(400_000, 2), Cond(causal=False))
    again = toy(x * torch.tensor([[1.0], [5.0]]), torch.tensor([[60, 100]]).expand(400_000, 2), Cond(causal=False))
    assert torch.equal(blind, again)


def test_the_true_reward_of_a_choice() -> None:
    # Catches: the lottery's best outcome taken for its mean, nature's variance left out.
    expected, variance = true_reward(torch.tensor([1.0, -1.0]))
    mean = CHANCE * WIN + (1 - CHANCE) * LOSS
    assert expected.tolist() == pytest.approx([SURE, mean])
    inside = CHANCE * (WIN - mean) ** 2 + (1 - CHANCE) * (LOSS - mean) ** 2
    assert float(variance) == pytest.approx(inside / 2 + (SURE - mean) ** 2 / 4)


def test_the_exact_forecast_is_calibrated_and_cannot_be_beaten() -> None:
    # Catches: a filter that is off by an hour, a forecast with the wrong spread.
    world = make_world(0)
    logs, start = simulate(world, 300, CONTEXT + AHEAD, 1)
    past, future = logs[:, :CONTEXT], logs[:, CONTEXT:]
    forecast = exact_forecast(world, past, start, 200, 2)
    rank = (forecast < future[:, None]).double().mean(1)
    assert float(rank.mean()) == pytest.approx(0.5, abs=0.03)
    inside = ((rank > 0.05) & (rank < 0.95)).double().mean(dim=(0, 2))  # for each lead time
    assert float((inside - 0.9).abs().max()) < 0.05
    exact = crps_sum(forecast.exp(), future.exp()).mean()
    for worse in (forecast + 0.15, forecast.mean(1, keepdim=True) + 2 * (forecast - forecast.mean(1, keepdim=True))):
        assert crps_sum(worse.exp(), future.exp()).mean() > exact


def test_the_filter_keeps_the_hour() -> None:
    # Catches: a filter or a forecast that is off by an hour; without noise the future is the rhythm itself.
    world = replace(make_world(0), w=1e-4, e=1e-3)
    logs, start = simulate(world, 40, CONTEXT + AHEAD, 1)
    forecast = exact_forecast(world, logs[:, :CONTEXT], start, 4, 2)
    assert float((forecast - logs[:, None, CONTEXT:]).abs().max()) < 0.02
