"""Which actions of demonstrations are not to be imitated: those that led to a gripper closing on nothing.

A demonstrator who misses shows two things, how to miss and how to go on. Only the second is worth learning. Nobody
needs to mark it: fingers that shut all the way held nothing, so whatever aimed at that grip was aimed wrong.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EMPTY_M = 0.005
SOON_STEPS = 12


def led_to_nothing(
    openings: NDArray[np.floating], shutting: NDArray[np.bool_], *, empty_m: float = EMPTY_M, soon: int = SOON_STEPS
) -> NDArray[np.bool_]:
    """Mark the actions of one episode that led to closing on nothing.

    They reach from where the fingers were last told to open, or the episode's start, until they are told to open again.
    Fingers that take longer than ``soon`` steps to shut held something on the way, which was taken from them: that was
    no mistake.

    Args:
        openings: (T + 1,), between the fingers, m.
        shutting: bool (T,), whether the action tells the fingers to close.
        empty_m: Nothing that can be held is as thin, m.
        soon: Steps.

    Returns:
        bool (T,).

    Raises:
        ValueError: If the lengths do not fit.
    """
    T = len(shutting)
    if openings.shape != (T + 1,):
        raise ValueError(f"openings must have shape ({T + 1},), one more than there are actions, got {openings.shape}")
    marked = np.zeros(T, dtype=bool)
    edges = np.flatnonzero(np.diff(shutting.astype(np.int8))) + 1
    begins = [0, *edges.tolist(), T]
    for i in range(len(begins) - 1):
        begin, end = begins[i], begins[i + 1]
        if begin == end or not shutting[begin]:
            continue
        empty = np.flatnonzero(openings[begin + 1 : end + 1] < empty_m)
        if len(empty) and empty[0] < soon:
            marked[begins[i - 1] if i > 0 else 0 : end] = True
    return marked


def imitated(
    observations: NDArray[np.floating], actions: NDArray[np.floating], lengths: NDArray[np.int64], gripper: int
) -> NDArray[np.bool_]:
    """Tell of every action of demonstrations by a gripper whether it is to be imitated.

    Args:
        observations: (sum(T_i + 1), O).
        actions: (sum(T_i), A), the last number the gripper's, below 0 to close.
        lengths: (E,), T_i.
        gripper: Column of the observation with the opening, m.

    Returns:
        bool (sum(T_i),).
    """
    kept = np.ones(len(actions), dtype=bool)
    begin = row = 0
    for length in lengths:
        end = begin + int(length)
        openings = observations[row : row + int(length) + 1, gripper]
        kept[begin:end] = ~led_to_nothing(openings, actions[begin:end, -1] < 0)
        begin, row = end, row + int(length) + 1
    return kept
