"""As much of rclpy and its message packages as the back end uses; checks types the way rclpy does."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

FIELDS: dict[str, dict[str, Any]] = {
    "builtin_interfaces.msg.Time": {"sec": 0, "nanosec": 0},
    "builtin_interfaces.msg.Duration": {"sec": 0, "nanosec": 0},
    "std_msgs.msg.Header": {"stamp": "builtin_interfaces.msg.Time", "frame_id": ""},
    "std_msgs.msg.Bool": {"data": False},
    "std_msgs.msg.Float64MultiArray": {"data": []},
    "sensor_msgs.msg.JointState": {"header": "std_msgs.msg.Header", "name": [], "position": [], "velocity": []},
    "sensor_msgs.msg.Image":
        {"header": "std_msgs.msg.Header", "height": 0, "width": 0, "encoding": "", "step": 0, "data": []},
    "trajectory_msgs.msg.JointTrajectoryPoint":
        {"positions": [], "velocities": [], "time_from_start": "builtin_interfaces.msg.Duration"},
    "trajectory_msgs.msg.JointTrajectory": {"header": "std_msgs.msg.Header", "joint_names": [], "points": []},
    "diagnostic_msgs.msg.KeyValue": {"key": "", "value": ""},
    "diagnostic_msgs.msg.DiagnosticStatus":
        {"level": b"\x00", "name": "", "message": "", "hardware_id": "", "values": []},
    "diagnostic_msgs.msg.DiagnosticArray": {"header": "std_msgs.msg.Header", "status": []},
}  # fmt: skip


class FakeRos:
    """Hold modules, what was published, and the callbacks of subscriptions."""

    def __init__(self) -> None:
        self.alive = False
        self.options: dict[str, Any] = {}
        self.published: list[tuple[str, Any]] = []
        self.goals: list[Any] = []
        self.callbacks: dict[str, tuple[Callable[[Any], None], Any]] = {}
        self.endpoints: dict[str, tuple[list[Any], list[Any]]] = {}
        self.classes = {name: _message(name, self) for name in FIELDS}
        self.modules = {**self._packages(), **self._rclpy()}

    def message(self, name: str, /, **fields: Any) -> Any:
        made = self.classes[name]()
        for key, value in fields.items():
            setattr(made, key, value)
        return made

    def _packages(self) -> dict[str, ModuleType]:
        found: dict[str, ModuleType] = {}
        for name, made in self.classes.items():
            package, _, short = name.rpartition(".")
            found.setdefault(package, ModuleType(package)).__dict__[short] = made
        action = ModuleType("control_msgs.action")
        action.__dict__["FollowJointTrajectory"] = SimpleNamespace(Goal=SimpleNamespace)
        return {**found, "control_msgs.action": action}

    def _rclpy(self) -> dict[str, ModuleType]:
        names = ("rclpy", "rclpy.signals", "rclpy.qos", "rclpy.executors", "rclpy.action")
        found = {name: ModuleType(name) for name in names}
        found["rclpy"].__dict__.update(
            init=self.init,
            ok=lambda: self.alive,
            create_node=lambda name: FakeNode(self, name),
            try_shutdown=self.shutdown,
        )
        found["rclpy.signals"].__dict__["SignalHandlerOptions"] = SimpleNamespace(NO="no")
        policy = SimpleNamespace(RELIABLE="reliable", BEST_EFFORT="best_effort")
        found["rclpy.qos"].__dict__.update(
            ReliabilityPolicy=policy, QoSProfile=lambda **given: SimpleNamespace(**given)
        )
        found["rclpy.executors"].__dict__["SingleThreadedExecutor"] = FakeExecutor
        found["rclpy.action"].__dict__["ActionClient"] = lambda *_: SimpleNamespace(
            send_goal_async=self.goals.append, server_is_ready=lambda: True
        )
        return found

    def init(self, **options: Any) -> None:
        self.alive, self.options = True, options

    def shutdown(self) -> None:
        self.alive = False


class FakeExecutor:
    def __init__(self) -> None:
        self.going = True

    def add_node(self, _: Any) -> None: ...

    def spin(self) -> None:
        while self.going:
            time.sleep(0.005)

    def shutdown(self) -> None:
        self.going = False


class FakeNode:
    def __init__(self, ros: FakeRos, name: str) -> None:
        self.ros, self.name = ros, name

    def create_subscription(self, kind: Any, topic: str, callback: Callable[[Any], None], qos: Any) -> None:
        self.ros.callbacks[topic] = (callback, qos)
        assert isinstance(kind, type)

    def create_publisher(self, _: Any, topic: str, qos: Any) -> Any:
        def publish(message: Any) -> None:
            if not self.ros.alive:
                raise RuntimeError("publisher's context is invalid")
            self.ros.published.append((topic, message))

        return SimpleNamespace(publish=publish, qos=qos, get_subscription_count=lambda: 2)

    def count_publishers(self, topic: str) -> int:
        return 1 + len(self.ros.endpoints.get(topic, ([], []))[0])

    def get_topic_names_and_types(self) -> list[tuple[str, list[str]]]:
        return [(topic, []) for topic in self.ros.endpoints]

    def get_publishers_info_by_topic(self, topic: str) -> list[Any]:
        return self.ros.endpoints[topic][0]

    def get_subscriptions_info_by_topic(self, topic: str) -> list[Any]:
        return self.ros.endpoints[topic][1]

    def destroy_node(self) -> None: ...


def _message(name: str, ros: FakeRos) -> type:
    """Make a class whose fields take only what rclpy's take: no arrays, bytes for a byte, no unknown names."""

    class Message:
        __slots__ = tuple(FIELDS[name])

        def __init__(self) -> None:
            for key, start in FIELDS[name].items():
                nested = isinstance(start, str) and "." in start
                setattr(
                    self, key, ros.classes[start]() if nested else list(start) if isinstance(start, list) else start
                )

        def __setattr__(self, key: str, value: Any) -> None:
            start = FIELDS[name][key]
            nested = isinstance(start, str) and "." in start
            assert isinstance(
                value, ros.classes[start] if nested else (list, bytes) if isinstance(start, list) else type(start)
            )
            object.__setattr__(self, key, value)

    return Message
