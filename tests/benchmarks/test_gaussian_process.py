"""The process of the likelihood benchmark against the tests' own oracle, and how its points are drawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from dfplan.models.base import Cond
from dfplan.noise import alpha_bar_table
from dfplan.plotting import Bar, Cloud, Panel
from dfplan.plotting.panels import _draw
from dfplan.plotting.style import new_figure
from dfplan_bench.gaussian import Cubature, GaussianDenoiser, draw_sequences, log_likelihood, rotation
from tests.core import gaussian as oracle

F64 = torch.float64
SUBSET = torch.tensor([0, 2, 4])


def test_the_process_is_what_its_formula_says() -> None:
    # Catches: a covariance of another recursion, or of the transposed rotation.
    mean, cov = rotation(5, decay=0.8, angle=0.7)
    A = 0.8 * torch.tensor([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]], dtype=F64)
    blocks = cov.reshape(5, 2, 5, 2)
    for t in range(5):
        torch.testing.assert_close(blocks[t, :, t], torch.eye(2, dtype=F64))
        if t:
            torch.testing.assert_close(blocks[t, :, 0], A @ blocks[t - 1, :, 0])
            innovation = blocks[t, :, t] - A @ blocks[t - 1, :, t - 1] @ A.T
            torch.testing.assert_close(innovation, 0.36 * torch.eye(2, dtype=F64))
    assert bool((mean == 0).all())


@pytest.mark.parametrize("causal", [True, False])
def test_the_denoiser_agrees_with_the_oracle(causal: bool) -> None:
    # Catches: rows that share a solution they should not share, noise that is read at level K, tokens out of place.
    _, cov = rotation(5)
    mean = torch.randn(5, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    table, g = alpha_bar_table("cosine", 6), torch.Generator().manual_seed(0)
    x, k = torch.randn(60, 3, 2, dtype=F64, generator=g), torch.randint(0, 7, (60, 3), generator=g)
    cond = Cond(causal=causal, tokens=SUBSET)
    expected = oracle.GaussianDenoiser(mean, cov, table)(x, k, cond)
    torch.testing.assert_close(GaussianDenoiser(mean, cov, table)(x, k, cond), expected)


def test_log_likelihood_of_a_subset() -> None:
    # Catches: the wrong columns of a token, a constant of another dimension.
    mean, cov = rotation(5)
    x0 = draw_sequences(mean + 0.3, cov, 6, torch.Generator().manual_seed(0))
    flat = torch.tensor([0, 1, 4, 5, 8, 9])
    law = MultivariateNormal(mean.reshape(-1)[flat], cov[flat][:, flat])
    torch.testing.assert_close(log_likelihood(mean, cov, x0, SUBSET), law.log_prob(x0[:, SUBSET].flatten(1)))


def test_points_have_the_moments_of_noise() -> None:
    # Catches: points that are not scaled, or that differ between the calls of one draw.
    draw = Cubature(3)
    like = torch.zeros(2, 3, 2, dtype=F64)
    asked = torch.stack([draw(like) for _ in range(3 * 12)]).reshape(12, 3, 2, 6)
    assert bool((asked == asked[:, :1, :1]).all())
    points = asked[:, 0, 0]
    torch.testing.assert_close(points.mean(0), torch.zeros(6, dtype=F64))
    torch.testing.assert_close(points.T @ points / 12, torch.eye(6, dtype=F64))


def test_clouds_and_the_diagonal_are_drawn() -> None:
    # Catches: points that are left out, axes swapped, a diagonal that drags the view to the origin.
    pytest.importorskip("matplotlib")
    figure = new_figure(3, 3)
    ax = figure.add_subplot()
    _draw(ax, Panel("t", "x", "y", clouds=[Cloud("a", [100.0, 102.0], [90.0, 91.0])], diagonal=True))
    assert ax.collections[0].get_offsets().tolist() == [[100.0, 90.0], [102.0, 91.0]]
    assert ax.get_legend().get_texts()[0].get_text() == "a"
    assert len(ax.lines) == 1 and ax.lines[0].get_slope() == 1
    assert ax.get_xlim()[0] > 90


def test_named_values_are_drawn_from_top_to_bottom() -> None:
    # Catches: names beside other values, an order upside down, error bars along the wrong axis.
    pytest.importorskip("matplotlib")
    ax = new_figure(3, 3).add_subplot()
    _draw(ax, Panel("t", "return", "", bars=[Bar("low", -10.0, 2.0), Bar("high", 5.0)]))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["low", "high"]
    assert ax.lines[0].get_xdata().tolist() == [-10.0, 5.0] and ax.lines[0].get_ydata().tolist() == [0, 1]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    (segments,) = (c.get_segments() for c in ax.collections)
    assert segments[0].tolist() == [[-12.0, 0.0], [-8.0, 0.0]]
