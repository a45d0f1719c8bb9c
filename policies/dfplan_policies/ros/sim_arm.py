"""A robot to run against: the Panda at the fruit-swap table, in a process of its own, on ROS 2's wire.

Reads /arm_controller/joint_trajectory (JointTrajectory), /gripper (Float64MultiArray, opening in m) and /sim/reset
(String: "" or JSON such as {"seed": 3, "slots": [0, 2]}). Writes /joint_states, /sim/state (the environment's state as
a JointState, a name per number: apple_pos_0, ...), /sim/info (String, JSON: stage, success, episode, ...) and
/scene/image_raw, /hand/image_raw (Image, drawn by a second process).
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, final

import gymnasium
import numpy as np
from numpy.typing import NDArray

from dfplan_policies.ros import messages
from dfplan_policies.ros.backends.cdr import Codecs
from dfplan_policies.ros.backends.node import Node
from dfplan_policies.ros.follower import Follower
from dfplan_policies.ros.topics import IMAGE, JOINT_STATE, NUMBERS, TEXT, TRAJECTORY

Floats = NDArray[np.float64]
ENV = "dfplan_envs:fruit-swap-v0"
COMMAND, GRIPPER, RESET = "/arm_controller/joint_trajectory", "/gripper", "/sim/reset"
STATES, TASK, INFO = "/joint_states", "/sim/state", "/sim/info"
CAMERAS = {"scene": "/scene/image_raw", "hand": "/hand/image_raw"}
TASK_HZ, INFO_HZ = 50.0, 10.0
WINDOW_HZ = 30.0
BEHIND_S = 0.1  # a computer that falls further behind loses the time: the arm is slower than real


class Arm(Protocol):
    """What is asked of the simulator."""

    hz: int
    names: tuple[str, ...]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin anew."""

    def advance(self, joints: Floats, width_m: float) -> None:
        """Go on by 1 / hz s."""

    @property
    def target(self) -> Floats:
        """Return where the motors pull."""

    def joints(self) -> tuple[Floats, Floats]:
        """Return positions and velocities of `names`."""

    def state(self) -> tuple[tuple[str, ...], Floats]:
        """Return the environment's state and a name for each number."""

    def facts(self) -> dict[str, Any]:
        """Return how the task stands."""

    def pose(self) -> Floats:
        """Return where everything is."""

    def show(self, pose: Floats) -> None:
        """Put everything somewhere."""

    def picture(self, camera: str, size: int) -> NDArray[np.uint8]:
        """Draw what a camera sees."""

    @property
    def connected(self) -> bool:
        """Return whether its window, if it has one, is open."""

    def check_window(self) -> None:
        """Raise OSError if there is no display for a window."""

    def look(self) -> None:
        """Point the window at the table."""


@dataclass(frozen=True)
class SimOptions:
    """Say how the simulated robot runs."""

    domain: int | None = None
    """None for ROS_DOMAIN_ID, else 0."""
    interface: str | None = "lo"
    """"lo" for this machine only."""
    rate_hz: float = 120.0
    """Joint states per second, 1 to 240."""
    camera_hz: float = 0.0
    """Pictures per second of each camera, 0 (none) to 30."""
    camera_size: int = 128
    """Pixels, the side of a picture, 16 to 720."""
    speed: float = 1.0
    """Its seconds per second of this computer, 0.01 to 1: below 1 in slow motion, on a slow computer."""
    seed: int = 0
    """Of the first episode; each reset without a seed adds one."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: a number out of its range.
        """
        for name, value, low, high in (
            ("rate_hz", self.rate_hz, 1, 240), ("camera_hz", self.camera_hz, 0, 30),
            ("camera_size", self.camera_size, 16, 720), ("seed", self.seed, 0, 2**32 - 1),
            ("speed", self.speed, 0.01, 1),
        ):  # fmt: skip
            if not low <= value <= high:
                raise ValueError(f"{name} must be from {low} to {high}, got {value!r}")


def make_arm(window: bool = False) -> Arm:
    """Make the simulated arm.

    Raises:
        ImportError: without the extra: pip install 'dfplan[bullet]'.
        OSError: a window without a display.
    """
    env: Any = gymnasium.make(ENV, obs="state", action="joint", window=window).unwrapped
    env.reset(seed=0)
    arm: Arm = env.servo()
    return arm


@final
class SimArm:
    """Play the robot.

    Args:
        node: the wire.
        arm: the simulator.
        options: rates and seed.
        say: told how far the task got.

    Attributes:
        rejected: why commands were refused, newest last; counted in /sim/info.
    """

    def __init__(self, node: Node, arm: Arm, options: SimOptions, say: Callable[[str], None] = lambda _: None) -> None:
        self._make, self._arm, self.options, self._say = node.codecs.make, arm, options, say
        self._commands = node.reader(COMMAND, TRAJECTORY, depth=1)
        self._gripper, self._resets = node.reader(GRIPPER, NUMBERS, depth=1), node.reader(RESET, TEXT)
        self._states, self._task, self._info = (
            node.writer(topic, kind, depth=10)
            for topic, kind in ((STATES, JOINT_STATE), (TASK, JOINT_STATE), (INFO, TEXT))
        )
        self.counts = {"commands": 0, "rejected": 0, "behind": 0, "episode": -1}
        self.reason, self._seed, self._sent = "", options.seed, {"states": 0.0, "task": 0.0, "info": 0.0}
        self._follower = Follower(tuple(arm.names[:7]), arm.target)
        self._width, self.time_s, self._stage, self._began_s = 0.08, 0.0, 0, 0.0
        self.reset({})

    def reset(self, wanted: dict[str, Any]) -> None:
        """Begin an episode: `wanted` may have "seed" and the environment's options of reset."""
        options = {key: value for key, value in wanted.items() if key != "seed"}
        self._seed = int(wanted.get("seed", self._seed))
        self._arm.reset(self._seed, options or None)
        self._follower.hold(self._arm.target)
        self._width, self._stage, self._began_s = 0.08, 0, self.time_s
        self.counts["episode"] += 1
        self.counts["seed"] = self._seed
        self._seed += 1

    def tick(self) -> None:
        """Read what came, go on by one step of physics, publish what is due."""
        self._listen()
        self.time_s += 1.0 / self._arm.hz
        self._arm.advance(self._follower.target(self.time_s), self._width)
        stamp = messages.header(self._make, time.time())
        if self._due("states", self.options.rate_hz):
            position, velocity = self._arm.joints()
            self._publish(self._states, stamp, self._arm.names, position, velocity)
        if self._due("task", TASK_HZ):
            self._publish(self._task, stamp, *self._arm.state(), np.zeros(0))
        if self._due("info", INFO_HZ):
            facts = self._arm.facts()
            self._tell(facts)
            told = {**facts, **self.counts, "time_s": round(self.time_s, 3), "reason": self.reason}
            self._info.write(self._make(TEXT, data=json.dumps(told)))

    def _tell(self, facts: dict[str, Any]) -> None:
        """Say when the task gets further."""
        stage = int(facts.get("stage", 0))
        if stage > self._stage:
            where = "done" if facts.get("success") else f"stage {stage}"
            self._say(f"episode {self.counts['episode']}: {where} after {self.time_s - self._began_s:.1f} s")
        self._stage = stage

    def pose(self) -> Floats:
        """Return where everything is, for the cameras."""
        return self._arm.pose()

    def _listen(self) -> None:
        for got in self._resets.take():
            self._try_reset(got.message.data if got.message is not None else "broken bytes")
        for got in self._gripper.take():
            if got.message is not None and len(got.message.data) == 1 and np.isfinite(got.message.data[0]):
                self._width = float(got.message.data[0])
        for got in self._commands.take():
            self.counts["commands"] += 1
            reason = self._follower.accept(got.message, self.time_s) if got.message is not None else "broken bytes"
            if reason:
                self.counts["rejected"] += 1
                self.reason = reason

    def _try_reset(self, text: str) -> None:
        try:
            self.reset(read_reset(text))
        except (ValueError, TypeError) as error:
            self.reset({})  # what failed may have left the table half laid
            self.reason = f"reset: {error}"

    def _due(self, what: str, rate_hz: float) -> bool:
        if self.time_s < self._sent[what] - 1e-9:
            return False
        self._sent[what] += 1.0 / rate_hz
        return True

    def _publish(self, writer: Any, stamp: Any, names: tuple[str, ...], position: Floats, velocity: Floats) -> None:
        made = self._make(JOINT_STATE, header=stamp, name=list(names), position=position, velocity=velocity)
        writer.write(made)


def read_reset(text: str) -> dict[str, Any]:
    """Read the text of a reset.

    Raises:
        ValueError: neither empty nor a JSON object.
    """
    found = json.loads(text or "{}")
    if not isinstance(found, dict):
        raise ValueError(f'a reset must be empty or a JSON object such as {{"seed": 3}}, got {text!r}')
    return found


def run(arm: SimArm, hz: float, going: Callable[[], bool], after: Callable[[SimArm], None]) -> None:
    """Tick `hz` times per second until `going` says no; time that cannot be caught up is lost and counted."""
    start = time.monotonic()
    ticks = 0
    while going():
        wait = start + ticks / hz - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        elif wait < -BEHIND_S:
            start -= wait
            arm.counts["behind"] += 1
        arm.tick()
        after(arm)
        ticks += 1


def main(*, domain: int | None = None, interface: str | None = "lo", rate_hz: float = 120.0, camera_hz: float = 0.0,
         camera_size: int = 128, seed: int = 0, seconds: float | None = None, speed: float = 1.0,
         gui: bool = False, say: Callable[[str], None] = lambda _: None) -> None:  # fmt: skip
    """Run the simulated robot until Ctrl-C, SIGTERM or for some seconds; see `SimOptions` for the arguments.

    With `gui` PyBullet's window shows it, from a process of its own: physics does not wait for it.

    Raises:
        ImportError: without the extras: pip install 'dfplan[ros,bullet]'.
        OSError: a window without a display.
        RuntimeError: the domain cannot be joined.
        ValueError: a number out of its range.
    """
    options = SimOptions(domain, interface, rate_hz, camera_hz, camera_size, speed, seed)
    node, arm = Node(Codecs(), domain=domain, interface=interface), make_arm()
    robot = SimArm(node, arm, options, say)
    if gui:
        arm.check_window()
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _: stopped.append(got))
    end = None if seconds is None else time.monotonic() + seconds
    drawn = [(draw, camera_hz > 0), (show, gui)]
    others = [start_beside(target, options, len(robot.pose())) for target, wanted in drawn if wanted]

    def after(ticked: SimArm) -> None:
        for other in others:
            other(ticked)

    say(f"Panda and fruits: domain {node.domain}, interface {interface or 'any'}, {rate_hz:g} states/s; Ctrl-C ends")
    try:
        run(
            robot,
            arm.hz * speed,
            lambda: not stopped and (end is None or time.monotonic() < end),
            after,
        )
    finally:
        for other in others:
            other.close()
        node.close()


@final
class Beside:
    """Hand the newest pose to a process that draws it."""

    def __init__(self, process: Any, shared: Any) -> None:
        self._process, self._shared = process, shared

    def __call__(self, arm: SimArm) -> None:
        """Write the pose, unless it is being read just now."""
        if self._shared.get_lock().acquire(block=False):
            try:
                self._shared.get_obj()[:] = arm.pose().tolist()
            finally:
                self._shared.get_lock().release()

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join(5)


def start_beside(target: Callable[[SimOptions, Any], None], options: SimOptions, size: int) -> Beside:
    """Start a process that draws poses of `size` numbers."""
    context = multiprocessing.get_context("spawn")
    shared = context.Array("d", size)
    process = context.Process(target=target, args=(options, shared), daemon=True)
    process.start()
    return Beside(process, shared)


def poses(shared: Any, hz: float) -> Iterator[Floats]:
    """Yield the newest pose so many times per second, until the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent, due = multiprocessing.parent_process(), time.monotonic()
    while parent is not None and parent.is_alive():
        with shared.get_lock():
            pose = np.array(shared.get_obj()[:])
        if pose.any():
            yield pose
        due = max(due + 1.0 / hz, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


def draw(options: SimOptions, shared: Any) -> None:
    """Draw and publish pictures of the newest pose until the parent ends."""
    codecs, arm = Codecs(), make_arm()
    node = Node(codecs, domain=options.domain, interface=options.interface)
    writers = {camera: node.writer(topic, IMAGE, reliable=False) for camera, topic in CAMERAS.items()}
    for pose in poses(shared, options.camera_hz):
        stamp = messages.header(codecs.make, time.time())
        arm.show(pose)
        for camera, writer in writers.items():
            writer.write(picture_message(codecs.make, stamp, arm.picture(camera, options.camera_size)))


def show(options: SimOptions, shared: Any) -> None:
    """Show the newest pose in a window until it is closed or the parent ends."""
    arm = make_arm(window=True)
    arm.look()
    for pose in poses(shared, WINDOW_HZ):
        if not arm.connected:
            return
        arm.show(pose)


def picture_message(make: messages.Make, stamp: Any, pixels: NDArray[np.uint8]) -> Any:
    """Make the Image of pixels (height, width, 3)."""
    height, width, _ = pixels.shape
    return make(
        IMAGE, header=stamp, height=height, width=width, encoding="rgb8", step=3 * width, data=pixels.reshape(-1)
    )
