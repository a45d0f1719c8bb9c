"""The exact denoiser of a mixture against three other ways to get the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dfplan.models.base import Cond
from dfplan.noise import alpha_bar_table
from tests.core.gaussian import F64, GaussianDenoiser, chain
from tests.core.mixture import MixtureDenoiser

K, T, D = 10, 3, 2
TABLE = alpha_bar_table("cosine", K)
EVERY = torch.arange(T)


def two_routes(order: Tensor | None = None) -> MixtureDenoiser:
    mean, cov = chain(T, D)
    shift = torch.tensor([[0.2, -1.0], [1.5, 0.3], [-2.0, 0.7]], dtype=F64)
    return MixtureDenoiser(
        torch.tensor([0.7, 0.3]), torch.stack([mean, mean + shift]), torch.stack([cov, 0.5 * cov]), TABLE, order
    )


def density(model: MixtureDenoiser, x: Tensor, k: Tensor) -> Tensor:
    """Compute log p(x) (B,) of noisy tokens with torch's own normal distribution."""
    a = TABLE[k].repeat_interleave(D)
    covs = a.sqrt()[:, None] * model.covs * a.sqrt() + (1 - a).diag()
    normal = torch.distributions.MultivariateNormal(a.sqrt() * model.means.flatten(1), covs)
    log_p: Tensor = (model.weights.log() + normal.log_prob(x.flatten(1)[:, None])).logsumexp(-1)
    return log_p


def noisy(B: int = 5) -> Tensor:
    return torch.randn(B, T, D, dtype=F64, generator=torch.Generator().manual_seed(0)) * 1.5


@pytest.mark.parametrize("causal", [True, False])
def test_one_component_is_the_gaussian(causal: bool) -> None:
    # Catches: a wrong posterior mean inside a component.
    mean, cov = chain(T, D)
    one = MixtureDenoiser(torch.ones(1), mean[None], cov, TABLE)
    k = torch.tensor([[0, 4, 10], [3, 3, 3], [10, 10, 10], [2, 9, 5], [0, 0, 1]])
    cond = Cond(causal=causal)
    torch.testing.assert_close(one(noisy(), k, cond), GaussianDenoiser(mean, cov, TABLE)(noisy(), k, cond))


@pytest.mark.parametrize("k", [[1, 1, 1], [3, 7, 9], [1, 10, 5], [4, 0, 8]])
def test_it_is_the_score_of_the_noisy_density(k: list[int]) -> None:
    # Tweedie: sqrt(abar) E[x0 | x] = x + (1 - abar) grad log p(x). Catches: wrong weights of the components.
    model, levels = two_routes(), torch.tensor(k)
    x = noisy().requires_grad_(True)
    log_p = density(model, x, levels)
    (score,) = torch.autograd.grad(log_p.sum(), x)
    mine = (model.weights.log() + model.log_likelihood(x, levels)).logsumexp(-1)
    rest = torch.distributions.Normal(0.0, 1.0).log_prob(x[:, levels == K]).sum((1, 2))  # no component explains it
    torch.testing.assert_close(mine + rest, log_p)
    a = TABLE[levels][:, None]
    x0_hat = model(x, levels.expand(len(x), -1), Cond(causal=False))
    seen = levels < K
    torch.testing.assert_close((a.sqrt() * x0_hat)[:, seen], (x + (1 - a) * score)[:, seen])


def test_a_token_sees_its_past_alone_and_no_pure_noise() -> None:
    # Catches: a leak from later tokens or from tokens at level K; positions confused with their order.
    model, x = two_routes(), noisy()
    k = torch.tensor([2, 5, 8]).expand(len(x), -1)
    causal = model(x, k, Cond(causal=True))
    for t in reversed(range(T)):
        prefix = model(x[:, : t + 1], k[:, : t + 1], Cond(causal=False, tokens=EVERY[: t + 1]))
        torch.testing.assert_close(causal[:, t], prefix[:, t])
    for t in range(1, T):  # the same levels at other positions
        cond = Cond(causal=False, tokens=EVERY[[0, t]])
        assert torch.equal(model(x[:, :2], k[:, :2], cond), two_routes()(x[:, :2], k[:, :2], cond))
    backwards = two_routes(order=EVERY.flip(0))
    last = backwards(x[:, 2:], k[:, 2:], Cond(causal=False, tokens=EVERY[2:]))
    torch.testing.assert_close(backwards(x, k, Cond(causal=True))[:, 2:], last)
    k = torch.tensor([K, 5, 8]).expand(len(x), -1)
    other = torch.cat([x[:, :1] + 3, x[:, 1:]], 1)
    assert torch.equal(model(x, k, Cond(causal=False)), model(other, k, Cond(causal=False)))
    kept = model(x[:, 1:], k[:, 1:], Cond(causal=False, tokens=EVERY[1:]))
    torch.testing.assert_close(model(x, k, Cond(causal=False))[:, 1:], kept)


def test_gradients_and_per_sample_tokens() -> None:
    # Catches: a broken graph (guidance needs it), levels of one sample used for all.
    model, x = two_routes(), noisy(3)
    k = torch.tensor([[1, 4, 6], [2, 2, 9], [1, 4, 6]])
    whole = model(x, k, Cond(causal=True, tokens=EVERY.expand(3, -1)))
    for b in range(3):
        torch.testing.assert_close(whole[b], model(x[b : b + 1], k[b : b + 1], Cond(causal=True))[0])
    row = k[:1]
    assert torch.autograd.gradcheck(lambda v: model(v, row, Cond(causal=False)), noisy(1).requires_grad_(True))


def test_draws_have_the_mixture_s_moments_and_routes_without_width_are_fine() -> None:
    # Catches: a wrong root of the covariance; a crash on point masses. Five standard errors.
    model = two_routes()
    x = model.draw(20_000, torch.Generator().manual_seed(1))
    mean = (model.weights[:, None, None] * model.means).sum(0)
    assert bool(((x.mean(0) - mean).abs() < 5 * x.std(0) / 20_000**0.5).all())
    points = MixtureDenoiser(torch.ones(2), model.means, torch.zeros(T * D, T * D), TABLE)
    x0_hat = points(model.means * TABLE[3].sqrt(), torch.full((2, T), 3), Cond(causal=False))
    assert bool(torch.isfinite(x0_hat).all()) and torch.allclose(x0_hat, model.means, atol=1e-3)
