"""S3, S4: every generator makes admissible matrices, and the families reduce to each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from dfplan.schedule import (
    SCHEDULES,
    autoregressive,
    check_schedule,
    coarse_pyramid,
    drop_idle_rows,
    full_sequence,
    make_schedule,
    pyramid,
    start_below,
    trapezoid,
)

names = st.sampled_from(sorted(SCHEDULES))
lengths, slopes = st.integers(1, 12), st.floats(0, 8, allow_nan=False)


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    """Draw K and steps <= K."""
    K = draw(st.integers(1, 120))
    return K, draw(st.integers(1, K))


@given(names, lengths, sizes(), slopes)
def test_every_generator_is_admissible(name: str, T: int, size: tuple[int, int], slope: float) -> None:
    # S3. Catches: a token that is left noisy, one that rises again, one that does not start from pure noise.
    K, steps = size
    S = make_schedule(name, T, K, steps=steps, slope=slope)
    assert S.dtype == torch.int64 and S.shape[1] == T
    assert S[0].tolist() == [K] * T and S[-1].tolist() == [0] * T
    assert bool((S[1:] <= S[:-1]).all()) and int(S.min()) == 0 and int(S.max()) == K


@given(names, lengths, sizes(), slopes)
def test_every_token_takes_the_same_ladder_of_steps(name: str, T: int, size: tuple[int, int], slope: float) -> None:
    # S4. Catches: steps of unequal size, a token with fewer steps, one that pauses on its way down.
    K, steps = size
    S = make_schedule(name, T, K, steps=steps, slope=slope)
    ladder = [int(v) for v in torch.linspace(K, 0, steps + 1, dtype=torch.float64).round()]
    for column in S.T:
        visited = drop_idle_rows(column[:, None])[:, 0]
        assert len(visited) == steps + 1
        assert max(abs(int(v) - w) for v, w in zip(visited, ladder, strict=True)) <= 1
        moving = (column[1:] < column[:-1]).nonzero().squeeze(1)
        assert moving.tolist() == list(range(int(moving[0]), int(moving[0]) + steps))


@given(lengths, st.integers(1, 60), st.integers(0, 70))
def test_pyramid_is_equation_b1_to_the_digit(T: int, K: int, slope: int) -> None:
    # S4. Catches: an off-by-one in rows or tokens, a lag that runs backwards.
    S = pyramid(T, K, steps=K, slope=float(slope))
    rows = K + slope * (T - 1) + 1
    expected = [[min(max(K + slope * t - m, 0), K) for t in range(T)] for m in range(rows)]
    assert S.tolist() == expected


@given(lengths, sizes())
def test_slope_zero_is_full_sequence(T: int, size: tuple[int, int]) -> None:
    # S4. Catches: a token treated apart.
    K, steps = size
    S = full_sequence(T, K, steps=steps)
    assert S.shape == (steps + 1, T) and len(S.unique(dim=1)[0]) == 1
    for make in (pyramid, trapezoid, coarse_pyramid):
        assert torch.equal(make(T, K, steps=steps, slope=0.0), S)


@given(lengths, sizes())
def test_slope_steps_is_autoregressive(T: int, size: tuple[int, int]) -> None:
    # S4. Catches: tokens that overlap. One token moves per row, left to right, and only when all before it are clean.
    K, steps = size
    S = autoregressive(T, K, steps=steps)
    assert len(S) == steps * T + 1 and torch.equal(S, pyramid(T, K, steps=steps, slope=float(steps)))
    for m in range(len(S) - 1):
        moving = (S[m] != S[m + 1]).nonzero().squeeze(1).tolist()
        assert moving == [m // steps]
        assert bool((S[m, : m // steps] == 0).all()) and bool((S[m, m // steps + 1 :] == K).all())


@given(lengths, sizes(), slopes)
def test_pyramid_keeps_the_far_future_more_uncertain(T: int, size: tuple[int, int], slope: float) -> None:
    # C6's precondition. Catches: a lag that runs backwards; a lag other than the slope, rounded down.
    K, steps = size
    S = pyramid(T, K, steps=steps, slope=slope)
    assert bool((S[:, 1:] >= S[:, :-1]).all())
    begins = (S == K).sum(0) - 1
    assert begins.tolist() == [int(slope * t // 1) for t in range(T)]


@given(lengths, sizes(), slopes, st.integers(1, 6))
def test_coarse_pyramid_moves_blocks(T: int, size: tuple[int, int], slope: float, block: int) -> None:
    # Catches: blocks of another size, a lag counted in blocks instead of tokens.
    K, steps = size
    S = coarse_pyramid(T, K, steps=steps, slope=slope, block=block)
    fine = pyramid(T, K, steps=steps, slope=slope)
    for t in range(T):
        column = fine[:, block * (t // block)]
        assert torch.equal(S[:, t], column[: len(S)]) and bool((column[len(S) :] == 0).all())


@given(lengths, sizes(), slopes)
def test_trapezoid_comes_from_both_ends(T: int, size: tuple[int, int], slope: float) -> None:
    # Catches: asymmetry; a middle that is not the last.
    K, steps = size
    S = trapezoid(T, K, steps=steps, slope=slope)
    assert torch.equal(S, S.flip(1))
    half = (T + 1) // 2
    assert torch.equal(S[:, :half], pyramid(half, K, steps=steps, slope=slope))


@given(names, st.integers(1, 6), sizes(), slopes, st.data())
def test_warm_starts_are_capped_and_lose_only_idle_rows(
    name: str, T: int, size: tuple[int, int], slope: float, data: st.DataObject
) -> None:
    # Catches: a cap that lifts clean tokens, leading rows that do nothing, a useful row that is dropped.
    K, steps = size
    S = make_schedule(name, T, K, steps=steps, slope=slope)
    level = data.draw(st.integers(1, K) | st.lists(st.integers(0, K), min_size=T, max_size=T))
    assume(level if isinstance(level, int) else any(level))
    cap = torch.tensor(level)
    warm = start_below(S, level if isinstance(level, int) else cap)
    check_schedule(warm, K)
    assert torch.equal(warm[0], torch.minimum(S[0], cap.expand(T))) and bool((warm[1:] != warm[:-1]).any(1).all())
    rows = {tuple(r) for r in torch.minimum(S, cap.expand(T)).tolist()}
    assert {tuple(r) for r in warm.tolist()} == rows and len(warm) <= len(S)


def test_idle_rows_are_dropped_wherever_they_are() -> None:
    # Catches: dropping only at the ends, dropping rows that differ in a single token.
    S = torch.tensor([[4, 4], [4, 4], [4, 3], [4, 3], [4, 3], [0, 3], [0, 0], [0, 0]])
    assert drop_idle_rows(S).tolist() == [[4, 4], [4, 3], [0, 3], [0, 0]]


def test_own_matrices_are_taken_as_they_are() -> None:
    # Catches: a matrix that is copied wrongly or rebuilt.
    S = torch.tensor([[9, 5, 0], [9, 5, 0], [2, 5, 0], [0, 0, 0]])
    assert make_schedule(S, 3, 9, steps=4) is S
    with pytest.raises(ValueError, match="S must have 4 columns, one per token, got 3"):
        make_schedule(S, 4, 9, steps=4)
    with pytest.raises(ValueError, match="every column of S must be non-increasing"):
        make_schedule(S.flip(0), 3, 9, steps=4)


@pytest.mark.parametrize(
    ("S", "error", "match"),
    [
        (torch.zeros(3, 2), TypeError, r"S must be int64, got torch.float32; use S.long\(\)"),
        (torch.zeros(3, 2, dtype=torch.int32), TypeError, r"S must be int64, got torch.int32"),
        (torch.zeros(3, dtype=torch.int64), ValueError, r"\(M\+1, T\) with at least one row and token, got \(3,\)"),
        (torch.zeros(0, 2, dtype=torch.int64), ValueError, r"at least one row and token, got \(0, 2\)"),
        (torch.zeros(2, 0, dtype=torch.int64), ValueError, r"at least one row and token, got \(2, 0\)"),
        (torch.tensor([[9, 11], [0, 0]]), ValueError, r"S must lie in 0..10, got 0..11"),
        (torch.tensor([[9, 9], [0, -1]]), ValueError, r"S must lie in 0..10, got -1..9"),
        (torch.tensor([[9, 9], [5, 5], [4, 6], [0, 0]]), ValueError, r"token 1 rises after row 1"),
        (torch.tensor([[9, 9], [0, 2]]), ValueError, r"last row of S must be 0, but token 1 ends at 2"),
    ],
)  # fmt: skip
def test_inadmissible_matrices_are_named(S: Tensor, error: type[Exception], match: str) -> None:
    # S3: the rule, the place and the remedy. Catches: a check that lets one of them pass.
    with pytest.raises(error, match=match):
        check_schedule(S, 10)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"schedule": "pyramide"}, r"unknown schedule 'pyramide'\. Did you mean 'pyramid'\? Choose one of: autoreg"),
        ({"tokens": 0}, "tokens must be at least 1, got 0"),
        ({"steps": 0}, r"steps must lie in 1..10 \(K\), got 0"),
        ({"steps": 11}, r"steps must lie in 1..10 \(K\), got 11"),
        ({"slope": -1.0}, "slope must be at least 0, got -1.0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make_schedule(**{"schedule": "pyramid", "tokens": 3, "levels": 10, "steps": 5, **arguments})
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        coarse_pyramid(3, 10, steps=5, block=0)
