"""What can go wrong with joint states: a function per fault, from a sound message to what is published instead."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from dfplan_bench.ros_faults.robot import PERIOD_S


@dataclass(frozen=True)
class State:
    """Hold joint states before they are a message; efforts are the same as the velocities."""

    stamp_s: float
    names: tuple[str, ...]
    position: NDArray[np.float64]
    velocity: NDArray[np.float64]


Sent = list[tuple[int, State]]  # number of the publisher, and what it sends
Memory = dict[str, Any]
Fault = Callable[[State, Memory], Sent]


def one(state: State) -> Sent:
    """Send it from the arm's own publisher."""
    return [(0, state)]


def with_value(state: State, joint: int, value: float) -> State:
    """Change one position."""
    position = state.position.copy()
    position[joint] = value
    return replace(state, position=position)


def late(seconds: float) -> Fault:
    """Keep everything back for a time."""

    def spoil(state: State, memory: Memory) -> Sent:
        kept = memory.setdefault("kept", [])
        kept.append(state)
        sent = [(0, s) for s in kept if s.stamp_s <= state.stamp_s - seconds]
        del kept[: len(sent)]
        return sent

    return spoil


def burst(state: State, memory: Memory) -> Sent:
    """Send eight at a time, nothing in between."""
    kept = memory.setdefault("kept", [])
    kept.append(state)
    if len(kept) < 8:
        return []
    memory["kept"] = []
    return [(0, s) for s in kept]


def repeated(state: State, memory: Memory) -> Sent:
    """Send the first one for ever."""
    return one(memory.setdefault("first", state))


def reordered(state: State, memory: Memory) -> Sent:
    """Send each pair the wrong way round."""
    before = memory.pop("before", None)
    if before is None:
        memory["before"] = state
        return []
    return [(0, state), (0, before)]


def once(value: float) -> Fault:
    """Send one bad position, then sound ones."""

    def spoil(state: State, memory: Memory) -> Sent:
        bad = with_value(state, 1, value) if not memory else state
        memory["sent"] = True
        return one(bad)

    return spoil


def permuted(state: State, _: Memory) -> Sent:
    """Send the joints in the order that a real broadcaster has."""
    order = [0, 1, 3, 4, 2, 5, 6]
    return one(replace(state, names=tuple(state.names[k] for k in order), position=state.position[order]))


def extra(state: State, _: Memory) -> Sent:
    """Send joints that nobody asked for, one of them without a number."""
    position = np.array([99.0, *state.position, np.nan])
    return one(replace(state, names=("wheel", *state.names, "finger"), position=position, velocity=np.zeros(9)))


def doubled(state: State, _: Memory) -> Sent:
    """Send a name twice, with two values."""
    position = np.array([state.position[0] + 0.01, *state.position])
    return one(replace(state, names=(state.names[0], *state.names), position=position, velocity=np.zeros(8)))


def parts(state: State, _: Memory) -> Sent:
    """Send three joints from one publisher and the rest from another, whose clock is 4 ms behind."""
    first = replace(state, names=state.names[:3], position=state.position[:3], velocity=np.zeros(3))
    rest = replace(state, names=state.names[3:], position=state.position[3:], velocity=np.zeros(4))
    return [(0, first), (1, replace(rest, stamp_s=state.stamp_s - 0.004))]


def phantom(state: State, _: Memory) -> Sent:
    """Send a second arm too, whose names have a prefix."""
    ghost = replace(state, names=tuple(f"left_{name}" for name in state.names), position=state.position + 1.0)
    return [(0, state), (1, ghost)]


FAULTS: dict[str, Fault] = {
    "": lambda s, _: one(s),
    "silent": lambda s, _: [],
    "a little late": late(10 * PERIOD_S),
    "very late": late(40 * PERIOD_S),
    "burst": burst,
    "repeated": repeated,
    "reordered": reordered,
    "past": lambda s, _: one(replace(s, stamp_s=s.stamp_s - 1000.0)),
    "future": lambda s, _: one(replace(s, stamp_s=s.stamp_s + 1000.0)),
    "nan": once(np.nan),
    "inf": once(np.inf),
    "nan velocity": lambda s, _: one(replace(s, velocity=np.full(len(s.names), np.nan))),
    "jump": lambda s, _: one(with_value(s, 0, s.position[0] + 0.15)),
    "permuted": permuted,
    "extra": extra,
    "missing": lambda s, _: one(replace(s, names=s.names[:6], position=s.position[:6], velocity=s.velocity[:6])),
    "short": lambda s, _: one(replace(s, position=s.position[:6])),
    "doubled": doubled,
    "parts": parts,
    "phantom": phantom,
    "rivals": lambda s, _: [(0, s), (1, s)],
}


@final
class Spoiler:
    """Apply a fault.

    Args:
        name: One of `FAULTS`; "" for none.

    Attributes:
        began: Wall time of its first message; 0 before it.
    """

    def __init__(self, name: str) -> None:
        self.name, self.memory, self.began = name, Memory(), 0.0
        self._fault = FAULTS[name]

    def __call__(self, state: State) -> Sent:
        """Return what is published in place of a sound message."""
        if self.name and not self.began:
            self.began = time.time()
        return self._fault(state, self.memory)
