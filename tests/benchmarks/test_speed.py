"""The speed benchmarks: the designs' shapes, fair arithmetic, parts that are kept, savings that change nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dfplan import DFPlanner, itinerary, planning, sampler
from dfplan_bench import speed_scores
from dfplan_bench.parts import kept
from dfplan_bench.speed import ours, switches
from dfplan_bench.speed.clock import exponent, seconds, threads
from dfplan_bench.speed.compare import ratios, time_rival
from dfplan_bench.speed.designs import ForcingTransformer, TemporalUNet, VeteranTransformer, parameters
from dfplan_bench.speed.loop import drive
from dfplan_bench.speed.rivals import RIVALS
from dfplan_policies import DFPolicy
from tests.core.tiny import tiny_checkpoint


def linear(before: int, after: int) -> int:
    return before * after + after


def test_forcing_transformer_has_the_published_shape() -> None:
    # Catches: another depth or width, a feed-forward of another size, attention that looks ahead, a level that is lost.
    C = 128
    layer = linear(C, 3 * C) + linear(C, C) + linear(C, 512) + linear(512, C) + 2 * 2 * C
    count = 12 * layer + linear(60 + 64, C) + linear(C, C) + linear(C, 60)
    model = ForcingTransformer().eval()
    assert parameters(model) == count == 2_419_516
    x, k = torch.randn(2, 9, 60, generator=torch.Generator().manual_seed(0)), torch.full((2, 9), 25)
    later = x.clone()
    later[:, 6:] += 1
    with torch.no_grad():
        a, b, c = model(x, k), model(later, k), model(x, k + 1)
    torch.testing.assert_close(a[:, :6], b[:, :6])
    assert bool((a[:, 6:] != b[:, 6:]).any()) and not torch.allclose(a, c)


def test_temporal_unet_has_the_published_shape() -> None:
    # Catches: other multipliers, a level of the U without its two blocks, a skip that is left out, a length that is not
    # kept.
    def residual(before: int, after: int) -> int:
        convolutions = 5 * (before + after) * after + 2 * after + 2 * 2 * after
        return convolutions + linear(32, after) + (linear(before, after) if before != after else 0)

    down = residual(6, 32) + residual(32, 32) + residual(32, 128) + residual(128, 128) + residual(128, 256)
    down += residual(256, 256) + (3 * 32 * 32 + 32) + (3 * 128 * 128 + 128)
    up = residual(512, 128) + residual(128, 128) + (4 * 128 * 128 + 128)
    up += residual(256, 32) + residual(32, 32) + (4 * 32 * 32 + 32)
    ends = linear(32, 128) + linear(128, 32) + (5 * 32 * 32 + 32 + 64) + linear(32, 6)
    model = TemporalUNet().eval()
    assert parameters(model) == down + 2 * residual(256, 256) + up + ends == 3_682_118
    x = torch.randn(1, 32, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a, b = model(x, torch.tensor([3])), model(x, torch.tensor([200]))
    assert a.shape == x.shape and not torch.allclose(a, b)


def test_veteran_transformer_has_the_published_shape() -> None:
    # Catches: another depth or width, modulation with fewer than six parts, attention that is causal.
    C = 256
    block = linear(C, 3 * C) + linear(C, C) + linear(C, 4 * C) + linear(4 * C, C) + linear(C, 6 * C)
    time = linear(128, 512) + linear(512, 128) + linear(128, C) + linear(C, C)
    model = VeteranTransformer().eval()
    assert parameters(model) == 2 * block + time + linear(4, C) + linear(C, 2 * C) + linear(C, 4) == 2_731_396
    x = torch.randn(1, 32, 4, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, -1] += 1
    with torch.no_grad():
        assert bool((model(x, torch.ones(1))[:, 0] != model(other, torch.ones(1))[:, 0]).any())


def test_rivals_take_their_own_rows() -> None:
    # Catches: fewer network calls than a plan of theirs has, a backward pass that is left out, tokens that end noisy.
    assert {n: (r.rows, r.candidates) for n, r in RIVALS.items()} == {
        "forcing": (129, 1), "diffuser": (256, 1), "veteran": (20, 50),
    }  # fmt: skip

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls, self.graphs, self.weight = 0, 0, nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            self.calls, self.graphs = self.calls + 1, self.graphs + int(x.requires_grad)
            return 0 * x + 0.5

    for name, rival in RIVALS.items():
        model = Counted()
        x = rival.walk(model, torch.ones(2, *rival.shape), rival.rows)
        assert model.calls == rival.rows and model.graphs == (rival.rows if name == "forcing" else 0)
        assert x.shape == (2, *rival.shape) and bool(torch.isfinite(x).all())
        if name == "forcing":
            rest = (x.unflatten(-1, (10, 6))[..., 2:] - 0.5).abs()  # the columns that guidance leaves alone
            assert float(rest[:, :-1].max()) < 1e-6 < float(rest[:, -1].max()) < 0.05  # the last token: one step left


def test_times_are_scaled_to_a_whole_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a part of the rows reported as the whole plan, seconds of the batch as seconds per plan.
    monkeypatch.setattr("dfplan_bench.speed.compare.seconds", lambda call, repeats, device: (call(), 3.0)[1])
    row = time_rival("veteran", RIVALS["veteran"], 1, "cpu", 1, 2)
    assert row["seconds_per_plan"] == pytest.approx(30.0) and row["rows_timed"] == 2
    assert row["candidates"] == 50 and row["parameters"] == 2_731_396
    rows = [
        {"device": "cpu", "threads": t, "environments": 1, "design": d, "precision": "fp32", "candidates": 1,
         "seconds_per_plan": s}
        for t, d, s in ((1, "forcing", 6.0), (2, "forcing", 4.0), (1, "ours, x", 0.5), (2, "ours, x", 0.4))
    ]  # fmt: skip
    assert [(r["threads"], r["ours"], r["ratio"]) for r in ratios(rows)] == [(1, "x", 12.0), (2, "x", 10.0)]


def test_clock_and_exponent(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: warm-up calls that count, a mean for a median, the exponent of x in y, threads that stay.
    ticks = iter([0, 0, 1, 0, 9, 0, 2])
    monkeypatch.setattr("dfplan_bench.speed.clock.time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    assert seconds(lambda: None, 3) == 2
    monkeypatch.undo()
    assert exponent([1, 2, 4], [5, 20, 80]) == pytest.approx(2)
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_savings_change_nothing_but_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a switch that switches nothing, or another thing, or stays on; a saving that changes the plan.
    planner = DFPlanner(tiny_checkpoint())
    obs, found, real, model = [0.1, 0.2, 0.0, 0.0], [], sampler.sample, planner.checkpoint.model
    computed = []

    def counted(*args: Any, **options: Any) -> Any:
        out = real(*args, **options)
        computed.append((out.tokens_computed, model._prepared is not None, len(itinerary._kept)))
        return out

    monkeypatch.setattr(sampler, "sample", counted)
    for on in range(len(switches.STACK) + 1):
        model._prepared = None
        with switches.switched(planner, on) as before:
            before()
            g = torch.Generator().manual_seed(0)
            found.append(planner.plan(obs, (1.0, 1.0), generator=g, plausibility=0.0, steps=10, slope=0.5).candidates)
        assert model.prepare and planning.sample is not None
    for plan in found[1:]:
        torch.testing.assert_close(plan, found[0], rtol=1e-4, atol=1e-4)
    tokens = [c[0] for c in computed]
    assert tokens[0] > tokens[1] > tokens[2] == tokens[3] == tokens[4]
    assert [c[1] for c in computed] == [False, False, False, True, True]
    assert all(c[2] == 1 for c in computed[:4])


def test_parts_are_made_once(tmp_path: Path) -> None:
    # Catches: a part made again, or one with other settings taken for it.
    made = []

    def make(value: int) -> dict[str, Any]:
        made.append(value)
        return {"value": value}

    for value, settings in ((1, {"a": 1}), (2, {"a": 1}), (3, {"a": 2})):
        found = kept(tmp_path, "x", settings, lambda value=value: make(value))
        assert found == {"value": {1: 1, 2: 1, 3: 3}[value]}
    assert made == [1, 3]


def test_scores_are_compared_start_by_start() -> None:
    # Catches: the difference of means with the spread of both, a sign the wrong way round.
    base = {"success_rate": 1.0, "plans_per_episode": 4.0, "network_evaluations": 10.0}
    row = speed_scores.against(base | {"scores": [101.0, 202.0, 303.0]}, base | {"scores": [100.0, 200.0, 300.0]})
    assert row["difference"]["mean"] == pytest.approx(2.0) and row["difference"]["stderr"] == pytest.approx(3**-0.5)
    assert set(speed_scores.settings()) == {"steps", "others", "latency"}


def test_the_loop_times_control_steps() -> None:
    # Catches: the first step's wait counted among the steps, fewer steps than asked for, a loop faster than its pace.
    planner = ours.planner("fp32", samples=1, steps=2, slope=0.0)
    row = drive(DFPolicy(planner, replan_every=5), 12, 0, None)
    assert row["steps"] == 12 and row["plans"] >= 3 and 0 < row["median_ms"] <= row["p99_ms"] <= row["worst_ms"]
    assert row["plan_ms"] > 0 and row["steps_per_second"] > 0
