"""The checks of test_sampling_law.py detect planted bugs: each is a mistake that somebody has made in this loop."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import dfplan.itinerary
import dfplan.noise
import dfplan.sampler
from dfplan.models.base import Cond
from dfplan.noise import add_noise
from dfplan.schedule import make_schedule
from tests.core import test_sampling_law as law
from tests.core.gaussian import F64, GaussianDenoiser, condition, extrapolated, sampled_law

Patch = pytest.MonkeyPatch
REVERSE, FURTHER, VARIANCE = dfplan.noise.reverse_step, dfplan.noise.noise_further, dfplan.noise._variance


def joint_error(name: str = "pyramid", eta: float = 0.0, denoiser: GaussianDenoiser = law.DENOISER) -> float:
    return law.error_of(name, eta, denoiser=denoiser)


def held_error(hold: str, denoiser: GaussianDenoiser = law.DENOISER) -> float:
    found = extrapolated(
        lambda q: sampled_law(denoiser, law.walk(law.STAGES, law.T, 10 * q), law.TABLE, 1, causal=False, hold=hold)
    )
    return found.error(law.MEAN.reshape(-1), law.COV)


class Wrapped(GaussianDenoiser):
    """The exact denoiser, told something wrong."""

    def __init__(self, told: Callable[[Tensor, Tensor, Cond], tuple[Tensor, Tensor, Cond]]) -> None:
        super().__init__(law.MEAN, law.COV, law.TABLE)
        self.told, self.last = told, torch.zeros(0)

    def __call__(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        self.last = super().__call__(*self.told(x, k, cond))
        return self.last


def no_sqrt(x: Tensor, x0_hat: Tensor, k_from: Tensor, k_to: Tensor, table: Tensor, **_: object) -> Tensor:
    """Take a DDIM step with 1 - alpha_bar where its root belongs."""
    a, b = table[k_from].unsqueeze(-1), table[k_to].unsqueeze(-1)
    eps = (x - a.sqrt() * x0_hat) / (1 - a).clamp_min(1e-12)
    return torch.where((k_from == k_to).unsqueeze(-1), x, b.sqrt() * x0_hat + (1 - b).sqrt() * eps)


def swapped(x: Tensor, x0_hat: Tensor, k_from: Tensor, k_to: Tensor, table: Tensor, **_: object) -> Tensor:
    """Exchange the levels before and after: eps is computed with the new level."""
    a, b = table[k_to].unsqueeze(-1), table[k_from].unsqueeze(-1)
    eps = (x - a.sqrt() * x0_hat) / (1 - a).clamp_min(1e-2).sqrt()
    return torch.where((k_from == k_to).unsqueeze(-1), x, b.sqrt() * x0_hat + (1 - b).sqrt() * eps)


def forgets_noise(x: Tensor, x0_hat: Tensor, k_from: Tensor, k_to: Tensor, table: Tensor, **_: object) -> Tensor:
    """Mix x0_hat with x itself where eps_hat belongs."""
    b = table[k_to].unsqueeze(-1)
    return torch.where((k_from == k_to).unsqueeze(-1), x, b.sqrt() * x0_hat + (1 - b).sqrt() * x)


@pytest.mark.parametrize("step", [no_sqrt, swapped, forgets_noise])
def test_wrong_steps_are_detected(step: Callable[..., Tensor], monkeypatch: Patch) -> None:
    assert joint_error() < law.TOLERANCE[0.0]
    monkeypatch.setattr(dfplan.sampler, "reverse_step", step)
    assert not joint_error() < 2 * law.TOLERANCE[0.0]


def test_levels_in_the_wrong_order_are_refused(monkeypatch: Patch) -> None:
    def turned(x: Tensor, x0_hat: Tensor, k_from: Tensor, k_to: Tensor, table: Tensor, **options: object) -> Tensor:
        return REVERSE(x, x0_hat, k_to, k_from, table, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(dfplan.sampler, "reverse_step", turned)
    with pytest.raises(ValueError, match="k_to must be at most k_from"):
        joint_error()


@pytest.mark.parametrize(
    ("told", "what"),
    [
        (lambda x, k, cond: (x, k[:, :1].expand_as(k), cond), "the first token's level for all"),
        (lambda x, k, cond: (x, k.max(1, keepdim=True).values.expand_as(k), cond), "one level for all"),
        (lambda x, k, cond: (x, k.flip(1), cond), "levels in reverse"),
        (lambda x, k, cond: (x, (k - 8).clamp_min(0), cond), "levels of a later row"),
        (lambda x, k, cond: (x, k, Cond(True, cond.tokens)), "causal in spite of full"),
        (lambda x, k, cond: (x.flip(1), k, cond), "tokens in reverse"),
    ],
)
def test_wrong_words_to_the_denoiser_are_detected(
    told: Callable[[Tensor, Tensor, Cond], tuple[Tensor, Tensor, Cond]], what: str
) -> None:
    assert joint_error(denoiser=Wrapped(lambda *all_of_it: all_of_it)) < law.TOLERANCE[0.0]
    assert not joint_error(denoiser=Wrapped(told)) < 2 * law.TOLERANCE[0.0], what


def test_noise_that_the_drift_does_not_make_room_for_is_detected(monkeypatch: Patch) -> None:
    def too_noisy(
        x: Tensor, x0_hat: Tensor, k_from: Tensor, k_to: Tensor, table: Tensor, *, eta: float, eps: Tensor
    ) -> Tensor:
        a, b = table[k_from].unsqueeze(-1), table[k_to].unsqueeze(-1)
        plain = REVERSE(x, x0_hat, k_from, k_to, table)
        return torch.where((k_from == k_to).unsqueeze(-1), x, plain + VARIANCE(a, b, eta).sqrt() * eps)

    assert joint_error(eta=1.0) < law.TOLERANCE[1.0]
    monkeypatch.setattr(dfplan.sampler, "reverse_step", too_noisy)
    assert not joint_error(eta=1.0) < 2 * law.TOLERANCE[1.0]


def test_resampling_from_x0_hat_is_detected(monkeypatch: Patch) -> None:
    # The held token is thrown away and drawn anew around the last prediction: too little variance.
    model = Wrapped(lambda *all_of_it: all_of_it)

    def from_prediction(x: Tensor, k_from: Tensor, k_to: Tensor, eps: Tensor, table: Tensor) -> Tensor:
        if model.last.shape != x.shape:
            return FURTHER(x, k_from, k_to, eps, table)
        return torch.where((k_to > k_from).unsqueeze(-1), add_noise(model.last, k_to, eps, table), x)

    assert held_error("resample", model) < law.TOLERANCE[0.0]
    monkeypatch.setattr(dfplan.sampler, "noise_further", from_prediction)
    assert not held_error("resample", model) < 2 * law.TOLERANCE[0.0]


@pytest.mark.parametrize(
    ("further", "what"),
    [
        (lambda x, a, b, eps, t: torch.where((b > a)[..., None], add_noise(x, b, eps, t), x), "as if it were clean"),
        (lambda x, a, b, eps, t: x, "denoised without being noised"),
        (lambda x, a, b, eps, t: FURTHER(x, a, b, 0 * eps, t), "shrunk without fresh noise"),
    ],
)
def test_wrong_resampling_is_detected(further: Callable[..., Tensor], what: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(dfplan.sampler, "noise_further", further)
    assert not held_error("resample") < 2 * law.TOLERANCE[0.0], what


def test_held_tokens_that_are_denoised_anyway_are_detected(monkeypatch: Patch) -> None:
    def always(x: Tensor, x0_hat: Tensor, k_from: Tensor, k_to: Tensor, table: Tensor, **options: object) -> Tensor:
        lower = torch.where(k_from == k_to, (k_from - 4).clamp_min(0), k_to)
        return REVERSE(x, x0_hat, k_from, lower, table, **options)  # type: ignore[arg-type]

    assert held_error("copy") < law.TOLERANCE[0.0]
    monkeypatch.setattr(dfplan.sampler, "reverse_step", always)
    assert not held_error("copy") < 2 * law.TOLERANCE[0.0]


@pytest.mark.parametrize(
    ("present", "what"),
    [
        (lambda k, k_next, order, K, causal: k != k_next, "held and clean tokens left out"),
        (lambda k, k_next, order, K, causal: k > 0, "clean tokens left out"),
        (lambda k, k_next, order, K, causal: order <= order[k != k_next].min(), "nothing but the first that moves"),
    ],
)
def test_skipping_too_much_is_detected(present: Callable[..., Tensor], what: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(dfplan.itinerary, "present_tokens", present)
    monkeypatch.setattr(dfplan.itinerary, "_kept", OrderedDict())
    assert not joint_error() < 2 * law.TOLERANCE[0.0], what


@pytest.mark.parametrize(
    ("told", "what"),
    [
        (lambda x, k, cond: (x, torch.where(k == 0, law.K // 2, k), cond), "context shown as noisy"),
        (lambda x, k, cond: (x, torch.where(k == 0, law.K, k), cond), "context shown as unknown"),
        (lambda x, k, cond: (torch.where(k[..., None] == 0, 0 * x, x), k, cond), "context forgotten"),
    ],
)
def test_lost_context_is_detected(
    told: Callable[[Tensor, Tensor, Cond], tuple[Tensor, Tensor, Cond]], what: str
) -> None:
    values = torch.tensor([[1.5], [0.0], [0.0], [0.0]], dtype=F64)
    known = torch.tensor([True, False, False, False])
    mean, cov = condition(law.MEAN.reshape(-1), law.COV, known, values[0])

    def error(denoiser: GaussianDenoiser) -> float:
        found = extrapolated(
            lambda q: sampled_law(
                denoiser,
                law.with_context(make_schedule("full_sequence", 3, law.K, steps=25 * q), 4, [0]),
                law.TABLE,
                1,
                context=values,
                causal=False,
            )
        )
        return found.error(mean, cov)

    assert error(law.DENOISER) < law.TOLERANCE[0.0] * 1.5
    assert not error(Wrapped(told)) < 3 * law.TOLERANCE[0.0], what
