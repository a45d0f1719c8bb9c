"""The message types as cyclonedds wants them declared, with rosbags doing the bytes."""

from __future__ import annotations

from typing import Any, final

from dfplan_policies.ros.backends.cdr import BrokenMessage, Codecs, Kind, dds_name
from dfplan_policies.ros.topics import missing_extra

try:
    from cyclonedds.idl import make_idl_struct, types
    from cyclonedds.idl.annotations import final as final_type
except ImportError as error:
    raise missing_extra("cyclonedds") from error


@final
class Carriers:
    """Make the classes whose objects cyclonedds writes and reads.

    An object of such a class has the message (one of `Codecs.make`) in its attribute `message`: None if it was read and
    the bytes were broken, so that one bad sender does not stop the reader.

    Args:
        codecs: what turns messages into bytes.
    """

    def __init__(self, codecs: Codecs) -> None:
        self._codecs = codecs
        self._made: dict[str, Any] = {}

    def __call__(self, name: str) -> Any:
        """Return the class for a type, such as "sensor_msgs/msg/JointState"."""
        if name not in self._made:
            made = self._declare(name, whole=True)
            _plug_in(made, name, self._codecs)
            self._made[name] = made
        return self._made[name]

    def _declare(self, name: str, whole: bool = False) -> Any:
        fields = {key: self._kind(kind) for key, kind in self._codecs.fields(name)}
        short = name.rpartition("/")[2] + "_"
        return final_type(make_idl_struct(short, dds_name(name), fields, dataclassify=not whole))

    def _kind(self, kind: Kind) -> Any:
        plain = {"bool": bool, "string": str, "octet": types.byte, "byte": types.byte}
        inner = self._declare(kind.name) if "/" in kind.name else plain.get(kind.name) or getattr(types, kind.name)
        array: Any = types.array
        sequence: Any = types.sequence
        if kind.length:
            return array[inner, kind.length]
        return sequence[inner] if kind.many else inner


def _plug_in(made: Any, name: str, codecs: Codecs) -> None:
    """Give a class its constructor and the two methods that cyclonedds calls."""

    def init(self: Any, message: Any = None) -> None:
        self.message = message

    def serialize(self: Any, *_: Any, **__: Any) -> bytes:
        return codecs.encode(self.message)

    def deserialize(cls: Any, data: bytes, *_: Any, **__: Any) -> Any:
        try:
            return cls(codecs.decode(name, data))
        except BrokenMessage:
            return cls(None)

    def gone(cls: Any, *_: Any, **__: Any) -> Any:
        return cls(None)  # what is taken when the last writer left

    made.__init__, made.serialize = init, serialize
    made.deserialize, made.deserialize_key = classmethod(deserialize), classmethod(gone)
