"""What is read of a robot, how, and into which samples: the same for every back end that speaks ROS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dfplan_policies.ros import messages
from dfplan_policies.ros.topics import COMPRESSED, IMAGE, JOINT_STATE, SWITCH, Topics, picture_type
from dfplan_policies.ros.wire import Sample

STATE_DEPTH, PICTURE_DEPTH, SWITCH_DEPTH = 10, 1, 10
SWITCHES: tuple[messages.Switch, ...] = ("stop", "enable", "rearm")  # the emergency stop first
Read = Callable[[Any, float, str], Sample]


@dataclass(frozen=True)
class Subscription:
    """Describe one topic that is read."""

    topic: str
    type_name: str
    reliable: bool
    """Whether lost messages are asked for again; best effort matches publishers of either kind."""
    depth: int
    """How many messages are kept, the newest."""
    read: Read
    """From (message, now_s, source) to a sample; raises ValueError for what cannot be read."""


def subscriptions(topics: Topics) -> list[Subscription]:
    """List what is read, in the order in which it is to be handled: the operator's switches first."""
    found = []
    for kind in SWITCHES:
        topic = getattr(topics, kind)
        if topic is not None:
            found.append(Subscription(topic, SWITCH, True, SWITCH_DEPTH, _switch(kind)))
    for topic in (topics.joint_states, *topics.more_states):
        told = "" if topic == topics.joint_states else topic
        found.append(Subscription(topic, JOINT_STATE, topics.reliable_states, STATE_DEPTH, _states(told)))
    for camera, topic in topics.cameras.items():
        kind_of_picture = picture_type(topic)
        found.append(Subscription(topic, kind_of_picture, False, PICTURE_DEPTH, _picture(camera, kind_of_picture)))
    return found


def check_pictures(topics: Topics) -> None:
    """Check that compressed pictures can be decoded, if there are any.

    Raises:
        ImportError: without Pillow: pip install 'dfplan[ros]'.
    """
    if COMPRESSED in topics.readers().values():
        messages.check_decoder()


def _states(topic: str) -> Read:
    return lambda message, now_s, source: messages.joint_sample(message, now_s, source, topic)


def _picture(camera: str, kind: str) -> Read:
    read = messages.image_sample if kind == IMAGE else messages.compressed_sample
    return lambda message, now_s, _: read(message, now_s, camera)


def _switch(kind: messages.Switch) -> Read:
    return lambda message, now_s, _: messages.switch_sample(message, now_s, kind)
