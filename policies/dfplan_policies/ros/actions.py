"""From a policy's actions to positions of the joints, and to a chunk in time."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dfplan_policies.ros.chunks import Chunk
from dfplan_policies.ros.config import RobotConfig
from dfplan_policies.ros.signals import Observation

Floats = NDArray[np.float64]


class ToolPath(Protocol):
    """What moves of the tool need: `dfplan_policies.ros.kinematics.Kinematics` has it."""

    def path(self, start: Floats, moves: Floats, turns: Floats | None = None, measured: Floats | None = None) -> Floats:
        """Return the joints (n, J) of a tool that moves step by step."""
        ...


def to_chunk(actions: Floats, seen: Observation, config: RobotConfig, tool: ToolPath | None = None) -> Chunk:
    """Turn the actions that follow an observation into a chunk that begins at the command of that time.

    Action i leads to its position ``(i + 1) step_s`` after the observation. Changes add up from the command, not from
    the measurement, so that an arm that sags does not drift.

    Args:
        actions: (n, A), n > 0.
        seen: What they follow.
        config: Of the robot.
        tool: For moves of the tool.

    Raises:
        ValueError: If the width does not fit.
    """
    actions = np.asarray(actions, dtype=np.float64)
    settings, joints = config.action, len(config.joints)
    widths = (3, 6) if settings.form == "tool_delta" else (joints,)
    width = actions.shape[-1] - settings.gripper if actions.ndim == 2 else -1
    if width not in widths or not len(actions):
        raise ValueError(
            f"actions of the form {settings.form!r} must have shape (n, {' or '.join(map(str, widths))}"
            f"{' + 1 for the gripper' if settings.gripper else ''}), got {actions.shape}; set action.form and gripper"
        )
    positions = _positions(actions[:, :width], seen, config, tool)
    times: Floats = seen.observed_s + settings.step_s * np.arange(len(positions) + 1, dtype=np.float64)
    return Chunk(seen.observed_s, times, np.vstack([seen.command[None], positions]), _openings(actions, config))


def _positions(moves: Floats, seen: Observation, config: RobotConfig, tool: ToolPath | None) -> Floats:
    settings = config.action
    if settings.form == "joint":
        return _from_unit(moves, config) if settings.normalized else moves
    if settings.form == "joint_delta":
        changed: Floats = seen.command + np.cumsum(moves * settings.scale, axis=0)
        return changed
    if tool is None:
        raise ValueError("moves of the tool need the arm's model; give the key tool")
    turns = moves[:, 3:] * settings.turn_scale if moves.shape[1] == 6 else None
    return tool.path(seen.command, _no_longer(moves[:, :3] * settings.scale, settings.longest), turns, seen.joints)


def _no_longer(moves: Floats, longest: float | None) -> Floats:
    """Shorten moves (n, 3) to a length."""
    if longest is None:
        return moves
    lengths = np.linalg.norm(moves, axis=1, keepdims=True)
    shorter: Floats = moves * np.minimum(1.0, longest / np.maximum(lengths, 1e-12))
    return shorter


def done_first(chunk: Chunk, stay_s: float) -> Chunk:
    """Return a chunk that begins when it arrives, is played to its end, and stays there for a time at most."""
    end_s = float(chunk.times_s[-1])
    gripper = None if chunk.gripper is None else np.append(chunk.gripper, chunk.gripper[-1])
    places = np.vstack([chunk.positions, chunk.positions[-1:]])
    return Chunk(chunk.observed_s, np.append(chunk.times_s, end_s + stay_s), places, gripper, end_s)


def _from_unit(values: Floats, config: RobotConfig) -> Floats:
    limits = config.joint_limits()
    if not (np.isfinite(limits.lower) & np.isfinite(limits.upper)).all():
        raise ValueError("normalized joint positions need limits at both ends of every joint")
    return limits.lower + (values + 1.0) / 2.0 * (limits.upper - limits.lower)


def _openings(actions: Floats, config: RobotConfig) -> Floats | None:
    """Return the openings (n + 1,): each is asked for from the time at which its action begins."""
    if not config.action.gripper or config.gripper is None:
        return None
    wanted: Floats = np.clip((actions[:, -1] + 1.0) / 2.0, 0.0, 1.0) * config.gripper.open_m
    wanted = np.where(np.isfinite(actions[:, -1]), wanted, np.nan)
    return np.append(wanted, wanted[-1])
