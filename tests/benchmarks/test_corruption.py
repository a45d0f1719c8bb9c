"""Sensors that fail: the same failures for every policy, and nothing shown that is not there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfplan_bench.corruption import STEPS, CorruptedPolicy, Corruption


class Notes:
    """A policy that notes what it is shown."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def start(self, episodes: list[int]) -> int:
        return 0

    def predict(self, observation: Any, state: int, episode_start: Any, deterministic: bool) -> tuple[np.ndarray, int]:
        self.seen.append(observation["observation"].copy())
        return np.zeros((len(observation["observation"]), 2)), state + 1


def shown(corruption: Corruption, episodes: list[int], steps: int = 300) -> np.ndarray:
    """Show the truth ``100 b + t`` to a policy; returns what it saw (steps, B, 2)."""
    policy = Notes()
    corrupted = CorruptedPolicy(policy, corruption)
    state = corrupted.start(episodes)
    for t in range(steps):
        truth = np.array([[1000.0 * b + t] * 2 for b in range(len(episodes))])
        starts = np.full(len(episodes), t == 0)
        _, state = corrupted.predict({"observation": truth, "desired_goal": truth}, state, starts)
    return np.array(policy.seen)


def test_outages_have_their_share_and_length() -> None:
    # Catches: begin and end of an outage exchanged, a share of outages for a share of steps, a blind start.
    gone = np.array([Corruption(0.4, 20.0).gone(e) for e in range(60)])
    assert not gone[:, 0].any()
    settled = gone[:, 200:]
    assert abs(settled.mean() - 0.4) < 0.02
    lengths = settled.sum() / (settled[:, 1:] & ~settled[:, :-1]).sum()
    assert abs(lengths - 20) < 1.5
    assert not Corruption(0.0).gone(3).any() and gone.shape == (60, STEPS)


def test_what_is_not_seen_is_missing_or_the_last_that_was() -> None:
    # Catches: a glimpse of the truth in an outage, another episode's last observation.
    nan, held = (shown(Corruption(0.5, 10.0, hold=hold, seed=4), [7, 2]) for hold in (False, True))
    for b, episode in enumerate((7, 2)):
        gone, last = Corruption(0.5, 10.0, seed=4).gone(episode), 0.0
        assert gone[:300].any()
        for t in range(300):
            truth = 1000.0 * b + t
            last = last if gone[t] else truth
            assert np.isnan(nan[t, b]).all() if gone[t] else (nan[t, b] == truth).all()
            assert (held[t, b] == last).all()


def test_failures_belong_to_the_episode_alone() -> None:
    # Catches: draws that depend on the neighbours, so that two policies would meet different sensors.
    c = Corruption(0.3, 10.0, noise=np.array([0.5, 0.0]), seed=1)
    both, alone = shown(c, [3, 5]), shown(c, [5])
    np.testing.assert_allclose(both[:, 1] - 1000.0, alone[:, 0], atol=1e-9)
    error = alone[:, 0, 0] - np.arange(300)
    assert 0.4 < np.nanstd(error) < 0.6 and np.nanmax(np.abs(alone[:, 0, 1] - np.arange(300))) == 0
    assert not np.array_equal(shown(c, [6]), alone, equal_nan=True)


def test_bad_corruption_is_refused() -> None:
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\) and outage be at least 1, got 1 and 25.0"):
        Corruption(share=1)
    with pytest.raises(ValueError, match=r"must be begun by start\(episodes\)"):
        CorruptedPolicy(Notes(), Corruption()).predict({"observation": np.zeros((1, 2))})
