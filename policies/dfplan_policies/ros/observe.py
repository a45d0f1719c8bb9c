"""From the newest signals to what a policy takes: columns by name, pictures, and how much each is to be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan_policies.ros.config import SIGNALS, ObservationSettings, RobotConfig
from dfplan_policies.ros.signals import Observation, Signals

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Pose = tuple[Floats, Floats]  # place (3,) and rotation matrix (3, 3)


def noise_share(age_s: float, settings: ObservationSettings) -> float:
    """Turn an age into a share of the noise levels: 0 up to ``fresh_s``, 1 from ``missing_s`` on, straight between."""
    span = settings.missing_s - settings.fresh_s
    return 1.0 if not math.isfinite(age_s) else min(1.0, max(0.0, (age_s - settings.fresh_s) / span))


def collect(
    signals: Signals, now_s: float, command: Floats | None, gripper: float | None, episode: int = 0
) -> Observation | None:
    """Take the newest of everything together; None while a joint is missing.

    Args:
        signals: What came.
        now_s: Now.
        command: (J,), the last command, or None.
        gripper: The last opening, or None.
        episode: Counts the starts.
    """
    config, settings = signals.config, signals.config.observation
    joints = [signals.joints.value(name) for name in config.joints]
    measured_s = min(when for _, when in joints)
    position = np.array([value for value, _ in joints])
    if not (math.isfinite(measured_s) and np.isfinite(position).all()):
        return None
    names = [*config.signals, *(config.gripper.joints if config.gripper else ())]
    found = {name: signals.joints.value(name) for name in names if name not in SIGNALS}
    ages = [now_s - when if math.isfinite(value) else math.inf for value, when in found.values()]
    pictures, shares = {}, {"state": noise_share(max(ages, default=0.0), settings)}
    for key, camera in settings.pictures.items():
        sample = signals.pictures.get(camera)
        shares[key] = noise_share(math.inf if sample is None else now_s - sample.received_s, settings)
        if sample is not None:
            pictures[key] = sample.pixels
    return Observation(
        measured_s - settings.latency_s, position, position if command is None else command.copy(),
        {name: value for name, (value, _) in found.items()}, gripper, pictures, shares, episode,
    )  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """Hold what a policy takes.

    Attributes:
        state: (O,) float64; all NaN if it is missing.
        pictures: Key -> uint8 (size, size, 3); black if missing.
        shares: See `Observation`.
    """

    state: Floats
    pictures: dict[str, Pixels]
    shares: dict[str, float]

    def missing(self) -> list[str]:
        """List what is missing altogether."""
        return [key for key, share in self.shares.items() if share >= 1.0]


def show(seen: Observation, config: RobotConfig, forward: Callable[[Floats], Pose] | None = None) -> Shown:
    """Put the columns of the state and the pictures together.

    Args:
        seen: From `collect`.
        config: Of the robot.
        forward: Joints (J,) -> place and rotation of the tool, if columns of the tool are asked for.

    Raises:
        ValueError: If columns of the tool are asked for without it.
    """
    shares = dict(seen.shares)
    state = np.concatenate([_column(name, seen, config, forward) for name in config.signals])
    if shares.get("state", 0.0) >= 1.0 or not np.isfinite(state).all():
        state, shares["state"] = np.full_like(state, np.nan), 1.0
    size = config.observation.picture_size
    pictures = {}
    for key in config.observation.pictures:
        picture = seen.pictures.get(key)
        gone = picture is None or shares[key] >= 1.0
        shape = (size or 64, size or 64, 3) if picture is None else picture.shape
        whole = np.zeros(shape, dtype=np.uint8) if gone or picture is None else picture
        pictures[key] = whole if size is None else square(whole, size)
    return Shown(state, pictures, shares)


def _column(name: str, seen: Observation, config: RobotConfig, forward: Callable[[Floats], Pose] | None) -> Floats:
    if name == "gripper_width":
        return (
            np.array([sum(seen.columns[joint] for joint in config.gripper.joints)]) if config.gripper else np.zeros(1)
        )
    if name in ("tool_pos", "tool_rot6"):
        if forward is None:
            raise ValueError(f"the column {name!r} needs the arm's model; give the key tool")
        place, turn = forward(seen.joints)
        return place if name == "tool_pos" else np.concatenate([turn[:, 0], turn[:, 1]])
    return np.array([seen.columns[name]])


def square(picture: Pixels, size: int) -> Pixels:
    """Cut the middle square out of a picture (height, width, 3) and shrink it to (size, size, 3) by means of areas."""
    side = min(picture.shape[:2])
    top, left = ((n - side) // 2 for n in picture.shape[:2])
    middle = picture[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(middle)
    edges = np.linspace(0, side, size + 1)
    if side < size:
        rows = np.minimum(((edges[:-1] + edges[1:]) / 2).astype(int), side - 1)
        return np.ascontiguousarray(middle[rows][:, rows])
    for axis in (0, 1):
        middle = _shrunk(middle, edges, axis)
    return np.ascontiguousarray(np.round(middle).astype(np.uint8))


def _shrunk(values: Any, edges: Floats, axis: int) -> Any:
    """Average over the spans between edges along an axis, parts of a pixel included."""
    summed = np.concatenate(
        [np.zeros_like(values.take([0], axis), dtype=np.float64), values.cumsum(axis, dtype=float)], axis
    )
    whole = np.minimum(edges.astype(int), values.shape[axis] - 1)
    part = (edges - whole).reshape([-1 if k == axis else 1 for k in range(values.ndim)])
    until = summed.take(whole, axis) + part * values.take(whole, axis)
    return np.diff(until, axis=axis) / np.diff(edges)[0]


def policy_input(shown: Shown, config: RobotConfig, policy: Any) -> Any:
    """Return what ``policy.predict`` takes for one environment, without a batch.

    A vector, or with pictures a dict of them, ``proprio`` and ``state``. A policy with a true ``accepts_levels`` is
    given ``levels`` too, the shares of noise; one with a true ``accepts_missing`` may get a state of NaN.

    Raises:
        ValueError: If something is missing that the policy cannot do without.
    """
    gone = shown.missing()
    levels = bool(getattr(policy, "accepts_levels", False))
    if gone and not levels and not (gone == ["state"] and getattr(policy, "accepts_missing", False)):
        raise ValueError(f"{', '.join(gone)} missing or stale, and the policy has no noise level for it")
    if not shown.pictures:
        return {"observation": shown.state, "levels": shown.shares} if levels else shown.state
    whole = {**shown.pictures, "proprio": shown.state[: config.observation.proprio], "state": shown.state}
    return {**whole, "levels": shown.shares} if levels else whole
