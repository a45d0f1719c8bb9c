"""An arm's environment without steps and actions: joints driven 240 times per second, as by a robot's controller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dfplan_envs.arm import cameras
from dfplan_envs.arm._bullet import PHYSICS_HZ, Floats, check_display
from dfplan_envs.arm.panda import ARM, FINGERS, OPEN_M

if TYPE_CHECKING:
    from dfplan_envs.arm.base import ArmEnv

ARM_NAMES = tuple(f"panda_joint{k}" for k in range(1, 8))
FINGER_NAMES = ("panda_finger_joint1", "panda_finger_joint2")


@final
class Servo:
    """Drive the robot of an environment; limits of workspace and speed do not hold here, only those of the motors.

    Args:
        env: after `reset`; do not step it meanwhile.

    Attributes:
        hz: `advance` is to be called so many times per second.
        names: of the joints that `joints` returns, the fingers last.
    """

    hz = PHYSICS_HZ
    names = (*ARM_NAMES, *FINGER_NAMES)

    def __init__(self, env: ArmEnv) -> None:
        self._env = env

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin anew, as `reset` of the environment does."""
        self._env.reset(seed=seed, options=options)

    def advance(self, joints: ArrayLike, width_m: float) -> None:
        """Go on by 1/240 s with the motors pulling to joints (7,) rad and an opening of the gripper (m, 0 to 0.08).

        Raises:
            ValueError: not seven finite numbers, or an opening that is not finite.
        """
        target = np.asarray(joints, dtype=np.float64)
        if target.shape != (len(ARM),) or not (np.isfinite(target).all() and np.isfinite(width_m)):
            raise ValueError(
                f"joints must be {len(ARM)} finite numbers and width_m finite, got {joints!r} and {width_m!r}"
            )
        self._env.panda.follow(target, float(np.clip(width_m, 0.0, OPEN_M)), 1)

    @property
    def target(self) -> Floats:
        """Return where the motors pull, (7,) rad."""
        return self._env.panda.joint_target.copy()

    def joints(self) -> tuple[Floats, Floats]:
        """Return positions (9,) rad, m and velocities (9,) rad/s, m/s of `names`."""
        states = self._env.world.call("getJointStates", self._env.panda.body, (*ARM, *FINGERS))
        return np.array([state[0] for state in states]), np.array([state[1] for state in states])

    def state(self) -> tuple[tuple[str, ...], Floats]:
        """Return the environment's state, a name (column, number in it) for each number."""
        columns = self._env.columns
        names = [f"{name}_{k}" for name, part in columns.items() for k in range(part.stop - part.start)]
        return tuple(names), self._env.state().astype(np.float64)

    def facts(self) -> dict[str, Any]:
        """Return how the task stands, as plain values, such as stage and success."""
        return {key: np.asarray(value).tolist() for key, value in self._env.judge().items()}

    def pose(self) -> Floats:
        """Return where everything that moves is, for `show` of another environment of the same kind."""
        bodies = [np.concatenate(self._env.world.pose(body.id)) for body in self._env.movables]
        return np.concatenate([self.joints()[0], *bodies])

    def show(self, pose: Floats) -> None:
        """Put everything where `pose` says, without physics: for cameras."""
        world, panda = self._env.world, self._env.panda
        for joint, angle in zip((*ARM, *FINGERS), pose[:9].tolist(), strict=True):
            world.call("resetJointState", panda.body, joint, angle, 0.0)
        for body, part in zip(self._env.movables, pose[9:].reshape(-1, 7), strict=True):
            world.put(body.id, part[:3], part[3:])

    @property
    def connected(self) -> bool:
        """Say whether the simulation is there: closing its window ends it."""
        return self._env.world.connected

    def check_window(self) -> None:
        """Check that another arm could have a window.

        Raises:
            OSError: no, with the remedy.
        """
        check_display()

    def look(self) -> None:
        """Point the window at the table."""
        self._env.world.call("resetDebugVisualizerCamera", 1.1, 60.0, -35.0, [0.45, 0.0, 0.1])

    def picture(self, camera: str, size: int) -> NDArray[np.uint8]:
        """Draw what "scene" or "hand" sees, (size, size, 3)."""
        if camera == "scene":
            return cameras.scene_picture(self._env.world, size)
        return cameras.hand_picture(self._env.world, self._env.panda, size)
