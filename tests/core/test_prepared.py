"""The transformer laid out for sampling computes what the transformer computes, and notices when that changes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import dfplan.itinerary
import dfplan.planning
import dfplan.searching
from dfplan import DFPlanner
from dfplan.itinerary import itinerary, settled_rows
from dfplan.layout import SequenceSpec
from dfplan.models import Cond, TransformerConfig, TransformerDenoiser
from dfplan.models.prepared import shared_levels
from dfplan.schedule import make_schedule
from dfplan.steering import Steering
from tests.core.tiny import random_denoiser, random_network, small_spec, tiny_checkpoint

F64, K = torch.float64, 20
SIZE: dict[str, Any] = {"width": 16, "layers": 2, "heads": 2, "levels": K}
SPECS: dict[str, tuple[Any, str]] = {
    "path": (small_spec(horizon=4), "learned"),
    "woven": (small_spec(horizon=3, kind="interleaved", history=1), "rotary"),
    "endless": (SequenceSpec(3, 6), "rotary"),
}
layouts = pytest.mark.parametrize("name", sorted(SPECS))


def network(name: str) -> TransformerDenoiser:
    spec, positions = SPECS[name]
    model = random_network(spec, TransformerConfig(**SIZE, positions=positions)).double()
    assert isinstance(model, TransformerDenoiser)
    return model


def inputs(model: TransformerDenoiser, n: int, seed: int = 0, B: int = 3) -> tuple[Tensor, Tensor]:
    """Draw tokens, and levels that all samples share; some are 0, some K."""
    g = torch.Generator().manual_seed(seed)
    k = torch.randint(0, K + 1, (n,), generator=g)
    k = torch.where(torch.rand(n, generator=g) < 0.3, K, torch.where(k < 4, 0, k))
    return torch.randn(B, n, model.spec.width, generator=g, dtype=F64), k.expand(B, n)


def both(model: TransformerDenoiser, x: Tensor, k: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
    """Predict with and without the layout for sampling."""
    found = []
    for model.prepare in (True, False):
        with torch.no_grad():
            found.append(model(x, k, cond))
    model.prepare = True
    return found[0], found[1]


def agree(model: TransformerDenoiser, x: Tensor, k: Tensor, cond: Cond) -> None:
    fast, plain = both(model, x, k, cond)
    torch.testing.assert_close(fast, plain, rtol=1e-11, atol=1e-11)


@layouts
def test_equals_the_plain_forward_pass(name: str) -> None:
    # Catches: scale without its 1, shift and scale exchanged, a mask upside down or of the other kind of attention,
    # positions that are not the tokens', content at level K that is let through, no turn, relu without the square.
    model = network(name)
    n = 6 if model.open_ended else model.spec.tokens
    for seed in range(4):
        x, k = inputs(model, n, seed)
        some = torch.arange(n)[:: 1 + seed % 2].flip(0)
        for causal in (True, False):
            agree(model, x, k, Cond(causal))
            if not model.open_ended:
                agree(model, x[:, : len(some)], k[:, : len(some)], Cond(causal, some))
    assert model._prepared is not None


@layouts
def test_equals_it_after_a_memory(name: str) -> None:
    # Catches: remembered tokens left out, hidden ones seen, the memory's mask kept from another call, a memory that
    # does not grow or grows by tokens that are not to be kept.
    model = network(name)
    order = torch.arange(8) if model.open_ended else model.spec.order().argsort(stable=True)
    order = order[: 5 if name == "path" else 7]  # a path's actions share their places
    for seed in range(4):
        x, k = inputs(model, len(order), seed)
        outputs = []
        for model.prepare in (True, False):
            with torch.no_grad():
                _, memory = model.advance(x[:, :2], k[:, :2], Cond(tokens=order[:2]), 2)
                ahead, memory = model.advance(x[:, 2:], k[:, 2:], Cond(tokens=order[2:], memory=memory), 1)
                rest = model(x[:, 3:], k[:, 3:], Cond(tokens=order[3:], memory=memory))
            assert len(memory) == 3 and memory.visible.shape == (3, 3) and memory.layers[0][0].shape[2] == 3
            outputs.append((ahead, rest))
        for fast, plain in zip(*outputs, strict=True):
            torch.testing.assert_close(fast, plain, rtol=1e-11, atol=1e-11)


def test_samples_with_levels_of_their_own_go_the_plain_way() -> None:
    # Catches: the first sample's levels (or what it remembers) taken for everybody's.
    model = network("endless")
    x, shared = inputs(model, 6)
    own = shared.clone()
    own[1] = (own[1] + 7) % (K + 1)
    agree(model, x, own, Cond())
    assert shared_levels(own, None) is None and shared_levels(shared, None) is not None
    with torch.no_grad():
        _, memory = model.advance(x[:, :3], torch.tensor([[0, 0, 0], [K, 0, K], [0, 5, 0]]), Cond(), 3)
    agree(model, x[:, 3:], shared[:, 3:], Cond(memory=memory))


def test_a_changed_parameter_is_noticed() -> None:
    # Catches: weights that are laid out once and never again: an optimiser's step, a checkpoint loaded (with new
    # tensors, too), another type, a layer put in place of another.
    model = network("path")
    x, k = inputs(model, model.spec.tokens)
    agree(model, x, k, Cond())
    first = both(model, x, k, Cond())[0]
    for seed, change in enumerate(("step", "load", "assign", "data", "layer"), 1):
        other = random_denoiser(model.spec, seed=seed).double()
        if change == "step":
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
            model(x, k, Cond()).square().sum().backward()
            optimizer.step()
        elif change in ("load", "assign"):
            model.load_state_dict(other.state_dict(), assign=change == "assign")
        elif change == "data":
            model.blocks[0].modulation.weight.data = torch.ones_like(model.blocks[0].modulation.weight)
        else:
            model.head = torch.nn.Linear(16, model.spec.width).double()
        agree(model, x, k, Cond())
        now = both(model, x, k, Cond())[0]
        assert not torch.allclose(now, first), change
        first = now


def test_copies_have_weights_of_their_own() -> None:
    # Catches: a copied or unpickled network that answers with the original's weights, or carries them along.
    model = network("path")
    x, k = inputs(model, model.spec.tokens)
    agree(model, x, k, Cond())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other._prepared is None
        with torch.no_grad():
            other.head.weight.mul_(2)
        agree(other, x, k, Cond())
        agree(model, x, k, Cond())


def test_precisions_are_kept_apart() -> None:
    # Catches: bf16 weights used for float32, and the other way round.
    model = network("path").float()
    x, k = inputs(model, model.spec.tokens)
    x = x.float()
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            low, plain = both(model, x, k, Cond())
        assert float((low - plain).abs().max() / plain.abs().max()) < 0.03
        full, plain = both(model, x, k, Cond())
        torch.testing.assert_close(full, plain, rtol=1e-4, atol=1e-4)
        assert float((low - full).abs().max()) > 1e-3


def test_gradients_go_the_plain_way() -> None:
    # Catches: a guided plan whose gradient is lost, because the result was computed in place without a graph.
    model = network("path")
    x, k = inputs(model, model.spec.tokens)
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(model(leaf, k, Cond()).sum(), leaf)
    assert bool((gradient != 0).any())


@pytest.mark.parametrize("options", [{}, {"attention": "full", "schedule": "full_sequence"}, {"eta": 1.0},
                                     {"hold": "resample"}])  # fmt: skip
def test_plans_are_the_same(options: dict[str, Any]) -> None:
    # Catches: any of it in a whole plan; and a second plan that differs because of what the first one left behind.
    planner = DFPlanner(tiny_checkpoint())
    model, plans = planner.checkpoint.model, []
    for model.prepare in (False, True, True):  # type: ignore[union-attr]
        g = torch.Generator().manual_seed(1)
        plans.append(planner.plan([0.1, 0.2, 0, 0], goal=(1.0, 1.0), generator=g, **options).candidates)
    scale = float(plans[0].abs().max())
    assert float((plans[0] - plans[1]).abs().max()) < 1e-5 * scale
    assert torch.equal(plans[1], plans[2])


def test_itineraries_are_told_apart() -> None:
    # Catches: a walk that is looked up by its matrix alone, though attention, skipping, what is settled or the order
    # differ; and one that grows for ever.
    S = make_schedule("pyramid", 4, K, steps=5, slope=2)
    order, clean = torch.arange(4), torch.ones(4, dtype=torch.bool)
    never = torch.full((4,), len(S))
    ways = {
        "plain": (order, never, clean, {"causal": False, "resample": False, "skip": True}),
        "all": (order, never, clean, {"causal": False, "resample": False, "skip": False}),
        "settled": (order, settled_rows(S, order), clean, {"causal": True, "resample": False, "skip": True}),
        "forwards": (order, never, clean, {"causal": True, "resample": False, "skip": True}),
        "backwards": (order.flip(0), never, clean, {"causal": True, "resample": False, "skip": True}),
    }

    def passed(name: str) -> list[list[int]]:
        o, settled, finish, rest = ways[name]
        return [row.index.tolist() for row in itinerary(S, o, settled, finish, K, **rest).rows]

    first = {name: passed(name) for name in ways}
    assert len({str(v) for v in first.values()}) == len(ways) - 1  # causal attention leaves out what waits anyway
    assert first["all"] == [[0, 1, 2, 3]] * (len(S) - 1) and first["plain"][0] == [0]
    assert first["settled"][-1] == [3] and first["plain"][-1] == [0, 1, 2, 3]
    for seed in range(dfplan.itinerary.KEPT + 5):
        other = make_schedule("pyramid", 4, 200, steps=5 + seed, slope=2)
        itinerary(other, order, torch.full((4,), len(other)), clean, 200, causal=True, resample=False, skip=True)
    assert len(dfplan.itinerary._kept) == dfplan.itinerary.KEPT
    assert {name: passed(name) for name in ways} == first


@pytest.mark.parametrize("options", [
    {}, {"warm": True}, {"eta": 1.0, "hold": "resample"}, {"trace": True, "actions": True},
    {"guidance": lambda states, k: -states[..., 0].square().sum(-1), "steering": Steering(scales=(0.0, 1.0))},
])  # fmt: skip
def test_environments_together_get_the_plans_they_get_alone(options: dict[str, Any]) -> None:
    # Catches: noise, priors, guidance scales or results dealt to the wrong environment; environments that know other
    # things thrown together; one draw for all.
    alone, together = (DFPlanner(tiny_checkpoint(planner={"batched": b})) for b in (False, True))
    obs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    goal, level = torch.arange(10.0).reshape(5, 2), torch.tensor([0, 0, 6, 0, 6])
    options = dict(options)
    if options.pop("warm", False):
        options["warm_start"] = alone.plan(obs, goal, generator=torch.Generator().manual_seed(9))
        options["elapsed"] = torch.arange(5)
    plans = []
    for planner in (alone, together):
        sources = [torch.Generator().manual_seed(b) for b in range(5)]
        plans.append(planner.plan(obs, goal, obs_level=level, samples=3, generator=sources, **options))
    a, b = plans
    for name in ("candidates", "trace", "actions", "score", "arrival_steps"):
        if getattr(a, name) is not None:
            torch.testing.assert_close(getattr(b, name), getattr(a, name), rtol=1e-4, atol=1e-4)
    assert torch.equal(a.selected, b.selected) and torch.equal(a.feasible, b.feasible)


def test_too_many_environments_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a batch that grows with the environments until memory runs out; parts out of order.
    planner = DFPlanner(tiny_checkpoint(planner={"batched": True}))
    obs = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    plans, sizes, real = [], [], dfplan.planning.sample

    def counted(model: Any, S: Tensor, x: Tensor, **rest: Any) -> Any:
        sizes.append(len(x))
        return real(model, S, x, **rest)

    monkeypatch.setattr(dfplan.planning, "sample", counted)
    for most in (1024, 6):
        monkeypatch.setattr(dfplan.searching, "MOST_TOGETHER", most)
        sources = [torch.Generator().manual_seed(b) for b in range(7)]
        plans.append(planner.plan(obs, torch.ones(7, 2), samples=2, generator=sources).candidates)
    assert sizes == [14, 6, 6, 2]
    torch.testing.assert_close(plans[0], plans[1], rtol=1e-4, atol=1e-4)
