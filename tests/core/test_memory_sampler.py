"""The sampler's memory: a cache that changes nothing, one pass per row (S2), what is remembered of finished tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dfplan.layout import SequenceSpec
from dfplan.models import Cond, remember
from dfplan.noise import normal_like, reverse_step
from dfplan.sampler import sample
from dfplan.schedule import SCHEDULES, make_schedule
from tests.core.test_memory import F64, MODELS, K, both, close


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
