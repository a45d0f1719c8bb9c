"""The ready-made costs, against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dfplan.guidance import GoalGuidance, RewardGuidance

LEVELS = torch.zeros(6, dtype=torch.int64)


def states(batch: int = 3, tokens: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(batch, tokens + 1, 4, generator=torch.Generator().manual_seed(seed))


def test_goal_at_the_end_is_a_gaussian_on_the_last_token() -> None:
    # Catches: wrong columns, a mean over the batch, the first token counted, a sign.
    s, goal = states(), torch.tensor([[1.0, 2.0], [3.0, 4.0], [-1.0, 0.5]])
    expected = [-0.7 * sum((float(s[b, -1, c]) - float(goal[b, c])) ** 2 for c in (0, 1)) for b in range(3)]
    torch.testing.assert_close(GoalGuidance(goal, scale=0.7)(s, LEVELS), torch.tensor(expected))
    one = GoalGuidance(goal[0], columns=(2, 3))(s, LEVELS)
    torch.testing.assert_close(one, -((s[:, -1, 2:] - goal[0]) ** 2).sum(-1))


def test_goal_at_any_time_is_the_mean_distance_of_future_tokens() -> None:
    # Catches: the current state counted, squared distances, a sum instead of a mean.
    s, goal = states(), torch.tensor([1.0, -1.0])
    expected = torch.stack([-2.0 * (s[b, 1:, :2] - goal).norm(dim=-1).mean() for b in range(3)])
    torch.testing.assert_close(GoalGuidance(goal, scale=2.0, when="any_time")(s, LEVELS), expected, atol=1e-4, rtol=0)


def test_goal_guidance_has_a_finite_gradient_at_the_goal() -> None:
    # Catches: the square root's infinite slope at 0 (NaN plans once a token stands on the goal).
    s = torch.zeros(1, 4, 4, requires_grad=True)
    GoalGuidance(torch.zeros(2), when="any_time")(s, LEVELS).sum().backward()
    assert s.grad is not None and bool(torch.isfinite(s.grad).all())


def test_reward_is_averaged_over_future_tokens() -> None:
    # Catches: a sum over tokens, the current state counted, a scale that is lost.
    s = states()
    found = RewardGuidance(lambda x: x[..., 0] ** 2, scale=3.0)(s, LEVELS)
    torch.testing.assert_close(found, 3.0 * (s[:, 1:, 0] ** 2).mean(1))


@pytest.mark.parametrize("tokens", [4, 16, 64])
def test_strength_does_not_depend_on_the_horizon_or_the_batch(tokens: int) -> None:
    # G4. Catches: sums over tokens (stronger for long plans) and means over samples (weaker in big batches).
    goal = torch.tensor([1.0, 1.0])
    away = torch.zeros(8, tokens + 1, 4)
    for guidance, value in (
        (GoalGuidance(goal), -2.0),
        (GoalGuidance(goal, when="any_time"), -(2.0**0.5)),
        (RewardGuidance(lambda x: x[..., 0] - 1.0), -1.0),
    ):
        torch.testing.assert_close(guidance(away, LEVELS), torch.full((8,), value), rtol=1e-4, atol=1e-6)
        shifted = away.clone().requires_grad_(True)
        guidance(shifted, LEVELS).sum().backward()
        whole = shifted.grad
        assert whole is not None
        one = away[:1].clone().requires_grad_(True)
        guidance(one, LEVELS).sum().backward()
        torch.testing.assert_close(whole[:1], one.grad)
        # what one move of the whole plan is worth: the same at every horizon
        assert float(one.grad.sum()) == pytest.approx({-2.0: 4.0, -1.0: 1.0}.get(value, 2**0.5), rel=1e-4)


def test_gradient_matches_finite_differences() -> None:
    # Catches: a cost that is cut off from its argument.
    goal, s = torch.tensor([0.3, -0.2], dtype=torch.float64), states(1).double()
    for guidance in (GoalGuidance(goal), GoalGuidance(goal, when="any_time"), RewardGuidance(lambda x: x[..., 0] ** 3)):
        assert torch.autograd.gradcheck(lambda x, g=guidance: g(x, LEVELS), s.requires_grad_(True))


def test_bad_guidance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown time of goal guidance 'ends'\. Did you mean 'end'\?"):
        GoalGuidance(torch.zeros(2), when="ends")
    with pytest.raises(ValueError, match=r"scale must be at least 0, got -1"):
        GoalGuidance(torch.zeros(2), scale=-1)
    with pytest.raises(ValueError, match=r"one number per token, shape \(3, 5\), got \(3,\)"):
        RewardGuidance(lambda x: x.sum((1, 2)))(states(), LEVELS)
