"""The dds back end against another process, on loopback: what is sent arrives, what is seen is so."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cyclonedds")
pytest.importorskip("rosbags")

from dfplan_policies.ros.backends.dds import DdsBackend
from dfplan_policies.ros.topics import COMPRESSED, IMAGE, JOINT_STATE, NUMBERS, SWITCH, TRAJECTORY, Topics
from dfplan_policies.ros.wire import Backend, BackendLost, ImageSample, JointSample, Sample, Setpoint, SwitchSample
from tests.ros.far import DOMAIN, far_side, until

TOPICS = Topics(
    cameras={"scene": "/scene/image_raw", "hand": "/hand/compressed"}, enable="/enable", stop="/stop", rearm="/rearm",
    gripper="/gripper", more_states=("/fruits",),
)  # fmt: skip
STAMP = {
    "type": "std_msgs/msg/Header",
    "stamp": {"type": "builtin_interfaces/msg/Time", "sec": 5, "nanosec": 250_000_000},
}
STATE = {"topic": "/joint_states", "type": JOINT_STATE,
         "fields": {"header": STAMP, "name": ["b", "a"], "position": [0.5, -1.0], "velocity": [0.1, 0.2]}}  # fmt: skip


@pytest.fixture
def backend() -> Iterator[DdsBackend]:
    made = DdsBackend(TOPICS, domain=DOMAIN, interface="lo")
    made.open()
    yield made
    made.close()


def collect(backend: DdsBackend, count: int = 1, seconds: float = 20.0, kind: type = object) -> list[Any]:
    """Poll until so many samples of a kind came."""
    found: list[Sample] = []

    def enough() -> bool:
        found.extend(sample for sample in backend.poll(time.monotonic()) if isinstance(sample, kind))
        return len(found) >= count

    until(enough, seconds)
    return found


def setpoint(**changes: Any) -> Setpoint:
    given: dict[str, Any] = {"names": ("a", "b"), "position": np.array([0.1, 0.2]), "velocity": None,
                             "time_from_start_s": 0.02, "gripper": 0.03}  # fmt: skip
    return Setpoint(**given | changes)


def test_joint_states_arrive_as_they_were_sent(backend: DdsBackend) -> None:
    """Catches: joints sorted or renamed on the way, velocities for positions, the sender's stamp or the topic lost."""
    assert isinstance(backend, Backend)
    with far_side(STATE, {**STATE, "topic": "/fruits", "fields": {"name": ["apple_x"], "position": [0.7]}}):
        found = collect(backend, 40, kind=JointSample)
    arm, fruits = ([s for s in found if s.topic == topic] for topic in ("", "/fruits"))
    assert len(arm) > 5 and len(fruits) > 5
    assert arm[0].names == ("b", "a") and arm[0].position.tolist() == [0.5, -1.0]
    assert arm[0].velocity.tolist() == [0.1, 0.2] and arm[0].stamp_s == 5.25
    assert fruits[0].names == ("apple_x",) and fruits[0].stamp_s is None and fruits[0].velocity.shape == (0,)
    assert len({s.source for s in arm}) == 1 and arm[0].source != fruits[0].source
    assert 0 <= time.monotonic() - found[-1].received_s < 10


def test_newest_states_survive_a_pause(backend: DdsBackend) -> None:
    """Catches: a queue that keeps the oldest: after a pause the first samples taken would be old ones, for long."""
    with far_side({**STATE, "rate_hz": 500}):
        assert collect(backend, 5)
        time.sleep(0.3)
        assert 1 <= len(backend.poll(0.0)) <= 10


def test_commands_arrive_as_one_point_that_means_now(backend: DdsBackend) -> None:
    """Catches: a stamp that depends on the clocks, a time in the wrong unit, a second point, names in another order."""
    with far_side({"topic": "/arm_controller/joint_trajectory", "type": TRAJECTORY, "listen": True},
                  {"topic": "/gripper", "type": NUMBERS, "listen": True}) as far:  # fmt: skip
        assert until(lambda: backend.command_readers() == 1)
        assert until(lambda: any(p.topic == "/gripper" for p in backend.peers()))
        backend.write(setpoint())
        backend.write(setpoint(velocity=np.array([1.0, -1.0]), time_from_start_s=1.9999999999, gripper=None))
        assert until(lambda: len(far.lines) >= 4)
    heard = [json.loads(line) for line in far.lines[1:]]
    grip = [message for message in heard if "data" in message]
    first, second = (message for message in heard if "points" in message)
    assert [message["data"] for message in grip] == [[0.03]]
    assert first["joint_names"] == ["a", "b"] and first["header"]["stamp"] == {"sec": 0, "nanosec": 0}
    (point,) = first["points"]
    assert point["positions"] == [0.1, 0.2] and point["velocities"] == [] and point["accelerations"] == []
    assert point["time_from_start"] == {"sec": 0, "nanosec": 20_000_000}
    assert second["points"][0]["velocities"] == [1.0, -1.0]
    assert second["points"][0]["time_from_start"] == {"sec": 2, "nanosec": 0}
    assert backend.unsent == 0


def test_commands_as_numbers() -> None:
    """Catches: the array form that goes out as a trajectory, or in another order than the setpoint's."""
    topics = Topics(command="/forward/commands", command_kind="array", diagnostics=None)
    backend = DdsBackend(topics, domain=DOMAIN, interface="lo")
    backend.open()
    with far_side({"topic": "/forward/commands", "type": NUMBERS, "listen": True}) as far:
        assert until(lambda: backend.command_readers() == 1)
        backend.write(setpoint(position=np.array([3.0, 1.0])))
        backend.diagnose(0, "nobody hears it", {})
        assert until(lambda: len(far.lines) >= 2)
    assert '"data": [3.0, 1.0]' in far.lines[1]
    backend.close()


def test_pictures_of_every_kind(backend: DdsBackend) -> None:
    """Catches: red and blue exchanged, padding at the end of rows read as pixels, a bad picture that ends it all."""
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    pixels[:, :3], pixels[:, 3:] = (250, 10, 0), (0, 20, 240)
    file = io.BytesIO()
    image.fromarray(pixels).save(file, "PNG")
    padded = np.zeros((4, 20), dtype=np.uint8)
    padded[:, :18] = pixels[..., ::-1].reshape(4, 18)
    raw = {"height": 4, "width": 6, "encoding": "bgr8", "step": 20, "data": padded.ravel()}
    node = backend._node
    assert node is not None
    scene = node.writer("/scene/image_raw", IMAGE, depth=10)
    hand = node.writer("/hand/compressed", COMPRESSED, depth=10)
    for writer, fields in ((scene, {**raw, "step": 12}), (scene, {**raw, "encoding": "yuv422"}),
                           (hand, {"data": np.frombuffer(b"no picture", np.uint8)}),
                           (hand, {"data": np.frombuffer(file.getvalue(), np.uint8)}), (scene, raw)):  # fmt: skip
        kind = IMAGE if writer is scene else COMPRESSED
        writer.write(backend._codecs.make(kind, **fields))
        found: list[Sample] = []
        before = backend.refused.total()
        assert until(lambda: found.extend(backend.poll(1.0)) or found or backend.refused.total() > before)  # noqa: B023
        for sample in found:
            assert isinstance(sample, ImageSample)
            assert np.array_equal(sample.pixels, pixels), sample.camera
    assert backend.refused == {"/scene/image_raw": 2, "/hand/compressed": 1}
    assert "no JPEG or PNG picture" in backend.reasons["/hand/compressed"]


def test_large_pictures_arrive(backend: DdsBackend) -> None:
    """Catches: pictures above the size of a socket's buffer that never arrive (fault 27)."""
    fields = {"height": 720, "width": 1280, "encoding": "rgb8", "step": 3840, "data": {"zeros": 720 * 3840}}
    with far_side({"topic": "/scene/image_raw", "type": IMAGE, "fields": fields, "rate_hz": 30, "reliable": False}):
        found = collect(backend, 20, kind=ImageSample)
    assert len(found) >= 20 and found[0].pixels.shape == (720, 1280, 3)


def test_switches_come_first(backend: DdsBackend) -> None:
    """Catches: a stop that is read as an enable, or handled after the joint states that came with it."""
    spoken = [{"topic": f"/{kind}", "type": SWITCH, "fields": {"data": kind != "enable"}} for kind in
              ("enable", "stop", "rearm")]  # fmt: skip
    with far_side(STATE, *spoken):
        assert until(lambda: len({type(s).__name__ + getattr(s, "kind", "") for s in backend.poll(0.0)}) == 4)
        time.sleep(0.1)
        found = backend.poll(1.0)
    assert {(s.kind, s.value) for s in found if isinstance(s, SwitchSample)} == {
        ("enable", False), ("stop", True), ("rearm", True)
    }  # fmt: skip
    assert isinstance(found[0], SwitchSample) and found[0].kind == "stop" and isinstance(found[-1], JointSample)


def test_who_else_is_there(backend: DdsBackend) -> None:
    """Catches: own endpoints counted as others', a peer that left and is still listed, types or QoS misread."""
    own = {"/arm_controller/joint_trajectory", "/gripper", "/diagnostics"}
    assert backend.command_writers() == 0 and not [p for p in backend.peers() if p.topic in own]
    rival = {"topic": "/arm_controller/joint_trajectory", "type": TRAJECTORY, "fields": {}}
    with far_side({**STATE, "reliable": False}, rival, {**STATE, "topic": "/fruits"}):
        assert until(lambda: backend.command_writers() == 1)
        (state,) = [p for p in backend.peers() if p.topic == "/joint_states"]
        assert state.kind == "publisher" and state.type_name == JOINT_STATE
        assert state.qos == {"reliability": "best_effort", "durability": "volatile"}
        assert collect(backend, 1)
    assert until(lambda: backend.command_writers() == 0)
    assert not backend.peers()
    backend.poll(0.0)
    assert backend.refused.total() == 0


def test_best_effort_states_are_read_only_when_told_to() -> None:
    """Catches: a robot that publishes as best effort and is never heard although the option says so."""
    with far_side({**STATE, "reliable": False}):
        for reliable in (True, False):
            backend = DdsBackend(Topics(reliable_states=reliable), domain=DOMAIN, interface="lo")
            backend.open()
            found = collect(backend, 3, 0.5 if reliable else 20.0)
            backend.close()
            assert bool(found) is not reliable


def test_diagnostics_arrive(backend: DdsBackend) -> None:
    """Catches: a status whose level or details are lost."""
    with far_side({"topic": "/diagnostics", "type": "diagnostic_msgs/msg/DiagnosticArray", "listen": True}) as far:
        assert until(lambda: any(p.topic == "/diagnostics" for p in backend.peers()))
        backend.diagnose(2, "stale", {"age_ms": "300"})
        assert until(lambda: len(far.lines) >= 2)
    told = json.loads(far.lines[1])
    (status,) = told["status"]
    assert status["level"] == 2 and status["message"] == "stale" and status["name"] == "dfplan"
    assert status["values"] == [{"key": "age_ms", "value": "300"}]
    assert abs(told["header"]["stamp"]["sec"] - time.time()) < 60


def test_closed_and_open_again(backend: DdsBackend) -> None:
    """Catches: a back end that cannot be opened twice, stays matched when closed, or writes to nobody in silence."""
    with far_side(STATE):
        assert collect(backend, 1)
        backend.close()
        backend.close()
        assert backend.command_readers() == 0 and not backend.poll(0.0) and not backend.peers()
        with pytest.raises(BackendLost, match="call open"):
            backend.write(setpoint())
        backend.open()
        assert collect(backend, 1)


def test_lossy_network(backend: DdsBackend) -> None:
    """Catches: a link that loses every fifth packet and silences the states or blocks the writer (fault 21)."""
    lossy = {"CYCLONEDDS_URI": "<Internal><Test><XmitLossiness>200</XmitLossiness></Test></Internal>"}
    with far_side({**STATE, "rate_hz": 200}, environment=lossy):
        assert len(collect(backend, 200, kind=JointSample)) >= 200
        slowest = 0.0
        for _ in range(50):
            start = time.monotonic()
            backend.write(setpoint())
            slowest = max(slowest, time.monotonic() - start)
        assert slowest < 0.2
