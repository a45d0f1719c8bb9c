"""Tables, forward noise, conversions, one reverse step: against closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dfplan.noise import (
    NOISE_SCHEDULES,
    add_noise,
    alpha_bar_table,
    check_levels,
    guidance_coefficient,
    noise_further,
    normal_like,
    reverse_step,
    target_from,
    to_eps,
    to_x0,
)

F64 = torch.float64
K = 40
NAMES = sorted(NOISE_SCHEDULES)
names, seeds = st.sampled_from(NAMES), st.integers(0, 10_000)


def tokens(seed: int, T: int = 6) -> Tensor:
    return torch.randn(3, T, 2, dtype=F64, generator=torch.Generator().manual_seed(seed))


def levels(seed: int, low: int = 0, high: int = K, T: int = 6) -> Tensor:
    return torch.randint(low, high + 1, (3, T), generator=torch.Generator().manual_seed(seed + 1))


# ---- tables


@given(names, st.integers(1, 1200))
def test_tables_fall_strictly_from_one_to_zero(name: str, K: int) -> None:
    # T2: level K is exactly N(0, I). Catches: a terminal signal that is not 0, a level that repeats, K entries.
    table = alpha_bar_table(name, K)
    assert table.shape == (K + 1,) and table.dtype == F64
    assert float(table[0]) == 1.0 and float(table[-1]) == 0.0
    assert bool((table[1:] < table[:-1]).all())


def test_cosine_table_is_a_squared_cosine() -> None:
    # Catches: a cosine that is not squared, an offset, degrees of another quarter.
    table = alpha_bar_table("cosine", 6)
    torch.testing.assert_close(
        table, torch.tensor([1.0, 0.9330127, 0.75, 0.5, 0.25, 0.0669873, 0.0], dtype=F64), atol=1e-7, rtol=0
    )


def test_linear_table_follows_its_integral_before_it_is_rescaled() -> None:
    # Catches: a wrong range of betas, a rescaling that moves the clean end. exp(-int beta) with beta from 0.1 to 20.
    K = 2000
    table = alpha_bar_table("linear", K)
    u = torch.arange(K + 1, dtype=F64) / K
    root = torch.exp(-0.5 * (0.1 * u + 0.5 * 19.9 * u**2))
    expected = ((root - root[-1]) / (1 - root[-1])) ** 2
    torch.testing.assert_close(table, expected, atol=2e-3, rtol=0)


def test_unknown_tables_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown noise schedule 'cosin'\. Did you mean 'cosine'\?"):
        alpha_bar_table("cosin", 10)
    with pytest.raises(ValueError, match="levels must be at least 1, got 0"):
        alpha_bar_table("cosine", 0)


def test_levels_are_checked() -> None:
    check_levels(torch.tensor([[0, K]]), (1, 2), K)
    with pytest.raises(TypeError, match=r"integer tensor of levels, got torch.float32; use k.long\(\)"):
        check_levels(torch.zeros(1, 2), (1, 2), K)
    with pytest.raises(ValueError, match=r"k must have shape \(8, 16\) \(B, T\), got \(8,\); pass one level per token"):
        check_levels(torch.zeros(8, dtype=torch.int64), (8, 16), K)
    for k in (-1, K + 1):
        with pytest.raises(ValueError, match=rf"k must lie in 0..{K}, got {k}..{k}"):
            check_levels(torch.tensor([[k]]), (1, 1), K)


# ---- forward


@given(names, seeds)
def test_forward_noise_has_its_marginal_law(name: str, seed: int) -> None:
    # T2. Catches: alpha in place of its root, one level for all tokens, a table off by one. The map is linear in both
    # arguments, so its coefficients are its law.
    table, k, x0 = alpha_bar_table(name, K), levels(seed), tokens(seed)
    zero = torch.zeros_like(x0)
    signal, noise = add_noise(x0, k, zero, table) / x0, add_noise(zero, k, x0, table) / x0
    expected = table[k].unsqueeze(-1).expand_as(x0)
    torch.testing.assert_close(signal**2, expected)
    torch.testing.assert_close(noise**2, 1 - expected, atol=1e-12, rtol=1e-9)
    assert bool((signal >= 0).all() and (noise >= 0).all())
    torch.testing.assert_close(add_noise(x0, k, x0.flip(0), table), signal * x0 + noise * x0.flip(0))


@given(names, seeds)
def test_clean_tokens_are_kept_to_the_bit_and_pure_noise_is_noise(name: str, seed: int) -> None:
    # Catches: a table whose ends are almost 1 and almost 0; it must hold in float32 too.
    table = alpha_bar_table(name, K)
    for x0 in (tokens(seed), tokens(seed).float()):
        eps = x0.flip(0)
        k = torch.tensor([0, K] * 3).expand(3, 6)
        x = add_noise(x0, k, eps, table)
        assert torch.equal(x[:, ::2], x0[:, ::2]) and torch.equal(x[:, 1::2], eps[:, 1::2]) and x.dtype == x0.dtype


@given(names, seeds)
def test_noising_further_composes(name: str, seed: int) -> None:
    # q(x^j | x^k) after q(x^k | x0) is q(x^j | x0). Catches: noising a noisy token as if it were clean; 0 / 0 at K.
    table, a, b = alpha_bar_table(name, K), levels(seed), levels(seed + 1)
    k_from, k_to = torch.minimum(a, b), torch.maximum(a, b)
    one, zero = torch.ones(3, 6, 1, dtype=F64), torch.zeros(3, 6, 1, dtype=F64)
    keep, fresh = noise_further(one, k_from, k_to, zero, table), noise_further(zero, k_from, k_to, one, table)
    before, after = table[k_from].unsqueeze(-1), table[k_to].unsqueeze(-1)
    torch.testing.assert_close(keep**2 * before, after, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(keep**2 * (1 - before) + fresh**2, 1 - after, atol=1e-12, rtol=1e-9)
    x = tokens(seed)
    still = k_from == k_to
    assert torch.equal(noise_further(x, k_from, k_to, x.flip(0), table)[still], x[still])


def test_noising_further_goes_up_only() -> None:
    table, x = alpha_bar_table("cosine", K), torch.zeros(1, 2, 1)
    with pytest.raises(ValueError, match="k_to must be at least k_from for every token; use reverse_step"):
        noise_further(x, torch.tensor([[3, 5]]), torch.tensor([[4, 4]]), x, table)


# ---- conversions


@given(names, st.sampled_from(["x0", "eps", "v"]), seeds)
def test_the_three_predictions_are_the_same_thing(name: str, kind: str, seed: int) -> None:
    # T3. Catches: a sign or a root in a conversion; a target that the inverse does not undo.
    table, x0, eps = alpha_bar_table(name, K), tokens(seed), tokens(seed + 7)
    k = levels(seed, 1, K - 1) if kind == "eps" else levels(seed)
    x = add_noise(x0, k, eps, table)
    found = to_x0(kind, target_from(kind, x0, eps, k, table), x, k, table)
    torch.testing.assert_close(found, x0, atol=1e-6, rtol=1e-6)
    noisy = (k > 0).unsqueeze(-1)
    torch.testing.assert_close(to_eps(x0, x, k, table), eps * noisy, atol=1e-6, rtol=1e-6)


@given(names, seeds)
def test_velocity_is_the_derivative_along_the_circle(name: str, seed: int) -> None:
    # Catches: v with its two terms exchanged. x = cos(a) x0 + sin(a) eps, v = dx/da.
    table, k, x0, eps = alpha_bar_table(name, K), levels(seed), tokens(seed), tokens(seed + 7)
    angle, h = torch.acos(table[k].sqrt()).unsqueeze(-1), 1e-6
    ahead, behind = (torch.cos(angle + s) * x0 + torch.sin(angle + s) * eps for s in (h, -h))
    v = target_from("v", x0, eps, k, table)
    torch.testing.assert_close(v, (ahead - behind) / (2 * h), atol=1e-7, rtol=1e-6)


def test_conversions_at_the_ends() -> None:
    # Catches: 0 / 0. At level K an eps output says nothing (mean of normalised data); at level 0 there is no noise.
    table, x, out = alpha_bar_table("cosine", K), tokens(0, 2), tokens(1, 2)
    ends = torch.tensor([0, K]).expand(3, 2)
    x0_hat = to_x0("eps", out, x, ends, table)
    assert torch.equal(x0_hat[:, 0], x[:, 0]) and torch.equal(x0_hat[:, 1], torch.zeros(3, 2, dtype=F64))
    v = to_x0("v", out, x, ends, table)
    assert torch.equal(v[:, 0], x[:, 0]) and torch.equal(v[:, 1], -out[:, 1])
    eps_hat = to_eps(out, x, ends, table)
    assert torch.equal(eps_hat[:, 0], torch.zeros(3, 2, dtype=F64)) and torch.equal(eps_hat[:, 1], x[:, 1])


@pytest.mark.parametrize("function", [target_from, to_x0])
def test_unknown_predictions_are_refused(function: object) -> None:
    x = torch.zeros(1, 1, 1)
    with pytest.raises(ValueError, match=r"unknown prediction 'x1'\. Did you mean 'x0'\?"):
        function("x1", x, x, torch.zeros(1, 1, dtype=torch.int64), alpha_bar_table("cosine", 4))  # type: ignore[operator]


# ---- one reverse step


def pair(seed: int) -> tuple[Tensor, Tensor]:
    """Draw levels before and after; some equal, some ends."""
    a, b = levels(seed), levels(seed + 1)
    k_from, k_to = torch.maximum(a, b), torch.minimum(a, b)
    k_from[0, 0], k_to[0, 0], k_to[1, 1] = K, K - 1, 0
    k_to[2, 2] = k_from[2, 2]
    return k_from, k_to


@given(names, seeds, st.floats(0, 1))
def test_reverse_step_copies_and_arrives(name: str, seed: int, eta: float) -> None:
    # S5, S6. Catches: a held token that is recomputed, a clean arrival that is not x0_hat to the bit.
    table, (k_from, k_to) = alpha_bar_table(name, K), pair(seed)
    x, x0_hat, eps = tokens(seed), tokens(seed + 3), tokens(seed + 4)
    out = reverse_step(x, x0_hat, k_from, k_to, table, eta=eta, eps=eps)
    held, arrived = k_from == k_to, (k_to == 0) & (k_from > 0)
    assert torch.equal(out[held], x[held]) and torch.equal(out[arrived], x0_hat[arrived])
    assert bool(torch.isfinite(out).all())


@given(names, seeds, st.floats(0, 1))
def test_reverse_step_keeps_the_marginal_if_x0_is_known(name: str, seed: int, eta: float) -> None:
    # DDIM's Lemma 1: from q(x^k | x0) to q(x^j | x0) for every eta. Catches: a variance without room in the drift.
    table, (k_from, k_to) = alpha_bar_table(name, K), pair(seed)
    moving = k_from != k_to
    x0, one, zero = tokens(seed), torch.ones(3, 6, 2, dtype=F64), torch.zeros(3, 6, 2, dtype=F64)
    centre = add_noise(x0, k_from, zero, table)
    mean = reverse_step(centre, x0, k_from, k_to, table, eta=eta, eps=zero)
    torch.testing.assert_close(mean, add_noise(x0, k_to, zero, table), atol=1e-9, rtol=1e-7)
    old = reverse_step(add_noise(x0, k_from, one, table), x0, k_from, k_to, table, eta=eta, eps=zero) - mean
    new = reverse_step(centre, x0, k_from, k_to, table, eta=eta, eps=one) - mean
    noise = (old**2 + new**2)[moving]
    torch.testing.assert_close(noise, (1 - table[k_to])[moving].unsqueeze(-1).expand_as(noise), atol=1e-9, rtol=1e-7)
    if eta == 0:
        assert torch.equal(new, torch.zeros_like(new))


@given(names, seeds)
def test_eta_one_is_the_posterior_of_the_forward_process(name: str, seed: int) -> None:
    # Catches: a DDPM variance without its ratio. Bayes: the precisions alpha / (1 - alpha) and 1 / (1 - abar') add up.
    table, (k_from, k_to) = alpha_bar_table(name, K), pair(seed)
    keep = (k_from != k_to) & (k_to > 0) & (k_from < K)
    x, x0 = tokens(seed), tokens(seed + 3)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    mean = reverse_step(x, x0, k_from, k_to, table, eta=1.0, eps=zero)
    root = reverse_step(x, x0, k_from, k_to, table, eta=1.0, eps=one) - mean
    b = table[k_to].unsqueeze(-1).clamp(1e-9, 1 - 1e-9)
    alpha = table[k_from].unsqueeze(-1) / b
    precision = alpha / (1 - alpha) + 1 / (1 - b)
    expected = (alpha.sqrt() / (1 - alpha) * x + b.sqrt() / (1 - b) * x0) / precision
    torch.testing.assert_close(mean[keep], expected[keep], atol=1e-8, rtol=1e-6)
    torch.testing.assert_close((root**2)[keep], (1 / precision).expand_as(x)[keep], atol=1e-9, rtol=1e-6)


def test_reverse_step_refuses_what_makes_no_sense() -> None:
    table, x = alpha_bar_table("cosine", K), torch.zeros(1, 2, 1)
    up, down = torch.tensor([[5, 5]]), torch.tensor([[4, 4]])
    with pytest.raises(ValueError, match="k_to must be at most k_from for every token; use noise_further to go up"):
        reverse_step(x, x, torch.tensor([[4, 5]]), torch.tensor([[4, 6]]), table)
    for eta in (-0.1, 1.1):
        with pytest.raises(ValueError, match=rf"eta must lie in \[0, 1\], got {eta}"):
            reverse_step(x, x, up, down, table, eta=eta, eps=x)
    with pytest.raises(ValueError, match=r"eta=0.5 needs noise; pass eps of shape \(1, 2, 1\)"):
        reverse_step(x, x, up, down, table, eta=0.5)


# ---- guidance


@given(names, seeds, st.sampled_from([0.0, 0.5, 1.0]))
def test_coefficient_is_what_changing_eps_does(name: str, seed: int, eta: float) -> None:
    # G1, by substitution: eps_hat -> eps_hat - sqrt(1 - abar) g, x0_hat follows from x = sqrt(abar) x0 + ... .
    table, (k_from, k_to) = alpha_bar_table(name, K), pair(seed)
    x, x0_hat, g = tokens(seed), tokens(seed + 3), tokens(seed + 5)
    a = table[k_from].unsqueeze(-1)
    moved = to_eps(x0_hat, x, k_from, table) - (1 - a).sqrt() * g
    changed = torch.where(a > 0, (x - (1 - a).sqrt() * moved) / a.clamp_min(1e-30).sqrt(), x0_hat)
    options = {"eta": eta, "eps": torch.zeros_like(x)}
    step = reverse_step(x, changed, k_from, k_to, table, **options)
    plain = reverse_step(x, x0_hat, k_from, k_to, table, **options)
    weight = guidance_coefficient(k_from, k_to, table, eta=eta).unsqueeze(-1)
    usual = ((k_from < K) & (k_from > 0)).unsqueeze(-1)
    torch.testing.assert_close((weight * g) * usual, (step - plain) * usual, atol=1e-6, rtol=1e-5)
    assert bool((weight[(k_from == K) | (k_from == k_to)] == 0).all()) and bool(torch.isfinite(weight).all())


# ---- randomness


def test_one_generator_per_environment_makes_noise_independent_of_the_batch() -> None:
    # Catches: one stream dealt out over the batch, so that an environment's noise depends on its neighbours.
    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(s) for s in seeds]

    like = torch.empty(6, 4, 2)
    draw = normal_like(generators(1, 2, 3))
    first, second = draw(like), draw(like)
    other = normal_like(generators(9, 2))
    again = [other(like[:4]), other(like[:4])]
    assert torch.equal(first[2:4], again[0][2:4]) and torch.equal(second[2:4], again[1][2:4])
    assert not torch.equal(first, second) and not torch.equal(first[:2], first[2:4])
    assert draw(like.double()).dtype == F64


def test_noise_is_standard_normal_and_follows_dtype_and_seed() -> None:
    # Catches: uniform noise, a wrong scale, global random numbers in spite of a generator.
    big = normal_like(torch.Generator().manual_seed(0))(torch.empty(100, 100, 10, dtype=F64))
    assert big.dtype == F64 and abs(float(big.mean())) < 0.016 and abs(float(big.var()) - 1) < 0.023
    assert abs(float((big**4).mean()) - 3) < 0.16  # five standard errors each
    torch.manual_seed(0)
    one = normal_like(torch.Generator().manual_seed(5))(torch.empty(4))
    torch.manual_seed(1)
    assert torch.equal(one, normal_like(torch.Generator().manual_seed(5))(torch.empty(4)))
    torch.manual_seed(3)
    free = normal_like(None)(torch.empty(4))
    torch.manual_seed(3)
    assert torch.equal(free, torch.randn(4))


def test_generators_must_divide_the_batch() -> None:
    for generators in ([torch.Generator()] * 2, []):
        with pytest.raises(ValueError, match=rf"a batch of 3 cannot be shared evenly by {len(generators)} generators"):
            normal_like(generators)(torch.empty(3, 1))
