"""An independent judge on the wire: a process that reads the commands with code of its own and writes a verdict.

Nothing of the bridge is used here: the messages are declared by hand, and cyclonedds' own codec reads them.
`python -m dfplan_policies.ros.recorder RULES.json --domain 7 --out verdict.json` runs until SIGTERM or for `--seconds`.
cyclonedds wants the fields' types themselves, so annotations are not put off here.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfplan_policies.ros.judge import Command, Judge, Rules
from dfplan_policies.ros.topics import missing_extra

try:
    from cyclonedds.domain import Domain, DomainParticipant
    from cyclonedds.idl import IdlStruct
    from cyclonedds.idl.annotations import final
    from cyclonedds.idl.types import float64, int32, sequence, uint32
    from cyclonedds.qos import Policy, Qos
    from cyclonedds.sub import DataReader
    from cyclonedds.topic import Topic
    from cyclonedds.util import duration
except ImportError as error:
    raise missing_extra("cyclonedds") from error

DEPTH = 5_000
LOOK_S = 0.01  # times are the senders', so looking more often tells no more
XML = (
    "<General><Interfaces><NetworkInterface {}/></Interfaces><AllowMulticast>{}</AllowMulticast></General>"
    "<Compatibility><IgnoreTypeInformation>1.15</IgnoreTypeInformation></Compatibility>"
)


@final
@dataclass
class Time(IdlStruct, typename="builtin_interfaces::msg::dds_::Time_"):
    """builtin_interfaces/msg/Time, and Duration without a sign of its own."""

    sec: int32
    nanosec: uint32


@final
@dataclass
class Duration(IdlStruct, typename="builtin_interfaces::msg::dds_::Duration_"):
    """builtin_interfaces/msg/Duration."""

    sec: int32
    nanosec: uint32


@final
@dataclass
class Header(IdlStruct, typename="std_msgs::msg::dds_::Header_"):
    """std_msgs/msg/Header."""

    stamp: Time
    frame_id: str


@final
@dataclass
class Point(IdlStruct, typename="trajectory_msgs::msg::dds_::JointTrajectoryPoint_"):
    """trajectory_msgs/msg/JointTrajectoryPoint."""

    positions: sequence[float64]
    velocities: sequence[float64]
    accelerations: sequence[float64]
    effort: sequence[float64]
    time_from_start: Duration


@final
@dataclass
class Trajectory(IdlStruct, typename="trajectory_msgs::msg::dds_::JointTrajectory_"):
    """trajectory_msgs/msg/JointTrajectory."""

    header: Header
    joint_names: sequence[str]
    points: sequence[Point]


@final
@dataclass
class Dimension(IdlStruct, typename="std_msgs::msg::dds_::MultiArrayDimension_"):
    """std_msgs/msg/MultiArrayDimension."""

    label: str
    size: uint32
    stride: uint32


@final
@dataclass
class Layout(IdlStruct, typename="std_msgs::msg::dds_::MultiArrayLayout_"):
    """std_msgs/msg/MultiArrayLayout."""

    dim: sequence[Dimension]
    data_offset: uint32


@final
@dataclass
class Numbers(IdlStruct, typename="std_msgs::msg::dds_::Float64MultiArray_"):
    """std_msgs/msg/Float64MultiArray."""

    layout: Layout
    data: sequence[float64]


@final
@dataclass
class States(IdlStruct, typename="sensor_msgs::msg::dds_::JointState_"):
    """sensor_msgs/msg/JointState."""

    header: Header
    name: sequence[str]
    position: sequence[float64]
    velocity: sequence[float64]
    effort: sequence[float64]


def command_of(message: Any, sent_s: float) -> Command:
    """Read a Trajectory or Numbers."""
    if isinstance(message, Numbers):
        return Command(sent_s, (), (tuple(message.data),))
    points = message.points
    return Command(
        sent_s,
        tuple(message.joint_names),
        tuple(tuple(point.positions) for point in points),
        tuple(tuple(point.velocities) for point in points),
        tuple(point.time_from_start.sec + point.time_from_start.nanosec * 1e-9 for point in points),
    )


def open_reader(participant: Any, topic: str, kind: Any) -> Any:
    """Read a topic reliably, keeping much."""
    qos = Qos(Policy.Reliability.Reliable(duration(milliseconds=100)), Policy.History.KeepLast(DEPTH))
    return DataReader(participant, Topic(participant, "rt" + topic, kind), qos=qos)


def record(judge: Judge, commands: Any, states: Any | None, going: Callable[[], bool]) -> dict[str, Any]:
    """Judge everything that comes; returns the verdict and what was seen, by time."""
    trace: list[list[Any]] = []
    measured: list[list[Any]] = []
    writers: set[int] = set()
    while going():
        for got in commands.take(DEPTH):
            if got.sample_info.valid_data:
                command = command_of(got, got.sample_info.source_timestamp * 1e-9)
                judge.see(command)
                writers.add(got.sample_info.publication_handle)
                trace.append([command.sent_s, time.time(), list(command.positions[0]) if command.positions else []])
        for got in states.take(DEPTH) if states is not None else ():
            if got.sample_info.valid_data:
                sent_s = got.sample_info.source_timestamp * 1e-9
                measured.append([sent_s, dict(zip(got.name, got.position, strict=False))])
        time.sleep(LOOK_S)
    return {**judge.report(), "writers": len(writers), "trace": trace, "states": measured}


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge until SIGTERM, SIGINT or for some seconds; returns 0 if all was well, 1 if not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("rules", type=Path, help="JSON: names, lower, upper, velocity, acceleration, period_s")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--topic", default="/arm_controller/joint_trajectory")
    parser.add_argument("--array", action="store_true", help="commands are Float64MultiArray")
    parser.add_argument("--states", default="", help="joint states to write down, too")
    parser.add_argument("--domain", type=int, default=0)
    parser.add_argument("--interface", default="127.0.0.1")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    chosen = parser.parse_args(arguments)
    given = json.loads(chosen.rules.read_text(encoding="utf-8"))
    lists: dict[str, Any] = {key: tuple(part) if isinstance(part, list) else part for key, part in given.items()}
    rules = Rules(**lists)
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _: stopped.append(got))
    local = chosen.interface in ("127.0.0.1", "lo")
    where = f'address="{chosen.interface}"' if chosen.interface[:1].isdigit() else f'name="{chosen.interface}"'
    domain = Domain(chosen.domain, XML.format(where, "false" if local else "default"))
    participant = DomainParticipant(chosen.domain)
    commands = open_reader(participant, chosen.topic, Numbers if chosen.array else Trajectory)
    states = open_reader(participant, chosen.states, States) if chosen.states else None
    sys.stdout.write("recording\n")
    sys.stdout.flush()
    end = time.monotonic() + chosen.seconds
    found = record(Judge(rules), commands, states, lambda: not stopped and time.monotonic() < end)
    chosen.out.write_text(json.dumps(found), encoding="utf-8")
    del participant, domain
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
