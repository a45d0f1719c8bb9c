"""The back end `rclpy`: the robot's own ROS 2, topics and the FollowJointTrajectory action; nothing else imports it."""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import numpy as np

from dfplan_policies.ros import messages
from dfplan_policies.ros.subscriptions import Read, check_pictures, subscriptions
from dfplan_policies.ros.topics import Topics
from dfplan_policies.ros.wire import BackendLost, Peer, Sample, Setpoint

WAITING = 256  # messages between two polls; the oldest are dropped


@final
class RclpyBackend:
    """Be a node of the robot's ROS 2; a thread of its own takes messages, `poll` hands them out.

    Args:
        topics: what is read and written; command_kind may be "action".
        name: of the node.
        domain: None for ROS_DOMAIN_ID.

    Attributes:
        refused: how many messages were thrown away, by topic.
        reasons: why the newest of them was, by topic.
    """

    def __init__(self, topics: Topics, *, name: str = "dfplan", domain: int | None = None) -> None:
        self.topics, self.name, self._domain = topics, name.replace("-", "_"), domain
        self.refused: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}
        self._queue: deque[tuple[str, Any, Read]] = deque(maxlen=WAITING)
        self._node: Any = None
        self._executor: Any = None
        self._ros: Any = None
        self._action: Any = None
        self._writers: dict[str, Any] = {}

    def open(self) -> None:
        """Start the node.

        Raises:
            RuntimeError: rclpy is not there, with the remedy.
        """
        check_pictures(self.topics)
        self._ros = _load_rclpy()
        signals = _load("rclpy.signals").SignalHandlerOptions.NO  # the loop slows down before it ends
        self._ros.init(domain_id=self._domain, signal_handler_options=signals)
        self._node = self._ros.create_node(self.name)
        for one in subscriptions(self.topics):
            take = self._taker(one.topic, one.read)
            self._node.create_subscription(message_class(one.type_name), one.topic, take, _qos(one.reliable, one.depth))
        for topic, kind in self.topics.writers().items():
            if "/action/" in kind:
                self._action = _load("rclpy.action").ActionClient(self._node, message_class(kind), topic)
            else:
                depth = 10 if topic == self.topics.diagnostics else 1
                self._writers[topic] = self._node.create_publisher(message_class(kind), topic, _qos(True, depth))
        self._executor = _load("rclpy.executors").SingleThreadedExecutor()
        self._executor.add_node(self._node)
        threading.Thread(target=self._executor.spin, daemon=True, name="rclpy").start()

    def poll(self, now_s: float) -> Sequence[Sample]:
        """Return everything that came since the last call."""
        if self._ros is None or not self._ros.ok():
            raise BackendLost("ROS was shut down, or the back end is closed")
        found = []
        for _ in range(len(self._queue)):
            topic, message, read = self._queue.popleft()
            try:
                found.append(read(message, now_s, ""))
            except ValueError as error:
                self.refused[topic] += 1
                self.reasons[topic] = str(error)
        return found

    def write(self, setpoint: Setpoint) -> None:
        """Send one command, and the gripper's if it has a topic."""
        if self.topics.command_kind == "array":
            self._send(self.topics.command, messages.numbers(make, setpoint.position))
        elif self.topics.command_kind == "trajectory":
            self._send(self.topics.command, messages.trajectory(make, setpoint))
        else:
            goal = message_class(self.topics.writers()[self.topics.command]).Goal()
            goal.trajectory = messages.trajectory(make, setpoint)
            with _lost():
                self._action.send_goal_async(goal)
        if self.topics.gripper is not None and setpoint.gripper is not None:
            self._send(self.topics.gripper, messages.numbers(make, np.array([setpoint.gripper])))

    def command_readers(self) -> int:
        """Return how many listen to the commands."""
        with _lost():
            if self._action is not None:
                return int(self._action.server_is_ready())
            return int(self._writers[self.topics.command].get_subscription_count())

    def command_writers(self) -> int:
        """Return how many writers of others write commands to the same topic; an action's cannot be counted."""
        with _lost():
            return 0 if self._action is not None else int(self._node.count_publishers(self.topics.command)) - 1

    def diagnose(self, level: int, text: str, values: Mapping[str, str]) -> None:
        """Publish a status (0 ok, 1 warn, 2 error, 3 stale) with details."""
        if self.topics.diagnostics is not None:
            made = messages.diagnostics(make, self.name, level, text, values, time.time())
            self._send(self.topics.diagnostics, made)

    def peers(self) -> Sequence[Peer]:
        """Return every endpoint of other nodes."""
        with _lost():
            return [peer for topic, _ in self._node.get_topic_names_and_types() for peer in self._on(topic)]

    def close(self) -> None:
        """End the node; safe to call twice."""
        if self._node is not None:
            self._executor.shutdown()
            self._node.destroy_node()
            self._ros.try_shutdown()
        self._node = self._action = None
        self._writers.clear()

    def _taker(self, topic: str, read: Read) -> Any:
        return lambda message: self._queue.append((topic, message, read))

    def _send(self, topic: str, message: Any) -> None:
        with _lost():
            self._writers[topic].publish(message)

    def _on(self, topic: str) -> Iterator[Peer]:
        for kind, infos in (("publisher", self._node.get_publishers_info_by_topic(topic)),
                            ("subscriber", self._node.get_subscriptions_info_by_topic(topic))):  # fmt: skip
            for info in infos:
                if info.node_name != self.name:
                    told = {key: getattr(info.qos_profile, key).name.lower() for key in ("reliability", "durability")}
                    yield Peer(topic, kind, info.topic_type, told, info.node_name)  # type: ignore[arg-type]


def message_class(name: str) -> Any:
    """Return the class of a type, such as "sensor_msgs/msg/JointState"."""
    package, kind, short = name.split("/")
    return getattr(_load(f"{package}.{kind}"), short)


def make(name: str, /, **fields: Any) -> Any:
    """Make a message; arrays become lists and a byte a `bytes`, as rclpy wants them."""
    message = message_class(name)()
    for key, value in fields.items():
        plain = value.tolist() if isinstance(value, np.ndarray) else value
        setattr(message, key, bytes([plain]) if key == "level" else plain)
    return message


def _qos(reliable: bool, depth: int) -> Any:
    qos = _load("rclpy.qos")
    policy = qos.ReliabilityPolicy.RELIABLE if reliable else qos.ReliabilityPolicy.BEST_EFFORT
    return qos.QoSProfile(depth=depth, reliability=policy)


def _load_rclpy() -> Any:
    try:
        import rclpy
    except ImportError as error:
        raise _missing("rclpy") from error
    return rclpy


def _load(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _missing(name) from error


def _missing(name: str) -> RuntimeError:
    return RuntimeError(
        f"the rclpy back end needs {name}, which pip cannot install; `source /opt/ros/DISTRIBUTION/setup.bash` on the "
        "robot's computer with the same Python, or use --backend dds"
    )


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, KeyError, AttributeError) as error:  # rclpy's own errors are RuntimeErrors
        raise BackendLost(f"ROS is gone, or the back end is closed: {error}") from error
