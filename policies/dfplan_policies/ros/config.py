"""What a bridge must know of a robot: frozen settings with units, read from YAML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from dfplan.errors import missing_extra, unknown_name
from dfplan_policies.ros.chunks import ChunkSettings
from dfplan_policies.ros.limits import JointLimits, table_limits, urdf_limits
from dfplan_policies.ros.safety import SafetySettings
from dfplan_policies.ros.schema import build, in_range, one_of
from dfplan_policies.ros.topics import Topics

FORMS = ("joint", "joint_delta", "tool_delta")
SIGNALS = ("tool_pos", "tool_rot6", "gripper_width")  # what is not a name in the joint states


@dataclass(frozen=True)
class LimitSettings:
    """Say what the arm may do; give ``joints``, or ``urdf`` with ``acceleration``."""

    joints: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Joint -> lower, upper (rad or m), velocity (rad/s), acceleration (rad/s^2)."""
    urdf: str | None = None
    """File with the limits of position and velocity; relative to the configuration."""
    acceleration: float | None = None
    """rad/s^2, of every joint; a URDF has none."""
    margin: float = 0.03
    """rad or m, distance that commands keep from both ends."""
    velocity_share: float = 0.5
    """Share of the velocity limits in use."""
    acceleration_share: float = 0.5
    """Share of the acceleration limits in use."""

    def __post_init__(self) -> None:
        """Check every field."""
        in_range(self, margin=(0, 1), velocity_share=(0.001, 1), acceleration_share=(0.001, 1))
        if bool(self.joints) == (self.urdf is not None):
            raise ValueError("give the limits either as joints or as urdf, not both or neither")
        if self.urdf is not None and self.acceleration is None:
            raise ValueError("a URDF has no limits of acceleration; give acceleration too, in rad/s^2")


@dataclass(frozen=True)
class NetworkSettings:
    """Say where on the network the robot is."""

    domain: int | None = None
    """0 to 232; None for ROS_DOMAIN_ID, else 0."""
    interface: str | None = None
    """eth0, an address, lo for this machine only; None for any."""


@dataclass(frozen=True)
class StateSettings:
    """Say what is expected of the joint states."""

    rate_hz: float = 100.0
    """How often the robot publishes them."""
    soft_periods: float = 3.0
    """Periods without one after which the arm is held."""
    hard_age_s: float = 0.25
    """Age that is a fault."""
    jump_factor: float = 3.0
    """A change of more than this many times what the velocity limit allows is a fault."""
    jump_slack: float = 0.02
    """rad or m, added to it."""
    still: float = 0.05
    """rad/s or m/s, below which the arm counts as standing."""
    rest_s: float = 0.1
    """How long it must stand before it is started."""

    def __post_init__(self) -> None:
        """Check every field."""
        in_range(self, rate_hz=(1, 2000), soft_periods=(1, 100), hard_age_s=(0.01, 5), jump_factor=(1, 100),
                 jump_slack=(0, 1), still=(1e-4, 1), rest_s=(0, 10))  # fmt: skip

    @property
    def soft_age_s(self) -> float:
        """Return the age from which on the arm is held."""
        return self.soft_periods / self.rate_hz


@dataclass(frozen=True)
class GuardSettings:
    """Say what the safety filter puts up with."""

    tracking_error: float = 0.3
    """rad or m between command and measurement that is a fault."""
    ramp_s: float = 1.5
    """Time in which the speed limit grows from 0 after every start."""
    hold_s: float = 0.5
    """How long a command at rest is repeated before a fault falls silent."""
    enable_timeout_s: float = 0.2
    """Age of the last message of the enable button that counts as letting go."""

    def __post_init__(self) -> None:
        """Check every field."""
        in_range(self, tracking_error=(0.001, 10), ramp_s=(0.01, 60), hold_s=(0.05, 10), enable_timeout_s=(0.02, 10))


@dataclass(frozen=True)
class ActionSettings:
    """Say what the policy's actions mean."""

    form: str = "joint"
    """"joint": positions; "joint_delta": changes per step; "tool_delta": moves of the tool per step (and turns)."""
    normalized: bool = False
    """Whether actions lie in [-1, 1]; then 1 is the upper limit of a joint, or `scale` of a change."""
    scale: float = 1.0
    """rad or m per step that 1 stands for (joint_delta, tool_delta)."""
    longest: float | None = None
    """m, the longest move of the tool per step (tool_delta), whatever its direction; null: any."""
    turn_scale: float = 1.0
    """rad per step that 1 stands for (tool_delta with six numbers)."""
    step_s: float = 0.1
    """Seconds per action."""
    gripper: bool = False
    """Whether the last number is the gripper's opening: [-1, 1] from closed to open."""

    def __post_init__(self) -> None:
        """Check every field."""
        one_of("form of actions", self.form, FORMS)
        in_range(self, scale=(1e-6, 100), longest=(1e-6, 100), turn_scale=(1e-6, 100), step_s=(0.001, 10))


@dataclass(frozen=True)
class ObservationSettings:
    """Say what the policy sees."""

    state: tuple[str, ...] = ()
    """Columns in order: names in joint states (more topics included), or tool_pos (3), tool_rot6 (6), gripper_width.
    Empty: the joints."""
    pictures: Mapping[str, str] = field(default_factory=dict)
    """Key of the policy -> camera."""
    picture_size: int | None = None
    """Side in pixels of the square that the middle of a picture is shrunk to; None leaves it."""
    proprio: int | None = None
    """How many of the first columns go to the key `proprio` where there are pictures; None: all."""
    fresh_s: float = 0.15
    """Age up to which a picture, or a column of another topic, is taken as clean (level 0)."""
    missing_s: float = 1.0
    """Age from which on it is missing (level K); in between the level grows with the age."""
    latency_s: float = 0.0
    """Time from a measurement to its arrival."""

    def __post_init__(self) -> None:
        """Check every field."""
        in_range(self, fresh_s=(0, 60), missing_s=(0, 600), latency_s=(0, 2), picture_size=(8, 2048))
        if self.fresh_s >= self.missing_s:
            raise ValueError(f"fresh_s must be below missing_s, got {self.fresh_s} and {self.missing_s}")


@dataclass(frozen=True)
class PlanSettings:
    """Say how chunks are made and played."""

    latency_s: float = 0.02
    """Time from a command to the arm's motion."""
    blend_s: float = 0.1
    """Window over which a new chunk takes over."""
    longest_age_s: float = 5.0
    """Age of the observation from which on a chunk is not played any more."""
    every_s: float = 0.0
    """Least time between two questions to the planner; 0 asks as soon as it has answered."""
    timeout_s: float = 5.0
    """Time without an answer that is a fault."""
    start_s: float = 120.0
    """Time in which the planner must be ready."""
    bad_chunks: int = 3
    """Chunks in a row that are refused (not finite, wrong shape) before it is a fault."""
    threads: int = 1
    """Threads of torch."""
    nicer: int = 5
    """By how much the planner gives way to other programs, the control loop for one (`nice`)."""

    def __post_init__(self) -> None:
        """Check every field."""
        in_range(self, latency_s=(0, 1), blend_s=(0, 5), longest_age_s=(0.05, 600), every_s=(0, 60),
                 timeout_s=(0.05, 600), start_s=(1, 3600), bad_chunks=(1, 1000), threads=(1, 256),
                 nicer=(0, 19))  # fmt: skip


@dataclass(frozen=True)
class GripperSettings:
    """Describe a gripper with a topic of its own."""

    open_m: float = 0.08
    """Opening of an open gripper."""
    joints: tuple[str, ...] = ()
    """Names in the joint states whose positions add up to the opening."""

    def __post_init__(self) -> None:
        """Check every field."""
        in_range(self, open_m=(1e-4, 1))


@dataclass(frozen=True)
class ToolSettings:
    """Say where the tool is, for actions or observations of it (extra: bullet)."""

    urdf: str = "franka_panda/panda.urdf"
    """The arm's model: a file, or one that comes with pybullet."""
    link: str = "panda_grasptarget"
    """Its link."""
    joints: tuple[str, ...] = ()
    """The model's names of the joints, in the configuration's order; empty: the same names."""
    lower: tuple[float, ...] = ()
    """(3,) m, the workspace that targets of the tool are kept in; empty: everywhere."""
    upper: tuple[float, ...] = ()
    """(3,) m."""
    leash: float | None = None
    """m, how far the commanded place may be ahead of the measured one when actions begin, so that an arm that is
    blocked does not wind up; null: any."""
    down: bool = False
    """Whether the tool's orientation is kept pointing down (quaternion 1, 0, 0, 0), else as it is at the start."""

    def __post_init__(self) -> None:
        """Check every field."""
        in_range(self, leash=(1e-3, 10))
        if (len(self.lower), len(self.upper)) not in ((0, 0), (3, 3)):
            raise ValueError(f"the workspace needs lower and upper of three numbers, got {self.lower}, {self.upper}")


@dataclass(frozen=True)
class RobotConfig:
    """Describe one robot and how a policy drives it."""

    robot: str
    """Name, in diagnostics and logs."""
    joints: tuple[str, ...]
    """Names in the controller's order; commands carry exactly these."""
    limits: LimitSettings
    topics: Topics
    rate_hz: float = 100.0
    """Commands per second."""
    lead_periods: float = 2.0
    """Periods that the arm has for each command; without another one it stops after them."""
    send_velocity: bool = False
    """Whether commands carry velocities; some controllers refuse an end velocity that is not 0."""
    speed: float = 1.0
    """Seconds of the robot per second of this computer: below 1 for a simulated robot in slow motion, else 1."""
    backend: str = "dds"
    network: NetworkSettings = NetworkSettings()
    state: StateSettings = StateSettings()
    guard: GuardSettings = GuardSettings()
    action: ActionSettings = ActionSettings()
    observation: ObservationSettings = ObservationSettings()
    plan: PlanSettings = PlanSettings()
    gripper: GripperSettings | None = None
    tool: ToolSettings | None = None
    folder: str = "."
    """Where relative file names begin; set by `load_config`."""

    def __post_init__(self) -> None:
        """Check every field and that they fit together."""
        in_range(self, rate_hz=(5, 1000), lead_periods=(1, 20), speed=(0.01, 1))
        if not self.joints or len(set(self.joints)) != len(self.joints):
            raise ValueError(f"joints must be one or more different names, got {list(self.joints)}")
        for key, camera in self.observation.pictures.items():
            if camera not in self.topics.cameras:
                raise ValueError(f"observation.pictures.{key}: {unknown_name('camera', camera, self.topics.cameras)}")
        wants_tool = self.action.form == "tool_delta" or any(
            s in ("tool_pos", "tool_rot6") for s in self.observation.state
        )
        if wants_tool and self.tool is None:
            raise ValueError("actions or observations of the tool need the key tool with the arm's model")
        if self.gripper is None and (self.action.gripper or "gripper_width" in self.observation.state):
            raise ValueError("actions or observations of a gripper need the key gripper")
        if self.tool is not None and self.tool.joints and len(self.tool.joints) != len(self.joints):
            raise ValueError(f"tool.joints must name {len(self.joints)} joints, got {list(self.tool.joints)}")
        self.used_limits()

    @property
    def period_s(self) -> float:
        """Return the seconds between two commands."""
        return 1.0 / self.rate_hz

    @property
    def signals(self) -> tuple[str, ...]:
        """Return the columns that the policy sees."""
        return self.observation.state or self.joints

    def joint_limits(self) -> JointLimits:
        """Return the arm's own limits."""
        if self.limits.urdf is None:
            return table_limits(self.joints, self.limits.joints)
        return urdf_limits(self.joints, Path(self.folder) / self.limits.urdf, self.limits.acceleration or 0.0)

    def used_limits(self) -> JointLimits:
        """Return the limits that commands keep."""
        share = self.limits
        return self.joint_limits().narrowed(share.margin, share.velocity_share, share.acceleration_share)

    def safety(self, *, dry: bool = False) -> SafetySettings:
        """Return the settings of the safety filter; a dry run needs neither a reader nor an arm that follows."""
        return SafetySettings(
            self.period_s, max(self.state.soft_age_s, 1.5 * self.period_s), self.state.hard_age_s,
            float("inf") if dry else self.guard.tracking_error, self.guard.ramp_s, self.guard.hold_s,
            self.lead_periods + 0.5, not dry,
        )  # fmt: skip

    def chunks(self) -> ChunkSettings:
        """Return how chunks are played."""
        return ChunkSettings(len(self.joints), self.plan.latency_s, self.plan.blend_s, self.plan.longest_age_s)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that `read_config` takes."""
        return dataclasses.asdict(self)


def read_config(values: Mapping[str, Any], place: str = "config") -> RobotConfig:
    """Build a configuration from plain values.

    Raises:
        ValueError: With the place, the rule, the value and the remedy.
    """
    return build(RobotConfig, values, place)


def load_config(path: str | Path) -> RobotConfig:
    """Read a YAML file, or one of the examples by its name: ``panda``, ``ur5e`` ...

    Raises:
        ImportError: Without the extra: pip install 'dfplan[ros]'.
        ValueError: If there is no such file, or something in it is wrong.
    """
    try:
        yaml: Any = import_module("yaml")
    except ImportError as error:
        raise missing_extra("yaml", "ros", "a robot's configuration") from error
    file = Path(path)
    if not file.exists() and str(path) in examples():
        file = _example(str(path))
    if not file.is_file():
        raise ValueError(f"there is no configuration {str(path)!r}; give a YAML file or one of {', '.join(examples())}")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    if not isinstance(values, Mapping):
        raise ValueError(f"{file} must be a table of keys and values, got {values!r}; copy one of the examples")
    return read_config({"folder": str(file.parent), **values}, file.name)


def examples() -> list[str]:
    """List the configurations that come with the package."""
    folder = _example("").parent
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def example_text(name: str) -> str:
    """Return the text of a configuration that comes with the package, to begin one's own with.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in examples():
        raise unknown_name("example", name, examples())
    return _example(name).read_text(encoding="utf-8")


def _example(name: str) -> Path:
    return Path(str(resources.files("dfplan_policies.ros"))) / "robots" / f"{name}.yaml"
