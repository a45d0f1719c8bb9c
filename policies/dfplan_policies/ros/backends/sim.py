"""An arm in this process: it goes in a straight line to each command in the time that the command gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from dfplan_policies.ros.config import RobotConfig
from dfplan_policies.ros.wire import BackendLost, ImageSample, JointSample, Peer, Sample, Setpoint, SwitchSample

Floats = NDArray[np.float64]
Disturb = Callable[[float, list[Sample]], list[Sample]]
ENABLE_HZ, CAMERA_HZ, PICTURE = 20.0, 10.0, 64


@final
class SimBackend:
    """Simulate an arm that follows its commands exactly and stops when they end.

    Without a command it stands. Joint states come at the configured rate, the enable button is held down, cameras show
    grey; everything can be disturbed.

    Args:
        config: Of the robot.
        clock: The loop's clock.
        start: (J,), where it stands at first; the middle of its limits by default.

    Attributes:
        disturb: Applied in turn to what is about to be delivered: (now, samples) -> samples.
        heard: Called with every command that is written: (now, setpoint).
        pending: Samples that a test puts in; they come first in the next delivery.
        readers, writers: What it tells of others.
        lost: Whether the middleware is gone.
        enabled: Whether the button is held, None for a button that says nothing.
        told: Diagnostics, newest last.
    """

    def __init__(self, config: RobotConfig, clock: Callable[[], float], start: Floats | None = None) -> None:
        limits = config.joint_limits()
        middle = (np.maximum(limits.lower, -np.pi) + np.minimum(limits.upper, np.pi)) / 2
        self.config, self.clock = config, clock
        self.disturb: list[Disturb] = []
        self.heard: list[Callable[[float, Setpoint], None]] = []
        self.pending: list[Sample] = []
        self.readers, self.writers, self.lost = 1, 0, False
        self.enabled: bool | None = True
        self.told: list[tuple[int, str, Mapping[str, str]]] = []
        self._from = self._to = middle if start is None else np.array(start, dtype=np.float64)
        self._from_s = self._to_s = clock()
        self._sent = {"state": clock(), "enable": clock(), "camera": clock()}
        self._open = False

    def open(self) -> None:
        """Connect."""
        self._open = True

    def place(self, now_s: float) -> Floats:
        """Return where the arm is."""
        if now_s >= self._to_s:
            return self._to.copy()
        share = (now_s - self._from_s) / (self._to_s - self._from_s)
        between: Floats = self._from + share * (self._to - self._from)
        return between

    def put(self, place: Floats) -> None:
        """Move the arm by hand."""
        self._from = self._to = np.array(place, dtype=np.float64)
        self._from_s = self._to_s = self.clock()

    def poll(self, now_s: float) -> Sequence[Sample]:
        """Return what is due."""
        self._check()
        config, samples = self.config, self.pending
        self.pending = []
        for when in self._due("state", config.state.rate_hz, now_s):
            place = self.place(when)
            samples.append(JointSample(now_s, config.joints, place, np.zeros(len(place)), when))
        if config.topics.enable is not None and self.enabled is not None:
            value = self.enabled
            samples += [SwitchSample(now_s, "enable", value) for _ in self._due("enable", ENABLE_HZ, now_s)]
        if config.topics.cameras:
            grey = np.full((PICTURE, PICTURE, 3), 128, dtype=np.uint8)
            for when in self._due("camera", CAMERA_HZ, now_s):
                samples += [ImageSample(now_s, camera, grey, when) for camera in config.topics.cameras]
        for change in self.disturb:
            samples = change(now_s, samples)
        return samples

    def _due(self, what: str, rate_hz: float, now_s: float) -> list[float]:
        """Return the times at which something was sent since the last call, at most a second's worth."""
        last, found = max(self._sent[what], now_s - 1.0), []
        while last + 1.0 / rate_hz <= now_s + 1e-9:
            last += 1.0 / rate_hz
            found.append(last)
        self._sent[what] = last
        return found

    def write(self, setpoint: Setpoint) -> None:
        """Begin to move."""
        self._check()
        now_s = self.clock()
        if self.readers:
            self._from, self._to = self.place(now_s), setpoint.position.copy()
            self._from_s, self._to_s = now_s, now_s + setpoint.time_from_start_s
        for listener in self.heard:
            listener(now_s, setpoint)

    def _check(self) -> None:
        if self.lost or not self._open:
            raise BackendLost("the simulated robot is gone" if self.lost else "the simulated robot is not open")

    def command_readers(self) -> int:
        """Return `readers`."""
        return self.readers

    def command_writers(self) -> int:
        """Return `writers`."""
        return self.writers

    def diagnose(self, level: int, text: str, values: Mapping[str, str]) -> None:
        """Keep a status."""
        self.told = [*self.told[-99:], (level, text, dict(values))]

    def peers(self) -> Sequence[Peer]:
        """Return nobody."""
        return ()

    def close(self) -> None:
        """Disconnect."""
        self._open = False
