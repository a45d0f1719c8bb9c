"""A scripted expert of the fruit swap: a field of motion over the arm's place, its gripper and the fruits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from dfplan_envs._errors import unknown
from dfplan_envs.arm._bullet import Floats
from dfplan_envs.arm.actions import TOOL_SPEED
from dfplan_envs.arm.fruit_swap import REST_Z, SwapView
from dfplan_envs.arm.panda import OPEN_M
from dfplan_envs.arm.swap_rules import SLOT_XY

ORDERS = ("random", "apple", "orange")
CARRY_M = 0.13  # how far above its rest a fruit is carried
OCCUPIED_M = 0.08  # a slot with a fruit nearer than this is taken
PLACED_M = 0.026  # a fruit nearer than this to the slot's centre stays there
NEAR_M = 0.006
RELEASE_M = 0.004  # above its rest
PAUSE_STEPS = (1, 3)
BESIDE_M = (0.06, 0.10)  # where a try that misses goes
SPEEDS = (0.55, 0.8)  # of the arm's limit
SIDES = np.array(SLOT_XY)


@dataclass(frozen=True)
class Move:
    """Say which fruit goes where: (x, y) of a slot."""

    fruit: int
    place: tuple[float, float]


@final
class SwapExpert:
    """Swap the fruits with the "delta" action; one expert plays one episode.

    Which fruit goes to the free slot first is drawn once. After that a move depends on where fruits, tool and fingers
    are: a fruit that was missed, dropped or pushed is gone after again.

    Args:
        seed: of everything that is drawn.
        order: the fruit that goes first, "apple" or "orange", or "random".
        noise: standard deviation in m of where the fruit is gripped, drawn at each try; above 0 there are also short
            pauses (at most 0.3 s), and the speed is drawn. People are at 0.003 to 0.006; from 0.010 on it misses.
        misses: probability that a try goes 6 to 10 cm beside the fruit, closes on nothing and is followed by another.

    Raises:
        ValueError: an unknown order, negative noise, or a probability outside [0, 1).
    """

    def __init__(self, seed: int, order: str = "random", noise: float = 0.0, misses: float = 0.0) -> None:
        if order not in ORDERS:
            raise unknown("order", order, ORDERS)
        if not noise >= 0:
            raise ValueError(f"noise must be at least 0 m, got {noise!r}")
        if not 0.0 <= misses < 1.0:
            raise ValueError(f"misses must be a probability in [0, 1), got {misses!r}")
        self._rng = np.random.default_rng(seed)
        drawn, speed = int(self._rng.integers(2)), float(self._rng.uniform(*SPEEDS))
        self.first = drawn if order == "random" else ORDERS.index(order) - 1
        self.noise, self.misses = noise, misses
        self._speed = speed if noise > 0 else sum(SPEEDS) / 2
        self._offset, self._pause, self._closing, self._width = self._draw_offset(), 0, 0, OPEN_M

    def act(self, view: SwapView) -> NDArray[np.float32]:
        """Choose an action (4,) in [-1, 1]."""
        move = next_move(view, self.first)
        still = abs(view.width - self._width) < 0.001
        self._width = view.width
        if self._pause > 0:
            self._pause -= 1
            return self._command(view, np.zeros(3), self._shut(view))
        if move is None:
            return self._command(view, field(view.tool, view.tool[:2], CARRY_M + REST_Z[0]), False)
        if view.held[move.fruit] and still and view.width < 0.072:
            return self._carry(view, move)
        return self._fetch(view, move, still)

    def _fetch(self, view: SwapView, move: Move, still: bool) -> NDArray[np.float32]:
        fruit = view.fruits[move.fruit]
        aim = fruit[:2] + self._offset
        away = float(np.linalg.norm(view.tool[:2] - aim))
        deep = abs(view.tool[2] - fruit[2]) < NEAR_M
        if self._closing > 0 and deep:
            self._closing += 1
            if still and self._closing > 4 and not view.held[move.fruit]:  # a miss: open, and another try
                self._closing, self._offset = 0, self._draw_offset()
            return self._command(view, np.zeros(3), True)
        self._closing = 0
        opened = view.width > 0.074
        if away < NEAR_M and deep and opened:
            self._closing = 1
            return self._command(view, np.zeros(3), True)
        if not opened and np.min(np.linalg.norm(view.fruits - view.tool, axis=1)) < 0.04:
            return self._command(view, np.zeros(3), False)  # let go first
        return self._command(view, field(view.tool, aim, float(fruit[2])), False)

    def _carry(self, view: SwapView, move: Move) -> NDArray[np.float32]:
        self._closing = 0
        fruit = view.fruits[move.fruit]
        # The fruit, not the tool, is led to the place: the grip may be off its centre.
        velocity = field(fruit, np.array(move.place), REST_Z[move.fruit] + RELEASE_M)
        away = np.linalg.norm(fruit[:2] - move.place)
        if away < 2 * NEAR_M and fruit[2] < REST_Z[move.fruit] + RELEASE_M + 0.004:
            self._offset = self._draw_offset()
            self._maybe_pause()
            return self._command(view, np.zeros(3), False)
        return self._command(view, velocity, True)

    def _shut(self, view: SwapView) -> bool:
        return any(view.held) and view.width < 0.072

    def _maybe_pause(self) -> None:
        if self.noise > 0 and self._rng.random() < 0.3:
            self._pause = int(self._rng.integers(PAUSE_STEPS[0], PAUSE_STEPS[1] + 1))

    def _draw_offset(self) -> Floats:
        offset = self._rng.normal(size=2) * self.noise
        if self.misses > 0 and self._rng.random() < self.misses:
            angle, beside = self._rng.uniform(0, 2 * np.pi), self._rng.uniform(*BESIDE_M)
            offset = offset + beside * np.array([np.cos(angle), np.sin(angle)])
        return np.array(offset)

    def _command(self, view: SwapView, velocity: Floats, shut: bool) -> NDArray[np.float32]:
        wanted = view.tool + velocity / view.control_hz * self._speed
        move = (wanted - view.tool_target) * view.control_hz / TOOL_SPEED if velocity.any() else np.zeros(3)
        length = float(np.linalg.norm(move))
        return np.append(move / max(1.0, length), -1.0 if shut else 1.0).astype(np.float32)


def field(tool: Floats, aim: Floats, depth: float) -> Floats:
    """Return a velocity (3,) in m/s that leads over a place (2,) and then down to a depth.

    The tool follows a funnel: the further it is from the aim, the higher it should be; below the funnel it rises
    before it moves sideways.
    """
    away = np.asarray(aim) - tool[:2]
    distance = float(np.linalg.norm(away))
    height = depth + CARRY_M * float(np.clip((distance - 0.004) / 0.05, 0.0, 1.0))
    below = max(0.0, height - tool[2])
    sideways = min(TOOL_SPEED, 5.0 * distance) * float(np.clip(1.0 - below / 0.06, 0.0, 1.0))
    if distance < 0.02:
        sideways = 5.0 * distance
    up = float(np.clip(6.0 * (height - tool[2]), -0.3, 0.4))
    return np.array([*(away / max(distance, 1e-9) * sideways), up])


def next_move(view: SwapView, first: int) -> Move | None:
    """Choose the move that a swap needs now, or None when it is done.

    Args:
        view: where everything is.
        first: the fruit that goes to the free slot, 0 or 1.

    Returns:
        The fruit in the fingers, if there is one, to the next slot that it may take; else the next one of: second
        fruit to the first one's slot if that is empty, first fruit to the second one's slot, first fruit to the free.
    """
    second = 1 - first
    home_first, home_second = view.initial_slots[first], view.initial_slots[second]
    free = 3 - home_first - home_second
    away = np.linalg.norm(view.fruits[:, None, :2] - SIDES, axis=-1)  # (2, 3)
    down = view.fruits[:, 2] < 0.06
    taken = (away < OCCUPIED_M) & down[:, None]
    holds = [k for k in (first, second) if view.held[k]]
    lying = away < PLACED_M

    def to(fruit: int, slot: int) -> Move:
        return Move(fruit, SLOT_XY[slot])

    if holds and holds[0] == first:
        return to(first, home_second if not taken[second, home_second] else free)
    if holds:
        return to(second, home_first if not taken[first, home_first] else free)
    if not lying[second, home_first]:
        return to(first, free) if taken[first, home_first] else to(second, home_first)
    if not lying[first, home_second]:
        return to(first, home_second)
    return None
