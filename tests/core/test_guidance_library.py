"""Constraints, look-ahead, smoothness, combinations and checks, against their formulas (G3)."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dfplan.guidance import (
    CheckedGuidance,
    DiscObstacle,
    GoalGuidance,
    Guidance,
    LookAheadReward,
    RewardGuidance,
    Smoothness,
    StateBounds,
    all_of,
    any_of,
    tempered,
)
from dfplan.planner import DFPlanner
from tests.core.tiny import tiny_checkpoint

NOISY = torch.full((6,), 9)


def states(batch: int = 3, tokens: int = 5, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, tokens + 1, 4, generator=g, dtype=torch.float64)


def line(*points: tuple[float, float]) -> Tensor:
    """Build one sample of 4-d states from positions."""
    return torch.tensor([[[*p, 7.0, 7.0] for p in points]], dtype=torch.float64)


def gradient(guidance: Guidance, s: Tensor, k: Tensor) -> Tensor:
    leaf = s.clone().requires_grad_(True)
    return torch.autograd.grad(guidance(leaf, k).sum(), leaf)[0]


# ---- obstacles and bounds


def test_disc_counts_the_squared_penetration_of_future_tokens() -> None:
    # Catches: the current state counted, a mean over tokens, the margin left out, a push outside the disc.
    disc = DiscObstacle((1.0, 0.0), 0.5, 0.25, scale=2.0, refine=0)
    s = line((1, 0), (1, 0.5), (1.75, 0), (0.5, 0.0), (9, 9))  # penetrations (start), 0.25, 0, 0.25, 0
    assert float(disc(s, NOISY[:5])) == pytest.approx(-2.0 * (0.25**2 + 0.25**2))
    other = DiscObstacle((7.0, 1.0), 0.5, columns=(2, 0), scale=1.0, refine=0)
    assert float(other(s, NOISY[:5])) == pytest.approx(-(0.5**2), rel=1e-5)


def test_disc_is_seen_between_tokens() -> None:
    # Catches: a plan that jumps over the disc for nothing, the first segment left out, a sum over the points between.
    s = line((-2, 0), (2, 0), (2, 3))
    disc = DiscObstacle((0.0, 0.0), 1.0, scale=3.0, refine=3)  # points at -1, 0, 1
    assert float(DiscObstacle((0.0, 0.0), 1.0, refine=0)(s, NOISY[:3])) == 0
    assert float(disc(s, NOISY[:3])) == pytest.approx(-3.0 / 3, rel=1e-5)
    fine = [float(DiscObstacle((0.0, 0.0), 1.0, scale=3.0, refine=r)(s, NOISY[:3])) for r in (100, 1000)]
    assert fine[0] == pytest.approx(-3.0 * 0.5 * (1 / 3), rel=0.02)  # the integral of (1 - |x|)^2 over x = -2..2, by 4
    assert fine[1] == pytest.approx(fine[0], rel=0.02)


def test_disc_may_differ_per_sample() -> None:
    # Catches: one centre used for all samples.
    s, centers = states(), torch.tensor([[0.0, 0.0], [1.0, 0.5], [-1.0, 0.3]])
    together = DiscObstacle(centers, 0.8)(s, NOISY)
    alone = [DiscObstacle(centers[b], 0.8)(s[b : b + 1], NOISY) for b in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_disc_pushes_outwards_and_is_finite_at_its_centre() -> None:
    # Catches: a sign; the infinite slope of the root at the centre.
    disc = DiscObstacle((0.0, 0.0), 1.0, scale=1.0, refine=0)
    push = gradient(disc, line((5, 5), (0.25, 0), (0, 0)), NOISY[:3])
    torch.testing.assert_close(push[0, :, :2], torch.tensor([[0, 0], [1.5, 0], [0, 0]], dtype=torch.float64))


def test_bounds_count_what_is_outside() -> None:
    # Catches: low and high swapped, the distance to the wrong bound, columns mixed up.
    bounds = StateBounds((-1.0, -math.inf), (1.0, 2.0), columns=(0, 3), scale=0.5)
    s = torch.tensor([[[9, 0, 0, 9], [-1.5, 0, 0, -50], [2, 9, 9, 4], [3, 0, 0, 2.0]]], dtype=torch.float64)
    assert float(bounds(s, NOISY[:4])) == pytest.approx(-0.5 * (0.25 + 1 + 4 + 4))
    assert bool(gradient(bounds, s, NOISY[:4]).isfinite().all())
    torch.testing.assert_close(
        StateBounds(-0.3, 0.3)(states(), NOISY), StateBounds((-0.3,) * 2, (0.3,) * 2)(states(), NOISY)
    )
    two = StateBounds(torch.tensor([[-1.0], [-2.0]]), math.inf, columns=(0,), scale=1.0)
    torch.testing.assert_close(two(torch.full((2, 2, 4), -3.0), NOISY[:2]), torch.tensor([-4.0, -1.0]))


# ---- smoothness


def test_smoothness_is_the_squared_second_difference() -> None:
    # Catches: first differences, a mean, velocities counted as positions.
    s = states()
    a = s[:, 2:, :2] - 2 * s[:, 1:-1, :2] + s[:, :-2, :2]
    torch.testing.assert_close(Smoothness(scale=0.3)(s, NOISY), -0.3 * (a**2).sum((1, 2)))
    assert float(Smoothness()(line((0, 0), (1, 2), (2, 4), (3, 6)), NOISY[:4])) == 0
    assert float(Smoothness()(line((0, 0), (1, 2)), NOISY[:2])) == 0


# ---- rewards


def test_look_ahead_discounts_from_the_first_unfinished_token() -> None:
    # Catches: counting from the start of the plan, finished tokens counted, undiscounted sums, a lost factor.
    s, look = states(), LookAheadReward(lambda x: x[..., 0], scale=2.0, discount=0.9)
    r = s[:, 1:, 0]
    for levels, first in (([0, 9, 9, 9, 9, 9], 0), ([0, 0, 0, 3, 5, 9], 2), ([0, 0, 4, 0, 9, 9], 1), ([0] * 6, 0)):
        expected = 2.0 * 0.1 * sum(0.9 ** (t - first) * r[:, t] for t in range(first, 5))
        torch.testing.assert_close(look(s, torch.tensor(levels)), expected)
    myopic = LookAheadReward(lambda x: x[..., 0], discount=0.0)
    torch.testing.assert_close(myopic(s, torch.tensor([0, 0, 0, 3, 5, 9])), r[:, 2])


def test_look_ahead_weighs_by_distance_not_by_horizon() -> None:
    # Catches: weights that are normalised over the horizon.
    look = LookAheadReward(lambda x: x[..., 0], discount=0.8)
    pushes = [gradient(look, states(1, n), torch.full((n + 1,), 9))[0, 1:4, 0] for n in (3, 10, 50)]
    for push in pushes:
        torch.testing.assert_close(push, 0.2 * 0.8 ** torch.arange(3, dtype=torch.float64))


# ---- scale semantics


CONSTRAINTS: list[Guidance] = [
    DiscObstacle((0.0, 0.0), 1.0),
    DiscObstacle((0.0, 0.0), 1.0, refine=0),
    StateBounds(1.0, math.inf),
    Smoothness(),
]


@pytest.mark.parametrize("guidance", CONSTRAINTS, ids=repr)
@pytest.mark.parametrize("tokens", [8, 16, 64])
def test_push_on_one_violating_token_does_not_depend_on_the_horizon(guidance: Guidance, tokens: int) -> None:
    # G4. Catches: a mean over tokens, which lets a long plan violate a constraint for little.
    def push(n: int) -> Tensor:
        points = [(2.0, 2.0)] * (n + 1)
        points[2] = (0.3, -0.2)
        return gradient(guidance, line(*points), torch.full((n + 1,), 9))[0, 1:4]

    torch.testing.assert_close(push(tokens), push(6))
    assert float(push(6)[1].norm()) > 0.1


@pytest.mark.parametrize("refine", [3, 10, 30])
def test_push_does_not_grow_with_the_points_between(refine: int) -> None:
    # Catches: a sum over the points between tokens.
    s = line((-2, 0.5), (2, 0.5), (2, 3))
    push = [float(gradient(DiscObstacle((0.0, 0.0), 1.0, refine=r), s, NOISY[:3])[0, 1, 1]) for r in (refine, 300)]
    assert 0.7 * push[1] < push[0] < 1.5 * push[1]


@pytest.mark.parametrize(
    "guidance",
    [*CONSTRAINTS, GoalGuidance((1.0, 1.0)), GoalGuidance((1.0, 1.0), when="any_time"),
     RewardGuidance(lambda x: x[..., 0] ** 3), LookAheadReward(lambda x: x[..., 0] ** 3),
     all_of(GoalGuidance((1.0, 1.0)), Smoothness()), any_of(GoalGuidance((1.0, 1.0)), GoalGuidance((-1.0, 0.0))),
     tempered(Smoothness(), 0.3), CheckedGuidance(Smoothness())],
    ids=repr,
)  # fmt: skip
def test_one_number_per_sample_and_the_right_gradient(guidance: Guidance) -> None:
    # G3, G4. Catches: samples that are coupled, costs cut off from the states, hinges with a wrong slope.
    s = states(4)
    together = guidance(s, NOISY)
    assert together.shape == (4,)
    torch.testing.assert_close(together, torch.cat([guidance(s[b : b + 1], NOISY) for b in range(4)]))
    pushes = gradient(guidance, s, NOISY)
    torch.testing.assert_close(pushes[2:3], gradient(guidance, s[2:3], NOISY))
    assert torch.autograd.gradcheck(lambda x: guidance(x, NOISY), s[:2].clone().requires_grad_(True))
    assert guidance(s.float(), NOISY).dtype == torch.float32


# ---- combinations


def test_all_of_is_the_product_and_any_of_the_sum_of_likelihoods() -> None:
    # Catches: the two swapped, a mean of log-likelihoods, an overflow for likelihoods that are very small.
    s, parts = states(), (GoalGuidance((1.0, 0.0)), Smoothness(scale=0.2), StateBounds(-1.0, 1.0, scale=0.1))
    logs = torch.stack([part(s, NOISY) for part in parts])
    torch.testing.assert_close(all_of(*parts)(s, NOISY), logs.exp().prod(0).log())
    torch.testing.assert_close(any_of(*parts)(s, NOISY), logs.exp().sum(0).log())
    torch.testing.assert_close(tempered(parts[0], -1.5)(s, NOISY), -1.5 * logs[0])
    far = any_of(GoalGuidance((1e3, 0.0)), GoalGuidance((2e3, 0.0)))
    assert bool(far(s, NOISY).isfinite().all()) and bool(gradient(far, s, NOISY).isfinite().all())
    nested = all_of(any_of(parts[0], parts[1]), tempered(parts[2], 2.0))
    torch.testing.assert_close(nested(s, NOISY), logs[:2].exp().sum(0).log() + 2 * logs[2])


def test_any_of_goes_for_the_nearest() -> None:
    # Catches: a push to the middle of two goals.
    either = any_of(GoalGuidance((3.0, 0.0)), GoalGuidance((-3.0, 0.0)))
    push = gradient(either, line((0, 0), (2.0, 0.0)), NOISY[:2])[0, 1]
    torch.testing.assert_close(push[:2], torch.tensor([2.0, 0.0], dtype=torch.float64), atol=1e-6, rtol=0)


def test_scale_may_follow_the_levels() -> None:
    # Catches: a function of the levels that is called with something else.
    s = states()
    guidance = tempered(Smoothness(), lambda k: 1 / (1 + float(k.max())))
    torch.testing.assert_close(guidance(s, NOISY), Smoothness()(s, NOISY) / 10)


# ---- functions of the user's


def mean_speed(s: Tensor, k: Tensor) -> Tensor:
    return -s[:, 1:, 2:].norm(dim=-1).mean(-1)


def constant(s: Tensor, k: Tensor) -> Tensor:
    return torch.zeros(len(s))


FAULTS: list[tuple[Callable[[Tensor, Tensor], Tensor], type[Exception], str]] = [
    (lambda s, k: s.mean(), ValueError, r"one number per sample, shape \(3,\) \(B,\), got \(\); reduce over tokens"),
    (lambda s, k: s[..., 0], ValueError, r"got \(3, 6\)"),
    (lambda s, k: s[:, 1, 0] * torch.tensor([1, float("nan"), 1]), ValueError, r"returned nan for sample 1; clamp"),
    (lambda s, k: (s[:, 1, 0] * 0).log(), ValueError, r"returned -inf for sample 0"),
    (lambda s, k: s[:, 1, 0].detach() + 0.0, ValueError, "does not depend on the states by operations"),
    (constant, ValueError, "guidance constant does not depend on the states"),
    (lambda s, k: s[:, 1, 0] > 0, TypeError, r"floating-point numbers, got Tensor"),
    (lambda s, k: 0.0, TypeError, r"floating-point numbers, got float"),  # type: ignore[arg-type, return-value]
]


@pytest.mark.parametrize(("function", "kind", "message"), FAULTS)
def test_faulty_functions_are_named(
    function: Callable[[Tensor, Tensor], Tensor], kind: type[Exception], message: str
) -> None:
    # Catches: NaN plans, guidance that silently couples samples, guidance that silently does nothing.
    with pytest.raises(kind, match=message):
        CheckedGuidance(function)(states().requires_grad_(True), NOISY)


def test_a_gradient_that_is_not_finite_is_named() -> None:
    # Catches: NaN plans from a value that looks healthy; blame on a guidance beside it.
    s = states()
    s[1, 3, 2:] = 0
    leaf = s.requires_grad_(True)
    value = all_of(
        CheckedGuidance(Smoothness()), CheckedGuidance(lambda x, k: -(x[..., 2:] ** 2).sum(-1).sqrt().sum(-1))
    )
    with pytest.raises(ValueError, match=r"<lambda> has the gradient nan at sample 1, token 3, column 2"):
        torch.autograd.grad(value(leaf, NOISY).sum(), leaf)


def test_a_sound_function_passes_unchanged() -> None:
    # Catches: a check that changes the value or the gradient, or that needs a gradient where a plan is only scored.
    s = states()
    assert torch.equal(CheckedGuidance(mean_speed)(s, NOISY), mean_speed(s, NOISY))
    assert torch.equal(gradient(CheckedGuidance(mean_speed), s, NOISY), gradient(mean_speed, s, NOISY))
    assert torch.equal(CheckedGuidance(constant)(s, NOISY), torch.zeros(3))


def test_planner_checks_every_guidance() -> None:
    # Catches: a user's NaN that spoils a plan without a word.
    planner = DFPlanner(tiny_checkpoint())
    with pytest.raises(ValueError, match=r"guidance .*<lambda> returned nan for sample 0"):
        planner.plan(torch.zeros(4), (1.0, 1.0), guidance=lambda s, k: s[:, 1, 0] * float("nan"))


def test_bad_arguments_are_refused() -> None:
    cases: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: DiscObstacle((0.0, 0.0, 0.0), 1.0), ValueError, r"center must have one number per column of \(0, 1\)"),
        (lambda: DiscObstacle((0.0, math.nan), 1.0), ValueError, "center holds NaN"),
        (lambda: DiscObstacle((0.0, 0.0), -1.0), ValueError, "radius must be at least 0, got -1"),
        (lambda: DiscObstacle((0.0, 0.0), 1.0, refine=-1), ValueError, "refine must be at least 0, got -1"),
        (lambda: StateBounds(1.0, 0.0), ValueError, "low must not be above high"),
        (lambda: StateBounds(0.0, 1.0, scale=math.inf), ValueError, "scale must be at least 0, got inf"),
        (lambda: Smoothness(scale=-1.0), ValueError, "scale must be at least 0, got -1"),
        (
            lambda: LookAheadReward(lambda x: x[..., 0], discount=1.0),
            ValueError,
            r"discount must lie in \[0, 1\), got 1",
        ),
        (lambda: all_of(), ValueError, "all_of needs at least one guidance"),
        (lambda: any_of(), ValueError, "any_of needs at least one guidance"),
        (lambda: all_of([Smoothness()]), TypeError, "got list; pass them one by one"),  # type: ignore[arg-type]
        (lambda: tempered(Smoothness(), math.nan), ValueError, "scale must be a finite number"),
        (lambda: GoalGuidance((1.0, 2.0, 3.0)), ValueError, "goal must have one number per column"),
    ]
    for build, kind, message in cases:
        with pytest.raises(kind, match=message):
            build()
    with pytest.raises(ValueError, match=r"one number per token, shape \(3, 5\), got \(3,\)"):
        LookAheadReward(lambda x: x.sum((1, 2)))(states(), NOISY)
