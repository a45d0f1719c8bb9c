"""Ten planted misconfigurations: each is found, named, and told what to do about."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from dfplan_policies.ros.check import Expected, Finding, Seen, check
from dfplan_policies.ros.topics import JOINT_STATE, NUMBERS, TRAJECTORY, Topics
from dfplan_policies.ros.wire import ImageSample, JointSample, Peer, Sample

JOINTS = ("j1", "j2", "j3")
COMMAND = "/arm_controller/joint_trajectory"
EXPECTED = Expected(Topics(), JOINTS, (-2.9, -1.8, -3.0), (2.9, 1.8, 0.0), (2.0, 2.0, 2.0), 100.0, 50.0,
                    {"j1": (-2.9, 2.9, 2.1), "j2": (-1.8, 1.8, 2.1), "j3": (-3.1, 0.0, 2.1)})  # fmt: skip
NOW = 1_800_000_000.0
GOOD = (0.1, -0.3, -2.2)


def states(count: int = 200, names: tuple[str, ...] = JOINTS, position: tuple[float, ...] = GOOD, source: str = "a",
           skew_s: float = 0.0, **changes: Any) -> list[Sample]:  # fmt: skip
    return [
        dataclasses.replace(
            JointSample(0.01 * k, names, np.array(position), np.zeros(len(names)), NOW + 0.01 * k + skew_s, source),
            **changes,
        )
        for k in range(count)
    ]


PEERS = (
    Peer("/joint_states", "publisher", JOINT_STATE, {"reliability": "reliable", "durability": "volatile"}, "driver"),
    Peer(COMMAND, "subscriber", TRAJECTORY, {"reliability": "reliable", "durability": "volatile"}, "driver"),
)


def found(
    samples: list[Sample] | None = None, peers: Any = PEERS, expected: Expected = EXPECTED, seconds: float = 2.0
) -> list[Finding]:
    return check(expected, Seen(peers, states() if samples is None else samples, seconds, NOW))


def codes(*given: Any, **more: Any) -> set[str]:
    return {one.code for one in found(*given, **more)}


def topics(**changes: Any) -> Expected:
    return dataclasses.replace(EXPECTED, topics=Topics(**changes))


def test_nothing_is_found_where_all_is_well() -> None:
    """Catches: a check that cries wolf."""
    assert found() == []


ARRAY = (PEERS[0], dataclasses.replace(PEERS[1], type_name=NUMBERS))
SHY = (dataclasses.replace(PEERS[0], qos={"reliability": "best_effort"}), PEERS[1])
PLANTED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "wrong order": ("wrong-order", "parameter `joints`",
                    {"samples": states(names=("j2", "j1", "j3"), position=(-0.3, 0.1, -2.2)),
                     "expected": topics(command_kind="array"), "peers": ARRAY}),
    "wrong unit": ("wrong-unit", "pi / 180", {"samples": states(position=(5.7, -17.0, -126.0))}),
    "wrong QoS": ("wrong-qos", "reliable_states: false",
                  {"peers": SHY, "samples": []}),
    "wrong domain": ("nothing-seen", "ROS_DOMAIN_ID", {"peers": (), "samples": []}),
    "stale clock": ("stale-clock", "NTP", {"samples": states(skew_s=-30.0)}),
    "missing joint": ("missing-joint", "prefix", {"samples": states(names=("j1", "j2", "arm_j3"))}),
    "limits too wide": ("wide-limits", "set upper to 2.9",
                        {"expected": dataclasses.replace(EXPECTED, upper=(3.2, 1.8, 0.0))}),
    "two publishers": ("two-publishers", "stop all but one",
                       {"peers": (*PEERS, dataclasses.replace(PEERS[0], name="phantom"))}),
    "wrong rate": ("wrong-rate", "set the rate of joint states to 20", {"samples": states(40)}),
    "wrong type": ("wrong-type", "command_kind", {"peers": ARRAY}),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_planted(name: str) -> None:
    """Catches: one of the ten that is not found, found as another, is no error, or comes without its remedy."""
    code, remedy, given = PLANTED[name]
    (finding,) = found(**given)
    assert finding.code == code and finding.level == "error" and remedy in finding.remedy


def test_the_other_half_of_each() -> None:
    """Catches: rules that look at one side only (too slow but not too fast, behind but not ahead, ...)."""
    assert codes(states(400)) == {"wrong-rate"} and found(states(400))[0].level == "warning"
    assert codes(states(skew_s=30.0)) == codes(states(stamp_s=NOW)) == {"stale-clock"}
    assert codes(states(100) + states(100, source="b")) == {"two-publishers"}
    assert codes(peers=(*PEERS, Peer(COMMAND, "publisher", TRAJECTORY))) == {"two-publishers"}
    wide = dataclasses.replace(EXPECTED, lower=(-2.9, -1.9, -3.0), velocity=(2.0, 2.0, 2.2))
    assert [(one.code, one.text.split(":")[0]) for one in found(expected=wide)] == [
        ("wide-limits", "j2"),
        ("wide-limits", "j3"),
    ]
    late = (PEERS[0], dataclasses.replace(PEERS[1], qos={"durability": "transient_local"}))
    assert codes(peers=late) == {"wrong-qos"}
    assert codes(states(position=(3.2, -0.3, -2.2))) == {"outside-limits"}
    assert codes(states(position=(0.1, np.nan, -2.2))) == {"not-finite"}
    assert codes(peers=PEERS[:1]) == {"no-reader"} and codes([], PEERS[1:]) == {"no-publisher"}
    assert codes([], PEERS) == {"silent"}
    assert codes(states(position=GOOD[:2])) >= {"broken-state"}
    order = found(states(names=("j2", "j1", "j3"), position=(-0.3, 0.1, -2.2)))
    assert [(one.code, one.level) for one in order] == [("wrong-order", "note")]
    turns = [one for k, one in enumerate(states()) if k % 2] + states(100, names=("j1",), position=(0.1,), source="a")
    assert codes(turns) == {"partial-joints"}
    assert codes(states(stamp_s=None)) == {"no-stamp"}


def test_cameras_and_near_names() -> None:
    """Catches: a camera whose pictures cannot be read and that is called well; a typing error without a hint."""
    seen = topics(cameras={"scene": "/scene/image_raw"})
    there = (*PEERS, Peer("/scene/image_raw", "publisher", "sensor_msgs/msg/Image"))
    assert codes(peers=there, expected=seen) == {"no-picture"}
    picture = ImageSample(0.0, "scene", np.zeros((1, 1, 3), np.uint8))
    assert codes([*states(), picture], there, seen) == set()
    (missing,) = found(expected=topics(joint_states="/joint_state"), samples=[])
    assert missing.code == "no-publisher" and "is it /joint_states?" in missing.text
    refused = Seen(there, states(), 2.0, NOW, {"/scene/image_raw": "an encoding nobody reads"})
    (blind,) = check(seen, refused)
    assert blind.code == "no-picture" and "an encoding nobody reads" in blind.text
    (named,) = found(states(names=("j1", "j2", "arm_j3")))
    assert "j3 (is it arm_j3?)" in named.text
