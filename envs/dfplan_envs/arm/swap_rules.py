"""How a fruit swap stands, judged from where things are: pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

SLOT_XY = ((0.5, -0.2), (0.5, 0.0), (0.5, 0.2))  # m, the centres of the plates
SLOT_RADIUS = 0.03  # m
REST_SPEED = 0.03  # m/s
FLAT_Z = 0.05  # m; higher is not on the plate (one fruit on top of the other)
FALLEN_Z = -0.02  # m; below the table
REACH_X, REACH_Y = (0.3, 0.7), (-0.35, 0.35)  # m, where the arm can pick something up
NOWHERE = -1
STAGES = ("start", "first_moved", "second_moved", "done")


@dataclass(frozen=True)
class Seen:
    """Say where a fruit is."""

    position: tuple[float, float, float]
    """m."""
    speed: float = 0.0
    """m/s."""
    touched: bool = False
    """Whether the robot touches it."""

    @property
    def at_rest(self) -> bool:
        """Say whether it lies still and free."""
        return self.speed <= REST_SPEED and not self.touched


@dataclass(frozen=True)
class Judgement:
    """Say how a swap stands now; the fruits in the order in which they were given."""

    slots: tuple[int, int]
    """Where each fruit lies at rest, 0, 1, 2, or -1: in none."""
    stage: int
    """0 start, 1 first moved (one fruit in the free slot), 2 second moved (one in its goal), 3 done."""
    dropped: tuple[bool, bool]
    """At rest in reach, but in no slot: it can be picked up again."""
    lost: tuple[bool, bool]
    """Off the table or at rest out of reach: the episode is over."""

    @property
    def success(self) -> bool:
        """Say whether the fruits have changed places."""
        return self.stage == 3


def slot_of(fruit: Seen) -> int:
    """Find the slot in which a fruit lies at rest, within 3 cm of its centre; -1 for none."""
    x, y, z = fruit.position
    if not fruit.at_rest or not 0.0 <= z <= FLAT_Z:
        return NOWHERE
    away = np.hypot(*(np.array([x, y]) - np.array(SLOT_XY)).T)
    nearest = int(np.argmin(away))
    return nearest if away[nearest] <= SLOT_RADIUS else NOWHERE


def stage_of(initial: ArrayLike, now: ArrayLike) -> int:
    """Find the stage of a swap; the same for either order of moves.

    Args:
        initial: (2,) the slot of each fruit at the start.
        now: (2,) the slot of each, -1 for none.

    Returns:
        3 if both lie in each other's first slot, 2 if one does and the other is not back in its own, 1 if one lies in
        the slot that was free and the other in its own, else 0.
    """
    a0, b0 = (int(slot) for slot in np.asarray(initial))
    a, b = (int(slot) for slot in np.asarray(now))
    free = 3 - a0 - b0
    if (a, b) == (b0, a0):
        return 3
    if a == b0 or b == a0:
        return 2
    return int((a, b) in ((free, b0), (a0, free)))


def judge(initial: tuple[int, int], fruits: tuple[Seen, Seen]) -> Judgement:
    """Judge a swap.

    Args:
        initial: the slots at the start.
        fruits: where the two fruits are.

    Returns:
        How it stands, of this moment only.
    """
    first, second = (slot_of(fruit) for fruit in fruits)
    lost = (_lost(fruits[0]), _lost(fruits[1]))
    dropped = (
        first == NOWHERE and fruits[0].at_rest and not lost[0],
        second == NOWHERE and fruits[1].at_rest and not lost[1],
    )
    return Judgement((first, second), stage_of(initial, (first, second)), dropped, lost)


def _lost(fruit: Seen) -> bool:
    x, y, z = fruit.position
    reachable = REACH_X[0] <= x <= REACH_X[1] and REACH_Y[0] <= y <= REACH_Y[1]
    return z < FALLEN_Z or (fruit.at_rest and not reachable)
