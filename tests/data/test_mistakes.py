"""Which actions of demonstrations are left out of what is learned."""

from __future__ import annotations

import numpy as np
import pytest

from dfplan.data.mistakes import imitated, led_to_nothing

OPEN, HELD = 0.08, 0.065


def played(*parts: tuple[int, bool, float]) -> tuple[np.ndarray, np.ndarray]:
    """Play parts of (steps, told to close, opening that the fingers come to, at 0.02 m a step)."""
    width, widths, shut = OPEN, [OPEN], list[bool]()
    for steps, close, target in parts:
        for _ in range(steps):
            width += float(np.clip(target - width, -0.02, 0.02))
            widths.append(width)
            shut.append(close)
    return np.array(widths), np.array(shut)


def test_a_grip_of_nothing_is_left_out_from_the_approach_to_the_reopening() -> None:
    # Catches: the approach or the closing kept, the grip before or the try after left out, a mark one step off.
    good, miss, again = (8, True, HELD), (6, True, 0.0), (7, True, HELD)
    widths, shut = played((5, False, OPEN), good, (4, False, OPEN), miss, (3, False, OPEN), again)
    expected = np.zeros(33, dtype=bool)
    expected[5 + 8 : 5 + 8 + 4 + 6] = True
    np.testing.assert_array_equal(led_to_nothing(widths, shut), expected)


def test_the_first_try_may_be_the_miss_and_the_last_one_may_stay_shut() -> None:
    # Catches: an index before the beginning, a closing without an end.
    widths, shut = played((3, False, OPEN), (6, True, 0.0), (2, False, OPEN), (6, True, 0.0))
    assert led_to_nothing(widths, shut).all()
    widths, shut = played((4, True, 0.0), (2, False, OPEN))
    assert led_to_nothing(widths, shut).tolist() == [True] * 4 + [False] * 2  # shut by the last of four steps
    widths, shut = played((6, True, 0.0), (2, False, OPEN))
    assert led_to_nothing(widths, shut).tolist() == [True] * 6 + [False] * 2


def test_what_was_taken_out_of_the_fingers_was_no_mistake() -> None:
    # Catches: a knock taken for a miss.
    widths, shut = played((3, False, OPEN), (20, True, HELD), (5, True, 0.0), (3, False, OPEN))
    assert widths.min() == 0.0 and not led_to_nothing(widths, shut).any()


def test_episodes_are_told_apart() -> None:
    # Catches: a miss that reaches into the episode before, rows of observations taken for rows of actions.
    good, bad = (
        played((1, False, OPEN), (8, True, HELD)),
        played((3, False, OPEN), (4, True, 0.0)),
    )  # shut by the last row
    observations = np.stack([np.zeros(18), np.concatenate([good[0], bad[0]])], axis=1)
    grip = np.where(np.concatenate([good[1], bad[1]]), -1.0, 1.0)
    actions = np.stack([np.full(16, -1.0), grip], axis=1)
    found = imitated(observations, actions, np.array([9, 7]), gripper=1)
    assert found.tolist() == [True] * 9 + [False] * 7
    with pytest.raises(ValueError, match=r"openings must have shape \(4,\), .* got \(3,\)"):
        led_to_nothing(np.zeros(3), np.zeros(3, dtype=bool))
