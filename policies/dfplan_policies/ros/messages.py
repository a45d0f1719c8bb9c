"""From ROS messages to samples and from setpoints to messages, whoever made the messages (rosbags or rclpy).

A message is any object with ROS's fields; `make(type, **fields)` makes one, the rest of its fields zero.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dfplan_policies.ros.topics import DIAGNOSTICS, HEADER, NUMBERS, POINT, TRAJECTORY
from dfplan_policies.ros.wire import ImageSample, JointSample, Setpoint, SwitchSample

Make = Callable[..., Any]
Switch = Literal["enable", "stop", "rearm"]
Pixels = NDArray[np.uint8]
# How many numbers a pixel has, and which of them are red, green, blue.
ENCODINGS = {
    "rgb8": (3, (0, 1, 2)), "bgr8": (3, (2, 1, 0)), "rgba8": (4, (0, 1, 2)), "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
}  # fmt: skip
LARGEST_PIXELS = 1 << 24  # of a compressed picture: a few bytes can claim to be gigabytes
KEY_VALUE, STATUS = "diagnostic_msgs/msg/KeyValue", "diagnostic_msgs/msg/DiagnosticStatus"
TIME, DURATION = "builtin_interfaces/msg/Time", "builtin_interfaces/msg/Duration"


def joint_sample(message: Any, received_s: float, source: str = "", topic: str = "") -> JointSample:
    """Read a JointState; nothing is checked but that positions and velocities are numbers."""
    position, velocity = (np.array(part, dtype=np.float64) for part in (message.position, message.velocity))
    return JointSample(received_s, tuple(message.name), position, velocity, stamp_s(message.header), source, topic)


def image_sample(message: Any, received_s: float, camera: str) -> ImageSample:
    """Read an Image of 8 bits per colour.

    Raises:
        ValueError: another encoding, or fewer bytes than height and step say.
    """
    channels, order = encoding_of(str(message.encoding))
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = np.frombuffer(message.data, dtype=np.uint8)
    if height < 1 or width < 1 or step < width * channels or len(data) < height * step:
        raise ValueError(
            f"a picture of {width} x {height} {message.encoding} needs a step of at least {max(width, 1) * channels} "
            f"and height * step bytes, got step {step} and {len(data)} bytes; look at the camera's driver"
        )
    rows = data[: height * step].reshape(height, step)[:, : width * channels].reshape(height, width, channels)
    return ImageSample(received_s, camera, np.ascontiguousarray(rows[..., list(order)]), stamp_s(message.header))


def encoding_of(name: str) -> tuple[int, tuple[int, int, int]]:
    """Return how many numbers a pixel has and which are red, green, blue.

    Raises:
        ValueError: an encoding that is not read here.
    """
    if name not in ENCODINGS:
        raise ValueError(f"a picture's encoding must be one of {', '.join(ENCODINGS)}, got {name!r}; set the driver's")
    return ENCODINGS[name]


def compressed_sample(message: Any, received_s: float, camera: str) -> ImageSample:
    """Read a CompressedImage (JPEG or PNG).

    Raises:
        ImportError: without Pillow: pip install 'dfplan[ros]'.
        ValueError: bytes that are no picture.
    """
    return ImageSample(received_s, camera, decompress(bytes(message.data)), stamp_s(message.header))


def decompress(data: bytes) -> Pixels:
    """Turn the bytes of a JPEG or PNG file into pixels (height, width, 3).

    Raises:
        ImportError: without Pillow: pip install 'dfplan[ros]'.
        ValueError: no picture, or one of more than 16 million pixels.
    """
    image = check_decoder()
    try:
        with image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
            if picture.width * picture.height > LARGEST_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} is more than {LARGEST_PIXELS} pixels")
            return np.array(picture.convert("RGB"), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, image.DecompressionBombError) as error:
        raise ValueError(f"{len(data)} bytes are no JPEG or PNG picture: {error}") from error


def check_decoder() -> Any:
    """Return what decodes compressed pictures.

    Raises:
        ImportError: without Pillow: pip install 'dfplan[ros]'.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("compressed pictures need pillow; install it: pip install 'dfplan[ros]'") from error
    return Image


def switch_sample(message: Any, received_s: float, kind: Switch) -> SwitchSample:
    """Read a Bool of the operator."""
    return SwitchSample(received_s, kind, bool(message.data))


def stamp_s(header: Any) -> float | None:
    """Return a header's time in seconds, None if it holds none (zero)."""
    seconds, nanos = int(header.stamp.sec), int(header.stamp.nanosec)
    return seconds + nanos * 1e-9 if seconds or nanos else None


def trajectory(make: Make, setpoint: Setpoint) -> Any:
    """Make the JointTrajectory of one point: stamp 0, which means now."""
    velocity = np.zeros(0) if setpoint.velocity is None else setpoint.velocity
    seconds, nanos = split_s(setpoint.time_from_start_s)
    point = make(
        POINT,
        positions=setpoint.position,
        velocities=velocity,
        time_from_start=make(DURATION, sec=seconds, nanosec=nanos),
    )
    return make(TRAJECTORY, joint_names=list(setpoint.names), points=[point])


def numbers(make: Make, values: NDArray[np.float64]) -> Any:
    """Make a Float64MultiArray without a layout, as forward_command_controller takes it."""
    return make(NUMBERS, data=np.asarray(values, dtype=np.float64))


def diagnostics(make: Make, name: str, level: int, text: str, values: Mapping[str, str], time_s: float) -> Any:
    """Make a DiagnosticArray of one status: level 0 ok, 1 warn, 2 error, 3 stale."""
    pairs = [make(KEY_VALUE, key=str(key), value=str(value)) for key, value in values.items()]
    status = make(STATUS, level=level, name=name, message=text, hardware_id=name, values=pairs)
    return make(DIAGNOSTICS, header=header(make, time_s), status=[status])


def header(make: Make, time_s: float, frame: str = "") -> Any:
    """Make a header with a time in seconds since 1970."""
    seconds, nanos = split_s(time_s)
    return make(HEADER, stamp=make(TIME, sec=seconds, nanosec=nanos), frame_id=frame)


def split_s(time_s: float) -> tuple[int, int]:
    """Split a time into whole seconds and nanoseconds from 0 to 999,999,999."""
    seconds, nanos = divmod(round(time_s * 1_000_000_000), 1_000_000_000)
    return int(seconds), int(nanos)
