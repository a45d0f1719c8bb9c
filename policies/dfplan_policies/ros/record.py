"""The log of a run, a line of JSON per tick, and its replay: the same inputs give the same commands, bit for bit."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, final

import numpy as np

import dfplan
from dfplan_policies.ros.chunks import Chunk
from dfplan_policies.ros.config import RobotConfig, read_config
from dfplan_policies.ros.core import Core, TickInput
from dfplan_policies.ros.modes import Mode
from dfplan_policies.ros.planner_process import Reply
from dfplan_policies.ros.safety import Decision
from dfplan_policies.ros.wire import ImageSample, JointSample, Sample, Setpoint, SwitchSample

FORMAT = 1
FLUSH_TICKS = 100


@final
class Recorder:
    """Write a log; pictures are left out, they decide nothing but the plans, which are in it.

    Args:
        path: The file; compressed if it ends in ``.gz``.
        config: Of the robot.
        dry: Whether nothing is sent.
    """

    def __init__(self, path: str | Path, config: RobotConfig, *, dry: bool = False) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = _open(self.path, "wt")
        self._ticks = 0
        self._write({"format": FORMAT, "dfplan": dfplan.__version__, "dry": dry, "config": config.to_dict()})

    def tick(self, given: TickInput, decision: Decision, setpoint: Setpoint | None) -> None:
        """Write a tick."""
        row: dict[str, Any] = {"t": given.now_s, "m": int(decision.mode)}
        row |= {"s": [_pack_sample(s) for s in given.samples]} if given.samples else {}
        row |= {"r": _pack_reply(given.reply)} if given.reply is not None else {}
        row |= {"n": [given.readers, given.writers], "p": given.planner, "x": given.shutdown}
        row |= {"q": given.silent_s} if given.silent_s is not None else {}
        row |= {"w": True} if given.withdrawn else {}
        row |= {"c": setpoint.position.tolist(), "g": setpoint.gripper} if setpoint is not None else {}
        row |= {"why": decision.reason} if decision.reason else {}
        self._write(row)
        self._ticks += 1
        if self._ticks % FLUSH_TICKS == 0:
            self._file.flush()

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row, separators=(",", ":")) + "\n")

    def close(self) -> None:
        """Finish the file; safe to call twice."""
        self._file.close()


@dataclass(frozen=True)
class Replayed:
    """Tell how a replay compares with its log.

    Attributes:
        ticks: How many there are.
        commands: How many of them sent a command.
        seconds: From the first to the last.
        differences: The first ticks at which the replay decided otherwise, as text.
        different: How many there are in all.
        faults: Time since the start and reason of every fault.
        modes: Ticks in each mode.
    """

    ticks: int
    commands: int
    seconds: float
    differences: tuple[str, ...]
    different: int
    faults: tuple[tuple[float, str], ...]
    modes: Mapping[str, int]

    @property
    def same(self) -> bool:
        """Tell whether every command was repeated bit for bit."""
        return self.different == 0


def replay(path: str | Path, most: int = 5) -> Replayed:
    """Repeat a run from its log.

    Args:
        path: The log.
        most: Differences to describe.

    Raises:
        ValueError: If the file is no log, or of another format.
    """
    rows = _rows(Path(path))
    head = next(rows, None)
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ValueError(f"{path} is no log of `dfplan ros run` (format {FORMAT}); give the file written with --log")
    core = Core(read_config(head["config"], "log"), dry=bool(head["dry"]))
    told: list[str] = []
    faults: list[tuple[float, str]] = []
    modes = dict.fromkeys((mode.name for mode in Mode), 0)
    ticks = commands = different = 0
    first = last = 0.0
    for row in rows:
        last, before = row["t"], core.state.mode
        first = first if ticks else last
        decision, setpoint = core.tick(_unpack_tick(row))
        ticks, commands = ticks + 1, commands + (setpoint is not None)
        modes[decision.mode.name] += 1
        if decision.mode == Mode.FAULT != before:
            faults.append((last - first, decision.reason))
        was, now = _said(row), _command(decision, setpoint)
        if was != now:
            different += 1
            told += [f"after {last - first:.3f} s the log has {was}, the replay {now}"] if len(told) < most else []
    return Replayed(ticks, commands, last - first, tuple(told), different, tuple(faults), modes)


def _said(row: Mapping[str, Any]) -> tuple[int, Any, Any]:
    return row["m"], row.get("c"), row.get("g")


def _command(decision: Decision, setpoint: Setpoint | None) -> tuple[int, Any, Any]:
    if setpoint is None:
        return int(decision.mode), None, None
    return int(decision.mode), setpoint.position.tolist(), setpoint.gripper


def _open(path: Path, mode: str) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, mode, encoding="utf-8")  # type: ignore[return-value]
    return path.open(mode, encoding="utf-8")


def _rows(path: Path) -> Iterator[Any]:
    """Read the lines; one that was cut off by a crash ends the log."""
    if not path.is_file():
        raise ValueError(f"there is no log {str(path)!r}; `dfplan ros run --log FILE` writes one")
    with _open(path, "rt") as file:
        try:
            for line in file:
                if not line.endswith("\n"):
                    return
                yield json.loads(line)
        except (EOFError, json.JSONDecodeError, UnicodeDecodeError, gzip.BadGzipFile):
            return


def _pack_sample(sample: Sample) -> list[Any]:
    if isinstance(sample, JointSample):
        values = [sample.position.tolist(), sample.velocity.tolist(), sample.stamp_s, sample.source, sample.topic]
        return ["j", sample.received_s, list(sample.names), *values]
    if isinstance(sample, ImageSample):
        return ["i", sample.received_s, sample.camera, list(sample.pixels.shape), sample.stamp_s]
    return ["o", sample.received_s, sample.kind, sample.value]


def _unpack_sample(row: list[Any]) -> Sample:
    kind, received_s, *rest = row
    if kind == "j":
        names, position, velocity, stamp_s, source, topic = rest
        arrays = np.array(position, dtype=np.float64), np.array(velocity, dtype=np.float64)
        return JointSample(received_s, tuple(names), *arrays, stamp_s, source, topic)
    if kind == "i":
        return ImageSample(received_s, rest[0], np.zeros((1, 1, 3), dtype=np.uint8), rest[2])
    return SwitchSample(received_s, rest[0], rest[1])


def _pack_reply(reply: Reply) -> list[Any]:
    chunk = reply.chunk
    if chunk is None:
        return [reply.observed_s, reply.problem]
    gripper = None if chunk.gripper is None else chunk.gripper.tolist()
    shape = list(chunk.positions.shape)
    return [reply.observed_s, reply.problem, chunk.observed_s, chunk.times_s.tolist(), shape,
            chunk.positions.ravel().tolist(), gripper, chunk.done_s]  # fmt: skip


def _unpack_reply(row: list[Any]) -> Reply:
    if len(row) == 2:
        return Reply(row[0], None, row[1])
    observed_s, problem, chunk_s, times, shape, positions, gripper, done_s = row
    arrays = np.array(times, dtype=np.float64), np.array(positions, dtype=np.float64).reshape(shape)
    opening = None if gripper is None else np.array(gripper, dtype=np.float64)
    return Reply(observed_s, Chunk(chunk_s, *arrays, opening, done_s), problem)


def _unpack_tick(row: Mapping[str, Any]) -> TickInput:
    samples = tuple(_unpack_sample(sample) for sample in row.get("s", ()))
    reply = _unpack_reply(row["r"]) if "r" in row else None
    return TickInput(
        row["t"], samples, reply, row["n"][0], row["n"][1], row["p"], row["x"], row.get("q"), row.get("w", False)
    )
