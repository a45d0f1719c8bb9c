"""The robot of the fault table: what the bridge, the arm and the recorder are told of it.

Everything follows from the rate of commands: at half the rate all takes twice as long, for a computer that is busy.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

JOINTS = tuple(f"joint_{k}" for k in range(1, 8))
START = (-0.6, 0.2, -0.2, 0.3, 0.1, -0.1, 0.4)
SHARES = (1.0, 0.5, -0.5, 0.4, -0.4, 0.3, -0.3)  # of the path's speed, joint by joint
RATE_NAME = "DFPLAN_FAULTS_HZ"  # in the environment, so that all processes know it
PERIOD_S = 1.0 / float(os.environ.get(RATE_NAME, "100"))  # of commands
SLOW = PERIOD_S / 0.01  # how many times longer everything takes than at 100 commands a second
LOWER, UPPER, VELOCITY, ACCELERATION = -2.9, 2.9, 1.5 / SLOW, 5.0 / SLOW**2
SPEED = 0.4 / SLOW  # rad/s of the first joint
RATE_HZ = 2.0 / PERIOD_S  # joint states
SOFT_S, HARD_S, PLAN_S, ENABLE_S = (n * PERIOD_S for n in (5, 25, 50, 20))  # ages that hold the arm, or are faults
LOSSY_GAP_PERIODS = 12.5  # so many commands in a row may have been sent and lost
TOPICS = {
    "joint_states": "/joint_states", "command": "/arm_controller/joint_trajectory", "enable": "/dfplan/enable",
    "stop": "/dfplan/stop", "rearm": "/dfplan/rearm",
}  # fmt: skip


def configuration(domain: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bridge's configuration; changes are merged into its sections."""
    one = {"lower": LOWER, "upper": UPPER, "velocity": VELOCITY, "acceleration": ACCELERATION}
    values: dict[str, Any] = {
        "robot": "faults", "joints": list(JOINTS), "rate_hz": 1.0 / PERIOD_S,
        "network": {"domain": domain, "interface": "lo"},
        "limits": {"joints": dict.fromkeys(JOINTS, one), "velocity_share": 1.0, "acceleration_share": 1.0},
        "topics": dict(TOPICS),
        "state": {"rate_hz": RATE_HZ, "soft_periods": SOFT_S * RATE_HZ, "hard_age_s": HARD_S,
                  "still": 0.05 / SLOW, "rest_s": 0.1 * SLOW},
        "guard": {"ramp_s": 0.3 * SLOW, "hold_s": 0.2 * SLOW, "enable_timeout_s": ENABLE_S},
        "plan": {"every_s": 0.1 * SLOW, "timeout_s": PLAN_S, "latency_s": 0.02 * SLOW, "blend_s": 0.1 * SLOW,
                 "longest_age_s": 5.0 * SLOW},
    }  # fmt: skip
    for key, part in changes.items():
        values[key] = {**values.get(key, {}), **part} if isinstance(part, Mapping) else part
    return values


def rules(lossy: bool = False) -> dict[str, Any]:
    """Return what the recorder judges by: the arm's own limits; where packets get lost it misses commands itself."""
    count = len(JOINTS)
    limits = {"lower": LOWER, "upper": UPPER, "velocity": VELOCITY, "acceleration": ACCELERATION}
    found = {"names": JOINTS, **{key: [value] * count for key, value in limits.items()}, "period_s": PERIOD_S}
    return {**found, "gap_periods": LOSSY_GAP_PERIODS} if lossy else found
