"""Bytes of messages: equal to the real serialiser's, whole or refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfplan_policies.ros.topics import IMAGE, JOINT_STATE, POINT, STABLE_TYPES, TRAJECTORY

pytest.importorskip("rosbags")

from dfplan_policies.ros.backends.cdr import BrokenMessage, Codecs, dds_name, ros_name

GOLDEN = Path(__file__).parents[1] / "data" / "ros2_cdr_humble.jsonl"
CODECS = Codecs()


def golden() -> list[tuple[str, bytes]]:
    lines = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
    return [(name, bytes.fromhex(text)) for name, text in lines]


def test_bytes_are_those_of_rclpy() -> None:
    """Catches: another byte order, alignment or padding than the serialiser of rclpy (Humble) writes."""
    found = golden()
    assert len(found) == 160
    for name, data in found:
        message = CODECS.decode(name, data)
        assert CODECS.encode(message) == data, name
        copy = CODECS.make(name, **{key: getattr(message, key) for key, _ in CODECS.fields(name)})
        assert CODECS.encode(copy) == data, name


def test_joint_state_is_read_field_by_field() -> None:
    """Catches: fields in another order (velocity read as position), against numbers put in by hand."""
    fields = {"name": ["a", "b"], "position": [1.0, 2.0], "velocity": np.array([3.0, 4.0]), "effort": [5.0, 6.0]}
    data = CODECS.encode(CODECS.make(JOINT_STATE, **fields))
    assert data[:4] == b"\x00\x01\x00\x00"
    assert np.frombuffer(data[-16:]).tolist() == [5.0, 6.0]
    back = CODECS.decode(JOINT_STATE, data)
    assert back.name == ["a", "b"] and back.position.tolist() == [1.0, 2.0] and back.velocity.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("name", STABLE_TYPES)
def test_cut_bytes_are_refused(name: str) -> None:
    """Catches: a message that was cut on its way, accepted with what happened to be there."""
    data = CODECS.encode(CODECS.example(name))
    for length in range(len(data)):
        with pytest.raises(BrokenMessage, match=f"{length} bytes are no {name}"):
            CODECS.decode(name, data[:length])


@given(st.sampled_from(STABLE_TYPES), st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(name: str, data: bytes) -> None:
    """Catches: bytes of a stranger that raise something else than BrokenMessage, and so stop the reader."""
    with contextlib.suppress(BrokenMessage):
        CODECS.decode(name, b"\x00\x01\x00\x00" + data)


def test_left_out_fields_are_blank_and_wrong_ones_named() -> None:
    """Catches: a field's name with a typing error that is dropped in silence."""
    message = CODECS.make(TRAJECTORY, points=[CODECS.make(POINT, positions=[1.0])])
    assert message.joint_names == [] and message.header.stamp.sec == 0
    with pytest.raises(TypeError, match=r"has the fields header, height, .* got hight"):
        CODECS.make(IMAGE, hight=3)
    with pytest.raises(ValueError, match="cannot write sensor_msgs/msg/Image"):
        CODECS.encode(CODECS.make(IMAGE, height="tall"))


def test_names_of_types() -> None:
    """Catches: a type name that no ROS 2 endpoint matches, or a hash that Jazzy does not know."""
    assert dds_name(JOINT_STATE) == "sensor_msgs::msg::dds_::JointState_"
    assert [ros_name(dds_name(name)) for name in STABLE_TYPES] == list(STABLE_TYPES)
    assert ros_name("Own::Type") == "Own::Type"
    known = "RIHS01_a13ee3a330e346c9d87b5aa18d24e11690752bd33a0350f11c5882bc9179260e"
    assert CODECS.type_hash(JOINT_STATE) == known


def test_every_codec_is_compiled_beforehand() -> None:
    """Catches: a codec that is compiled at the first message, a stall of 0.1 s in a running loop."""
    fresh = Codecs()
    store = fresh._store
    names = set(STABLE_TYPES) | {
        POINT,
        "diagnostic_msgs/msg/KeyValue",
        "std_msgs/msg/MultiArrayDimension",
    }
    assert names <= set(store.cache)
