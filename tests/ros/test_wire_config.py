"""Domain, interface and topics: what is chosen goes before the surroundings, and what cannot be is said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from dfplan_policies.ros import messages
from dfplan_policies.ros.backends.wire_config import domain_of, interface_of, settings
from dfplan_policies.ros.topics import NUMBERS, Topics


def test_domain() -> None:
    """Catches: ROS_DOMAIN_ID ignored, or preferred to what the user chose; a text that silently becomes domain 0."""
    assert domain_of(None, {}) == 0 and domain_of(None, {"ROS_DOMAIN_ID": " 42 "}) == 42
    assert domain_of(7, {"ROS_DOMAIN_ID": "42"}) == 7 and domain_of(0, {"ROS_DOMAIN_ID": "42"}) == 0
    for chosen, text in ((None, "forty"), (None, "-1"), (None, "233"), (233, ""), (-1, "")):
        with pytest.raises(ValueError, match="from 0 to 232, got"):
            domain_of(chosen, {"ROS_DOMAIN_ID": text})


def test_interface() -> None:
    """Catches: a robot on the network commanded although ROS_LOCALHOST_ONLY keeps everything on this machine."""
    assert interface_of(None, {}) is None and interface_of("eth0", {"ROS_LOCALHOST_ONLY": "1"}) == "eth0"
    assert interface_of(None, {"ROS_LOCALHOST_ONLY": "1"}) == "127.0.0.1"
    assert interface_of(None, {"ROS_LOCALHOST_ONLY": "0"}) is None


def test_settings() -> None:
    """Catches: the Fast DDS option left out, CYCLONEDDS_URI not honoured, multicast on the loopback, broken XML."""
    own = "<General><MaxRexmitMessageSize>1456B</MaxRexmitMessageSize></General>"
    for interface, key, value in (("lo", "address", "127.0.0.1"), ("10.0.0.2", "address", "10.0.0.2"),
                                  ("eth'\"<0", "name", "eth'\"<0")):  # fmt: skip
        first, second, third = settings(interface, {"CYCLONEDDS_URI": own}).split(",")
        tree = ElementTree.fromstring(f"<a>{first}</a>")
        assert tree.findtext("Compatibility/IgnoreTypeInformation") == "1.15" and second == own
        network = ElementTree.fromstring(f"<a>{third}</a>").find("General/Interfaces/NetworkInterface")
        assert network is not None and network.attrib == {key: value}
        assert ("AllowMulticast" in third) == (interface == "lo")
    assert "Interfaces" not in settings(None, {})


def test_topics() -> None:
    """Catches: one topic for two uses, names that no ROS node can have, types mixed up."""
    topics = Topics(cameras={"a": "/a/image", "b": "/b/compressed"}, gripper="/grip", stop="/stop")
    assert topics.readers()["/b/compressed"].endswith("CompressedImage") and topics.readers()["/stop"].endswith("Bool")
    assert topics.writers()["/grip"] == NUMBERS
    for bad in ("arm", "/arm/", "/", "/1arm", "/a-b", "", "/a//b"):
        with pytest.raises(ValueError, match="must look like"):
            Topics(joint_states=bad)
    with pytest.raises(ValueError, match="/stop twice"):
        Topics(stop="/stop", enable="/stop")
    with pytest.raises(ValueError, match="trajectory, array"):
        Topics(command_kind="service")


def picture(**changes: Any) -> Any:
    stamp = SimpleNamespace(sec=0, nanosec=0)
    data = np.arange(24, dtype=np.uint8)
    given = {"height": 2, "width": 3, "encoding": "rgba8", "step": 12, "data": data}
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp), **given | changes)


def test_pixels() -> None:
    """Catches: an alpha channel read as a colour, grey read as three pixels, sizes that do not fit the bytes."""
    seen = messages.image_sample(picture(), 1.0, "a").pixels
    assert seen.tolist() == [[[0, 1, 2], [4, 5, 6], [8, 9, 10]], [[12, 13, 14], [16, 17, 18], [20, 21, 22]]]
    assert messages.image_sample(picture(encoding="bgra8"), 1.0, "a").pixels[0, 0].tolist() == [2, 1, 0]
    assert messages.image_sample(picture(encoding="mono8"), 1.0, "a").pixels[1, 2].tolist() == [14, 14, 14]
    for wrong in ({"height": 3}, {"step": 11}, {"width": 0, "step": 0}, {"height": 0}):
        with pytest.raises(ValueError, match="needs a step of at least"):
            messages.image_sample(picture(**wrong), 1.0, "a")
    with pytest.raises(ValueError, match="rgb8, bgr8"):
        messages.image_sample(picture(encoding="16UC1"), 1.0, "a")


def test_times() -> None:
    """Catches: nanoseconds of 1,000,000,000, which a receiver refuses; a stamp of zero taken for 1970."""
    assert messages.split_s(1.9999999999) == (2, 0) and messages.split_s(0.02) == (0, 20_000_000)
    assert messages.split_s(1e9 + 0.25) == (1_000_000_000, 250_000_000)
    assert messages.stamp_s(picture().header) is None


def test_dds_has_no_actions() -> None:
    """Catches: an action asked of the back end that has none, answered by silence."""
    pytest.importorskip("cyclonedds")
    from dfplan_policies.ros.backends.dds import DdsBackend

    with pytest.raises(ValueError, match="--backend rclpy"):
        DdsBackend(Topics(command_kind="action")).open()
    with pytest.raises(
        RuntimeError, match=r"domain 231 could not be joined on interface nowhere9: .* interfaces here are"
    ):
        DdsBackend(Topics(), domain=231, interface="nowhere9").open()
