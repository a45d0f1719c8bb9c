"""C8: composition of scores under several histories, against closed forms of a Gaussian chain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dfplan.compose import ComposedDenoiser, classifier_free, history_guidance, stabilised
from dfplan.models.base import Cond, Denoiser
from dfplan.noise import add_noise, alpha_bar_table, noise_further, normal_like, to_eps
from dfplan.sampler import sample
from dfplan.schedule import make_schedule
from tests.core.gaussian import F64, GaussianDenoiser, chain, condition, extrapolated, sampled_law
from tests.core.tiny import random_denoiser, small_spec

K, T, D = 100, 5, 2
TABLE = alpha_bar_table("cosine", K)
MEAN, COV = chain(T, D)
MODEL = GaussianDenoiser(MEAN, COV, TABLE)
CONTEXT, FREE = [0, 1], [2, 3, 4]
FULL = Cond(causal=False)
LEVELS = torch.tensor([0, 0, 40, 70, 90])


class Counting:
    """Pass on to a denoiser and remember how often and with what."""

    def __init__(self, model: Denoiser) -> None:
        self.model, self.calls = model, []

    def __call__(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        self.calls.append((x, k))
        return self.model(x, k, cond)


def noisy(batch: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(batch, T, D, generator=torch.Generator().manual_seed(seed), dtype=F64)


def rows(k: Tensor, batch: int = 3) -> Tensor:
    return k.expand(batch, -1).clone()


def exact(x: Tensor, k: Tensor) -> Tensor:
    """Compute E[x0 of the free tokens | x at levels k (T,)] from the joint law of clean and noisy entries."""
    a = TABLE[k].repeat_interleave(D)
    s = a.sqrt()
    cov = torch.cat([torch.cat([COV, COV * s], 1), torch.cat([s[:, None] * COV, s[:, None] * COV * s], 1)])
    cov[T * D :, T * D :] += (1 - a).diag()
    mean = torch.cat([MEAN.reshape(-1), s * MEAN.reshape(-1)])
    known = torch.cat([torch.zeros(T * D, dtype=torch.bool), a > 0])
    known_rows = [condition(mean, cov, known, row.reshape(-1)[a > 0])[0][: T * D].reshape(T, D) for row in x]
    return torch.stack(known_rows)[:, FREE]


def composed(histories: list[list[int]], weights: list[float], **options: Any) -> ComposedDenoiser:
    return ComposedDenoiser(MODEL, torch.tensor(CONTEXT), torch.tensor(histories), tuple(weights), TABLE, **options)


def test_one_clean_history_with_weight_one_is_the_model() -> None:
    # Catches: a history that is shown noised or dropped, a prediction of the wrong branch.
    x = noisy()
    found = composed([[0, 0]], [1.0])(x, rows(LEVELS), FULL)
    assert torch.equal(found[:, FREE], MODEL(x, rows(LEVELS), FULL)[:, FREE])
    assert torch.equal(found[:, CONTEXT], x[:, CONTEXT])


def test_weights_of_zero_are_the_model_without_context() -> None:
    # Catches: context that leaks into the unconditional branch.
    x = noisy()
    alone = MODEL(x[:, FREE], rows(LEVELS)[:, FREE], Cond(causal=False, tokens=torch.tensor(FREE)))
    for histories, weights in (([[0, 0]], [0.0]), ([[0, K], [K, 0]], [0.0, 0.0])):
        found = composed(histories, weights)(x, rows(LEVELS), FULL)
        torch.testing.assert_close(found[:, FREE], alone, rtol=0, atol=1e-12)


def test_dropping_everything_at_any_weight_is_the_model_without_context() -> None:
    # Catches: coefficients that do not sum to 1.
    x = noisy()
    found = composed([[K, K], [K, K]], [2.5, -0.7])(x, rows(LEVELS), FULL)
    torch.testing.assert_close(found[:, FREE], composed([[0, 0]], [0.0])(x, rows(LEVELS), FULL)[:, FREE])


def test_posterior_mean_is_the_closed_form_of_the_linear_combination() -> None:
    # Catches: weights that are swapped or shared, x0_none left out, a level that is not the history's own.
    x, noise = noisy(), noisy(3, 1)[:, :2]
    histories, weights = [[0, K], [30, 0], [K, 60]], [0.4, 1.3, -0.5]
    found = composed(histories, weights, noise=noise)(x, rows(LEVELS), FULL)

    def shown(history: list[int]) -> Tensor:
        k = torch.tensor([*history, *LEVELS[2:].tolist()])
        y = x.clone()
        y[:, :2] = add_noise(x[:, :2], rows(k)[:, :2], noise, TABLE)
        return exact(y, k)

    none = shown([K, K])
    expected = none + sum(w * (shown(h) - none) for h, w in zip(histories, weights, strict=True))
    torch.testing.assert_close(found[:, FREE], expected, rtol=0, atol=1e-10)
    assert torch.equal(found[:, CONTEXT], x[:, CONTEXT])


def test_composition_of_x0_is_composition_of_scores() -> None:
    # The docstring's claim. Catches: composition of predictions that belong to different noisy tokens.
    x, weights = noisy(), [0.7, 0.9]
    both = composed([[0, K], [K, 0]], weights)(x, rows(LEVELS), FULL)
    ones = [composed([h], [1.0])(x, rows(LEVELS), FULL) for h in ([0, K], [K, 0], [K, K])]
    eps = [to_eps(x0_hat, x, rows(LEVELS), TABLE) for x0_hat in ones]
    expected = eps[2] + sum(w * (e - eps[2]) for w, e in zip(weights, eps, strict=False))
    torch.testing.assert_close(to_eps(both, x, rows(LEVELS), TABLE)[:, FREE], expected[:, FREE])


def test_everything_is_one_call() -> None:
    # Catches: a call per history; a branch evaluated for nothing.
    for weights, branches in (([0.2, 0.45, 0.45], 4), ([0.25, 0.25, 0.5], 3), ([0.0, 0.0, 2.0], 2)):
        model = Counting(MODEL)
        ComposedDenoiser(
            model, torch.tensor(CONTEXT), torch.tensor([[0, 0], [K, 0], [0, K]]), tuple(weights), TABLE
        )(noisy(), rows(LEVELS), FULL)  # fmt: skip
        assert [len(x) for x, _ in model.calls] == [3 * branches]


def test_result_does_not_depend_on_the_batch() -> None:
    # Catches: rows of different samples mixed when the batch is folded back; noise of another sample.
    x, noise = noisy(4), noisy(4, 1)[:, :2]
    k = torch.stack(
        [LEVELS, LEVELS.flip(0).sort().values, torch.tensor([0, 0, 5, 5, 5]), torch.tensor([0, 9, 9, K, K])]
    )
    histories, weights = [[0, 20], [50, 0]], [0.8, 0.6]
    together = composed(histories, weights, noise=noise)(x, k, FULL)
    for b in range(4):
        alone = composed(histories, weights, noise=noise[b : b + 1])(x[b : b + 1], k[b : b + 1], FULL)
        torch.testing.assert_close(together[b : b + 1], alone, rtol=0, atol=1e-12)


def test_repeated_samples_share_their_noise() -> None:
    # Catches: futures of Monte Carlo Guidance that see another history than the sample they belong to.
    x, noise = noisy(2), noisy(2, 1)[:, :2]
    model = composed([[0, 20], [50, 0]], [0.8, 0.6], noise=noise)
    repeated = model(x.repeat_interleave(3, 0), rows(LEVELS, 6), FULL)
    torch.testing.assert_close(repeated, model(x, rows(LEVELS, 2), FULL).repeat_interleave(3, 0), rtol=0, atol=1e-12)


def test_context_that_is_noisy_already_is_noised_further_and_never_cleaned() -> None:
    # Catches: noise added as if the token were clean; a level that is lowered without a change of content.
    x, noise, k = noisy(), noisy(3, 1)[:, :2], torch.tensor([25, 25, 40, 70, 90])
    found = composed([[10, 60]], [1.0], noise=noise)(x, rows(k), FULL)
    shown = torch.tensor([25, 60, 40, 70, 90])
    y = x.clone()
    y[:, 1] = noise_further(x[:, 1:2], rows(k)[:, 1:2], rows(shown)[:, 1:2], noise[:, 1:2], TABLE)[:, 0]
    torch.testing.assert_close(found[:, FREE], exact(y, shown), rtol=0, atol=1e-10)


def walk(model: Denoiser, x: Tensor, **options: Any) -> Tensor:
    S = torch.cat([torch.zeros(31, 2, dtype=torch.int64), make_schedule("full_sequence", 3, K, steps=30)], 1)
    return sample(
        model, S, x, alpha_bar=TABLE, tokens=torch.arange(T), order=torch.arange(T), causal=False, **options
    ).x


def test_sampling_with_noised_context_is_conditioning_on_one_noised_context() -> None:
    # Catches: noise that changes from row to row, which would average it away; a wrong label.
    context, noise, level = noisy(1)[0], noisy(1, 5)[:, :2], 45
    model = stabilised(MODEL, CONTEXT, level, TABLE)
    model = ComposedDenoiser(model.model, model.tokens, model.histories, model.weights, TABLE, noise)

    def law(q: int) -> Any:
        S = make_schedule("full_sequence", 3, K, steps=25 * q)
        S = torch.cat([torch.zeros(len(S), 2, dtype=torch.int64), S], 1)
        return sampled_law(model, S, TABLE, D, context, causal=False)

    s, r = TABLE[level].sqrt(), 1 - TABLE[level]
    cov = COV.clone()
    cov[: 2 * D] *= s
    cov[:, : 2 * D] *= s
    cov[: 2 * D, : 2 * D] += r * torch.eye(2 * D, dtype=F64)
    mean = MEAN.reshape(-1).clone()
    mean[: 2 * D] *= s
    known = torch.arange(T * D) < 2 * D
    seen = (s * context[:2] + r.sqrt() * noise[0]).reshape(-1)
    assert extrapolated(law).error(*condition(mean, cov, known, seen)) < 0.006  # measured: 0.003


def test_noise_is_drawn_once_per_run() -> None:
    # Catches: draws inside the loop. Same generator, same run; another generator, another run.
    x = noisy()

    def run(seed: int) -> Tensor:
        draw = normal_like(torch.Generator().manual_seed(seed))
        return walk(stabilised(MODEL, CONTEXT, 45, TABLE).with_noise(x, draw), x)

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))
    mask = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    noise = stabilised(MODEL, CONTEXT, 45, TABLE).with_noise(x, torch.ones_like, mask).noise
    assert noise is not None and torch.equal(noise, mask.double().expand(3, 2, 2))


def test_classifier_free_weight_moves_the_mean_of_samples_in_proportion() -> None:
    # Catches: a weight that acts as 1 + w. The noise to samples map is affine, and so is this in the context.
    x = noisy()
    without, with_ = (walk(classifier_free(MODEL, CONTEXT, w, TABLE), x) for w in (0.0, 1.0))
    torch.testing.assert_close(with_, walk(MODEL, x), rtol=0, atol=1e-10)
    assert not torch.allclose(without, with_, atol=1e-3)
    x0 = [classifier_free(MODEL, CONTEXT, w, TABLE)(x, rows(LEVELS), FULL)[:, FREE] for w in (0.0, 1.0, 3.0)]
    torch.testing.assert_close(x0[2] - x0[0], 3 * (x0[1] - x0[0]))


def test_history_guidance_shows_the_newest_tokens() -> None:
    # Catches: the oldest ones shown, a window that is one too long, levels given to dropped tokens.
    model = history_guidance(MODEL, [4, 1, 3], [3, 1, 0], [0.2, 0.3, 0.5], TABLE, level=[0, 7, 7])
    assert model.tokens.tolist() == [4, 1, 3] and model.weights == (0.2, 0.3, 0.5)
    assert model.histories.tolist() == [[0, 0, 0], [K, K, 7], [K, K, K]]
    assert history_guidance(MODEL, [0, 1], [2], [1.0], TABLE, level=4).histories.tolist() == [[4, 4]]


@pytest.mark.parametrize("per_sample", [False, True])
def test_in_the_real_network_a_dropped_goal_is_an_absent_goal(per_sample: bool) -> None:
    # Catches: positions taken for indices when some tokens are absent, and when they are given per sample.
    spec = small_spec()
    model = random_denoiser(spec)
    tokens = torch.tensor([0, 1, 3, 4, 6])
    x = torch.randn(2, 5, spec.width, generator=torch.Generator().manual_seed(0)) * spec.column_mask()[tokens]
    k = torch.tensor([[0, 0, 5, 10, 15], [0, 0, 20, 10, 3]])
    cond = Cond(causal=True, tokens=tokens.expand(2, -1) if per_sample else tokens)
    kept = torch.tensor([0, 2, 3, 4])
    without = model(x[:, kept], k[:, kept], Cond(causal=True, tokens=tokens[kept]))
    with torch.no_grad():
        found = [classifier_free(model, [1, 2], w, model.alpha_bar)(x, k, cond) for w in (0.0, 1.0, 2.0)]
    torch.testing.assert_close(found[0][:, 2:], without[:, 1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], model(x, k, cond), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[2], 2 * found[1] - found[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    gone = cond.tokens[..., kept] if cond.tokens is not None else None
    absent = classifier_free(model, [1], 2.0, model.alpha_bar)(x[:, kept], k[:, kept], Cond(causal=True, tokens=gone))
    torch.testing.assert_close(absent, without, rtol=1e-4, atol=1e-5)


def test_guidance_acts_through_a_composition() -> None:
    # Catches: a composition that cuts the gradient.
    x = noisy()
    plain = walk(classifier_free(MODEL, CONTEXT, 1.5, TABLE), x)
    pulled = walk(
        classifier_free(MODEL, CONTEXT, 1.5, TABLE), x, log_cost=lambda x0_hat, k: -((x0_hat[:, -1] - 5) ** 2).sum(-1)
    )
    assert bool(((pulled - 5)[:, -1].abs() < (plain - 5)[:, -1].abs()).all())


def test_bad_compositions_are_refused() -> None:
    x = noisy()
    with pytest.raises(ValueError, match=r"between levels 0 and K needs noise; use with_noise"):
        composed([[0, 5]], [1.0])(x, rows(LEVELS), FULL)
    with pytest.raises(ValueError, match=r"noise must have batch 1 or 3, or a divisor of it, got 2"):
        composed([[0, 5]], [1.0], noise=x[:2, :2])(x, rows(LEVELS), FULL)
    with pytest.raises(ValueError, match=r"k must have shape \(2, 2\)"):
        composed([[0, 5]], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"k must lie in 0..100, got 0..101"):
        composed([[0, K + 1]], [1.0])
    with pytest.raises(ValueError, match="weights must be finite"):
        composed([[0, 0]], [float("nan")])
    with pytest.raises(ValueError, match="tokens must name different positions"):
        classifier_free(MODEL, [1, 1], 1.0, TABLE)
    with pytest.raises(ValueError, match="equally many, got 2, 1, 2"):
        history_guidance(MODEL, CONTEXT, [1, 2], [1.0], TABLE)
    with pytest.raises(ValueError, match=r"windows must lie in 0\.\.2"):
        history_guidance(MODEL, CONTEXT, [3], [1.0], TABLE)
