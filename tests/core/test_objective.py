"""Algorithm 1: what counts, how much, and that gradients are those of the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dfplan.objective
from dfplan.models.base import Cond
from dfplan.noise import alpha_bar_table, target_from
from dfplan.objective import ObjectiveConfig, diffusion_forcing_loss, draw_levels, take_tokens
from dfplan.tokens import CONTEXT, GOAL, TokenSpec
from dfplan.windows import Batch, WindowSampler
from tests.core.tiny import fitted, random_denoiser, small_spec, walks

SPEC = small_spec()
K = 20


class Stub(nn.Module):
    """Answer with a constant and remember what was asked."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.register_buffer("alpha_bar", alpha_bar_table("cosine", K))
        self.asked: list[tuple[Tensor, Tensor, Cond]] = []

    def network(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        self.asked.append((x, k, cond))
        return self.value * torch.ones_like(x)


def windows(B: int = 16, spec: TokenSpec = SPEC, **options: Any) -> Batch:
    data = walks()
    return WindowSampler(data, spec, fitted(spec, data), **options).draw(B, np.random.default_rng(0))


def loss_of(model: Any, batch: Batch, *, spec: TokenSpec = SPEC, seed: int = 0, **options: Any) -> dict[str, Tensor]:
    arguments = {"levels": K, "prediction": "v", "config": ObjectiveConfig(), "causal": True, **options}
    levels, prediction, config = (arguments.pop(n) for n in ("levels", "prediction", "config"))
    generator = torch.Generator().manual_seed(seed)
    return diffusion_forcing_loss(model, batch, spec, levels, prediction, config, generator=generator, **arguments)


@pytest.mark.parametrize("prediction", ["v", "x0", "eps"])
@pytest.mark.parametrize("action_weight", [0.0, 1.0, 4.0])
def test_loss_by_hand(prediction: str, action_weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # Algorithm 1. Catches: context or padding that counts, columns that weigh by their number, weights of tokens lost.
    batch, drawn = windows(no_goal=0.5), []

    def spy(*arguments: Any) -> Tensor:
        k = draw_levels(*arguments)
        k[:, CONTEXT:] = k[:, CONTEXT:].clamp_min(1)  # so that the noise can be read back from x
        drawn.append((arguments[2], k))
        return k

    monkeypatch.setattr(dfplan.objective, "draw_levels", spy)
    stub, config = Stub(0.3), ObjectiveConfig(action_weight=action_weight)
    parts = loss_of(stub, batch, prediction=prediction, config=config)
    (tokens, k), (x, shown, cond) = drawn[0], stub.asked[0]
    assert torch.equal(shown, k) and cond.causal and cond.tokens is not None and torch.equal(cond.tokens, tokens)
    x0, a = take_tokens(batch.x0, tokens), stub.alpha_bar[k].unsqueeze(-1).float()
    eps = (x - a.sqrt() * x0) / (1 - a).clamp_min(1e-9).sqrt()
    target = target_from(prediction, x0, eps, k, stub.alpha_bar)
    errors: dict[str, list[float]] = {"future": [], "action": []}
    for b in range(len(tokens)):
        for i, t in enumerate(tokens[b].tolist()):
            if t >= CONTEXT and bool(batch.valid[b, t]):
                error = ((0.3 - target[b, i, SPEC.column_mask()[t]]) ** 2).mean()
                errors["action" if t >= SPEC.plan_tokens else "future"].append(float(error))
    weight = len(errors["future"]) + action_weight * len(errors["action"])
    total = sum(errors["future"]) + action_weight * sum(errors["action"])
    assert parts["loss"].requires_grad and float(parts["loss"].detach()) == pytest.approx(total / weight, rel=1e-4)
    for name, values in errors.items():
        assert not parts[name].requires_grad and float(parts[name]) == pytest.approx(float(np.mean(values)), rel=1e-4)


def test_tokens_are_noised_to_the_levels_that_are_shown() -> None:
    # T2. Catches: levels and noise out of step; clean context that is noised.
    batch, stub = windows(400, no_goal=0.0), Stub()
    loss_of(stub, batch, config=ObjectiveConfig(levels="independent", noisy_state=0.0))
    x, k, cond = stub.asked[0]
    x0 = take_tokens(batch.x0, cond.tokens)
    assert torch.equal(x[:, :CONTEXT], x0[:, :CONTEXT]) and torch.equal(x[k == 0], x0[k == 0])
    a = stub.alpha_bar[k].unsqueeze(-1).float()
    eps = ((x - a.sqrt() * x0) / (1 - a).clamp_min(1e-9).sqrt())[k > 0]
    assert abs(float(eps.mean())) < 0.03 and float(eps.std()) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("stride", [1, 6])
@pytest.mark.parametrize("kind", ["path", "bundle"])
def test_a_network_that_says_nothing_has_a_loss_of_about_one(kind: str, stride: int) -> None:
    # Catches: a loss that grows with the horizon, the stride or the width, so that learning rates do not carry over.
    spec = small_spec(kind=kind, stride=stride, horizon=6)
    batch = windows(800, spec, no_goal=1.0)
    parts = loss_of(Stub(), batch, spec=spec, config=ObjectiveConfig(levels="independent"))
    assert float(parts["loss"].detach()) == pytest.approx(1.0, abs=0.25)


def test_padding_and_context_do_not_reach_the_loss() -> None:
    # T7 with the real network. Catches: invalid tokens that are attended to or counted.
    model = random_denoiser(SPEC)
    batch = windows(32, no_goal=0.6)
    dirty = torch.where(batch.valid.unsqueeze(-1), batch.x0, torch.full_like(batch.x0, 77.0))
    assert not bool(batch.valid.all()) and not bool(batch.valid[:, GOAL].all())
    for causal in (True, False):
        one = loss_of(model, batch, causal=causal)
        two = loss_of(model, Batch(dirty, batch.weight, batch.valid), causal=causal)
        assert torch.equal(one["loss"], two["loss"])


def test_padding_is_shown_as_pure_noise() -> None:
    # T7. Catches: validity read at the wrong positions when only some action tokens are present.
    stub, batch = Stub(), windows(200, no_goal=0.6)
    loss_of(stub, batch, config=ObjectiveConfig(levels="independent", action_tokens=3))
    _, k, cond = stub.asked[0]
    valid = take_tokens(batch.valid, cond.tokens)
    assert bool((k[~valid] == K).all()) and float((k[valid] == K).double().mean()) < 0.1


def test_gradients_match_finite_differences() -> None:
    # Catches: a detached part, a weight that is applied to the value but not to the gradient.
    model, batch = random_denoiser(SPEC).double(), windows(4)
    batch = Batch(batch.x0.double(), batch.weight.double(), batch.valid)
    for causal in (True, False):
        model.zero_grad()
        loss_of(model, batch, causal=causal)["loss"].backward()
        for name in ("head.bias", "content.weight", "blocks.0.modulation.weight", "blocks.1.qkv.bias", "level.0.bias"):
            parameter = dict(model.named_parameters())[name]
            direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            direction /= direction.norm()
            slope = float((parameter.grad * direction).sum())
            values = []
            for h in (1e-3, -1e-3):
                with torch.no_grad():
                    parameter.add_(h * direction)
                    values.append(float(loss_of(model, batch, causal=causal)["loss"]))
                    parameter.add_(-h * direction)
            assert slope == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-3, abs=1e-4), name


def test_every_parameter_gets_a_gradient_in_both_modes() -> None:
    # DDP waits for each of them. Catches: a parameter that one mode leaves out.
    model = random_denoiser(SPEC)
    for causal in (True, False):
        model.zero_grad(set_to_none=True)
        loss_of(model, windows(8), causal=causal)["loss"].backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_the_same_generator_gives_the_same_loss() -> None:
    # Design 10. Catches: global random numbers in levels, token choice or noise.
    model, batch = random_denoiser(SPEC), windows()
    values = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(values))
        values.append(float(loss_of(model, batch, seed=seed)["loss"].detach()))
    assert values[0] == values[1] != values[2]


def test_attention_mode_is_passed_on() -> None:
    # Catches: causal training whatever was asked.
    stub = Stub()
    for causal in (True, False):
        loss_of(stub, windows(2), causal=causal)
    assert [cond.causal for _, _, cond in stub.asked] == [True, False]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"levels": "independant"}, "unknown level sampler 'independant'. Did you mean 'independent'"),
        ({"noisy_state": 1.2}, r"noisy_state is a share and must lie in \[0, 1\], got 1.2"),
        ({"action_tokens": -1}, "must be at least 0"),
        ({"action_weight": -1.0}, "must be at least 0"),
    ],
)
def test_bad_objectives_are_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ObjectiveConfig(**change)
