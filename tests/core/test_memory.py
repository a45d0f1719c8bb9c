"""What a denoiser remembers: tokens in pieces equal tokens at once, in the networks and in the sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dfplan.layout import Layout, SequenceSpec
from dfplan.models import Cond, RecurrentConfig, TransformerConfig, remember
from dfplan.noise import normal_like, reverse_step
from dfplan.sampler import sample
from dfplan.schedule import SCHEDULES, make_schedule
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


# ---- the sampler


def walk(name: str, S: Tensor, *, seed: int = 0, eta: float = 0.0, **options: Any) -> Any:
    """Sample the first positions of a layout from fixed noise; of a woven one these are not in causal order."""
    model = MODELS[name]
    tokens = torch.arange(S.shape[1])
    order = torch.arange(20)[tokens] if isinstance(model.spec, SequenceSpec) else model.spec.order()[tokens]
    mask = torch.ones(len(tokens), model.spec.width, dtype=F64)
    if not isinstance(model.spec, SequenceSpec):
        mask = model.spec.column_mask()[tokens].double()
    x = torch.randn(2, len(tokens), model.spec.width, generator=torch.Generator().manual_seed(seed), dtype=F64) * mask
    draw = normal_like(torch.Generator().manual_seed(1))
    return sample(
        model, S, x, alpha_bar=model.alpha_bar, tokens=tokens, order=order, eta=eta, draw=draw, mask=mask, **options
    )


def with_context(S: Tensor, *levels: int) -> Tensor:
    """Put columns of constant levels before a matrix."""
    return torch.cat([torch.tensor(levels).expand(len(S), -1), S], 1)


def cost(x0_hat: Tensor, k: Tensor) -> Tensor:
    return -((x0_hat[:, -1] - 1) ** 2).sum(-1) - 0.3 * (x0_hat[:, 2] * x0_hat[:, -1]).sum(-1)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
@pytest.mark.parametrize(
    ("name", "guided"),
    [*((n, False) for n in sorted(MODELS)), *((n, True) for n in ("learned", "rotary woven", "recurrent plain"))],
)
def test_the_cache_changes_nothing_but_the_work(name: str, schedule: str, guided: bool) -> None:
    # S6. Catches: tokens remembered too early, at a wrong level or twice; noisy context labelled clean; a cost that
    # loses sight of the remembered tokens.
    S = make_schedule(schedule, 4, K, steps=4, slope=1.5)
    options: dict[str, Any] = {"log_cost": cost} if guided else {}
    for level, eta in ((0, 0.6), (5, 0.0)):
        finish = torch.tensor([True, level == 0, True, True, True, True])
        options |= {"finish": finish, "eta": eta}
        lean, whole = (walk(name, with_context(S, 0, level), cache=c, **options) for c in (True, False))
        torch.testing.assert_close(lean.x, whole.x, rtol=1e-9, atol=1e-10)
        assert lean.tokens_computed < whole.tokens_computed
        assert lean.network_evaluations == whole.network_evaluations == len(lean.S) - 1


def test_a_missing_token_does_not_end_the_cache() -> None:
    # S6, C5. Catches: a token that stays at level K, at which nobody looks, and for which all later ones are computed
    # again in every row.
    S = insert(make_schedule("autoregressive", 4, K, steps=4), 1, K)
    finish = S[-1] == 0
    for guided in ({}, {"log_cost": cost}):
        lean, whole = (walk("rotary", S, finish=finish, cache=c, **guided) for c in (True, False))
        torch.testing.assert_close(lean.x, whole.x, rtol=1e-9, atol=1e-10)
        assert lean.tokens_computed < 0.7 * whole.tokens_computed


def by_hand(name: str, S: Tensor, tokens: Tensor, x: Tensor, memory: Any) -> tuple[Tensor, Any]:
    """Walk down a matrix as Algorithm 2 is printed: row by row, token after token, one pass for each.

    A token's latent is kept from the last row in which the token or one before it moved; after that row the token is
    not shown to the network again.
    """
    model, n = MODELS[name], S.shape[1]
    kept: list[Any] = [None] * n
    x = x.clone()
    for m in range(len(S) - 1):
        z = memory
        for t in range(n):
            if kept[t] is not None and bool((S[m:, : t + 1] == S[m, : t + 1]).all()):
                z = kept[t]
                continue
            k, k_next = (S[row, t].expand(len(x), 1) for row in (m, m + 1))
            cond = Cond(tokens=tokens[t : t + 1], memory=z)
            x0_hat, z = model.advance(x[:, t : t + 1], k, cond, 1)
            x[:, t : t + 1] = reverse_step(x[:, t : t + 1], x0_hat, k, k_next, model.alpha_bar)
            kept[t] = z
    return x, z


def insert(S: Tensor, at: int, level: int) -> Tensor:
    return torch.cat([S[:, :at], torch.full((len(S), 1), level), S[:, at:]], 1)


MATRICES: dict[str, Callable[[], Tensor]] = {
    "full_sequence": lambda: make_schedule("full_sequence", 4, K, steps=4),
    "pyramid": lambda: make_schedule("pyramid", 4, K, steps=4),
    "slow pyramid": lambda: make_schedule("pyramid", 5, K, steps=4, slope=0.5),
    "autoregressive": lambda: make_schedule("autoregressive", 3, K, steps=4),
    "trapezoid": lambda: make_schedule("trapezoid", 5, K, steps=4, slope=2.0),
    "context first": lambda: insert(make_schedule("pyramid", 3, K, steps=4), 0, 0),
    "context between": lambda: insert(make_schedule("pyramid", 4, K, steps=4, slope=0.5), 2, 0),
    "missing between": lambda: insert(make_schedule("pyramid", 3, K, steps=3), 2, K),
    "noisy context between": lambda: insert(make_schedule("full_sequence", 3, K, steps=3), 2, 6),
    "backwards": lambda: make_schedule("pyramid", 4, K, steps=3).flip(1),
}


@pytest.mark.parametrize("matrix", sorted(MATRICES))
@both
def test_one_pass_per_row_is_algorithm_2(name: str, matrix: str) -> None:
    # S2, B.6. Catches: a second pass that makes the latent clean, the level after the step instead of before it, a
    # token remembered before those that come before it, a token remembered twice or never.
    S, model = MATRICES[matrix](), MODELS[name]
    n = S.shape[1]
    g = torch.Generator().manual_seed(3)
    past, x = (torch.randn(2, m, 3, generator=g, dtype=F64) for m in (2, n))
    tokens, finish = 2 + torch.arange(n), S[-1] == 0
    memory = remember(model, past, torch.zeros(2, 2, dtype=torch.int64), Cond())
    expected, kept = by_hand(name, S, tokens, x, memory)
    for cache in (True, False):
        out = sample(
            model, S, x, alpha_bar=model.alpha_bar, tokens=tokens, order=torch.arange(n), memory=memory, finish=finish,
            commit="noisy", keep_memory=True, cache=cache,
        )  # fmt: skip
        close(out.x, expected)
        probe, k = torch.ones(2, 1, 3, dtype=F64), torch.full((2, 1), 3)
        close(model(probe, k, Cond(memory=out.memory)), model(probe, k, Cond(memory=kept)))
        assert out.memory.next == 2 + n
    bare = sample(
        model, S, x, alpha_bar=model.alpha_bar, tokens=tokens, order=torch.arange(n), memory=memory, finish=finish,
        commit="noisy", cache=False,
    )  # fmt: skip
    close(bare.x, expected)  # what is remembered is part of the method here, not a matter of time


@pytest.mark.parametrize("matrix", sorted(MATRICES))
@both
def test_clean_memory_is_that_of_the_finished_tokens(name: str, matrix: str) -> None:
    # Catches: tokens remembered at a level on the way, the last ones forgotten, a call counted twice.
    S, model = MATRICES[matrix](), MODELS[name]
    n, g = S.shape[1], torch.Generator().manual_seed(3)
    past, x = (torch.randn(2, m, 3, generator=g, dtype=F64) for m in (2, n))
    memory = remember(model, past, torch.zeros(2, 2, dtype=torch.int64), Cond())
    options: dict[str, Any] = {"tokens": 2 + torch.arange(n), "order": torch.arange(n), "alpha_bar": model.alpha_bar}
    options |= {"memory": memory, "finish": S[-1] == 0}
    out = sample(model, S, x, keep_memory=True, **options)
    plain = sample(model, S, x, cache=False, **options)
    close(out.x, plain.x)
    assert plain.memory is None and plain.network_evaluations == len(plain.S) - 1
    by_remembering = remember(model, out.x, S[-1].expand(2, n), Cond(memory=memory))
    probe, k = torch.ones(2, 1, 3, dtype=F64), torch.full((2, 1), 3)
    close(model(probe, k, Cond(memory=out.memory)), model(probe, k, Cond(memory=by_remembering)))
    assert out.memory.next == by_remembering.next


@both
def test_resampled_tokens_are_remembered_clean_and_in_order(name: str) -> None:
    # Catches: a held token remembered at the rung it was noised to; "noisy" taken for "clean" without a word.
    S = make_schedule("pyramid", 4, K, steps=4, slope=2.0)
    out = walk(name, S, hold="resample", keep_memory=True)
    model = MODELS[name]
    probe, k = torch.ones(2, 1, 3, dtype=F64), torch.full((2, 1), 3)
    expected = remember(model, out.x, torch.zeros(2, 4, dtype=torch.int64), Cond())
    close(model(probe, k, Cond(memory=out.memory)), model(probe, k, Cond(memory=expected)))
    with pytest.raises(ValueError, match=r"commit='noisy' needs hold='copy'"):
        walk(name, S, hold="resample", commit="noisy")


def test_guidance_knows_the_finished_token_after_one_pass() -> None:
    # Catches: a cost of what a remembered token was predicted to be, instead of what it became.
    seen: list[Tensor] = []

    def watch(x0_hat: Tensor, k: Tensor) -> Tensor:
        seen.append(x0_hat.detach().clone())
        return cost(x0_hat, k)

    out = walk("rotary", make_schedule("autoregressive", 3, K, steps=4), commit="noisy", log_cost=watch)
    close(seen[-1][:, :2], out.x[:, :2])


def test_a_memory_asked_of_a_model_without_one_is_refused() -> None:
    S = make_schedule("pyramid", 4, K, steps=4)
    for options in ({"keep_memory": True}, {"commit": "noisy"}):
        with pytest.raises(ValueError, match="a memory needs causal attention and a denoiser that remembers"):
            walk("rotary", S, causal=False, **options)
    with pytest.raises(ValueError, match=r"unknown commit rule 'nosy'\. Did you mean 'noisy'"):
        walk("rotary", S, commit="nosy")
