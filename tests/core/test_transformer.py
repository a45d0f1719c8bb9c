"""The real network: who sees whom (T4), exact nothing at level K, independence of the batch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dfplan.models import Cond, TransformerConfig, TransformerDenoiser
from dfplan.models.transformer import attend
from dfplan.noise import to_x0
from dfplan.tokens import GOAL, TokenSpec
from tests.core.tiny import random_denoiser, small_spec

F64 = torch.float64
K = 20
KINDS = {"path": small_spec(horizon=3), "bundle": small_spec(horizon=3, kind="bundle")}
MODELS = {name: random_denoiser(spec).double() for name, spec in KINDS.items()}


def inputs(spec: TokenSpec, B: int = 2, seed: int = 0, high: int = K - 1) -> tuple[Tensor, Tensor]:
    """Draw noisy tokens and levels in which everything may be seen and nothing is known already."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(B, spec.tokens, spec.width, dtype=F64, generator=g)
    return x * spec.column_mask(), torch.randint(1, high + 1, (B, spec.tokens), generator=g)


def influence(model: TransformerDenoiser, x: Tensor, k: Tensor, causal: bool) -> Tensor:
    """Compute the largest |d x0_hat_t / d x_s| of one sample, (T, T)."""
    jacobian: Any = torch.autograd.functional.jacobian(
        lambda v: model(v[None], k, Cond(causal))[0], x[0], vectorize=True
    )
    return jacobian.abs().amax((1, 3))


@settings(max_examples=8)
@given(st.sampled_from(["path", "bundle"]), st.booleans(), st.integers(0, 1000), st.lists(st.booleans(), min_size=8))
def test_jacobian_is_exactly_the_layouts_attention(kind: str, causal: bool, seed: int, noise: list[bool]) -> None:
    # T4. Catches: a causal leak, an action chunk that is seen, pure noise that tells something, a token that is blind.
    spec, model = KINDS[kind], MODELS[kind]
    x, k = inputs(spec, 1, seed)
    pure = torch.tensor(noise[: spec.tokens])
    k = torch.where(pure, K, k)
    J = influence(model, x, k, causal)
    order, leaf = spec.order(), torch.arange(spec.tokens) >= spec.plan_tokens
    for t in range(spec.tokens):
        for s in range(spec.tokens):
            allowed = (not causal or int(order[s]) <= int(order[t])) and (s == t or not bool(leaf[s]))
            assert (float(J[t, s]) > 0) == (allowed and not bool(pure[s])), (t, s)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", ["path", "bundle"])
@pytest.mark.parametrize("prediction", ["v", "x0", "eps"])
def test_pure_noise_says_nothing_to_the_bit(kind: str, causal: bool, prediction: str) -> None:
    # T4. Catches: content of a token at level K that reaches anybody; any size of it.
    spec = KINDS[kind]
    model = random_denoiser(spec, prediction=prediction)
    x, k = (v.float() if v.is_floating_point() else v for v in inputs(spec))
    for t in range(spec.tokens):
        one, two = x.clone(), x.clone()
        level = k.clone()
        level[:, t], two[:, t] = K, 1e3 * torch.randn(2, spec.width)
        a, b = (model(v, level, Cond(causal)) for v in (one, two))
        assert torch.equal(a, b), t
        level[:, t] = K - 1
        assert not torch.equal(model(one, level, Cond(causal)), model(two, level, Cond(causal)))


@pytest.mark.parametrize("causal", [True, False])
def test_a_token_at_pure_noise_and_a_missing_one_are_the_same(causal: bool) -> None:
    # The sampler and an unknown goal rely on it. Catches: positions that shift when a token is left out.
    spec, model = KINDS["path"], MODELS["path"]
    x, k = inputs(spec)
    k[:, GOAL], k[:, 4] = K, K
    keep = torch.tensor([0, 2, 3, 5, 6, 7])
    short = model(x[:, keep], k[:, keep], Cond(causal, keep))
    torch.testing.assert_close(short, model(x, k, Cond(causal))[:, keep], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("causal", [True, False])
def test_action_tokens_are_leaves(causal: bool) -> None:
    # Catches: a state that changes when actions are denoised beside it; chunks that see each other.
    spec, model = KINDS["path"], MODELS["path"]
    x, k = inputs(spec)
    n = spec.plan_tokens
    whole = model(x, k, Cond(causal))
    other, levels = x.clone(), k.clone()
    other[:, n + 1 :], levels[:, n + 1 :] = 5.0, 1
    changed = model(other, levels, Cond(causal))
    assert torch.equal(whole[:, : n + 1], changed[:, : n + 1])
    assert bool((whole[:, n + 1 :] != changed[:, n + 1 :]).any())
    plan = model(x[:, :n], k[:, :n], Cond(causal, torch.arange(n)))
    torch.testing.assert_close(plan, whole[:, :n], rtol=1e-11, atol=1e-11)


def test_later_tokens_change_nothing_earlier_to_the_bit() -> None:
    # T4 in values: levels too, not only contents. Catches: a level of a later token that modulates earlier ones.
    spec, model = KINDS["bundle"], MODELS["bundle"]
    x, k = inputs(spec)
    for t in range(2, spec.tokens):
        other, levels = x.clone(), k.clone()
        other[:, t:], levels[:, t:] = -3.0, 7
        a, b = model(x, k, Cond(True)), model(other, levels, Cond(True))
        assert torch.equal(a[:, :t], b[:, :t]) and bool((a[:, t:] != b[:, t:]).any())
        assert not torch.equal(model(x, k, Cond(False))[:, :t], model(other, levels, Cond(False))[:, :t])


def test_every_token_has_a_level_of_its_own() -> None:
    # Catches: the first token's level, or the mean level, used for all.
    spec, model = KINDS["path"], MODELS["path"]
    x, k = inputs(spec, 1)
    base = model.network(x, k, Cond(True))
    for t in range(spec.tokens):
        levels = k.clone()
        levels[:, t] = (levels[:, t] + 7) % K
        own = (model.network(x, levels, Cond(True)) != base).any(-1)[0]
        assert own.tolist() == [bool(spec.attention(True)[s, t]) for s in range(spec.tokens)]


def test_a_sample_does_not_know_the_batch() -> None:
    # Design 15. Catches: a batch statistic, one sample's mask or tokens used for all.
    spec, model = KINDS["path"], MODELS["path"]
    x, k = inputs(spec, 6, high=K)
    g = torch.Generator().manual_seed(0)
    tokens = torch.stack([torch.cat([torch.arange(5), 5 + torch.randperm(3, generator=g)[:2]]) for _ in range(6)])
    rows = torch.arange(6)[:, None]
    for causal in (True, False):
        whole, part = model(x, k, Cond(causal)), model(x[rows, tokens], k[rows, tokens], Cond(causal, tokens))
        for b in range(6):
            alone = model(x[b : b + 1], k[b : b + 1], Cond(causal))
            torch.testing.assert_close(whole[b : b + 1], alone, rtol=1e-11, atol=1e-11)
            alone = model(x[b : b + 1, tokens[b]], k[b : b + 1, tokens[b]], Cond(causal, tokens[b]))
            torch.testing.assert_close(part[b : b + 1], alone, rtol=1e-11, atol=1e-11)


def test_precision_follows_the_input() -> None:
    # Catches: a buffer or a step that is stuck in float32 (float64 gradients would show it), a bf16 result handed out.
    spec = KINDS["path"]
    model = random_denoiser(spec)
    x, k = inputs(spec)
    single = model(x.float(), k, Cond(True)).detach()
    double = MODELS["path"](x, k, Cond(True))
    assert single.dtype == torch.float32 and double.dtype == F64
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-3)
    part = x[:1, :3].clone().requires_grad_(True)
    cond = Cond(True, torch.arange(3))
    assert torch.autograd.gradcheck(lambda v: MODELS["path"].network(v, k[:1, :3], cond), part)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x.float(), k, Cond(True)).detach()
        assert model.network(x.float(), k, Cond(True)).dtype == torch.float32
    assert half.dtype == torch.float32 and bool(torch.isfinite(half).all())
    assert float((half - single).abs().mean()) < 0.05 * float(single.abs().mean())


@pytest.mark.parametrize("prediction", ["v", "x0", "eps"])
def test_the_head_is_converted_at_the_edge(prediction: str) -> None:
    # T3. Catches: a head read as another kind; columns that a token does not use.
    spec = KINDS["path"]
    model = random_denoiser(spec, prediction=prediction).double()
    x, k = inputs(spec)
    raw = model.network(x, k, Cond(False))
    expected = to_x0(prediction, raw, x, k, model.alpha_bar) * spec.column_mask()
    torch.testing.assert_close(model(x, k, Cond(False)), expected)
    assert bool((model(x, k, Cond(False))[:, ~spec.column_mask()] == 0).all()) and bool((raw != 0).all())


def test_a_clean_token_is_returned_as_it_is() -> None:
    # Catches: a v-head that rewrites what is known.
    spec, model = KINDS["path"], MODELS["path"]
    x, k = inputs(spec)
    k[:, ::2] = 0
    assert torch.equal(model(x, k, Cond(True))[:, ::2], x[:, ::2])


def test_causal_and_full_are_told_apart() -> None:
    # Catches: a mode that is ignored: even a token that is alone, and sees the same in both, knows the mode.
    spec, model = KINDS["bundle"], MODELS["bundle"]
    x, k = inputs(spec)
    assert bool((model(x, k, Cond(True)) != model(x, k, Cond(False))).any(-1).all())
    alone = torch.tensor([2])
    causal, full = (model(x[:, alone], k[:, alone], Cond(mode, alone)) for mode in (True, False))
    assert bool((causal != full).any())


def test_unused_columns_are_not_read() -> None:
    # Catches: columns of no meaning that steer the network.
    spec, model = KINDS["path"], MODELS["path"]
    x, k = inputs(spec)
    dirty = torch.where(spec.column_mask(), x, torch.full_like(x, 9.0))
    assert torch.equal(model(x, k, Cond(True)), model(dirty, k, Cond(True)))


def test_a_new_network_outputs_zero_and_still_learns() -> None:
    # Catches: a start far from zero; a head whose zeros stop every gradient for good.
    spec = KINDS["path"]
    model = TransformerDenoiser(spec, TransformerConfig(width=16, layers=1, heads=2, levels=K))
    x, k = (v.float() if v.is_floating_point() else v for v in inputs(spec))
    assert torch.equal(model.network(x, k, Cond(True)), torch.zeros_like(x))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        ((model.network(x, k, Cond(True)) - 1) ** 2).mean().backward()
        optimizer.step()
    without = [n for n, p in model.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert without == []


def test_attention_written_out_equals_the_fused_one() -> None:
    # Catches: a missing scale, a mask turned round.
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 8, generator=g) for _ in range(3))
    mask = (torch.rand(2, 1, 5, 5, generator=g) < 0.5) | torch.eye(5, dtype=torch.bool)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1 / math.sqrt(8))
    torch.testing.assert_close(attend(q, k, v, mask), expected)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"width": 10, "heads": 4}, "heads must divide width, got 4 heads and width 10"),
        ({"layers": 0}, "layers must be a positive integer, got 0"),
        ({"width": 16.0}, "width must be a positive integer, got 16.0"),
        ({"prediction": "epsilon"}, r"unknown prediction 'epsilon'\. Did you mean 'eps'"),
        ({"noise": "cosin"}, r"unknown noise schedule 'cosin'\. Did you mean 'cosine'"),
    ],
)
def test_bad_sizes_are_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        TransformerConfig(**change)


def test_bad_calls_are_refused() -> None:
    spec, model = KINDS["path"], MODELS["path"]
    x, k = inputs(spec)
    with pytest.raises(ValueError, match=r"x holds 7 tokens but cond\.tokens names 8; name each token present"):
        model(x[:, 1:], k[:, 1:], Cond(True))
    with pytest.raises(ValueError, match=r"k must have shape \(2, 8\) \(B, T\), got \(8,\); pass one level per token"):
        model(x, k[0], Cond(True))
    with pytest.raises(ValueError, match=r"k must lie in 0\.\.20, got 0\.\.21"):
        model(x, torch.tensor([0, 21]).repeat(4).expand(2, 8), Cond(True))
    with pytest.raises(TypeError, match="integer tensor of levels"):
        model(x, k.double(), Cond(True))
