"""Reach: bring the tool to a place drawn at every reset."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np

from dfplan_envs.arm._bullet import Floats
from dfplan_envs.arm.actions import WORKSPACE_HIGH, WORKSPACE_LOW
from dfplan_envs.arm.base import ArmEnv, Body, Verdict, state_columns

STATE_COLUMNS = state_columns((), {"target_pos": 3})
NEAR_M = 0.02
MARGIN_M = 0.05


@final
class ReachEnv(ArmEnv):
    """Bring the tool within 2 cm of a green ball that is only seen; see `ArmEnv`.

    State (20,): `STATE_COLUMNS`, the arm's columns and the target. Info: `goal` (3,), `distance_to_goal` in m.
    Reset's options: `target`, (3,) m.
    """

    columns: ClassVar[dict[str, slice]] = STATE_COLUMNS
    reset_options: ClassVar[tuple[str, ...]] = ("target",)

    def _build(self) -> tuple[Body, ...]:
        self._ball = self.world.add_sphere(0.02, (0.5, 0.0, 0.2), (0.1, 0.8, 0.2), solid=False)
        return ()

    def _start(self, rng: np.random.Generator, options: dict[str, Any]) -> dict[str, Any]:
        drawn = rng.uniform(WORKSPACE_LOW + MARGIN_M, WORKSPACE_HIGH - MARGIN_M)
        target = np.array(options.get("target", drawn), dtype=np.float64)
        if target.shape != (3,) or not ((target >= WORKSPACE_LOW) & (target <= WORKSPACE_HIGH)).all():
            low, high = WORKSPACE_LOW.tolist(), WORKSPACE_HIGH.tolist()
            raise ValueError(f"target must be (3,) in the workspace {low} to {high}, got {options['target']!r}")
        self.world.put(self._ball, target)
        return {"target": target}

    def _extras(self, facts: dict[str, Any]) -> list[Floats]:
        return [facts["target"]]

    def _judge(self, facts: dict[str, Any]) -> Verdict:
        distance = float(np.linalg.norm(self.panda.tool()[0] - facts["target"]))
        near = distance <= NEAR_M
        return Verdict(near, near, {"goal": facts["target"].copy(), "distance_to_goal": distance})
