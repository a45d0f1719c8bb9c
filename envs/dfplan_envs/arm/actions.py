"""From an action in [-1, 1] to joint and gripper targets, within the limits of workspace and speed."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from dfplan_envs.arm._bullet import Floats
from dfplan_envs.arm.panda import JOINT_HIGH, JOINT_LOW, JOINT_SPEED, OPEN_M, Panda, forward

WORKSPACE_LOW, WORKSPACE_HIGH = np.array([0.3, -0.35, 0.015]), np.array([0.7, 0.35, 0.40])  # m, of the tool
TOOL_SPEED = 0.4  # m/s, per axis and in all
WIDTHS = {"delta": 4, "absolute": 4, "joint": 8}
Clips = dict[str, bool]


def read_action(action: ArrayLike, kind: str) -> tuple[Floats, bool]:
    """Check an action and clip it to [-1, 1].

    Args:
        action: (4,) or (8,).
        kind: "delta", "absolute" or "joint".

    Returns:
        The action, and whether it was clipped.

    Raises:
        ValueError: wrong shape, or numbers that are not finite.
    """
    values = np.asarray(action, dtype=np.float64)
    if values.shape != (WIDTHS[kind],) or not np.isfinite(values).all():
        raise ValueError(f"a {kind} action must be {WIDTHS[kind]} finite numbers, got {action!r}")
    clipped = np.clip(values, -1.0, 1.0)
    return clipped, bool((clipped != values).any())


def width_of(gripper: float) -> float:
    """Turn -1 (closed) to 1 (open) into a width in m."""
    return (gripper + 1.0) / 2.0 * OPEN_M


def tool_joints(panda: Panda, action: Floats, kind: str, dt_s: float) -> tuple[Floats, Clips]:
    """Move the tool's target by a "delta" or towards an "absolute" place, and find the joints (7,) for it.

    Returns:
        The joints, and which limits were met: `clipped_speed`, `clipped_workspace`, `blocked`.
    """
    blocked = panda.leash()
    here = panda.tool_target
    if kind == "delta":
        move, outside = action[:3] * (TOOL_SPEED * dt_s), False
    else:
        place = WORKSPACE_LOW + (action[:3] + 1.0) / 2.0 * (WORKSPACE_HIGH - WORKSPACE_LOW)
        move, outside = place - here, False
    length = float(np.linalg.norm(move))
    fast = length > TOOL_SPEED * dt_s * (1 + 1e-9)
    if fast:
        move = move * (TOOL_SPEED * dt_s / length)
    wanted = here + move
    panda.tool_target = np.clip(wanted, WORKSPACE_LOW, WORKSPACE_HIGH)
    outside = bool((panda.tool_target != wanted).any())
    joints = panda.solve(panda.tool_target)
    return joints, {"clipped_speed": fast, "clipped_workspace": outside, "blocked": blocked}


def joint_joints(panda: Panda, action: Floats, dt_s: float) -> tuple[Floats, Clips]:
    """Move towards joints given as [-1, 1] of their range, (7,), as far as speed and the tool's workspace allow.

    Returns:
        The joints, and which limits were met: `clipped_speed`, `clipped_workspace`, `blocked` (never).
    """
    here = panda.joint_target
    wanted = JOINT_LOW + (action[:7] + 1.0) / 2.0 * (JOINT_HIGH - JOINT_LOW)
    move = np.clip(wanted - here, -JOINT_SPEED * dt_s, JOINT_SPEED * dt_s)
    fast = bool((move != wanted - here).any())
    now = forward(here)
    low, high = np.minimum(WORKSPACE_LOW, now) - 1e-9, np.maximum(WORKSPACE_HIGH, now) + 1e-9
    for share in (1.0, 0.5, 0.25, 0.0):
        joints = here + share * move
        tool = forward(joints)
        if ((tool >= low) & (tool <= high)).all():
            break
    panda.tool_target = tool
    return joints, {"clipped_speed": fast, "clipped_workspace": share < 1.0, "blocked": False}
