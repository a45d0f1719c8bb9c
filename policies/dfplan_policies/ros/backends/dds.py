"""The back end `dds`: ROS 2's wire without a ROS installation (cyclonedds and rosbags); topics only."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import numpy as np

from dfplan_policies.ros import messages
from dfplan_policies.ros.backends.cdr import Codecs
from dfplan_policies.ros.backends.node import LOST, Node, Reader, Writer
from dfplan_policies.ros.subscriptions import Read, check_pictures, subscriptions
from dfplan_policies.ros.topics import Topics
from dfplan_policies.ros.wire import BackendLost, Peer, Sample, Setpoint


@final
class DdsBackend:
    """Speak ROS 2's wire.

    Joint states are asked for reliably (unless `Topics.reliable_states` is False), pictures as best effort, which
    matches either kind; commands are written reliably, as joint_trajectory_controller wants them, the newest only.

    Args:
        topics: what is read and written.
        domain: None for ROS_DOMAIN_ID, else 0.
        interface: "eth0", an address, "lo" for this machine only, None for any.
        name: how diagnostics call this bridge.

    Attributes:
        refused: how many messages were thrown away, by topic: broken bytes, pictures that cannot be read.
        reasons: why the newest of them was, by topic.
        unsent: messages that could not be handed over at once.

    Raises:
        ImportError: without the extra: pip install 'dfplan[ros]'.
    """

    def __init__(self, topics: Topics, *, domain: int | None = None, interface: str | None = None,
                 name: str = "dfplan") -> None:  # fmt: skip
        self.topics, self.name = topics, name
        self.refused: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}
        self.unsent = 0
        self._where = (domain, interface)
        self._codecs = Codecs()
        self._node: Node | None = None
        self._readers: list[tuple[str, Reader, Read]] = []
        self._writers: dict[str, Writer] = {}

    def open(self) -> None:
        """Join the domain, and make readers and writers.

        Raises:
            ImportError: compressed pictures without Pillow.
            RuntimeError: it cannot be joined, with the remedy.
            ValueError: no such domain, or commands as an action.
        """
        if self.topics.command_kind == "action":
            raise ValueError("the dds back end has no actions; set command_kind: trajectory, or use --backend rclpy")
        check_pictures(self.topics)
        domain, interface = self._where
        node = Node(self._codecs, domain=domain, interface=interface)
        for one in subscriptions(self.topics):
            reader = node.reader(one.topic, one.type_name, reliable=one.reliable, depth=one.depth)
            self._readers.append((one.topic, reader, one.read))
        for topic, kind in self.topics.writers().items():
            self._writers[topic] = node.writer(topic, kind, depth=10 if topic == self.topics.diagnostics else 1)
        self._node = node

    def poll(self, now_s: float) -> Sequence[Sample]:
        """Return everything that came since the last call: the operator's switches, joint states, pictures."""
        return [sample for topic, reader, read in self._readers for sample in self._take(topic, reader, read, now_s)]

    def write(self, setpoint: Setpoint) -> None:
        """Send one command, and the gripper's if it has a topic."""
        if self.topics.command_kind == "trajectory":
            self._send(self.topics.command, messages.trajectory(self._codecs.make, setpoint))
        else:
            self._send(self.topics.command, messages.numbers(self._codecs.make, setpoint.position))
        if self.topics.gripper is not None and setpoint.gripper is not None:
            self._send(self.topics.gripper, messages.numbers(self._codecs.make, np.array([setpoint.gripper])))

    def command_readers(self) -> int:
        """Return how many readers listen to the commands; one that was killed counts for 10 s more."""
        with _lost():
            return self._writers[self.topics.command].readers() if self._writers else 0

    def command_writers(self) -> int:
        """Return how many writers of others write commands to the same topic."""
        return sum(peer.topic == self.topics.command and peer.kind == "publisher" for peer in self.peers())

    def diagnose(self, level: int, text: str, values: Mapping[str, str]) -> None:
        """Publish a status (0 ok, 1 warn, 2 error, 3 stale) with details."""
        if self.topics.diagnostics is not None:
            made = messages.diagnostics(self._codecs.make, self.name, level, text, values, time.time())
            self._send(self.topics.diagnostics, made)

    def peers(self) -> Sequence[Peer]:
        """Return every endpoint of others."""
        with _lost():
            found = self._node.others() if self._node else []
        return [Peer(seen.topic, seen.kind, seen.type_name, seen.qos, seen.name) for seen in found]

    def close(self) -> None:
        """Leave the domain; safe to call twice."""
        self._readers.clear()
        self._writers.clear()
        if self._node is not None:
            self._node.close()
        self._node = None

    def _take(self, topic: str, reader: Reader, read: Read, now_s: float) -> Iterator[Sample]:
        with _lost():
            received = reader.take()
        for got in received:
            if got.message is None:
                self._refuse(topic, "broken bytes")
                continue
            try:
                yield read(got.message, now_s, got.source)
            except ValueError as error:
                self._refuse(topic, str(error))

    def _refuse(self, topic: str, reason: str) -> None:
        self.refused[topic] += 1
        self.reasons[topic] = reason

    def _send(self, topic: str, message: Any) -> None:
        with _lost():
            if topic not in self._writers:
                raise BackendLost(f"nothing can be written to {topic} while the back end is closed; call open() first")
            self.unsent += not self._writers[topic].write(message)


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except LOST as error:
        raise BackendLost(f"DDS is gone: {error}") from error
