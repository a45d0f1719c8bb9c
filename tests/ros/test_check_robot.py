"""`dfplan ros check` over real DDS: a robot with every fault at once, each on topics of its own; all are named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cyclonedds")
pytest.importorskip("rosbags")

from dfplan_policies.ros import watch
from dfplan_policies.ros.topics import IMAGE, JOINT_STATE, NUMBERS, SWITCH, TEXT, TRAJECTORY
from dfplan_policies.ros.watch import Checked, check_robot, report
from tests.ros.far import DOMAIN, far_side

JOINTS = ["j1", "j2", "j3"]
GOOD = [0.1, -0.3, -2.2]
HZ = 25.0
URDF = "<robot name='r'>" + "".join(
    f"<joint name='{name}' type='revolute'><limit lower='{low}' upper='{high}' velocity='2.1' effort='1'/></joint>"
    for name, low, high in (("j1", -2.9, 2.9), ("j2", -1.8, 1.8), ("j3", -3.1, 0.0))
)
URDF += "</robot>"
Step = dict[str, Any]


def states(names: Any = JOINTS, position: Any = GOOD, topic: str = "joint_states", **more: Any) -> Step:
    fields = {"name": list(names), "position": list(position)}
    return {"topic": topic, "type": JOINT_STATE, "fields": fields, "rate_hz": HZ, "skew_s": 0.0} | more


def said(topic: str, kind: str, **fields: Any) -> Step:
    return {"topic": topic, "type": kind, "fields": fields, "rate_hz": HZ}


def listener(kind: str = TRAJECTORY) -> Step:
    return {"topic": "command", "type": kind, "listen": True}


GREY = {"height": 2, "width": 2, "step": 4, "encoding": "mono16", "data": {"zeros": 8}}
CAMERA = {"cameras": {"scene": "scene"}}
# Name: (code, what the text says, what the remedy says, the far side, changes of the configuration's topics)
PLANTED: dict[str, tuple[str, str, str, list[Step], dict[str, Any]]] = {
    "wrong order": ("wrong-order", "the robot lists its joints as j2, j1, j3", "parameter `joints`",
                    [states(["j2", "j1", "j3"], [-0.3, 0.1, -2.2]), listener(NUMBERS)], {"command_kind": "array"}),
    "wrong unit": ("wrong-unit", "read as degrees", "pi / 180", [states(position=[5.7, -17, -126]), listener()], {}),
    "wrong QoS": ("wrong-qos", "best effort", "reliable_states: false", [states(reliable=False), listener()], {}),
    "stale clock": ("stale-clock", "30 s behind", "NTP", [states(skew_s=-30.0), listener()], {}),
    "frozen clock": ("stale-clock", "have the same time", "start it again",
                     [said("joint_states", JOINT_STATE, name=JOINTS, position=GOOD,
                           header={"type": "std_msgs/msg/Header",
                                   "stamp": {"type": "builtin_interfaces/msg/Time", "sec": 9}}), listener()], {}),
    "missing joint": ("missing-joint", "j3 (is it arm_j3?)", "prefix", [states(["j1", "j2", "arm_j3"]), listener()],
                      {}),
    "two publishers": ("two-publishers", "come by turns", "stop all but one", [states(), states(), listener()], {}),
    "two bridges": ("two-publishers", "commands", "stop the other one",
                    [states(), listener(), said("command", TRAJECTORY)], {}),
    "wrong rate": ("wrong-rate", "expected 25", "publishing rate", [states(rate_hz=10), listener()], {}),
    "wrong type": ("wrong-type", TEXT, "topic's name", [said("joint_states", TEXT), listener()], {}),
    "wrong type of command": ("wrong-type", NUMBERS, "command_kind", [states(), listener(NUMBERS)], {}),
    "wrong encoding": ("no-picture", "got 'mono16'", "the encoding must be rgb8",
                       [states(), listener(), said("scene", IMAGE, **GREY)], CAMERA),
    "no camera": ("no-publisher", "nobody publishes", "start what publishes it", [states(), listener()], CAMERA),
    "nobody listens": ("no-reader", "nobody reads", "activate the controller", [states()], {}),
    "no button": ("no-publisher", "enable", "start what publishes it", [states(), listener()], {"enable": "enable"}),
    "wrong name": ("no-publisher", "is it", "correct the topic's name", [states(topic="joint_statez"), listener()], {}),
    "silence": ("silent", "no message came", "ros2 topic hz", [states(rate_hz=0.01), listener()], {}),
    "limits too wide": ("wide-limits", "j1: upper is 3.2", "set upper to 2.9", [states(), listener()], {}),
    "nothing": ("", "", "", [states(), listener(), said("enable", SWITCH, data=True)], {"enable": "enable"}),
}  # fmt: skip


def place(name: str, topic: str) -> str:
    """Return a topic of its own for each planted fault."""
    return f"/t{list(PLANTED).index(name)}/{topic}"


@pytest.fixture(scope="module")
def robots() -> Iterator[None]:
    """All faults at once, in another process."""
    steps = [step | {"topic": place(name, step["topic"])} for name in PLANTED for step in PLANTED[name][3]]
    with far_side(*steps), pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "FIRST_S", 1.0)
        yield


def checked(folder: Path, name: str, domain: int = DOMAIN, seconds: float = 0.5, upper: float = 2.9) -> Checked:
    topics = {"joint_states": "joint_states", "command": "command"} | PLANTED[name][4]
    cameras = {key: place(name, topic) for key, topic in topics.pop("cameras", {}).items()}
    kept = {key: value if key == "command_kind" else place(name, value) for key, value in topics.items()}
    limits = {"j1": [-2.9, upper], "j2": [-1.8, 1.8], "j3": [-3.0, 0.0]}
    lines = [f"robot: r\njoints: {JOINTS}\nrate_hz: {HZ}\nstate: {{rate_hz: {HZ}}}\nlimits:\n  joints:"]
    lines += [f"    {k}: {{lower: {a}, upper: {b}, velocity: 2.0, acceleration: 5.0}}" for k, (a, b) in limits.items()]
    lines += [f"topics: {kept | ({'cameras': cameras} if cameras else {})}"]
    lines += [f"network: {{interface: lo, domain: {domain}}}"]
    (folder / "robot.yaml").write_text("\n".join(lines))
    (folder / "robot.urdf").write_text(URDF)
    return check_robot(str(folder / "robot.yaml"), "dds", seconds, str(folder / "robot.urdf"))


@pytest.mark.parametrize("name", PLANTED)
def test_planted(robots: None, tmp_path: Path, name: str) -> None:
    # Catches: a misconfiguration that the rules would find but that is not seen on the wire, or is not compared with
    # the file; one that is called by another's name; a finding without what to do; an alarm where all is well.
    code, text, remedy, _, _ = PLANTED[name]
    found = checked(tmp_path, name, upper=3.2 if name == "limits too wide" else 2.9)
    errors = [one for one in found.findings if one.level == "error"]
    if not code:
        assert errors == [] and found.fine
        assert "may be started" in report(found) or "nothing is wrong" in report(found)
        return
    told = errors[-1]
    assert {one.code for one in errors} == {code} and text in told.text and remedy in told.remedy, report(found)
    assert not found.fine and report(found).endswith("do not start")
    assert f"error: {told.text}\n  remedy: {told.remedy}" in report(found)


def test_wrong_domain(robots: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a robot on another domain that is taken for the one that was asked for; the domain of the environment not
    # used, or another one named than was joined.
    (alone,) = checked(tmp_path, "nothing", DOMAIN + 1).findings
    assert alone.code == "nothing-seen" and f"domain {DOMAIN + 1}, interface lo" in alone.text
    assert "ROS_DOMAIN_ID" in alone.remedy
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN + 1))
    path = tmp_path / "robot.yaml"
    path.write_text(path.read_text().replace(f", domain: {DOMAIN + 1}", ""))
    (alone,) = check_robot(str(path), "dds", 0.1).findings
    assert alone.code == "nothing-seen" and f"domain {DOMAIN + 1}, interface lo" in alone.text
