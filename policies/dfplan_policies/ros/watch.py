"""Look at a robot for some seconds and compare it with a configuration: what `dfplan ros check` does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dfplan_policies.ros.backends import make_backend
from dfplan_policies.ros.backends.wire_config import domain_of, interface_of
from dfplan_policies.ros.check import Expected, Finding, Seen, check
from dfplan_policies.ros.config import RobotConfig, load_config
from dfplan_policies.ros.limits import urdf_limits
from dfplan_policies.ros.loop import Clock, RealClock
from dfplan_policies.ros.wire import Backend, JointSample, Sample

LOOK_S = 0.02
FIRST_S = 2.0  # for the first joint states: endpoints have to find each other


@dataclass(frozen=True)
class Checked:
    """Hold what was seen and what is wrong with it."""

    seen: Seen
    findings: tuple[Finding, ...]

    @property
    def fine(self) -> bool:
        """Tell whether nothing keeps the robot from being started."""
        return all(finding.level != "error" for finding in self.findings)


def expected_of(config: RobotConfig, urdf: str | None = None) -> Expected:
    """Return what a configuration expects of a robot.

    Args:
        config: Of the robot.
        urdf: The maker's model, whose limits the configuration's must not exceed.
    """
    limits = config.joint_limits()
    makers: dict[str, tuple[float, float, float]] = {}
    if urdf is not None:
        own = urdf_limits(config.joints, urdf, 1.0)
        rows = zip(own.lower.tolist(), own.upper.tolist(), own.velocity.tolist(), strict=True)
        makers = dict(zip(config.joints, rows, strict=True))
    lower, upper, velocity = (tuple(part.tolist()) for part in (limits.lower, limits.upper, limits.velocity))
    return Expected(
        config.topics, config.joints, lower, upper, velocity, config.state.rate_hz * config.speed,
        config.rate_hz * config.speed, makers, domain_of(config.network.domain),
        interface_of(config.network.interface) or "any",
    )  # fmt: skip


def watch(backend: Backend, seconds: float, clock: Clock, wall: Callable[[], float] = time.time) -> Seen:
    """Collect what comes from an open back end; the time counts from the first joint states, if any come soon."""
    samples = list[Sample]()

    def look(until_s: float, enough: Callable[[], bool]) -> None:
        while (now := clock.now()) < until_s and not enough():
            samples.extend(backend.poll(now))
            clock.sleep_until(now + LOOK_S)

    look(clock.now() + FIRST_S, lambda: any(isinstance(sample, JointSample) and not sample.topic for sample in samples))
    begin = clock.now()
    look(begin + seconds, lambda: False)
    reasons: Mapping[str, str] = getattr(backend, "reasons", {})
    return Seen(tuple(backend.peers()), tuple(samples), clock.now() - begin, wall() - clock.now(), dict(reasons))


def check_robot(path: str, backend: str | None = None, seconds: float = 5.0, urdf: str | None = None) -> Checked:
    """Watch a robot and compare.

    Args:
        path: The configuration.
        backend: In place of the configuration's.
        seconds: How long to watch.
        urdf: The maker's model, or None.

    Raises:
        ValueError: If the configuration is wrong.
        ImportError: If an extra is missing.
        RuntimeError: If the network cannot be joined.
    """
    config = load_config(path)
    clock = RealClock()  # also where the robot is in slow motion: what is compared is what this computer sees
    robot = make_backend(backend or config.backend, config, clock.now)
    robot.open()
    try:
        seen = watch(robot, seconds, clock)
    finally:
        robot.close()
    return Checked(seen, tuple(check(expected_of(config, urdf), seen)))


def report(checked: Checked) -> str:
    """Put a check into lines: who is there, the joints in their order, then what is wrong and what to do."""
    lines = [f"{peer.kind:<10} {peer.topic}  {peer.type_name}  {peer.name}" for peer in checked.seen.peers]
    lines += joint_lines(checked.seen.samples, checked.seen.seconds)
    for finding in checked.findings:
        lines += [f"{finding.level}: {finding.text}", f"  remedy: {finding.remedy}"]
    lines.append(
        "nothing is wrong" if not checked.findings else "do not start" if not checked.fine else "may be started"
    )
    return "\n".join(lines)


def joint_lines(samples: Sequence[Sample], seconds: float) -> list[str]:
    """Describe the joint states of each publisher: names in their order, rate, newest positions."""
    found: dict[tuple[str, str], list[JointSample]] = {}
    for sample in samples:
        if isinstance(sample, JointSample):
            found.setdefault((sample.topic, sample.source), []).append(sample)
    lines = []
    for (topic, source), rows in found.items():
        lines.append(f"joint states {topic} {source}: {len(rows) / seconds:.1f} per second")
        last = rows[-1]
        lines += [f"  {name}: {value:.4f}" for name, value in zip(last.names, np.round(last.position, 6), strict=False)]
    return lines
