"""ROS 2 messages to and from bytes (CDR, little endian), by rosbags; the only file that imports it.

The bytes are those of rclpy's own serialiser: `tests/data/ros2_cdr_humble.jsonl` holds some of them. cyclonedds brings
a codec of its own that takes 90 ms for one VGA picture; rosbags' takes 1 ms, see `idl` for how it is plugged in.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from dfplan_policies.ros.topics import STABLE_TYPES, missing_extra

NAME, ARRAY, SEQUENCE = 2, 3, 4  # rosbags' kinds of fields
BROKEN = (ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError, AssertionError, struct.error)


@dataclass(frozen=True)
class Kind:
    """Say what a field holds."""

    name: str
    """A plain type ("float64", "string", ...) or a message ("std_msgs/msg/Header")."""
    many: bool = False
    """Whether it is a sequence or an array."""
    length: int = 0
    """Of an array; 0 for a sequence of any length."""


class BrokenMessage(ValueError):
    """Say that bytes are not a message of the type they came as."""


@final
class Codecs:
    """Encode and decode the messages whose definition is the same in every distribution since Foxy.

    Every type is encoded and decoded once when this is made: a codec is compiled at its first use, which takes 0.1 to
    0.2 s and would be a stall in a running loop.

    Raises:
        ImportError: without the extra: pip install 'dfplan[ros]'.
    """

    def __init__(self) -> None:
        try:
            from rosbags.serde import SerdeError
            from rosbags.typesys import Stores, get_typestore
        except ImportError as error:
            raise missing_extra("rosbags") from error
        self._store: Any = get_typestore(Stores.ROS2_JAZZY)
        self._errors = (SerdeError, *BROKEN)
        for name in STABLE_TYPES:
            self.decode(name, self.encode(self.example(name)))

    def make(self, name: str, /, **fields: Any) -> Any:
        """Make a message; fields that are left out are zero or empty.

        Args:
            name: such as "sensor_msgs/msg/JointState".
            fields: numpy arrays or lists for sequences of numbers, messages, lists of messages.

        Raises:
            TypeError: an unknown field.
        """
        values = {key: self._blank(kind, 0) for key, kind in self.fields(name)}
        unknown = sorted(set(fields) - set(values))
        if unknown:
            raise TypeError(f"{name} has the fields {', '.join(values)}, got {', '.join(unknown)}")
        return self._store.types[name](**values | {key: _array(value) for key, value in fields.items()})

    def example(self, name: str) -> Any:
        """Make a message with one element in every sequence."""
        return self._store.types[name](**{key: self._blank(kind, 1) for key, kind in self.fields(name)})

    def encode(self, message: Any) -> bytes:
        """Return the bytes of a message, with CDR's header of 4 bytes.

        Raises:
            ValueError: a field that does not fit its type.
        """
        try:
            return bytes(self._store.serialize_cdr(message, message.__msgtype__, little_endian=True))
        except (*self._errors, AttributeError) as error:
            raise ValueError(f"cannot write {message.__msgtype__}: {error}; check the types of its fields") from error

    def decode(self, name: str, data: bytes) -> Any:
        """Return the message of a type that bytes hold; arrays in it are views on them.

        Raises:
            BrokenMessage: they hold no such message.
        """
        try:
            return self._store.deserialize_cdr(data, name)
        except self._errors as error:
            raise BrokenMessage(f"{len(data)} bytes are no {name}: {error}") from error

    def type_hash(self, name: str) -> str:
        """Return the type's hash, "RIHS01_...", that endpoints announce from Iron on."""
        return str(self._store.hash_rihs01(name))

    def fields(self, name: str) -> list[tuple[str, Kind]]:
        """Return name and kind of every field of a type."""
        return [(key, kind_of(kind)) for key, kind in self._store.fielddefs[name][1]]

    def _blank(self, kind: Kind, count: int) -> Any:
        """Make a zero, "" or a blank message, or a sequence of `count` of them."""
        plain = {"string": "", "bool": False}.get(kind.name, 0.0 if kind.name.startswith("float") else 0)
        numeric = "/" not in kind.name and kind.name != "string"
        if kind.many and numeric:
            return np.zeros(kind.length or count, dtype={"byte": "uint8", "octet": "uint8"}.get(kind.name, kind.name))
        one = (self.example if count else self.make)(kind.name) if "/" in kind.name else plain
        return [one] * (kind.length or count) if kind.many else one


def kind_of(kind: Any) -> Kind:
    """Read rosbags' description of a field."""
    tag, what = int(kind[0]), kind[1]
    if tag in (ARRAY, SEQUENCE):
        return Kind(kind_of(what[0]).name, True, int(what[1]) if tag == ARRAY else 0)
    return Kind(str(what if tag == NAME else what[0]))


def dds_name(name: str) -> str:
    """Return what DDS calls a type of ROS 2: sensor_msgs/msg/Image is sensor_msgs::msg::dds_::Image_."""
    package, _, rest = name.partition("/")
    kind, _, short = rest.partition("/")
    return f"{package}::{kind}::dds_::{short}_"


def ros_name(name: str) -> str:
    """Return what ROS 2 calls a type of DDS; a name of another form comes back as it is."""
    parts = name.split("::")
    if len(parts) == 4 and parts[2] == "dds_" and name.endswith("_"):
        return f"{parts[0]}/{parts[1]}/{parts[3][:-1]}"
    return name


def _array(value: Any) -> Any:
    """Turn a list of numbers into an array, as rosbags wants it."""
    if isinstance(value, list | tuple) and value and isinstance(value[0], int | float):
        return np.asarray(value, dtype=np.float64)
    return np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
