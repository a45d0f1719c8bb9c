"""The optimisers: which parameter is updated how."""

from __future__ import annotations

import math

import pytest
import torch

from dfplan.layout import SequenceSpec
from dfplan.models import RecurrentConfig, TransformerConfig, make_denoiser
from dfplan.optimizers import MuonAdamW, make_optimizer
from dfplan.training import TrainConfig

SPEC = SequenceSpec(tokens=4, width=3)
CONFIG = TrainConfig(lr=1e-2, weight_decay=0.0)


def transformer() -> torch.nn.Module:
    """Build the same small network every time."""
    torch.manual_seed(0)
    return make_denoiser(SPEC, TransformerConfig(width=16, layers=2, heads=2, levels=20, positions="rotary"))


def descended(kind: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Take one step on gradients that are equal for every kind; returns the model and how its parameters moved."""
    model = transformer()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    make_optimizer(model, CONFIG, kind).step()
    return model, {name: p.detach() - before[name] for name, p in model.named_parameters()}


def test_muon_takes_orthogonal_steps_in_the_blocks_and_adamw_everywhere_else() -> None:
    # Catches: embeddings or the head updated by Muon, matrices of blocks that are not, parameters left out, a rate
    # that means something else for the two, a step up the gradient.
    (model, moved), (_, plain) = descended("muon"), descended("adamw")
    inside = 0
    for name, p in model.named_parameters():
        if "blocks." in name and p.ndim == 2:
            inside += 1
            values = torch.linalg.svdvals(moved[name]) / (CONFIG.lr * 0.2 * math.sqrt(max(p.shape)))
            assert float(values.min()) > 0.3 and float(values.max()) < 1.3, name  # Newton-Schulz is not exact
            assert float((moved[name] * p.grad).sum()) < 0
        else:
            assert torch.equal(moved[name], plain[name]), name
    assert inside == sum(p.ndim == 2 for p in model.blocks.parameters()) > 0


def test_one_state_and_one_list_of_groups() -> None:
    # Catches: a learning rate that reaches one half only, moments that are not saved.
    model = transformer()
    optimizer = make_optimizer(model, CONFIG, "muon")
    assert isinstance(optimizer, MuonAdamW)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert all({"momentum_buffer", "exp_avg"} & set(optimizer.state[p]) for p in model.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_an_older_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: an AttributeError that does not say what to do.
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ImportError, match=r"needs torch 2\.9 or later, got .*; use adamw"):
        make_optimizer(transformer(), CONFIG, "muon")


def test_what_does_not_exist_is_refused() -> None:
    # Catches: an unknown name taken for the default, Muon on a network without blocks.
    with pytest.raises(ValueError, match="must be one of adamw, muon"):
        make_optimizer(transformer(), CONFIG, "sgd")
    with pytest.raises(ValueError, match="there are none"):
        make_optimizer(make_denoiser(SPEC, RecurrentConfig(width=16, levels=20)), CONFIG, "muon")
    with pytest.raises(ValueError, match="optimizer"):
        TrainConfig(optimizer="sgd")
    with pytest.raises(ValueError, match="closure"):
        make_optimizer(transformer(), CONFIG, "muon").step(lambda: 0.0)
