"""The rclpy back end against a stand-in: all that can be tested where ROS is not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from dfplan_policies.ros.backends.rclpy import RclpyBackend
from dfplan_policies.ros.topics import Topics
from dfplan_policies.ros.wire import Backend, BackendLost, ImageSample, JointSample, Peer, Setpoint, SwitchSample
from tests.ros.fake_rclpy import FakeRos

TOPICS = Topics(cameras={"scene": "/scene/image_raw"}, stop="/stop", gripper="/gripper", reliable_states=False)
COMMAND = TOPICS.command


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> FakeRos:
    fake = FakeRos()
    for name, module in fake.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return fake


@pytest.fixture
def backend(ros: FakeRos) -> Iterator[RclpyBackend]:
    made = RclpyBackend(TOPICS, name="my-arm", domain=3)
    made.open()
    yield made
    made.close()


def test_it_reads(ros: FakeRos, backend: RclpyBackend) -> None:
    """Catches: QoS or a subscription left out, fields mixed up, a broken picture that ends the loop."""
    assert isinstance(backend, Backend)
    assert ros.options == {"domain_id": 3, "signal_handler_options": "no"}
    qos = {topic: (made.reliability, made.depth) for topic, (_, made) in ros.callbacks.items()}
    assert qos == {
        "/joint_states": ("best_effort", 10),
        "/scene/image_raw": ("best_effort", 1),
        "/stop": ("reliable", 10),
    }
    state = ros.message("sensor_msgs.msg.JointState", name=["b", "a"], position=[1.0, 2.0])
    pixels = bytes(range(12))
    picture = ros.message("sensor_msgs.msg.Image", height=2, width=2, encoding="bgr8", step=6, data=pixels)
    broken = ros.message("sensor_msgs.msg.Image", height=2, width=2, encoding="bgr8", step=6, data=pixels[:5])
    for topic, message in (("/joint_states", state), ("/scene/image_raw", broken), ("/scene/image_raw", picture),
                           ("/stop", ros.message("std_msgs.msg.Bool", data=True))):  # fmt: skip
        ros.callbacks[topic][0](message)
    joints, image, stop = backend.poll(7.0)
    assert isinstance(joints, JointSample) and joints.names == ("b", "a") and joints.received_s == 7.0
    assert joints.position.tolist() == [1.0, 2.0] and joints.stamp_s is None
    assert isinstance(image, ImageSample) and image.pixels[0, 0].tolist() == [2, 1, 0]
    assert stop == SwitchSample(7.0, "stop", True)
    assert backend.refused == {"/scene/image_raw": 1} and not backend.poll(8.0)


def test_it_writes(ros: FakeRos, backend: RclpyBackend) -> None:
    """Catches: arrays where rclpy wants lists, a number where it wants a byte, seconds for nanoseconds."""
    backend.write(Setpoint(("a", "b"), np.array([0.1, 0.2]), np.array([0.0, 1.0]), 0.04, 0.02))
    backend.diagnose(2, "stale", {"age": "3"})
    (topic, sent), (grip_topic, grip), (_, told) = ros.published
    assert (topic, grip_topic) == (COMMAND, "/gripper") and grip.data == [0.02]
    (point,) = sent.points
    assert sent.joint_names == ["a", "b"] and point.positions == [0.1, 0.2] and point.velocities == [0.0, 1.0]
    assert (point.time_from_start.sec, point.time_from_start.nanosec, sent.header.stamp.sec) == (0, 40_000_000, 0)
    assert told.status[0].level == b"\x02" and told.status[0].values[0].value == "3"


def test_it_sees_others(ros: FakeRos, backend: RclpyBackend) -> None:
    """Catches: itself counted as another, or QoS that `dfplan ros check` cannot compare."""
    profile = SimpleNamespace(
        reliability=SimpleNamespace(name="BEST_EFFORT"), durability=SimpleNamespace(name="VOLATILE")
    )
    rival = SimpleNamespace(node_name="moveit", topic_type="trajectory_msgs/msg/JointTrajectory", qos_profile=profile)
    own = SimpleNamespace(**{**vars(rival), "node_name": "my_arm"})
    assert backend.command_readers() == 2 and backend.command_writers() == 0
    ros.endpoints[COMMAND] = ([rival], [own])
    assert backend.command_writers() == 1
    told = {"reliability": "best_effort", "durability": "volatile"}
    assert list(backend.peers()) == [Peer(COMMAND, "publisher", "trajectory_msgs/msg/JointTrajectory", told, "moveit")]


def test_actions_and_arrays(ros: FakeRos) -> None:
    """Catches: a goal without its trajectory, numbers in another order than the setpoint's."""
    setpoint = Setpoint(("a",), np.array([0.5]), None, 0.02)
    for kind in ("action", "array"):
        backend = RclpyBackend(Topics(command_kind=kind))
        backend.open()
        backend.write(setpoint)
        assert backend.command_readers() == (1 if kind == "action" else 2) and backend.command_writers() == 0
        backend.close()
    assert ros.goals[0].trajectory.points[0].positions == [0.5] and ros.published[0][1].data == [0.5]


def test_lost_and_closed(ros: FakeRos, backend: RclpyBackend) -> None:
    """Catches: a loop that goes on without its robot because nobody said that ROS is gone."""
    ros.alive = False
    setpoint = Setpoint(("a",), np.array([0.5]), None, 0.02)
    for act in (lambda: backend.poll(0.0), lambda: backend.write(setpoint)):
        with pytest.raises(BackendLost, match="ROS"):
            act()
    backend.close()
    backend.close()
    with pytest.raises(BackendLost):
        backend.command_readers()


def test_without_ros() -> None:
    """Catches: an ImportError without the remedy where ROS is not installed."""
    with pytest.raises(RuntimeError, match=r"setup.bash.*--backend dds"):
        RclpyBackend(TOPICS).open()
