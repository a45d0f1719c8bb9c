"""A participant on ROS 2's wire (DDS): readers and writers of topics, and who else is there; messages are rosbags'."""

from __future__ import annotations

import socket
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

from dfplan_policies.ros.backends.cdr import Codecs, ros_name
from dfplan_policies.ros.backends.idl import Carriers
from dfplan_policies.ros.backends.wire_config import domain_of, interface_of, settings
from dfplan_policies.ros.topics import missing_extra

try:
    from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication, BuiltinTopicDcpsSubscription
    from cyclonedds.core import DDSException, InstanceState
    from cyclonedds.domain import Domain, DomainParticipant
    from cyclonedds.pub import DataWriter
    from cyclonedds.qos import Policy, Qos
    from cyclonedds.sub import DataReader
    from cyclonedds.topic import Topic
    from cyclonedds.util import duration
except ImportError as error:
    raise missing_extra("cyclonedds") from error

LOST = DDSException  # what a back end turns into BackendLost
MAX_TAKE = 64  # messages of one topic at a time, so that a flood does not stall the loop
ROS_PREFIX = "rt"
TRIES = 1_000  # endpoints that are looked up at a time


@final
@dataclass(frozen=True)
class Received:
    """Hold one message: None if its bytes were broken."""

    message: Any
    source: str
    sent_s: float


@final
@dataclass(frozen=True)
class Endpoint:
    """Describe a reader or writer of anybody's."""

    topic: str
    kind: Literal["publisher", "subscriber"]
    type_name: str
    qos: Mapping[str, str]
    participant: str
    name: str


class _Opened:
    """Keep a domain of this process open; cyclonedds can open each only once."""

    def __init__(self, domain: int, text: str) -> None:
        self.text = text
        self.handle = Domain(domain, text)


_opened: weakref.WeakValueDictionary[int, _Opened] = weakref.WeakValueDictionary()


@final
class Node:
    """Join a domain.

    Args:
        codecs: what turns messages into bytes.
        domain: None for ROS_DOMAIN_ID, else 0.
        interface: "eth0", an address, "lo" for this machine only, None for any (or what ROS_LOCALHOST_ONLY says).

    Raises:
        RuntimeError: it cannot be joined, with the remedy.
        ValueError: no such domain.
    """

    def __init__(self, codecs: Codecs, *, domain: int | None = None, interface: str | None = None) -> None:
        self.domain = domain_of(domain)
        self.codecs = codecs
        chosen = interface_of(interface)
        self._carriers = Carriers(codecs)
        self._opened: _Opened | None = _open(self.domain, chosen, settings(chosen))
        self._participant: Any = DomainParticipant(self.domain)
        self.key = str(self._participant.guid)
        builtin = (BuiltinTopicDcpsPublication, "publisher"), (BuiltinTopicDcpsSubscription, "subscriber")
        self._builtin = [(BuiltinDataReader(self._participant, topic), kind) for topic, kind in builtin]
        self._seen: dict[str, Endpoint] = {}
        self._topics: dict[tuple[str, str], Any] = {}

    def reader(self, topic: str, type_name: str, *, reliable: bool = True, depth: int = 10) -> Reader:
        """Read a topic, keeping the newest `depth` messages until they are taken."""
        made = self._topic(topic, type_name)
        return Reader(DataReader(self._participant, made, qos=self._qos(type_name, reliable, depth)))

    def writer(self, topic: str, type_name: str, *, reliable: bool = True, depth: int = 1) -> Writer:
        """Write a topic; with `reliable`, the newest `depth` messages are sent again to whom they did not reach."""
        made = self._topic(topic, type_name)
        writer = DataWriter(self._participant, made, qos=self._qos(type_name, reliable, depth))
        return Writer(writer, self._carriers(type_name))

    def others(self) -> list[Endpoint]:
        """Return every endpoint of ROS topics that can be seen, but this node's own."""
        for reader, kind in self._builtin:
            for info in reader.take(TRIES):
                self._note(info, kind)
        return list(self._seen.values())

    def close(self) -> None:
        """Leave; readers and writers do nothing any more once the last reference to them is gone."""
        self._builtin.clear()
        self._topics.clear()
        self._seen.clear()
        self._participant = self._opened = None

    def _note(self, info: Any, kind: Any) -> None:
        if info.sample_info.instance_state != InstanceState.Alive or not info.sample_info.valid_data:
            self._seen.pop(str(info.key), None)
            return
        prefix, _, topic = str(info.topic_name).partition("/")
        participant = str(info.participant_key)
        if prefix == ROS_PREFIX and participant != self.key:
            told, name = describe(info.qos)
            self._seen[str(info.key)] = Endpoint(
                f"/{topic}", kind, ros_name(str(info.type_name)), told, participant, name or participant[:23]
            )

    def _topic(self, name: str, type_name: str) -> Any:
        key = (name, type_name)
        if key not in self._topics:
            self._topics[key] = Topic(self._participant, ROS_PREFIX + name, self._carriers(type_name))
        return self._topics[key]

    def _qos(self, type_name: str, reliable: bool, depth: int) -> Qos:
        """Ask for what ROS 2 asks for by default, but wait for nobody."""
        return Qos(
            Policy.Reliability.Reliable(duration(milliseconds=1)) if reliable else Policy.Reliability.BestEffort,
            Policy.Durability.Volatile,
            Policy.History.KeepLast(depth),
            Policy.DataRepresentation(use_cdrv0_representation=True),
            Policy.Userdata(f"typehash={self.codecs.type_hash(type_name)};".encode()),
        )


@final
class Reader:
    """Take the messages of a topic."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._sources: dict[int, str] = {}

    def take(self, most: int = MAX_TAKE) -> list[Received]:
        """Return what came since the last call, oldest first.

        Raises:
            DDSException: the middleware is gone.
        """
        return [self._received(sample) for sample in self._reader.take(most) if sample.sample_info.valid_data]

    def writers(self) -> int:
        """Return how many writers it is matched with."""
        return len(self._reader.get_matched_publications())

    def _received(self, sample: Any) -> Received:
        info = sample.sample_info
        return Received(sample.message, self._source(int(info.publication_handle)), info.source_timestamp * 1e-9)

    def _source(self, handle: int) -> str:
        if handle not in self._sources:
            found = self._reader.get_matched_publication_data(handle)
            if found is None:
                return f"writer {handle:x}"
            self._sources[handle] = str(found.key)
        return self._sources[handle]


@final
class Writer:
    """Write the messages of a topic."""

    def __init__(self, writer: Any, carrier: Any) -> None:
        self._writer, self._carrier = writer, carrier

    def write(self, message: Any) -> bool:
        """Send a message; says whether it could be handed over at once.

        Raises:
            DDSException: the middleware is gone.
        """
        try:
            self._writer.write(self._carrier(message))
        except DDSException as error:
            if error.code == DDSException.DDS_RETCODE_TIMEOUT:
                return False
            raise
        return True

    def readers(self) -> int:
        """Return how many readers it is matched with."""
        return len(self._writer.get_matched_subscriptions())


def describe(qos: Any) -> tuple[dict[str, str], str]:
    """Put the policies that decide whether two endpoints match into words; also the endpoint's name if it has one."""
    told = {"reliability": "best_effort", "durability": "volatile"}
    name = ""
    for policy in qos:
        text = type(policy).__qualname__ if not hasattr(policy, "__scope__") else str(policy)
        if policy.__scope__ == "Reliability":
            told["reliability"] = "reliable" if "Reliable" in text else "best_effort"
        elif policy.__scope__ == "Durability":
            told["durability"] = _durability(policy)
        elif policy.__scope__ == "EntityName":
            name = str(policy.name)
    return told, name


def _durability(policy: Any) -> str:
    names = {
        Policy.Durability.Volatile: "volatile", Policy.Durability.TransientLocal: "transient_local",
        Policy.Durability.Transient: "transient", Policy.Durability.Persistent: "persistent",
    }  # fmt: skip
    return names[policy]


def _open(domain: int, interface: str | None, text: str) -> _Opened:
    """Open a domain, or share the one that is open in this process.

    Raises:
        RuntimeError: it cannot be opened, or was opened with other settings.
    """
    known = _opened.get(domain)
    if known is None:
        try:
            known = _opened[domain] = _Opened(domain, text)
        except DDSException as error:
            names = ", ".join(name for _, name in socket.if_nameindex())
            raise RuntimeError(
                f"domain {domain} could not be joined on interface {interface or 'any'}: {error}; interfaces here are "
                f"{names}; look at CYCLONEDDS_URI too if it is set"
            ) from error
    if known.text != text:
        raise RuntimeError(
            f"domain {domain} is open in this process with other settings; use the same interface for both, or a "
            "process each"
        )
    return known
