"""T1 and T7: the levels that training draws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dfplan.objective import ObjectiveConfig, draw_levels, draw_tokens, take_tokens
from dfplan.schedule import (
    LEVEL_SAMPLERS,
    independent_levels,
    mixed_levels,
    ramp_levels,
    shared_levels,
)
from dfplan.tokens import CONTEXT, GOAL, STATE
from tests.core.tiny import small_spec

K = 9


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chi_square(counts: Tensor, expected: float) -> float:
    """Return the chi-square statistic in standard deviations above its mean (a normal one for many cells)."""
    value, freedom = float(((counts - expected) ** 2 / expected).sum()), counts.numel() - 1
    return (value - freedom) / (2 * freedom) ** 0.5


def uniformity(k: Tensor, levels: int = K) -> float:
    return chi_square(torch.bincount(k.reshape(-1), minlength=levels + 1).double(), k.numel() / (levels + 1))


def independence(a: Tensor, b: Tensor) -> float:
    pairs = torch.bincount(a * (K + 1) + b, minlength=(K + 1) ** 2).double()
    return chi_square(pairs, len(a) / (K + 1) ** 2)


def test_independent_levels_are_uniform_on_all_levels() -> None:
    # T1. Catches: level 0 or K never drawn, a distribution that favours some.
    k = independent_levels((20_000, 5), K, generator())
    assert int(k.min()) == 0 and int(k.max()) == K and k.dtype == torch.int64
    for t in range(5):
        assert abs(uniformity(k[:, t])) < 5


def test_independent_levels_are_independent_between_tokens_and_samples() -> None:
    # T1. Catches: one level per sample, a ramp, a stream that repeats.
    k = independent_levels((20_000, 5), K, generator())
    for s in range(5):
        for t in range(s):
            assert abs(independence(k[:, s], k[:, t])) < 5
    assert abs(independence(k[1:, 0], k[:-1, 0])) < 5 and abs(independence(k[1:, 0], k[:-1, 4])) < 5
    assert independence(k[:, 0], k[:, 0]) > 100  # what dependence looks like


def test_shared_levels_are_uniform_and_shared() -> None:
    # Catches: levels shared over the batch instead of the sequence.
    k = shared_levels((20_000, 4), K, generator())
    assert bool((k == k[:, :1]).all()) and abs(uniformity(k[:, 0])) < 5
    k[0, 0] = 0  # not a view on one stored number
    assert k[1:].shape == (19_999, 4)


@given(st.integers(0, 1000), st.integers(1, 20))
def test_ramps_are_what_a_zigzag_meets(seed: int, T: int) -> None:
    # Catches: ramps that fall, levels out of range.
    k = ramp_levels((64, T), K, generator(seed))
    assert k.shape == (64, T) and k.dtype == torch.int64 and int(k.min()) >= 0 and int(k.max()) <= K
    assert bool((k[:, 1:] >= k[:, :-1]).all())


def test_ramps_vary_in_slope_and_position() -> None:
    # Catches: ramps that leave a token without some of its levels, so that sampling meets what was never trained.
    k = ramp_levels((20_000, 8), K, generator())
    for t in range(8):
        assert int(torch.bincount(k[:, t], minlength=K + 1).min()) > 20
    flat = (k[:, -1] == k[:, 0]).double().mean()
    steep = ((k[:, 0] == 0) & (k[:, 2:] == K).all(1)).double().mean()
    assert 0.05 < float(flat) < 0.7 and float(steep) > 0.005
    assert float((k[:, -1] == 0).double().mean()) > 0.2  # a far token may be clean too


def test_mixed_levels_hold_their_shares() -> None:
    # Catches: a mixture whose parts are lost (all independent, say).
    k = mixed_levels((20_000, 12), K, generator())
    shared = (k == k[:, :1]).all(1)
    rising = (k[:, 1:] >= k[:, :-1]).all(1) & ~shared
    ramps = ramp_levels((20_000, 12), K, generator(1))
    flat = float((ramps == ramps[:, :1]).all(1).double().mean())  # a ramp may be flat, then it looks shared
    assert float(shared.double().mean()) == pytest.approx(0.25 + 0.25 * flat, abs=0.017)
    assert float(rising.double().mean()) == pytest.approx(0.25 * (1 - flat), abs=0.017)
    assert float((~shared & ~rising).double().mean()) == pytest.approx(0.5, abs=0.018)


@pytest.mark.parametrize("name", sorted(LEVEL_SAMPLERS))
def test_level_samplers_follow_their_generator(name: str) -> None:
    # Catches: global random numbers.
    one, two, other = (LEVEL_SAMPLERS[name]((50, 6), K, generator(s)) for s in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)


# ---- levels of a whole window


SPEC = small_spec(horizon=6)


def window_levels(valid: Tensor | None = None, B: int = 20_000, **config: object) -> tuple[Tensor, Tensor]:
    c = ObjectiveConfig(**{"levels": "independent", "noisy_state": 0.3, **config})  # type: ignore[arg-type]
    tokens = draw_tokens(SPEC, B, c, generator(1))
    keep = torch.ones(B, SPEC.tokens, dtype=torch.bool) if valid is None else valid
    return draw_levels(SPEC, take_tokens(keep, tokens), tokens, K, c, generator(2)), tokens


def test_future_and_action_tokens_have_independent_uniform_levels() -> None:
    # T1 in the objective. Catches: action tokens that share a level with their states, futures out of place.
    k, _ = window_levels()
    for t in range(CONTEXT, k.shape[1]):
        assert abs(uniformity(k[:, t])) < 5
        assert abs(independence(k[:, t], k[:, CONTEXT if t > CONTEXT else CONTEXT + 1])) < 5


def test_context_is_clean_but_for_a_share_of_states() -> None:
    # Catches: a noisy goal, a state that is always clean or always noisy, a share that depends on other levels.
    k, _ = window_levels()
    assert bool((k[:, GOAL] == 0).all())
    assert float((k[:, STATE] > 0).double().mean()) == pytest.approx(0.3 * K / (K + 1), abs=0.02)
    assert bool((window_levels(noisy_state=0.0)[0][:, STATE] == 0).all())
    assert abs(uniformity(window_levels(noisy_state=1.0)[0][:, STATE])) < 5


@pytest.mark.parametrize("levels", sorted(LEVEL_SAMPLERS))
def test_padding_and_unknown_goals_are_at_pure_noise(levels: str) -> None:
    # T7. Catches: padding at a level where it would be looked at; validity taken from another position.
    valid = torch.rand(500, SPEC.tokens, generator=generator(3)) < 0.6
    k, tokens = window_levels(valid, 500, levels=levels)
    present = take_tokens(valid, tokens)
    assert bool((k[~present] == K).all()) and bool((k[present] < K).any())
    for b in range(5):
        assert present[b].tolist() == [bool(valid[b, t]) for t in tokens[b]]


def test_chosen_tokens_are_the_plan_the_first_chunk_and_others() -> None:
    # Catches: a chunk drawn twice, one that is never drawn, the first one missing, bundles given action tokens.
    c = ObjectiveConfig(action_tokens=3)
    tokens = draw_tokens(SPEC, 3000, c, generator())
    n = SPEC.plan_tokens
    assert tokens.shape == (3000, n + 3) and bool((tokens[:, :n] == torch.arange(n)).all())
    chunks = tokens[:, n:] - n
    assert bool((chunks[:, 0] == 0).all()) and all(len(set(row)) == 3 for row in chunks.tolist())
    counts = torch.bincount(chunks[:, 1:].reshape(-1), minlength=6)
    assert int(counts[0]) == 0 and chi_square(counts[1:].double(), 6000 / 5) < 5
    for spec, count, width in (
        (small_spec(horizon=1), 3, 4), (SPEC, 0, n), (small_spec(kind="bundle", horizon=6), 3, n), (SPEC, 99, n + 6)
    ):  # fmt: skip
        assert draw_tokens(spec, 2, ObjectiveConfig(action_tokens=count), generator()).shape == (2, width)
