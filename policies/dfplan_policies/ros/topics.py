"""Which message travels on which topic, for every back end that speaks ROS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

JOINT_STATE = "sensor_msgs/msg/JointState"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
POINT = "trajectory_msgs/msg/JointTrajectoryPoint"
NUMBERS = "std_msgs/msg/Float64MultiArray"
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
SWITCH = "std_msgs/msg/Bool"
TEXT = "std_msgs/msg/String"
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
POSE = "geometry_msgs/msg/PoseStamped"
HEADER = "std_msgs/msg/Header"
# Their definition and hash are the same in every distribution from Foxy to Lyrical.
STABLE_TYPES = (JOINT_STATE, TRAJECTORY, NUMBERS, IMAGE, COMPRESSED, SWITCH, TEXT, DIAGNOSTICS, POSE)
ACTION = "control_msgs/action/FollowJointTrajectory"
COMMANDS = {"trajectory": TRAJECTORY, "array": NUMBERS, "action": ACTION}


@dataclass(frozen=True)
class Topics:
    """Name the topics of one robot."""

    joint_states: str = "/joint_states"
    """JointState, read."""
    more_states: tuple[str, ...] = ()
    """Further JointState topics that are read, such as the places of objects."""
    command: str = "/arm_controller/joint_trajectory"
    """Written."""
    command_kind: str = "trajectory"
    """"trajectory": a JointTrajectory of one point; "array": a Float64MultiArray in the order of the joints;
    "action": a FollowJointTrajectory goal (back end rclpy only)."""
    cameras: Mapping[str, str] = field(default_factory=dict)
    """Camera to topic; one that ends in /compressed is a CompressedImage, any other an Image."""
    enable: str | None = None
    """Bool, read: the operator's button."""
    stop: str | None = None
    """Bool, read: the emergency stop."""
    rearm: str | None = None
    """Bool, read: go on after a fault."""
    gripper: str | None = None
    """Float64MultiArray of one number, the opening in m, written."""
    diagnostics: str | None = "/diagnostics"
    """DiagnosticArray, written."""
    reliable_states: bool = True
    """Whether joint states are asked for reliably; False is for a robot that publishes them as best effort."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: a name that is no topic, or an unknown kind of command.
        """
        if self.command_kind not in COMMANDS:
            raise ValueError(f"command_kind must be one of {', '.join(COMMANDS)}, got {self.command_kind!r}")
        for name in (*self.readers(), *self.writers()):
            check_topic(name)
        written = [name for name in (self.command, self.gripper, self.diagnostics) if name is not None]
        read = [self.joint_states, *self.more_states, *self.cameras.values()]
        read += [name for name in (self.enable, self.stop, self.rearm) if name is not None]
        twice = sorted(name for name, count in Counter(written + read).items() if count > 1)
        if twice:
            raise ValueError(f"every topic must have one use, got {', '.join(twice)} twice; rename one of the two")

    def readers(self) -> dict[str, str]:
        """Return the type of every topic that is read."""
        found = dict.fromkeys((self.joint_states, *self.more_states), JOINT_STATE)
        found |= {topic: picture_type(topic) for topic in self.cameras.values()}
        return found | {name: SWITCH for name in (self.enable, self.stop, self.rearm) if name is not None}

    def writers(self) -> dict[str, str]:
        """Return the type of every topic that is written."""
        found = {self.command: COMMANDS[self.command_kind]}
        found |= {} if self.gripper is None else {self.gripper: NUMBERS}
        return found | ({} if self.diagnostics is None else {self.diagnostics: DIAGNOSTICS})


def picture_type(topic: str) -> str:
    """Return the type of a camera's topic."""
    return COMPRESSED if topic.endswith("/compressed") else IMAGE


def check_topic(name: str) -> None:
    """Check a topic's name.

    Raises:
        ValueError: it does not start with a slash, or has other signs than ROS allows.
    """
    parts = name.split("/")
    good = all(part.isascii() and part.replace("_", "a").isalnum() and not part[0].isdigit() for part in parts[1:])
    if parts[0] or len(parts) < 2 or not good:
        raise ValueError(f"a topic must look like /arm/joint_states (letters, digits, _, no digit first), got {name!r}")


def missing_extra(package: str) -> ImportError:
    """Make the error for a package that is not installed."""
    return ImportError(
        f"the dds back end needs {package}; install it: pip install 'dfplan[ros]' (cyclonedds has no ready-made wheel "
        "for Linux on ARM: there use --backend rclpy with the robot's own ROS 2)"
    )
