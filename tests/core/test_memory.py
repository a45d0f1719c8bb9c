"""What a denoiser remembers: tokens in pieces equal tokens at once. (The sampler: test_memory_sampler.)"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dfplan.layout import Layout, SequenceSpec
from dfplan.models import Cond, RecurrentConfig, TransformerConfig, remember
from tests.core.tiny import random_network, small_spec

F64 = torch.float64
K = 20
SIZE: dict[str, Any] = {"width": 16, "layers": 2, "heads": 2, "levels": K}
PATH, PLAIN = small_spec(horizon=4), SequenceSpec(3, 6)
WOVEN = small_spec(horizon=3, kind="interleaved", history=1)
MODELS: dict[str, Any] = {
    "learned": random_network(PATH, TransformerConfig(**SIZE)).double(),
    "learned woven": random_network(WOVEN, TransformerConfig(**SIZE)).double(),
    "rotary": random_network(PLAIN, TransformerConfig(**SIZE, positions="rotary")).double(),
    "rotary woven": random_network(WOVEN, TransformerConfig(**SIZE, positions="rotary")).double(),
    "recurrent": random_network(PATH, RecurrentConfig(width=16, levels=K)).double(),
    "recurrent woven": random_network(WOVEN, RecurrentConfig(width=16, levels=K)).double(),
    "recurrent plain": random_network(PLAIN, RecurrentConfig(width=16, levels=K)).double(),
}
every = pytest.mark.parametrize("name", sorted(MODELS))
both = pytest.mark.parametrize("name", ["rotary", "recurrent plain"])  # one of a kind, on a plain sequence
paths = pytest.mark.parametrize("name", ["learned", "recurrent"])


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def in_order(spec: Layout) -> list[list[int]]:
    """Group positions that share a place in the causal order, first to last; action leaves left out."""
    if isinstance(spec, SequenceSpec):
        return [[t] for t in range(10)]  # longer than the training window
    order = spec.order()[: PATH.plan_tokens] if spec == PATH else spec.order()
    return [(order == o).nonzero().squeeze(1).tolist() for o in order.unique()]


def inputs(spec: Layout, n: int, seed: int = 0, B: int = 3) -> tuple[Tensor, Tensor]:
    """Draw tokens and levels per sample, among them 0 and K."""
    g = torch.Generator().manual_seed(seed)
    k = torch.randint(0, K + 1, (B, n), generator=g)
    k = torch.where(torch.rand((B, n), generator=g) < 0.2, K, k)
    return torch.randn(B, n, spec.width, generator=g, dtype=F64), torch.where(k < 4, 0, k)


# ---- the networks


@settings(max_examples=30)
@given(st.sampled_from(sorted(MODELS)), st.lists(st.booleans(), min_size=10, max_size=10), st.integers(0, 99),
       st.integers(0, 3))  # fmt: skip
def test_pieces_equal_the_whole(name: str, cuts: list[bool], seed: int, ahead: int) -> None:
    # T4. Catches: positions counted from the piece, keys turned twice, a visible K in the memory, a latent of the wrong
    # place, and tokens passed beside those to be remembered that leak into the memory.
    model = MODELS[name]
    groups = in_order(model.spec)
    tokens = torch.tensor([p for group in groups for p in group])
    x, k = inputs(model.spec, len(tokens), seed)
    whole = model(x, k, Cond(tokens=tokens))
    ends = [e for e in range(1, len(groups)) if cuts[e]] + [len(groups)]
    memory, begin, found = None, 0, []
    for e in ends:
        end = sum(len(group) for group in groups[:e])
        part = slice(begin, min(len(tokens), end + (ahead if name != "learned" or begin else 0)))
        x0_hat, memory = model.advance(x[:, part], k[:, part], Cond(tokens=tokens[part], memory=memory), end - begin)
        found.append(x0_hat[:, : end - begin])
        begin = end
    close(torch.cat(found, 1), whole)


@both
def test_unnamed_tokens_follow_the_memory(name: str) -> None:
    # Catches: positions that start again at 0 when a memory is there.
    model = MODELS[name]
    x, k = inputs(PLAIN, 9)
    memory = remember(model, x[:, :4], k[:, :4], Cond())
    assert memory.next == 4
    memory = remember(model, x[:, 4:7], k[:, 4:7], Cond(memory=memory))
    assert memory.next == 7
    close(model(x[:, 7:], k[:, 7:], Cond(memory=memory)), model(x, k, Cond())[:, 7:])


@paths
def test_tokens_of_a_layout_must_be_named_after_a_memory(name: str) -> None:
    # Catches: all positions taken for those that follow, or those whose number follows, which is not their order.
    model = MODELS[name]
    x, k = inputs(PATH, PATH.tokens)
    memory = remember(model, x[:, :3], k[:, :3], Cond(tokens=torch.arange(3)))
    with pytest.raises(ValueError, match=r"after a memory name the tokens of this layout; pass cond\.tokens"):
        model(x[:, 3:], k[:, 3:], Cond(memory=memory))


@every
def test_a_memory_is_only_extended(name: str) -> None:
    # Catches: a memory changed in place, so that two futures of one past disturb each other.
    model = MODELS[name]
    tokens = torch.tensor([p for group in in_order(model.spec) for p in group])
    x, k = inputs(model.spec, len(tokens))
    memory = remember(model, x[:, :4], k[:, :4], Cond(tokens=tokens[:4]))
    cond = Cond(tokens=tokens[4:], memory=memory)
    before = model(x[:, 4:], k[:, 4:], cond)
    remember(model, x[:, 4:], k[:, 4:], cond)
    assert torch.equal(model(x[:, 4:], k[:, 4:], cond), before)


@every
def test_repeat_and_detach(name: str) -> None:
    # Catches: samples repeated in blocks instead of in a row; a level K forgotten; a graph that is kept, or one that is
    # cut too early (a future cost must reach what was remembered).
    model = MODELS[name]
    tokens = torch.tensor([p for group in in_order(model.spec) for p in group])
    x, k = inputs(model.spec, len(tokens))
    k[0, 2], k[1, 2], k[:, 0] = K, 0, 3
    early = x[:, :4].clone().requires_grad_(True)
    memory = remember(model, early, k[:, :4], Cond(tokens=tokens[:4]))
    rows = torch.arange(3).repeat_interleave(2)
    later, levels = x[rows, 4:], k[rows, 4:]
    whole = model(torch.cat([early, x[:, 4:]], 1)[rows], k[rows], Cond(tokens=tokens))[:, 4:]
    parts = model(later, levels, Cond(tokens=tokens[4:], memory=memory.repeat(2)))
    close(parts, whole)
    one, two = (torch.autograd.grad(v.square().sum(), early)[0] for v in (parts, whole))
    close(one, two)
    assert bool((one[:, 0] != 0).any())
    cut = memory.detach()
    tensors = [cut.state] if hasattr(cut, "state") else [v for pair in cut.layers for v in pair]
    assert not any(v.requires_grad for v in tensors)


@every
def test_absent_tokens_and_pure_noise_are_the_same(name: str) -> None:
    # Catches: places that shift when a token is left out; content at level K that is remembered.
    model = MODELS[name]
    tokens = torch.tensor([p for group in in_order(model.spec) for p in group])
    x, k = inputs(model.spec, len(tokens))
    k[:, [1, 4, 6 % len(tokens)]] = K
    keep = torch.tensor([t for t in range(len(tokens)) if not bool((k[:, t] == K).all())])
    close(model(x[:, keep], k[:, keep], Cond(tokens=tokens[keep])), model(x, k, Cond(tokens=tokens))[:, keep])
    first = keep[keep < 4]
    memory = remember(model, x[:, first], k[:, first], Cond(tokens=tokens[first]))
    rest = keep[keep >= 4]
    found = model(x[:, rest], k[:, rest], Cond(tokens=tokens[rest], memory=memory))
    close(found, model(x, k, Cond(tokens=tokens))[:, rest])


def test_a_window_is_attention_to_its_tokens_alone() -> None:
    # Catches: the oldest tokens kept instead of the newest, positions not cut with the keys. In one layer a key knows
    # its own token only, so that forgetting the others is exact.
    model = random_network(PLAIN, TransformerConfig(**{**SIZE, "layers": 1}, positions="rotary")).double()
    x, k = inputs(PLAIN, 9)
    memory = remember(model, x[:, :7], k[:, :7], Cond()).last(3)
    assert (len(memory), memory.next) == (3, 7) and len(memory.last(5)) == 3
    window = torch.arange(4, 9)
    expected = model(x[:, 4:], k[:, 4:], Cond(tokens=window))[:, 3:]
    close(model(x[:, 7:], k[:, 7:], Cond(memory=memory)), expected)
    latent = remember(MODELS["recurrent plain"], x[:, :7], k[:, :7], Cond())
    assert latent.last(3) is latent


@pytest.mark.parametrize("causal", [True, False])
def test_rotary_positions_are_relative(causal: bool) -> None:
    # Catches: absolute positions that creep in, which a long roll-out would walk out of.
    x, k = inputs(PLAIN, 6)
    model = MODELS["rotary"]
    base = model(x, k, Cond(causal, torch.arange(6)))
    for shift in (1, 7, 1000):
        close(model(x, k, Cond(causal, shift + torch.arange(6))), base)
    assert not torch.allclose(model(x, k, Cond(causal, 2 * torch.arange(6))), base)


@paths
def test_actions_branch_off_the_chain(name: str) -> None:
    # Catches: an action that later states see through the memory, or that sees states after its own.
    model = MODELS[name]
    n, H = PATH.plan_tokens, PATH.horizon
    tokens = torch.cat([torch.arange(2), *(torch.tensor([2 + i, n + i]) for i in range(H))])
    x, k = inputs(PATH, len(tokens))
    whole = model(x, k, Cond(tokens=tokens))
    chain = tokens < n
    close(whole[:, chain], model(x[:, chain], k[:, chain], Cond(tokens=tokens[chain])))
    memory = None
    for part in (slice(0, 4), slice(4, 6), slice(6, 10)):
        cond = Cond(tokens=tokens[part], memory=memory)
        found, memory = model.advance(x[:, part], k[:, part], cond, len(tokens[part]))
        close(found, whole[:, part])


def test_an_action_may_come_late_only_where_its_past_is_still_known() -> None:
    # Catches: a latent that has moved on and is taken for the one that the action branches from.
    x, k = inputs(PATH, PATH.tokens)
    clean, late = torch.arange(5), torch.tensor([PATH.action_token(0)])
    for name in ("learned", "recurrent"):
        model = MODELS[name]
        expected = model(x[:, [0, 1, 2, 6]], k[:, [0, 1, 2, 6]], Cond(tokens=torch.tensor([0, 1, 2, 6])))[:, 3:]
        cond = Cond(tokens=late, memory=remember(model, x[:, :5], k[:, :5], Cond(tokens=clean)))
        if name == "learned":
            close(model(x[:, 6:7], k[:, 6:7], cond), expected)
        else:
            with pytest.raises(ValueError, match="lies before those that are remembered"):
                model(x[:, 6:7], k[:, 6:7], cond)


@every
def test_pieces_out_of_order_are_refused(name: str) -> None:
    # Catches: a past that comes after its future without a word.
    model = MODELS[name]
    tokens = torch.tensor([p for group in in_order(model.spec) for p in group])
    x, k = inputs(model.spec, len(tokens))
    memory = remember(model, x[:, :4], k[:, :4], Cond(tokens=tokens[:4]))
    for wrong in (tokens[3:4], tokens[2:3], torch.stack([tokens[5], tokens[2]])):
        x_wrong, k_wrong = x[:, : len(wrong)], k[:, : len(wrong)]
        with pytest.raises(ValueError, match="pass tokens in causal order"):
            model(x_wrong, k_wrong, Cond(tokens=wrong, memory=memory))
        with pytest.raises(ValueError, match="pass tokens in causal order"):
            model.advance(x_wrong, k_wrong, Cond(tokens=wrong, memory=memory), 1)
    swapped = torch.stack([tokens[5], tokens[4]])
    with pytest.raises(ValueError, match="pass tokens in causal order"):
        model.advance(x[:, :2], k[:, :2], Cond(tokens=swapped), 1)


@both
def test_inside_a_piece_the_order_does_not_matter(name: str) -> None:
    # Catches: a next position taken from whatever token stands last.
    model = MODELS[name]
    x, k = inputs(PLAIN, 5)
    memory = remember(model, x[:, [2, 0, 1]], k[:, [2, 0, 1]], Cond(tokens=torch.tensor([2, 0, 1])))
    assert memory.next == 3
    close(model(x[:, 3:], k[:, 3:], Cond(memory=memory)), model(x, k, Cond())[:, 3:])


@every
def test_a_memory_needs_causal_attention(name: str) -> None:
    # Catches: remembered tokens that should have looked at later ones.
    model = MODELS[name]
    tokens = torch.tensor([p for group in in_order(model.spec) for p in group])
    x, k = inputs(model.spec, len(tokens))
    memory = remember(model, x[:, :4], k[:, :4], Cond(tokens=tokens[:4]))
    for call in (
        lambda: model(x[:, 4:], k[:, 4:], Cond(False, tokens[4:], memory)),
        lambda: model.advance(x[:, :4], k[:, :4], Cond(False, tokens[:4]), 4),
    ):
        with pytest.raises(ValueError, match="causal"):
            call()
