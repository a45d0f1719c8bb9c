"""Compare what is seen of a robot with what is expected of it, and say what to do: pure functions."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dfplan_policies.ros.topics import Topics
from dfplan_policies.ros.wire import ImageSample, JointSample, Peer, Sample

LEVELS = ("error", "warning", "note")
STALE_S = 1.0  # a header's time that far from this computer's is another clock
RATE_SHARE = 0.2  # by which a rate may differ
MARGIN_RAD = 0.05  # a measured joint may be that far outside its limits
WIDER = 1e-6  # rad, m or per s
DEGREES = math.pi / 180


@dataclass(frozen=True)
class Expected:
    """Say what a configuration expects of the robot; lists have one number per joint."""

    topics: Topics
    """What is read and written."""
    joints: tuple[str, ...]
    """Names in the configuration's order."""
    lower: tuple[float, ...]
    """rad or m, of the configuration."""
    upper: tuple[float, ...]
    """rad or m, of the configuration."""
    velocity: tuple[float, ...]
    """rad/s or m/s, of the configuration."""
    rate_hz: float
    """Of the joint states."""
    loop_hz: float
    """Of the bridge."""
    robot_limits: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    """Lower, upper, velocity of each joint by the robot's maker (URDF); joints that are not in it are not compared."""
    domain: int = 0
    """The domain that was joined."""
    interface: str = "any"
    """The interface that was used."""


@dataclass(frozen=True)
class Seen:
    """Hold what came in some seconds."""

    peers: Sequence[Peer]
    """Endpoints of others."""
    samples: Sequence[Sample]
    """In the order in which they came."""
    seconds: float
    """How long it was watched."""
    clock_offset_s: float = 0.0
    """This computer's time since 1970 less the clock of `received_s`."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Why messages were thrown away, by topic."""


@dataclass(frozen=True)
class Finding:
    """Say what is wrong and what to do about it."""

    code: str
    """Such as "wrong-unit"."""
    level: str
    """"error" (do not start), "warning" or "note"."""
    text: str
    """What was expected and what was seen."""
    remedy: str
    """What to do."""


def check(expected: Expected, seen: Seen) -> list[Finding]:
    """Find everything that is wrong, the worst first; an empty list means that nothing was found.

    Args:
        expected: what the configuration says.
        seen: what was there, watched for a few seconds.
    """
    if not seen.peers and not seen.samples:
        return [nothing_seen(expected, seen)]
    found = [*types(expected, seen), *qualities(expected, seen), *publishers(expected, seen), *readers(expected, seen)]
    states = [s for s in seen.samples if isinstance(s, JointSample) and not s.topic]
    if states:
        found += [*joint_names(expected, states), *units(expected, states), *clocks(seen, states)]
        found += [*rates(expected, seen, states)]
    elif not any(one.code in ("wrong-type", "wrong-qos", "no-publisher") for one in found):
        found.append(silent(expected, seen))
    found += [*limits(expected), *cameras(expected, seen)]
    return sorted(found, key=lambda one: LEVELS.index(one.level))


def nothing_seen(expected: Expected, seen: Seen) -> Finding:
    """Report that there is nobody at all."""
    return Finding(
        "nothing-seen", "error",
        f"nobody was seen in {seen.seconds:.3g} s on domain {expected.domain}, interface {expected.interface}",
        "compare the domain with `echo $ROS_DOMAIN_ID` on the robot (nothing means 0), the interface with `ip addr` "
        "(lo reaches only this machine), and ROS_LOCALHOST_ONLY / ROS_AUTOMATIC_DISCOVERY_RANGE on the robot; then "
        "look at firewalls (UDP 7400 and above) and whether the network passes multicast",
    )  # fmt: skip


def silent(expected: Expected, seen: Seen) -> Finding:
    """Report joint states whose publisher is there but says nothing."""
    return Finding(
        "silent", "error",
        f"{expected.topics.joint_states} has a publisher, but no message came in {seen.seconds:.3g} s",
        "look on the robot with `ros2 topic hz`; is the driver or joint_state_broadcaster running and active?",
    )  # fmt: skip


def types(expected: Expected, seen: Seen) -> Iterator[Finding]:
    """Find topics that carry another type than expected."""
    wanted = expected.topics.readers() | expected.topics.writers()
    for peer in seen.peers:
        kind = wanted.get(peer.topic)
        if kind is not None and peer.type_name != kind:
            yield Finding(
                "wrong-type", "error", f"{peer.topic} must be {kind}, but a {peer.kind} there has {peer.type_name}",
                "correct the topic's name in the configuration, command_kind (trajectory or array), or for a camera "
                "whether it is the raw or the /compressed topic",
            )  # fmt: skip


def qualities(expected: Expected, seen: Seen) -> Iterator[Finding]:
    """Find endpoints that never match ours, because they offer less than is asked for."""
    topics = expected.topics
    readers, writers = topics.readers(), topics.writers()
    pictures = set(topics.cameras.values())
    for peer in seen.peers:
        if peer.kind == "publisher" and peer.topic in readers and peer.qos.get("reliability") == "best_effort":
            states = peer.topic in (topics.joint_states, *topics.more_states)
            if peer.topic not in pictures and (not states or topics.reliable_states):
                yield Finding(
                    "wrong-qos", "error",
                    f"{peer.topic} is published as best effort, but asked for reliably: nothing comes",
                    "set reliable_states: false in the configuration" if states else "publish it reliably on the robot",
                )  # fmt: skip
        if peer.kind == "subscriber" and peer.topic in writers and peer.qos.get("durability", "volatile") != "volatile":
            yield Finding(
                "wrong-qos", "error",
                f"a reader of {peer.topic} asks for {peer.qos['durability']} messages, and never gets our volatile",
                "set the reader's durability to volatile on the robot",
            )  # fmt: skip


def publishers(expected: Expected, seen: Seen) -> Iterator[Finding]:
    """Find missing publishers, and topics with one too many."""
    topics = expected.topics
    count = Counter(peer.topic for peer in seen.peers if peer.kind == "publisher")
    for topic, kind in topics.readers().items():
        if not count[topic] and not _told(topic, seen):
            others = sorted({p.topic for p in seen.peers if p.kind == "publisher" and p.type_name == kind})
            there = f"; topics of that type: {', '.join(others)}" if others else ""
            yield Finding(
                "no-publisher", "error", f"nobody publishes {topic}{_near(topic, others)}{there}",
                "correct the topic's name in the configuration, or start what publishes it",
            )  # fmt: skip
    sources = {s.source for s in seen.samples if isinstance(s, JointSample) and not s.topic and s.source}
    if max(count[topics.joint_states], len(sources)) > 1:
        names = ", ".join(sorted({p.name for p in seen.peers if p.topic == topics.joint_states and p.name} or sources))
        yield Finding(
            "two-publishers", "error",
            f"{topics.joint_states} has {max(count[topics.joint_states], len(sources))} publishers ({names}): their "
            "joints come by turns",
            "stop all but one (a joint_state_publisher or a second driver?), or name the topic of the right one",
        )  # fmt: skip
    if count[topics.command]:
        yield Finding(
            "two-publishers", "error", f"somebody else ({count[topics.command]}) commands {topics.command} already",
            "stop the other one (a second bridge, MoveIt, rqt_joint_trajectory_controller?) before this one starts",
        )  # fmt: skip


def _told(topic: str, seen: Seen) -> bool:
    return any(isinstance(s, JointSample) and s.topic == topic for s in seen.samples)


def readers(expected: Expected, seen: Seen) -> Iterator[Finding]:
    """Find commands that nobody reads."""
    command = expected.topics.command
    if expected.topics.command_kind != "action" and not any(
        peer.kind == "subscriber" and peer.topic == command for peer in seen.peers
    ):
        kind = expected.topics.writers()[command]
        others = sorted({p.topic for p in seen.peers if p.kind == "subscriber" and p.type_name == kind})
        there = f"; topics of that type: {', '.join(others)}" if others else ""
        yield Finding(
            "no-reader", "error", f"nobody reads {command}{_near(command, others)}{there}",
            "correct the topic's name, or activate the controller (`ros2 control list_controllers`)",
        )  # fmt: skip


def joint_names(expected: Expected, states: Sequence[JointSample]) -> Iterator[Finding]:
    """Find missing, doubled and differently ordered joints, and messages whose lists have different lengths."""
    every = Counter(name for state in states for name in state.names)
    missing = [name for name in expected.joints if not every[name]]
    if missing:
        others = [name for name in every if name not in expected.joints]
        near = ", ".join(f"{name}{_near(name, others)}" for name in missing)
        yield Finding(
            "missing-joint", "error", f"joints that never came: {near}; there are {', '.join(every)}",
            "write the robot's names into the configuration (with their prefix), or the right topic",
        )  # fmt: skip
    parts = [name for name in expected.joints if 0 < every[name] < len(states)]
    if parts:
        yield Finding(
            "partial-joints", "warning", f"not every message has {', '.join(parts)}",
            "joints come in several messages; see whether several publishers share the topic",
        )  # fmt: skip
    if any(len(s.position) != len(s.names) or len(set(s.names)) != len(s.names) for s in states):
        yield Finding(
            "broken-state", "error", "names and positions have different lengths, or a name comes twice",
            "correct the publisher of the joint states",
        )  # fmt: skip
    order = [name for name in states[-1].names if name in expected.joints]
    if not missing and not parts and tuple(order) != expected.joints:
        array = expected.topics.command_kind == "array"
        yield Finding(
            "wrong-order", "error" if array else "note",
            f"the robot lists its joints as {', '.join(order)}, the configuration as {', '.join(expected.joints)}",
            "commands go out as numbers without names: put the joints in the order of the controller's parameter "
            "`joints` (`ros2 param get`)" if array else "nothing to do: joints are found by name, commands have names",
        )  # fmt: skip


def units(expected: Expected, states: Sequence[JointSample]) -> Iterator[Finding]:
    """Find degrees where radians belong, numbers that are not finite, and joints outside their limits."""
    where = {name: k for k, name in enumerate(expected.joints)}
    lower, upper = np.asarray(expected.lower), np.asarray(expected.upper)
    low, high = np.full(len(where), np.inf), np.full(len(where), -np.inf)
    for state in states:
        for name, value in zip(state.names, state.position, strict=False):
            if name in where and math.isfinite(value):
                k = where[name]
                low[k], high[k] = min(low[k], value), max(high[k], value)
            elif name in where:
                yield Finding(
                    "not-finite",
                    "error",
                    f"{name} is {value}",
                    "correct the robot's driver; the bridge would fault at once",
                )
                return
    known = high >= low
    out = known & ((low < lower - MARGIN_RAD) | (high > upper + MARGIN_RAD))
    if not out.any():
        return
    names = ", ".join(f"{name} {low[k]:.4g} to {high[k]:.4g}" for name, k in where.items() if out[k])
    turned = (low * DEGREES >= lower - MARGIN_RAD) & (high * DEGREES <= upper + MARGIN_RAD)
    largest = float(np.abs(np.concatenate([low[known], high[known]])).max())
    if (turned | ~known).all() and largest > 2 * math.pi:
        yield Finding(
            "wrong-unit", "error", f"joints are far outside their limits, and inside if read as degrees: {names}",
            "ROS has radians: correct the driver (multiply by pi / 180)",
        )  # fmt: skip
        return
    yield Finding(
        "outside-limits", "error", f"joints are outside the configuration's limits: {names}",
        "move the arm back by hand or with its own controls, or correct the limits",
    )  # fmt: skip


def clocks(seen: Seen, states: Sequence[JointSample]) -> Iterator[Finding]:
    """Find headers without a time, with a time far from this computer's, or with the same time again and again."""
    stamps = [state.stamp_s for state in states if state.stamp_s is not None]
    if not stamps:
        yield Finding("no-stamp", "note", "the joint states have no time in their headers", "repeats cannot be noticed")
        return
    skews = [s.stamp_s - (s.received_s + seen.clock_offset_s) for s in states if s.stamp_s is not None]
    skew = float(np.median(skews))
    if abs(skew) > STALE_S:
        what = "ahead of" if skew > 0 else "behind"
        yield Finding(
            "stale-clock", "error", f"the robot's clock is {abs(skew):.3g} s {what} this computer's",
            "set both clocks by one NTP or chrony server (`timedatectl`); a simulation with use_sim_time may be left "
            "as it is: commands carry no time",
        )  # fmt: skip
    if len(stamps) > 2 and len(set(stamps)) == 1:
        yield Finding(
            "stale-clock", "error", f"all {len(stamps)} joint states have the same time: they are repeats of one",
            "the driver has lost the robot: start it again",
        )  # fmt: skip


def rates(expected: Expected, seen: Seen, states: Sequence[JointSample]) -> Iterator[Finding]:
    """Find joint states that come at another rate than expected, or too slowly for the loop."""
    rate = len(states) / seen.seconds if seen.seconds > 0 else 0.0
    wanted = expected.rate_hz
    if abs(rate - wanted) > RATE_SHARE * wanted:
        slow = rate < expected.loop_hz * (1 - RATE_SHARE)
        level = "error" if rate < wanted else "warning"
        yield Finding(
            "wrong-rate", level, f"joint states come {rate:.3g} times per second, expected {wanted:g}"
            + (f"; the loop runs at {expected.loop_hz:g} Hz" if slow else ""),
            f"set the rate of joint states to {rate:.3g} (and the loop's to no more), or the robot's publishing rate "
            "(joint_state_broadcaster follows update_rate); over Wi-Fi look for losses",
        )  # fmt: skip


def limits(expected: Expected) -> Iterator[Finding]:
    """Find limits of the configuration that are wider than the robot's own."""
    for k, name in enumerate(expected.joints):
        if name not in expected.robot_limits:
            continue
        low, high, speed = expected.robot_limits[name]
        for what, mine, its, wider in (
            ("lower", expected.lower[k], low, expected.lower[k] < low - WIDER),
            ("upper", expected.upper[k], high, expected.upper[k] > high + WIDER),
            ("velocity", expected.velocity[k], speed, expected.velocity[k] > speed + WIDER),
        ):
            if wider:
                yield Finding(
                    "wide-limits", "error",
                    f"{name}: {what} is {mine:g} in the configuration, but {its:g} on the robot",
                    f"set {what} to {its:g} or tighter: the robot may not stop you (real controllers do not)",
                )  # fmt: skip


def cameras(expected: Expected, seen: Seen) -> Iterator[Finding]:
    """Find cameras that are there but send nothing that can be read."""
    count = Counter(s.camera for s in seen.samples if isinstance(s, ImageSample))
    there = {peer.topic for peer in seen.peers if peer.kind == "publisher"}
    for camera, topic in expected.topics.cameras.items():
        if topic in there and not count[camera]:
            yield Finding(
                "no-picture", "error", f"camera {camera} ({topic}) sent nothing readable in {seen.seconds:.3g} s"
                + (f": {seen.refused[topic]}" if topic in seen.refused else ""),
                "the encoding must be rgb8, bgr8, rgba8, bgra8 or mono8, or JPEG / PNG on a /compressed topic",
            )  # fmt: skip


def _near(name: str, others: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(others), n=1, cutoff=0.5)
    return f" (is it {near[0]}?)" if near else ""
