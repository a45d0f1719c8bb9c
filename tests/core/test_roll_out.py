"""Roll-outs far past the training window (C4): the law of what is generated, and what is in sight meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dfplan.models import Cond
from dfplan.noise import normal_like
from dfplan.stream import Sampling, roll_out
from tests.core.gaussian import F64, Law, extrapolated
from tests.core.remembering import RememberingGaussian, steady_chain
from tests.core.test_stream import (
    EXACT,
    NETWORKS,
    SEEN,
    TABLE,
    K,
    Noise,
    autoregressive,
    context,
    exact_law,
    law_of,
    networks,
)


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_causal_roll_out_follows_the_chain(chunk: int) -> None:
    # Catches: chunks that overlap or leave a gap, a length that is rounded up, context that is returned.
    model = RememberingGaussian(*steady_chain(10), TABLE, tokens=4)
    assert roll_out(model, context(1), 5, Noise(), Sampling(steps=2), chunk=chunk).shape == (1, 5, 1)

    def law(q: int) -> Law:
        return law_of(lambda B, d: roll_out(model, context(B), 5, d, autoregressive(25 * q), chunk=chunk), 5)

    assert extrapolated(law).error(*exact_law(5, SEEN, *steady_chain(10))) < 0.01  # a Markov chain needs no more window


@pytest.mark.parametrize("chunk", [1, 2])
def test_full_attention_slides_a_window_over_the_chain(chunk: int) -> None:
    # Catches: the wrong tokens in sight, a chunk that is sampled without its past. Exact where the chain is Markov.
    model = RememberingGaussian(*steady_chain(4), TABLE)

    def law(q: int) -> Law:
        how = Sampling(steps=25 * q, schedule="full_sequence", causal=False)
        return law_of(lambda B, d: roll_out(model, context(B), 5, d, how, chunk=chunk, window=4), 5)

    assert extrapolated(law).error(*exact_law(5, SEEN, *steady_chain(7))) < 0.02


def test_the_window_in_sight_and_its_levels() -> None:
    # C4. Catches: given context that is noised, generated context that is trusted, a window one too long or too short.
    calls: list[tuple[Tensor, Tensor, Cond]] = []
    inner = RememberingGaussian(*steady_chain(5), TABLE)

    class Spy:
        alpha_bar, spec = TABLE, inner.spec

        def __call__(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
            calls.append((x.clone(), k.clone(), cond))
            return inner(x, k, cond)

    how = Sampling(steps=1, schedule="full_sequence", causal=False)
    out = roll_out(Spy(), context(2), 5, Noise(), how, chunk=2, k_small=7)
    assert out.shape == (2, 5, 1)
    assert [k[0].tolist() for _, k, _ in calls] == [[0, 0, K, K], [0, 7, 7, K, K], [7, 7, 7, 7, K]]
    assert all(not c.causal and c.memory is None for _, _, c in calls)
    assert all(c.tokens is not None and c.tokens.tolist() == list(range(x.shape[1])) for x, _, c in calls)
    assert torch.equal(calls[0][0][:, :2], context(2)) and torch.equal(calls[1][0][:, :1], context(2)[:, 1:])
    noise = (calls[2][0][:, :4] - TABLE[7].sqrt() * out[:, :4]) / (1 - TABLE[7]).sqrt()
    assert bool((noise.abs() < 5).all()) and not torch.allclose(noise[0], noise[1])
    calls.clear()
    roll_out(Spy(), context(2), 5, Noise(), how, chunk=2)
    assert [k[0].tolist() for _, k, _ in calls] == [[0, 0, K, K], [0, 0, 0, K, K], [0, 0, 0, 0, K]]


@networks
def test_long_roll_outs_stay_defined(name: str) -> None:
    # Catches: a position beyond the training window, a memory that grows beyond it.
    x = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
    model = NETWORKS[name]
    out = roll_out(model, x, 40, normal_like(torch.Generator().manual_seed(0)), Sampling(steps=2), k_small=1)
    again = roll_out(model, x, 40, normal_like(torch.Generator().manual_seed(0)), Sampling(steps=2), k_small=1)
    assert out.shape == (2, 40, 3) and torch.equal(out, again)
    if name == "rotary":
        full = Sampling(steps=2, causal=False)
        assert roll_out(model, x, 7, Noise(), full, chunk=3).shape == (2, 7, 3)
    else:
        with pytest.raises(ValueError, match="the recurrent denoiser is causal"):
            roll_out(model, x, 7, Noise(), Sampling(steps=2, causal=False))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"length": 0}, r"length must be at least 1 and chunk in 1\.\.window-1, got 0, 1, window 8"),
        ({"chunk": 8}, r"chunk in 1\.\.window-1, got 3, 8, window 8"),
        ({"chunk": 0}, r"chunk in 1\.\.window-1, got 3, 0, window 8"),
        ({"window": 1}, r"chunk in 1\.\.window-1, got 3, 1, window 1"),
        ({"one_pass": True, "how": Sampling(causal=False)}, "full attention remembers nothing; use k_small"),
        ({"one_pass": True, "k_small": 3}, "k_small must be 0, got 3"),
    ],
)
def test_wrong_roll_outs_are_refused(values: dict[str, Any], match: str) -> None:
    values = {"length": 3, **values}
    with pytest.raises(ValueError, match=match):
        roll_out(EXACT, context(1), values.pop("length"), Noise(), **values)
