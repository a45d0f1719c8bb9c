"""Where the tool is, and the joints that bring it to a place: PyBullet's model of the arm (extra: bullet)."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from dfplan.errors import missing_extra, unknown_name
from dfplan_policies.ros.config import RobotConfig

Floats = NDArray[np.float64]
DOWN = (1.0, 0.0, 0.0, 0.0)  # quaternion x, y, z, w of a tool that points down
ITERATIONS, CLOSE_ENOUGH = 100, 1e-6
ROUNDS, NEAR_M, NEAR_TURN = 10, 5e-4, 1e-6  # the last: 1 - cos of half the angle, 3 mrad


@final
class Kinematics:
    """Compute with the model of an arm.

    Args:
        config: Of the robot, with the key ``tool``.

    Raises:
        ImportError: Without the extra: pip install 'dfplan[bullet]'.
        ValueError: If there is no such model, joint or link.
    """

    def __init__(self, config: RobotConfig) -> None:
        try:
            import pybullet
            import pybullet_data
        except ImportError as error:
            raise missing_extra("pybullet", "bullet", "actions and observations of the tool") from error
        if config.tool is None:
            raise ValueError("the model of the arm needs the key tool in the configuration")
        self._p: Any = pybullet
        self._tool, limits = config.tool, config.joint_limits()
        self._lower, self._upper = limits.lower, limits.upper
        self._world = int(pybullet.connect(pybullet.DIRECT))
        self._closer = weakref.finalize(self, _disconnect, pybullet, self._world)
        self._body = self._load([Path(config.folder), Path(str(pybullet_data.getDataPath()))], config.tool.urdf)
        names = config.tool.joints or config.joints
        self._read_model(names, config.tool.link)

    def _load(self, folders: list[Path], urdf: str) -> int:
        for folder in folders:
            if (folder / urdf).is_file():
                return int(self._p.loadURDF(os.fspath(folder / urdf), useFixedBase=True, physicsClientId=self._world))
        raise ValueError(f"there is no model {urdf!r} in {', '.join(map(str, folders))}; give tool.urdf its path")

    def _read_model(self, names: tuple[str, ...], link: str) -> None:
        count = self._p.getNumJoints(self._body, physicsClientId=self._world)
        rows = [self._p.getJointInfo(self._body, k, physicsClientId=self._world) for k in range(count)]
        joints = {row[1].decode(): row[0] for row in rows}
        links = {row[12].decode(): row[0] for row in rows}
        for name in names:
            if name not in joints:
                raise unknown_name("joint of the model", name, joints)
        if link not in links:
            raise unknown_name("link of the model", link, links)
        movable = [row[0] for row in rows if row[2] != self._p.JOINT_FIXED]
        self._joints, self._link, self._movable = [joints[name] for name in names], links[link], movable
        self._places = [movable.index(k) for k in self._joints]
        # The solver measures from the base's centre of mass, not from its frame.
        self._offset = np.array(self._p.getDynamicsInfo(self._body, -1, physicsClientId=self._world)[3])

    def forward(self, joints: Floats) -> tuple[Floats, Floats]:
        """Return place (3,) in m and rotation (3, 3) of the tool at joints (J,)."""
        place, quaternion = self._pose(joints)
        return place, np.array(self._p.getMatrixFromQuaternion(quaternion.tolist())).reshape(3, 3)

    def _pose(self, joints: Floats) -> tuple[Floats, Floats]:
        for joint, angle in zip(self._joints, joints.tolist(), strict=True):
            self._p.resetJointState(self._body, joint, angle, physicsClientId=self._world)
        state = self._p.getLinkState(self._body, self._link, computeForwardKinematics=1, physicsClientId=self._world)
        return np.array(state[4]), np.array(state[5])

    def path(self, start: Floats, moves: Floats, turns: Floats | None = None, measured: Floats | None = None) -> Floats:
        """Move the tool step by step from joints (J,), and return the joints (n, J) on the way.

        Args:
            start: (J,).
            moves: (n, 3) m.
            turns: (n, 3) rad, rotation vectors in the base's frame, or None.
            measured: (J,), where the arm is: a start that ran further ahead than ``tool.leash`` is pulled back.
        """
        place, quaternion = self._pose(start)
        if measured is not None and self._tool.leash is not None:
            place = pulled_back(place, self._pose(measured)[0], self._tool.leash)
        if self._tool.down and turns is None:
            quaternion = np.array(DOWN)
        joints, found = start, []
        for k, move in enumerate(moves):
            place = place + move
            if self._tool.lower:
                place = np.clip(place, self._tool.lower, self._tool.upper)
            if turns is not None:
                quaternion = self._turned(quaternion, turns[k])
            joints = self.inverse(place, quaternion, joints)
            found.append(joints)
        return np.array(found)

    def _turned(self, quaternion: Floats, turn: Floats) -> Floats:
        angle = float(np.linalg.norm(turn))
        if angle < 1e-12:
            return quaternion
        step = self._p.getQuaternionFromAxisAngle((turn / angle).tolist(), angle)
        zero = (0.0, 0.0, 0.0)
        return np.array(self._p.multiplyTransforms(zero, step, zero, quaternion.tolist())[1])

    def inverse(self, place: Floats, quaternion: Floats, seed: Floats) -> Floats:
        """Return the joints (J,), within their limits, that bring the tool to a place and quaternion, near a seed.

        The solver stops when the place is met; it is asked again until the orientation is, too.
        """
        joints = seed
        for _ in range(ROUNDS):
            joints = self._solve(place, quaternion, joints)
            at, way = self._pose(joints)
            if np.linalg.norm(at - place) < NEAR_M and 1.0 - abs(float(way @ quaternion)) < NEAR_TURN:
                break
        return joints

    def _solve(self, place: Floats, quaternion: Floats, seed: Floats) -> Floats:
        now = np.zeros(len(self._movable))
        now[self._places] = seed
        found = self._p.calculateInverseKinematics(
            self._body, self._link, (place - self._offset).tolist(), quaternion.tolist(), currentPositions=now.tolist(),
            maxNumIterations=ITERATIONS, residualThreshold=CLOSE_ENOUGH, physicsClientId=self._world,
        )  # fmt: skip
        joints: Floats = np.clip(np.array(found)[self._places], self._lower, self._upper)
        return joints

    def close(self) -> None:
        """Free the model."""
        self._closer()


def pulled_back(place: Floats, measured: Floats, leash: float) -> Floats:
    """Return a place (3,) that is at most a leash (m) away from another one."""
    away = place - measured
    length = float(np.linalg.norm(away))
    return place if length <= leash else measured + away * (leash / length)


def _disconnect(module: Any, client: int) -> None:
    if module.isConnected(client):
        module.disconnect(client)
