"""The rules of the fruit swap on hand-made cases; needs no simulator."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dfplan_envs.arm.disturb import draw_dark, draw_push, draw_push_steps
from dfplan_envs.arm.swap_rules import SLOT_XY, Seen, judge, slot_of, stage_of

Z = 0.034


def at(slot: int, dx: float = 0.0, **how: float | bool) -> Seen:
    x, y = SLOT_XY[slot]
    return Seen((x + dx, y, Z), **how)  # type: ignore[arg-type]


def test_a_swap_goes_through_its_stages_whichever_fruit_goes_first() -> None:
    """Catches stages that know one order only, and a first slot taken for the goal."""
    for a0, b0 in itertools.permutations(range(3), 2):
        free = 3 - a0 - b0
        apple_first = [(a0, b0), (-1, b0), (free, b0), (free, -1), (free, a0), (-1, a0), (b0, a0)]
        orange_first = [(a0, b0), (a0, -1), (a0, free), (-1, free), (b0, free), (b0, -1), (b0, a0)]
        for way in (apple_first, orange_first):
            assert [stage_of((a0, b0), now) for now in way] == [0, 0, 1, 0, 2, 2, 3]


def test_right_swapped_back_dropped_and_both_in_one_slot() -> None:
    """Catches a success for fruits that only moved, for one that is missing, and for a pile."""
    right = judge((0, 1), (at(1), at(0)))
    assert right.success and right.slots == (1, 0) and not any(right.dropped + right.lost)
    back = judge((0, 1), (at(0), at(1)))
    assert not back.success and back.stage == 0
    on_the_table = Seen((0.5, 0.1, 0.03))
    dropped = judge((0, 1), (on_the_table, at(0)))
    assert dropped.stage == 2 and dropped.dropped == (True, False) and dropped.lost == (False, False)
    pile = judge((0, 1), (at(1), Seen((SLOT_XY[1][0] + 0.01, SLOT_XY[1][1], 0.09))))
    assert not pile.success and pile.slots == (1, -1)
    beside = judge((0, 1), (at(1, -0.031), at(1, 0.031)))  # both on one plate
    assert not beside.success and beside.slots == (-1, -1)


def test_success_needs_rest_and_an_open_hand() -> None:
    """Catches a fruit that counts while it rolls through its slot, or in the gripper."""
    assert judge((0, 2), (at(2), at(0))).success
    assert not judge((0, 2), (at(2, speed=0.1), at(0))).success
    held = judge((0, 2), (at(2), at(0, touched=True)))
    assert not held.success and held.dropped == (False, False)


def test_off_the_table_or_out_of_reach_is_lost_and_flying_is_not() -> None:
    """Catches an episode that goes on without a fruit, and one that ends while a fruit is carried high."""
    assert judge((0, 1), (Seen((0.5, 0.6, -0.1), speed=2.0), at(1))).lost == (True, False)
    assert judge((0, 1), (at(0), Seen((0.75, 0.0, Z)))).lost == (False, True)
    assert judge((0, 1), (at(0), Seen((0.75, 0.0, Z), speed=0.5))).lost == (False, False)  # it may roll back
    assert judge((0, 1), (Seen((0.5, 0.1, 0.3), touched=True), at(1))).lost == (False, False)


def test_a_slot_is_3_cm_around_its_centre() -> None:
    """Catches a radius that is off, and one taken per axis."""
    for slot in range(3):
        assert slot_of(at(slot, 0.0299)) == slot and slot_of(at(slot, 0.0301)) == -1
    x, y = SLOT_XY[1]
    assert slot_of(Seen((x + 0.025, y + 0.025, Z))) == -1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("hz", [10, 20])
def test_the_share_of_dark_steps_is_what_was_asked_for_and_windows_are_whole(share: float, hz: int) -> None:
    """Catches a share of something else, single dark frames instead of windows, a first frame that is dark."""
    block = 5 * hz
    dark = draw_dark(share, 40 * block, hz, np.random.default_rng(0))
    assert dark[1:].mean() == pytest.approx(share) and not dark[0] and dark.shape == (40 * block + 1,)
    blocks = dark[1:].reshape(40, block)
    starts = [int((np.diff(row.astype(int), prepend=0) == 1).sum()) for row in blocks]
    assert set(starts) == ({1} if share else {0})
    if share == 0.3:
        assert len({int(row.argmax()) for row in blocks}) > 10  # not at one place


def test_pushes_come_in_mid_task_and_a_knock_is_gentler() -> None:
    """Catches steps that are seconds, an order that is lost, and a speed of the wrong kind."""
    rng = np.random.default_rng(0)
    for hz in (10, 20):
        steps = draw_push_steps(10, hz, rng)
        assert len(steps) == 10 and list(steps) == sorted(steps)
        assert min(steps) >= int(1.5 * hz) and max(steps) <= 11 * hz and max(steps) > 5 * hz
    for knocked, low, high in ((True, 0.25, 0.5), (False, 0.4, 0.8)):
        speeds = [np.hypot(*draw_push(rng, knocked)) for _ in range(50)]
        assert low <= min(speeds) and max(speeds) <= high
