"""The two cameras: one looks at the table from across it, one sits on the hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dfplan_envs.arm._bullet import World
from dfplan_envs.arm.panda import Panda

SCENE_EYE, SCENE_TARGET, SCENE_FOV = (1.12, 0.0, 0.62), (0.47, 0.0, 0.07), 42.0
HAND_AHEAD_M, HAND_BACK_M, HAND_FOV = 0.09, 0.02, 75.0


def scene_picture(world: World, size: int) -> NDArray[np.uint8]:
    """Draw what the camera across the table sees (size, size, 3); the arm is behind the plates."""
    return world.picture(SCENE_EYE, SCENE_TARGET, (0.0, 0.0, 1.0), SCENE_FOV, size)


def hand_picture(world: World, panda: Panda, size: int) -> NDArray[np.uint8]:
    """Draw what the camera on the hand sees (size, size, 3): it looks along the fingers at their tips."""
    place, turn = panda.hand()
    eye = place + turn @ np.array([HAND_AHEAD_M, 0.0, -HAND_BACK_M])
    target = place + turn @ np.array([0.02, 0.0, 0.16])
    return world.picture(eye, target, turn[:, 0], HAND_FOV, size)
