"""Mixtures and selections: which episodes, how often, and that it is written down."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfplan.data import Episodes
from dfplan.data.mixing import filter_episodes, mix_episodes


def numbered(returns: list[float], **meta: Any) -> Episodes:
    """Episodes of one step with the given returns; the observations say which they are."""
    count = len(returns)
    rows = np.repeat(np.arange(count, dtype=np.float32), 2)[:, None]
    ended = np.arange(count) % 2 == 0
    lengths = np.ones(count, dtype=np.int64)
    return Episodes(rows, np.zeros((count, 2)), np.array(returns), lengths, meta, ended)


def names(episodes: Episodes) -> list[int]:
    return [int(episodes.episode(i)[0][0, 0]) for i in range(len(episodes))]


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({"min_return": 3.0}, [1, 2, 4]),
        ({"max_return": 3.0}, [0, 2, 3]),
        ({"min_return": 1.5, "max_return": 4.5}, [2, 4]),
        ({"top": 0.4}, [1, 4]),
        ({"top": 0.41}, [1, 2, 4]),
        ({"max_return": 4.5, "top": 0.5}, [2, 4]),
        ({"top": 1.0}, [0, 1, 2, 3, 4]),
        ({"episodes": 9}, [0, 1, 2, 3, 4]),
    ],
)
def test_filter_keeps_what_the_limits_say(rule: dict[str, Any], kept: list[int]) -> None:
    """Catches a limit that excludes itself, a share rounded down, and the worst taken for the best."""
    episodes = numbered([1, 5, 3, 0, 4], env="x", spaces={"a": 1}, seed=9)
    options = {("count" if key == "episodes" else key): value for key, value in rule.items()}
    found = filter_episodes(episodes, **options)
    assert names(found) == kept
    assert found.terminated.tolist() == [number % 2 == 0 for number in kept]
    assert (found.meta["env"], found.meta["spaces"]) == ("x", {"a": 1})
    assert found.meta["filtered"]["digest"] == episodes.digest()
    assert found.meta["filtered"]["meta"] == {"env": "x", "seed": 9}
    assert {key: found.meta["filtered"][key] for key in rule} == rule


def test_a_random_choice_depends_on_the_seed_alone() -> None:
    episodes = numbered(list(range(20)))
    first = names(filter_episodes(episodes, count=5, seed=1))
    assert first == names(filter_episodes(episodes, count=5, seed=1)) == sorted(set(first))
    assert first != names(filter_episodes(episodes, count=5, seed=2))
    assert min(names(filter_episodes(episodes, top=0.5, count=5, seed=1))) >= 10


def test_a_filter_that_leaves_nothing_is_refused() -> None:
    episodes = numbered([1, 2])
    with pytest.raises(ValueError, match=r"no episode has a return in \[3, inf\]; they lie in \[1, 2\]"):
        filter_episodes(episodes, min_return=3)
    with pytest.raises(ValueError, match=r"top must be a share in \(0, 1\], got 10"):
        filter_episodes(episodes, top=10)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        filter_episodes(episodes, count=0)


def test_weights_are_copies_and_shares() -> None:
    """Catches a weight that shortens episodes, a share of the wrong part and flags out of order."""
    good, bad = numbered(list(range(10)), env="x", dataset_id="good-v0"), numbered([0.0] * 8, env="x")
    mixed = mix_episodes([good, bad], [2.5, 0.25], seed=4)
    counts = np.bincount(names(mixed)[:25], minlength=10)
    assert sorted(counts.tolist()) == [2] * 5 + [3] * 5
    assert len(mixed) == 25 + 2
    assert mixed.terminated.tolist() == [number % 2 == 0 for number in names(mixed)]
    assert mixed.digest() == mix_episodes([good, bad], [2.5, 0.25], seed=4).digest()
    assert mixed.digest() != mix_episodes([good, bad], [2.5, 0.25], seed=5).digest()
    assert [(o["weight"], o["kept"], o["digest"]) for o in mixed.meta["mixed"]] == [
        (2.5, 25, good.digest()),
        (0.25, 2, bad.digest()),
    ]
    assert mixed.meta["env"] == "x"
    assert len(mix_episodes([bad], [0.01])) == 1  # never nothing
    assert names(mix_episodes([good, bad])) == [*range(10), *range(8)]


def test_what_the_parts_do_not_share_is_not_claimed() -> None:
    """Catches an environment or reference scores taken from the first part."""
    scores = {"min": 0.0, "max": 1.0}
    one, two = numbered([1.0], env="a", reference_scores=scores), numbered([1.0], env="b")
    mixed = mix_episodes([one, two])
    assert "env" not in mixed.meta
    assert "reference_scores" not in mixed.meta
    assert mix_episodes([one, one]).meta["reference_scores"] == scores


def test_parts_that_differ_are_refused() -> None:
    one = numbered([1.0], dataset_id="one-v0", spaces={"kind": "box"})
    wide = Episodes(np.zeros((2, 3)), np.zeros((1, 2)), np.zeros(1), np.array([1]), {"dataset_id": "wide-v0"})
    with pytest.raises(ValueError, match="one-v0 has 1 of observations, wide-v0 has 3; mix data of one environment"):
        mix_episodes([one, wide])
    other = numbered([1.0], dataset_id="other-v0", spaces={"kind": "goal"})
    with pytest.raises(ValueError, match=r"must have the same spaces: one-v0 has .*other-v0 has"):
        mix_episodes([one, other])
    for weights in ([1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="weights must be one number above 0 per data set"):
            mix_episodes([one, one], weights)
    with pytest.raises(ValueError, match="at least one data set"):
        mix_episodes([])
