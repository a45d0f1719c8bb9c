"""The fruit swap: exchange an apple and an orange between three slots, by way of the third."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from dfplan_envs.arm._bullet import Colour, Floats
from dfplan_envs.arm.base import ArmEnv, Body, Verdict, state_columns
from dfplan_envs.arm.swap_rules import SLOT_XY, STAGES, Judgement, Seen, judge

FRUITS = ("apple", "orange")
STATE_COLUMNS = state_columns(FRUITS)
APPLE_R, ORANGE_R = 0.03, (0.033, 0.033, 0.026)  # m
PLATE_HALF = (0.06, 0.06, 0.002)
PLATE_COLOURS: tuple[Colour, ...] = ((0.30, 0.45, 0.80), (0.85, 0.85, 0.88), (0.35, 0.65, 0.40))
REST_Z = (2 * PLATE_HALF[2] + APPLE_R, 2 * PLATE_HALF[2] + ORANGE_R[2])
SCATTER_M = 0.02


@dataclass(frozen=True)
class SwapView:
    """Show what a scripted expert may know and an observation does not tell."""

    tool: Floats
    """(3,) m."""
    tool_target: Floats
    """(3,) m, the commanded place."""
    width: float
    """m."""
    fruits: Floats
    """(2, 3) m, apple and orange."""
    speeds: Floats
    """(2,) m/s."""
    held: tuple[bool, bool]
    """Whether both fingers touch the fruit."""
    initial_slots: tuple[int, int]
    """Where the fruits were at the start."""
    step: int
    """Steps since the reset."""
    control_hz: int
    """Steps per second."""


@final
class FruitSwapEnv(ArmEnv):
    """Swap an apple and an orange between two of three slots.

    Slots are plates at (0.5, -0.2), (0.5, 0), (0.5, 0.2) m. Reset draws two of them for the fruits and a place within
    2 cm per axis of each centre. One look cannot tell which fruit has been moved already: the first slots are in
    `info` at every step, but in no observation.

    Observation "state" (31,): `STATE_COLUMNS`. See `ArmEnv` for the other kinds, actions, limits.
    Success: both at rest within 3 cm of the centre of the other's first slot, not touched. The episode ends with it, or
    when a fruit is lost: off the table, or at rest where the arm does not reach.
    Info: `stage` (0 to 3, the furthest reached), `first_moved`, `second_moved`, `done` (the same as flags),
    `stage_now`, `slots` (2,) of the fruits now (-1: none), `initial_slots` (2,), `dropped` and `lost` (2,) per fruit.
    Reset's options: `slots`, the first slots of apple and orange, such as (0, 2).
    """

    columns: ClassVar[dict[str, slice]] = STATE_COLUMNS
    reset_options: ClassVar[tuple[str, ...]] = ("slots",)

    def _build(self) -> tuple[Body, ...]:
        for (x, y), colour in zip(SLOT_XY, PLATE_COLOURS, strict=True):
            plate = self.world.add_box(PLATE_HALF, (x, y, PLATE_HALF[2]), colour)
            self.world.set_dynamics(plate, rollingFriction=0.01)
        apple = self.world.add_sphere(APPLE_R, (0.5, 0.2, REST_Z[0]), (0.80, 0.06, 0.08), mass=0.12)
        orange = self.world.add_ellipsoid(ORANGE_R, (0.5, -0.2, REST_Z[1]), (1.0, 0.55, 0.0), mass=0.12)
        return Body("apple", apple, 0.12), Body("orange", orange, 0.12)

    def _start(self, rng: np.random.Generator, options: dict[str, Any]) -> dict[str, Any]:
        drawn = tuple(int(slot) for slot in rng.permutation(3)[:2])
        scatter = rng.uniform(-SCATTER_M, SCATTER_M, (2, 2))
        initial = read_slots(options.get("slots", drawn))
        for body, slot, away, z in zip(self.movables, initial, scatter, REST_Z, strict=True):
            x, y = np.array(SLOT_XY[slot]) + away
            self.world.put(body.id, (x, y, z))
        return {"initial": initial, "stage": 0}

    def _judge(self, facts: dict[str, Any]) -> Verdict:
        found = judge(facts["initial"], (self._seen(0), self._seen(1)))
        facts["stage"] = max(facts["stage"], found.stage)
        return Verdict(found.success, found.success or any(found.lost), _info(facts, found))

    def _seen(self, k: int) -> Seen:
        body = self.movables[k].id
        x, y, z = self.world.pose(body)[0].tolist()
        return Seen((x, y, z), float(np.linalg.norm(self.world.velocity(body)[:3])), self.panda.near(body))

    def view(self) -> SwapView:
        """Return what the scripted expert may know."""
        live = self._need_live("view")
        bodies = [body.id for body in self.movables]
        return SwapView(
            self.panda.tool()[0],
            self.panda.tool_target.copy(),
            self.panda.width(),
            np.stack([self.world.pose(body)[0] for body in bodies]),
            np.array([np.linalg.norm(self.world.velocity(body)[:3]) for body in bodies]),
            (self.panda.held(bodies[0]), self.panda.held(bodies[1])),
            live["facts"]["initial"],
            live["step"],
            self.options.control_hz,
        )


def read_slots(slots: Any) -> tuple[int, int]:
    """Check the first slots of apple and orange.

    Raises:
        ValueError: not two different slots of 0, 1, 2.
    """
    values = np.asarray(slots)
    if values.shape != (2,) or not set(values.tolist()) <= {0, 1, 2} or values[0] == values[1]:
        raise ValueError(f"slots must be two different ones of 0, 1, 2, got {slots!r}")
    return int(values[0]), int(values[1])


def _info(facts: dict[str, Any], found: Judgement) -> dict[str, Any]:
    flags = {name: facts["stage"] >= k for k, name in enumerate(STAGES) if k}
    return {
        **flags, "stage": facts["stage"], "stage_now": found.stage, "slots": np.array(found.slots),
        "initial_slots": np.array(facts["initial"]), "dropped": np.array(found.dropped), "lost": np.array(found.lost),
    }  # fmt: skip
