"""The newest of everything that came from the robot: joints by name, pictures, the operator's switches.

Nothing here reads a clock: the same samples in the same order give the same answers, so a log can be replayed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.typing import NDArray

from dfplan_policies.ros.config import RobotConfig
from dfplan_policies.ros.wire import ImageSample, JointSample, Sample, SwitchSample

Floats = NDArray[np.float64]
CLOCK_JUMP_S = 1.0  # a larger change of a sender's clock against ours is a jump, not a delay
WINDOW_S = 5.0  # the least delay is remembered for one to two of these
RIVAL_S = 1.0  # two sources of one joint within this time are rivals
REPEAT_S = 1.0  # requests to re-arm closer than this are one, if none of them was let go


@dataclass
class _Stream:
    """Follow one publisher's stamps: repeats, order, and delay against its best."""

    stamp_s: float = -math.inf
    offset_s: float = math.nan
    begun_s: float = -math.inf
    least: tuple[float, float] = (math.inf, math.inf)

    def late_s(self, sample: JointSample) -> float | None:
        """Return how late a sample is against the best of the last seconds; None if it is not newer than the last."""
        if sample.stamp_s is None:
            return 0.0
        offset = sample.received_s - sample.stamp_s
        if abs(offset - self.offset_s) > CLOCK_JUMP_S:
            self.stamp_s, self.least = -math.inf, (math.inf, math.inf)
        if sample.stamp_s <= self.stamp_s:
            return None
        self.stamp_s, self.offset_s = sample.stamp_s, offset
        if sample.received_s - self.begun_s > WINDOW_S:
            self.begun_s, self.least = sample.received_s, (self.least[1], math.inf)
        self.least = (self.least[0], min(self.least[1], offset))
        return offset - min(self.least)


@dataclass
class _Joint:
    """Hold the newest value of one name."""

    value: float = math.nan
    received_s: float = -math.inf
    measured_s: float = -math.inf
    source: str = ""


@dataclass(frozen=True, eq=False)
class JointsNow:
    """Say where the arm is: see `dfplan_policies.ros.safety.Seen`."""

    position: Floats | None
    age_s: float
    broken: str
    still: bool


@final
class JointCell:
    """Merge messages of joint states by name.

    A message counts if its lengths agree and no name is there twice; names that nobody asked for are passed over. A
    stamp that was there before, or an older one, refreshes nothing. A delay against the sender's best adds to the age.

    Args:
        config: Of the robot.

    Attributes:
        counts: How many messages were ``repeated``, ``malformed``, or came over a ``clock jump``.
    """

    def __init__(self, config: RobotConfig) -> None:
        names = [*config.joints, *config.signals, *(config.gripper.joints if config.gripper else ())]
        self.counts: Counter[str] = Counter()
        self._config, self._hard = config, config.joint_limits()
        self._joints = {name: _Joint() for name in names}
        self._rate = dict(zip(config.joints, self._hard.velocity.tolist(), strict=True))
        self._streams: dict[tuple[str, str, frozenset[str]], _Stream] = {}
        self._broken, self._rivals = "", ("", -math.inf)
        self._anchor: tuple[float, Floats] = (-math.inf, np.full(len(config.joints), np.nan))

    def take(self, sample: JointSample) -> None:
        """Take one message."""
        names = frozenset(sample.names)
        if len(sample.names) != len(sample.position) or len(names) != len(sample.names):
            self.counts["malformed"] += 1
            return
        key = (sample.topic, sample.source, names)
        if key not in self._streams and len(self._streams) > 1000:
            self._streams.clear()
        late = self._streams.setdefault(key, _Stream()).late_s(sample)
        if late is None:
            self.counts["repeated"] += 1
            return
        for name, value in zip(sample.names, sample.position.tolist(), strict=True):
            if name in self._joints:
                self._set(name, value, sample, late)

    def _set(self, name: str, value: float, sample: JointSample, late_s: float) -> None:
        joint = self._joints[name]
        if name in self._rate:
            self._check(name, joint, value, sample)
        joint.value, joint.source = value, sample.source
        joint.received_s, joint.measured_s = sample.received_s, sample.received_s - late_s

    def _check(self, name: str, joint: _Joint, value: float, sample: JointSample) -> None:
        """Look for rivals, numbers that are not finite, and jumps."""
        since = sample.received_s - joint.received_s
        if joint.source and sample.source and joint.source != sample.source and since < RIVAL_S:
            text = f"two publishers send the joint {name}: {joint.source} and {sample.source}"
            self._rivals = (text, sample.received_s + RIVAL_S)
        elif not math.isfinite(value):
            self._broken = f"the position of {name} is {value}"
        elif math.isfinite(joint.value):
            state = self._config.state
            allowed = state.jump_factor * self._rate[name] * max(since, 1.0 / state.rate_hz) + state.jump_slack
            if abs(value - joint.value) > allowed:
                self._broken = f"{name} jumped by {value - joint.value:.3f}, more than {allowed:.3f}"

    def read(self, now_s: float) -> JointsNow:
        """Return where the arm is, and what was wrong since the last call."""
        config = self._config
        joints = [self._joints[name] for name in config.joints]
        age = now_s - min(joint.measured_s for joint in joints)
        broken, self._broken = self._broken, ""
        if now_s < self._rivals[1]:
            broken = broken or self._rivals[0]
        if not math.isfinite(age):
            return JointsNow(None, math.inf, broken, False)
        position = np.array([joint.value for joint in joints])
        band = config.state.still * config.state.rest_s
        if not (np.abs(position - self._anchor[1]) <= band).all():
            self._anchor = (now_s, position)
        return JointsNow(position, age, broken, now_s - self._anchor[0] >= config.state.rest_s - 1e-9)

    def value(self, name: str) -> tuple[float, float]:
        """Return the newest value of a name and when it was measured; NaN and -inf if it never came."""
        joint = self._joints[name]
        return joint.value, joint.measured_s


@dataclass
class Switches:
    """Follow the operator's switches."""

    enable: tuple[bool, float] = (False, -math.inf)
    stop: bool = False
    asked: tuple[bool, float] = (False, -math.inf)
    rearm: bool = False

    def take(self, sample: SwitchSample) -> None:
        """Take one message; a request to re-arm counts once, however long the button is held."""
        if sample.kind == "enable":
            self.enable = (sample.value, sample.received_s)
        elif sample.kind == "stop":
            self.stop = sample.value
        else:
            fresh = not self.asked[0] or sample.received_s - self.asked[1] > REPEAT_S
            self.rearm = self.rearm or (sample.value and fresh)
            self.asked = (sample.value, sample.received_s)

    def asked_to_rearm(self) -> bool:
        """Tell whether somebody has asked since the last call."""
        asked, self.rearm = self.rearm, False
        return asked


@final
class Signals:
    """Hold the newest of everything.

    Args:
        config: Of the robot.
    """

    def __init__(self, config: RobotConfig) -> None:
        self.config, self.joints, self.switches = config, JointCell(config), Switches()
        self.pictures: dict[str, ImageSample] = {}

    def take(self, samples: Sequence[Sample]) -> None:
        """Take what came, in order."""
        for sample in samples:
            if isinstance(sample, JointSample):
                self.joints.take(sample)
            elif isinstance(sample, ImageSample):
                self.pictures[sample.camera] = sample
            else:
                self.switches.take(sample)

    def enabled(self, now_s: float) -> bool:
        """Tell whether the operator enables motion; without such a switch he always does."""
        if self.config.topics.enable is None:
            return True
        value, when = self.switches.enable
        return value and now_s - when <= self.config.guard.enable_timeout_s


@dataclass(frozen=True, eq=False)
class Observation:
    """Hold what a policy is shown.

    Attributes:
        observed_s: When the joints were measured.
        joints: (J,), measured.
        command: (J,), the last command; the measured position if there is none.
        columns: Values of the names among the columns of the state.
        gripper: Opening in m that was commanded last, or None.
        pictures: Key -> uint8 (height, width, 3); a key is missing if no picture ever came.
        shares: For ``state`` and each key of a picture: how much of it is noise, 0 (fresh) to 1 (missing). A token of
            it belongs at that share of the K noise levels.
        episode: Counts the starts.
    """

    observed_s: float
    joints: Floats
    command: Floats
    columns: dict[str, float] = field(default_factory=dict)
    gripper: float | None = None
    pictures: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    episode: int = 0
