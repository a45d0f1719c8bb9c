"""The scripted expert of the fruit swap as a source of chunks: it shows what the bridge itself costs, without a policy.

dfplan ros run --config sim-panda --policy source:dfplan_bench.swap_expert:source
"""

from __future__ import annotations

from typing import final

import numpy as np

from dfplan_envs.arm.expert import SwapExpert
from dfplan_envs.arm.fruit_swap import SwapView
from dfplan_envs.arm.swap_rules import SLOT_XY
from dfplan_policies.ros.actions import done_first, to_chunk
from dfplan_policies.ros.chunks import Chunk
from dfplan_policies.ros.kinematics import Kinematics
from dfplan_policies.ros.signals import Observation
from dfplan_policies.ros.sources import SourceRequest

HELD_M, HELD_WIDTH_M = 0.03, (0.045, 0.072)
FRUITS = ("apple", "orange")


@final
class ExpertSource:
    """Play `SwapExpert` from what is on the wire, an action at a time.

    What a view has and the wire has not is taken from what is known: the commanded place from the last command, the
    first slots from the first look, and a fruit counts as held if it is between fingers that are neither open nor shut.

    Args:
        request: Its seed and the configuration count.
    """

    def __init__(self, request: SourceRequest) -> None:
        self.config, self.tool, self.seed = request.config, Kinematics(request.config), request.seed
        self._episode, self._steps, self._slots = -1, 0, (0, 1)

    def chunk(self, seen: Observation) -> Chunk:
        """Return one action as a chunk."""
        if seen.episode != self._episode:
            self._episode, self._steps = seen.episode, 0
            self._expert = SwapExpert(self.seed + seen.episode - 1)
            self._slots = slots_of(fruits_of(seen))
        action = self._expert.act(self.view(seen))
        self._steps += 1
        chunk = to_chunk(action[None].astype(np.float64), seen, self.config, self.tool)
        return done_first(chunk, self.config.plan.timeout_s)

    def view(self, seen: Observation) -> SwapView:
        """Put together what the expert looks at."""
        tool = np.array([seen.columns[f"tool_pos_{k}"] for k in range(3)])
        width, fruits = seen.columns["gripper_width_0"], fruits_of(seen)
        between = HELD_WIDTH_M[0] < width < HELD_WIDTH_M[1]
        held = [bool(between and np.linalg.norm(fruit - tool) < HELD_M) for fruit in fruits]
        target = self.tool.forward(seen.command)[0]
        hz = round(1.0 / self.config.action.step_s)
        return SwapView(tool, target, width, fruits, np.zeros(2), (held[0], held[1]), self._slots, self._steps, hz)


def fruits_of(seen: Observation) -> np.ndarray:
    """Return the places (2, 3) of the fruits."""
    return np.array([[seen.columns[f"{name}_pos_{k}"] for k in range(3)] for name in FRUITS])


def slots_of(fruits: np.ndarray) -> tuple[int, int]:
    """Return the slots in which the fruits lie."""
    away = np.linalg.norm(fruits[:, None, :2] - np.array(SLOT_XY), axis=-1)
    first, second = away.argmin(axis=1).tolist()
    return int(first), int(second)


def source(request: SourceRequest) -> ExpertSource:
    """Build it, for ``--policy source:dfplan_bench.swap_expert:source``."""
    return ExpertSource(request)
