"""The ways to a robot, one file each; `dfplan_policies.ros.wire.Backend` says what each one does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType

from dfplan.errors import unknown_name
from dfplan_policies.ros.config import RobotConfig
from dfplan_policies.ros.wire import Backend

BACKENDS: Mapping[str, str] = MappingProxyType(
    {
        "dds": "ROS 2's wire without a ROS installation (extra: ros); topics only",
        "rclpy": "the robot's own ROS 2",
        "sim": "an arm in this process that follows perfectly",
    }
)


def make_backend(name: str, config: RobotConfig, clock: Callable[[], float]) -> Backend:
    """Build a back end by name; it is opened by `Backend.open`.

    Args:
        name: One of `BACKENDS`.
        config: Of the robot.
        clock: The loop's clock.

    Raises:
        ImportError: If what it needs is not installed, with the remedy.
        ValueError: If the name is unknown.
    """
    if name not in BACKENDS:
        raise unknown_name("back end", name, BACKENDS)
    where = config.network
    backend: Backend
    if name == "sim":
        from dfplan_policies.ros.backends.sim import SimBackend

        backend = SimBackend(config, clock)
    elif name == "dds":
        module = import_module("dfplan_policies.ros.backends.dds")
        backend = module.DdsBackend(config.topics, domain=where.domain, interface=where.interface, name=config.robot)
    else:
        module = import_module("dfplan_policies.ros.backends.rclpy")
        backend = module.RclpyBackend(config.topics, name=config.robot)
    return backend
