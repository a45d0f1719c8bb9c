"""A Franka Panda: joints, tool, gripper; targets are followed in a straight joint-space line within a control step."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import ArrayLike

from dfplan_envs.arm._bullet import PHYSICS_HZ, Floats, World

ARM = (0, 1, 2, 3, 4, 5, 6)
FINGERS = (9, 10)
HAND, TOOL = 8, 11
HOME = np.array([0.0, -0.2, 0.0, -2.2, 0.0, 2.0, 0.785])
DOWN = (1.0, 0.0, 0.0, 0.0)  # quaternion of a hand that points down
JOINT_LOW = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973])
JOINT_HIGH = np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973])
JOINT_FORCE = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)
JOINT_SPEED = 1.5  # rad/s, the limit of every joint
OPEN_M = 0.08
GRIP_N = 20.0
FINGER_SPEED = 0.15  # m/s
LEASH_M = 0.06  # the target never runs further ahead of the tool, so that a blocked arm does not wind up


@final
class Panda:
    """Hold a Panda at the origin of a world.

    Args:
        world: where it is loaded.

    Attributes:
        joint_target: (7,) rad, where the motors pull at the end of the last control step.
        tool_target: (3,) m, the commanded place of the point between the finger tips.
        width_target: m, commanded.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.body = world.add_robot("franka_panda/panda.urdf")
        for finger in FINGERS:
            world.set_dynamics(self.body, finger, lateralFriction=2.0, spinningFriction=0.1)
        gear = world.call(
            "createConstraint", self.body, FINGERS[0], self.body, FINGERS[1], world.constant("JOINT_GEAR"),
            (1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0),
        )  # fmt: skip
        world.call("changeConstraint", gear, gearRatio=-1.0, erp=0.2, maxForce=100.0)  # fingers move alike
        # The solver measures from the base's centre of mass, not from its frame.
        self._offset = np.array(world.call("getDynamicsInfo", self.body, -1)[3])
        self.joint_target, self.tool_target, self.width_target = HOME.copy(), np.zeros(3), OPEN_M

    def put(self, tool: ArrayLike) -> None:
        """Set the arm still and open, the tool at a place (3,)."""
        self._set_joints(HOME)
        self.tool_target = np.array(tool, dtype=np.float64)
        self.joint_target = HOME
        self.joint_target = self.solve(self.tool_target, iterations=200)
        self.width_target = OPEN_M
        self._set_joints(self.joint_target)

    def _set_joints(self, joints: Floats) -> None:
        for joint, angle in zip(ARM, joints.tolist(), strict=True):
            self.world.call("resetJointState", self.body, joint, angle, 0.0)
        for finger in FINGERS:
            self.world.call("resetJointState", self.body, finger, OPEN_M / 2, 0.0)

    def solve(self, tool: Floats, iterations: int = 20) -> Floats:
        """Find the joints (7,) that bring the tool to a place (3,), pointing down; starts at `joint_target`."""
        found = self.world.call(
            "calculateInverseKinematics", self.body, TOOL, (tool - self._offset).tolist(), DOWN,
            currentPositions=[*self.joint_target.tolist(), OPEN_M / 2, OPEN_M / 2],
            maxNumIterations=iterations, residualThreshold=1e-5,
        )  # fmt: skip
        joints: Floats = np.clip(np.array(found[:7]), JOINT_LOW, JOINT_HIGH)
        return joints

    def held(self, body: int) -> bool:
        """Say whether both fingers touch a body."""
        links = self.world.touching(body, self.body)
        return set(FINGERS) <= links

    def near(self, body: int) -> bool:
        """Say whether any part of the robot touches a body."""
        return bool(self.world.touching(body, self.body))

    def leash(self) -> bool:
        """Pull a target that ran ahead back to 6 cm from the tool; says whether it did."""
        tool = self.tool()[0]
        away = self.tool_target - tool
        distance = float(np.linalg.norm(away))
        if distance <= LEASH_M:
            return False
        self.tool_target = tool + away * (LEASH_M / distance)
        return True

    def follow(self, joints: Floats, width_m: float, steps: int) -> None:
        """Move the targets to joints (7,) and a width in physics steps of 1/240 s."""
        world, start = self.world, self.joint_target
        self.width_target = float(width_m)
        position = world.constant("POSITION_CONTROL")
        for finger in FINGERS:
            world.call(
                "setJointMotorControl2", self.body, finger, position, targetPosition=width_m / 2, force=GRIP_N,
                maxVelocity=FINGER_SPEED,
            )  # fmt: skip
        speed = ((joints - start) * (PHYSICS_HZ / steps)).tolist()
        for k in range(1, steps + 1):
            world.call(
                "setJointMotorControlArray", self.body, ARM, position, forces=JOINT_FORCE, targetVelocities=speed,
                targetPositions=(start + (joints - start) * (k / steps)).tolist(), positionGains=(0.3,) * 7,
                velocityGains=(1.0,) * 7,
            )  # fmt: skip
            world.step()
        self.joint_target = joints

    def joints(self) -> Floats:
        """Return the angles (7,) in rad."""
        return np.array([state[0] for state in self.world.call("getJointStates", self.body, ARM)])

    def width(self) -> float:
        """Return the distance between the fingers in m."""
        left, right = (state[0] for state in self.world.call("getJointStates", self.body, FINGERS))
        return float(left + right)

    def tool(self) -> tuple[Floats, Floats]:
        """Return place (3,) and rotation (3, 3) of the point between the finger tips."""
        return self._link(TOOL)

    def hand(self) -> tuple[Floats, Floats]:
        """Return place (3,) and rotation (3, 3) of the hand."""
        return self._link(HAND)

    def _link(self, link: int) -> tuple[Floats, Floats]:
        state = self.world.call("getLinkState", self.body, link, computeForwardKinematics=1)
        return np.array(state[4]), self.world.rotation(state[5])


# The manufacturer's modified Denavit-Hartenberg table: a (m), d (m), alpha (rad) of each joint.
_CHAIN = (
    (0.0, 0.333, 0.0), (0.0, 0.0, -np.pi / 2), (0.0, 0.316, np.pi / 2), (0.0825, 0.0, np.pi / 2),
    (-0.0825, 0.384, -np.pi / 2), (0.0, 0.0, np.pi / 2), (0.088, 0.0, np.pi / 2),
)  # fmt: skip
TOOL_M = 0.107 + 0.105  # from the last joint to the point between the finger tips


def forward(joints: ArrayLike) -> Floats:
    """Compute where the tool (3,) is at given joints (7,), without moving the arm."""
    frame = np.eye(4)
    for (a, d, alpha), angle in zip(_CHAIN, np.asarray(joints, dtype=np.float64), strict=True):
        ca, sa, cq, sq = np.cos(alpha), np.sin(alpha), np.cos(angle), np.sin(angle)
        step = [[cq, -sq, 0.0, a], [sq * ca, cq * ca, -sa, -d * sa], [sq * sa, cq * sa, ca, d * ca], [0, 0, 0, 1]]
        frame = frame @ np.array(step)
    return np.array(frame[:3, 3] + TOOL_M * frame[:3, 2])
