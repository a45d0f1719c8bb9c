"""The simulated robot: it does what a trajectory says, refuses what a controller refuses, and stops in silence."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dfplan_policies.ros.follower import Follower

pytest.importorskip("cyclonedds")
pytest.importorskip("rosbags")
pytest.importorskip("pybullet")

from dfplan_policies.ros.backends.cdr import Codecs
from dfplan_policies.ros.backends.dds import DdsBackend
from dfplan_policies.ros.backends.node import Node
from dfplan_policies.ros.sim_arm import SimArm, SimOptions, make_arm, read_reset
from dfplan_policies.ros.topics import JOINT_STATE, TEXT, TRAJECTORY, Topics
from dfplan_policies.ros.wire import ImageSample, JointSample, Setpoint
from tests.ros.far import DOMAIN, Process, until

JOINTS = tuple(f"panda_joint{k}" for k in range(1, 8))


def trajectory(names: tuple[str, ...], *points: tuple[float, list[float]]) -> Any:
    made = [SimpleNamespace(positions=place, time_from_start=SimpleNamespace(sec=int(t), nanosec=round(t % 1 * 1e9)))
            for t, place in points]  # fmt: skip
    return SimpleNamespace(joint_names=list(names), points=made)


def test_follower_goes_straight_by_name_and_holds() -> None:
    """Catches: joints by place instead of by name, going on after the end, a jump when a new trajectory comes."""
    arm = Follower(("a", "b"), np.array([0.0, 1.0]))
    assert arm.target(5.0).tolist() == [0.0, 1.0]
    assert arm.accept(trajectory(("b", "a"), (1.0, [3.0, 2.0]), (2.0, [3.0, 0.0])), 10.0) == ""
    assert arm.target(10.0).tolist() == [0.0, 1.0] and arm.target(10.5).tolist() == [1.0, 2.0]
    assert arm.target(11.5).tolist() == [1.0, 3.0] and arm.target(99.0).tolist() == [0.0, 3.0]
    assert arm.moving(11.9) and not arm.moving(12.0)
    assert arm.accept(trajectory(("a", "b"), (0.5, [9.0, 9.0])), 11.5) == ""
    assert arm.target(11.5).tolist() == [1.0, 3.0] and arm.target(12.0).tolist() == [9.0, 9.0]


def test_follower_refuses_what_a_controller_refuses() -> None:
    """Catches: a message that a real controller throws away, obeyed by the simulated one."""
    arm = Follower(("a", "b"), np.zeros(2))
    for message, reason in (
        (trajectory(("a",), (1.0, [1.0])), "joints must be a, b, got a"),
        (trajectory(("a", "c"), (1.0, [1.0, 1.0])), "joints must be"),
        (trajectory(("a", "b", "b"), (1.0, [1.0, 1.0, 2.0])), "joints must be"),
        (trajectory(("a", "b")), "no points"),
        (trajectory(("a", "b"), (1.0, [1.0])), "needs 2 positions"),
        (trajectory(("a", "b"), (1.0, [1.0, 1.0]), (1.0, [2.0, 2.0])), "times must increase"),
        (trajectory(("a", "b"), (1.0, [np.nan, 1.0])), "finite"),
    ):
        assert reason in arm.accept(message, 0.0)
        assert arm.target(99.0).tolist() == [0.0, 0.0]


def test_resets() -> None:
    """Catches: a text of a stranger that ends the robot."""
    assert read_reset("") == {} and read_reset('{"seed": 3}') == {"seed": 3}
    for text in ("3", "null", "{", "[]"):
        with pytest.raises(ValueError):
            read_reset(text)
    with pytest.raises(ValueError, match="rate_hz must be from 1 to 240"):
        SimOptions(rate_hz=500)


@pytest.fixture(scope="module")
def near() -> Iterator[tuple[SimArm, Node]]:
    """A robot in this process, ticked by the test."""
    node = Node(Codecs(), domain=DOMAIN, interface="lo")
    yield SimArm(node, make_arm(), SimOptions(rate_hz=240.0)), node
    node.close()


def test_arm_follows_and_stops(near: tuple[SimArm, Node]) -> None:
    """Catches: an arm that ignores commands, drifts on when they end, or whose published joints are others'."""
    robot, node = near
    robot.reset({"seed": 3})
    states = node.reader("/joint_states", JOINT_STATE, depth=200)
    commands = node.writer("/arm_controller/joint_trajectory", TRAJECTORY)
    start = robot._arm.target
    period = 8  # ticks, 1/30 s
    for k in range(30):
        aim = start + 0.01 * (k + 1)
        until_s = node.codecs.make("builtin_interfaces/msg/Duration", nanosec=round(2 * period / 240 * 1e9))
        point = node.codecs.make("trajectory_msgs/msg/JointTrajectoryPoint", positions=aim, time_from_start=until_s)
        commands.write(node.codecs.make(TRAJECTORY, joint_names=list(JOINTS), points=[point]))
        for _ in range(period):
            robot.tick()
    for _ in range(2 * period):  # two periods without a command
        robot.tick()
    stopped = robot._arm.target
    assert np.allclose(stopped, start + 0.3, atol=1e-9)
    for _ in range(60):
        robot.tick()
    assert np.array_equal(robot._arm.target, stopped)
    seen = [got.message for got in states.take(200)]
    assert len(seen) == 200 and seen[-1].name[:7] == list(JOINTS)
    assert np.allclose(seen[-1].position[:7], start + 0.3, atol=0.01)
    assert np.abs(seen[-1].velocity[:7]).max() < 0.02
    assert np.array_equal(seen[-1].position[:7], robot._arm.joints()[0][:7])
    assert robot.counts["commands"] == 30 and robot.counts["rejected"] == 0


def test_task_and_resets_are_told(near: tuple[SimArm, Node]) -> None:
    """Catches: the state's numbers under other names, a reset that is not carried out or ends the robot."""
    robot, node = near
    told, resets = node.reader("/sim/info", TEXT), node.writer("/sim/reset", TEXT)
    task = node.reader("/sim/state", JOINT_STATE)
    for text in ("null", '{"slots": [0, 0]}', '{"slots": [0, 2], "seed": 11}'):
        resets.write(node.codecs.make(TEXT, data=text))
        for _ in range(24):
            robot.tick()
    for _ in range(24):
        robot.tick()
    facts = json.loads(told.take()[-1].message.data)
    assert facts["initial_slots"] == [0, 2] and facts["seed"] == 11 and facts["stage"] == 0 and not facts["success"]
    assert "slots must be two different" in facts["reason"]
    state = task.take()[-1].message
    values = dict(zip(state.name, state.position.tolist(), strict=True))
    assert len(values) == 31 and abs(values["apple_pos_1"] + 0.2) < 0.021 and abs(values["orange_pos_1"] - 0.2) < 0.021
    assert abs(values["gripper_width_0"] - 0.08) < 0.002


def test_over_the_wire() -> None:
    """Catches: a robot of two processes (physics, cameras) that does not start, see, obey or leave."""
    code = f"from dfplan_policies.ros.sim_arm import main; main(domain={DOMAIN}, camera_hz=5, seconds=60, say=print)"
    topics = Topics(cameras={"scene": "/scene/image_raw", "hand": "/hand/image_raw"}, gripper="/gripper",
                    more_states=("/sim/state",))  # fmt: skip
    backend = DdsBackend(topics, domain=DOMAIN, interface="lo")
    backend.open()
    process = Process(sys.executable, "-c", code)
    found: list[Any] = []

    def poll(enough: Any, seconds: float = 40.0) -> bool:
        def more() -> bool:
            found.extend(backend.poll(time.monotonic()))
            return bool(enough())

        return until(more, seconds)

    def arms() -> list[JointSample]:
        return [s for s in found if isinstance(s, JointSample) and not s.topic]

    try:
        assert poll(lambda: arms() and backend.command_readers()), process.stop()
        first = arms()[-1]
        aim = first.position[:7] + 0.1
        backend.write(Setpoint(JOINTS, aim, None, 0.5, 0.02))
        assert poll(
            lambda: np.allclose(arms()[-1].position[:7], aim, atol=0.02) and arms()[-1].position[7:].sum() < 0.03
        )
        assert poll(lambda: {s.camera for s in found if isinstance(s, ImageSample)} == {"scene", "hand"})
        pictures = [s.pixels for s in found if isinstance(s, ImageSample)]
        assert pictures[-1].shape == (128, 128, 3) and pictures[-1].std() > 10
        assert any(s.topic == "/sim/state" for s in found if isinstance(s, JointSample))
        assert len({s.source for s in arms()}) == 1
    finally:
        errors = process.stop()
        backend.close()
    assert "Traceback" not in errors, errors
