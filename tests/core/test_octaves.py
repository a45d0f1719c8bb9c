"""Coordinates shown as sines and cosines too."""

from __future__ import annotations

import math

import pytest
import torch

from dfplan.models import TransformerConfig, make_denoiser
from dfplan.models.base import Cond
from dfplan.models.embedding import waves
from dfplan.tokens import TokenSpec


def test_waves_have_periods_of_4_2_1() -> None:
    """Catches another base of the frequencies, and values that are replaced instead of added to."""
    x = torch.tensor([[0.5, -0.25]])
    found = waves(x, 3)[0].tolist()
    wanted = x[0].tolist()
    for period in (4.0, 2.0, 1.0):
        wanted += [f(2 * math.pi * v / period) for f in (math.sin, math.cos) for v in x[0].tolist()]
    assert found == pytest.approx(wanted, abs=1e-6)
    assert waves(x, 0) is x


def test_sampling_sees_the_waves_too() -> None:
    """Catches weights laid out for sampling that leave the waves out, and a token at K that shows its content."""
    torch.manual_seed(0)
    spec = TokenSpec(2, 2, stride=2, horizon=3, rest_columns=())
    model = make_denoiser(spec, TransformerConfig(width=16, layers=1, heads=2, octaves=2)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    n = spec.plan_tokens
    x, k = torch.randn(2, n, spec.width), torch.tensor([0, 0, 100, 40, 60]).expand(2, -1)
    cond = Cond(causal=False, tokens=torch.arange(n))
    slow = model(x, k, cond)
    with torch.no_grad():
        fast, other = model(x, k, cond), model(x + 1.0 * (k == 100).unsqueeze(-1), k, cond)
    torch.testing.assert_close(fast, slow.detach(), atol=1e-5, rtol=1e-4)
    seen = [0, 1, 3, 4]
    torch.testing.assert_close(other[:, seen], fast[:, seen], atol=1e-6, rtol=1e-5)


def test_octaves_are_checked_and_stored_only_where_there_are_any() -> None:
    """Catches a negative number, and checkpoints of before that no longer compare equal."""
    with pytest.raises(ValueError, match="octaves must be at least 0, got -1"):
        TransformerConfig(octaves=-1)
    assert "octaves" not in TransformerConfig().to_dict()
    assert TransformerConfig(**TransformerConfig(octaves=3).to_dict()).octaves == 3
