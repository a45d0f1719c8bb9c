"""Pick and place: put a cube on a place drawn at every reset."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np

from dfplan_envs.arm._bullet import Floats
from dfplan_envs.arm.base import ArmEnv, Body, Verdict, state_columns
from dfplan_envs.arm.swap_rules import FALLEN_Z, REACH_X, REACH_Y, REST_SPEED

STATE_COLUMNS = state_columns(("cube",), {"target_pos": 3})
HALF_M, MASS_KG = 0.025, 0.12
NEAR_M = 0.03
APART_M = 0.12
LOW, HIGH = np.array([0.40, -0.25]), np.array([0.60, 0.25])


@final
class PickPlaceEnv(ArmEnv):
    """Put a cube of 5 cm within 3 cm of a green mark, at rest and let go; see `ArmEnv`.

    State (27,): `STATE_COLUMNS`, the arm's columns, the cube's pose and the mark. Info: `goal` (3,), `distance_to_goal`
    in m, `lost` (off the table, or at rest where the arm does not reach), which ends the episode.
    Reset's options: `target`, (2,) m, within x 0.4 to 0.6, y -0.25 to 0.25.
    """

    columns: ClassVar[dict[str, slice]] = STATE_COLUMNS
    reset_options: ClassVar[tuple[str, ...]] = ("target",)

    def _build(self) -> tuple[Body, ...]:
        self._mark = self.world.add_box((0.03, 0.03, 0.001), (0.5, 0.2, 0.001), (0.1, 0.8, 0.2), solid=False)
        cube = self.world.add_box((HALF_M,) * 3, (0.5, 0.0, HALF_M), (0.2, 0.3, 0.85), mass=MASS_KG)
        return (Body("cube", cube, MASS_KG),)

    def _start(self, rng: np.random.Generator, options: dict[str, Any]) -> dict[str, Any]:
        target, cube = rng.uniform(LOW, HIGH), rng.uniform(LOW, HIGH)
        if "target" in options:
            target = np.array(options["target"], dtype=np.float64)
            if target.shape != (2,) or not ((target >= LOW) & (target <= HIGH)).all():
                raise ValueError(f"target must be (2,) from {LOW.tolist()} to {HIGH.tolist()}, got {target.tolist()}")
        while np.linalg.norm(cube - target) < APART_M:
            cube = rng.uniform(LOW, HIGH)
        self.world.put(self.movables[0].id, (*cube, HALF_M))
        self.world.put(self._mark, (*target, 0.001))
        return {"target": np.array([*target, HALF_M])}

    def _extras(self, facts: dict[str, Any]) -> list[Floats]:
        return [facts["target"]]

    def _judge(self, facts: dict[str, Any]) -> Verdict:
        cube = self.movables[0].id
        place = self.world.pose(cube)[0]
        still = float(np.linalg.norm(self.world.velocity(cube)[:3])) <= REST_SPEED and not self.panda.near(cube)
        distance = float(np.linalg.norm(place - facts["target"]))
        reached = REACH_X[0] <= place[0] <= REACH_X[1] and REACH_Y[0] <= place[1] <= REACH_Y[1]
        success, lost = still and distance <= NEAR_M, bool(place[2] < FALLEN_Z or (still and not reached))
        info = {"goal": facts["target"].copy(), "distance_to_goal": distance, "lost": lost}
        return Verdict(success, success or lost, info)
