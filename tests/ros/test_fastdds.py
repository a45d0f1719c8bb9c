"""The dds back end against a robot that shares no code with it: C++ on Fast DDS, with code of fastddsgen."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cyclonedds")
pytest.importorskip("rosbags")

from dfplan_policies.ros.backends.dds import DdsBackend
from dfplan_policies.ros.topics import JOINT_STATE, TRAJECTORY, Topics
from dfplan_policies.ros.wire import JointSample, Sample, Setpoint
from tests.ros.far import DOMAIN, HERE, Process, until

pytestmark = pytest.mark.slow
TOOLS = ("fastddsgen", "g++")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
if not MISSING and not Path("/usr/include/fastdds").exists():
    MISSING = ["libfastrtps-dev"]


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> str:
    if MISSING:
        pytest.skip(f"needs {', '.join(MISSING)}: apt-get install fastddsgen libfastrtps-dev g++")
    folder = tmp_path_factory.mktemp("fastdds")
    built = subprocess.run(
        ["bash", str(HERE / "fastdds" / "build.sh"), str(folder)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return str(folder / "robot")


def test_states_and_commands(robot: str) -> None:
    """Catches: bytes, type names or QoS that only our own side understands; joints by place instead of by name."""
    backend = DdsBackend(Topics(), domain=DOMAIN, interface="lo")
    backend.open()
    process = Process(robot, str(DOMAIN), "200")
    found: list[Sample] = []

    def arms() -> list[JointSample]:
        found.extend(backend.poll(time.monotonic()))
        return [sample for sample in found if isinstance(sample, JointSample)]

    try:
        assert until(lambda: arms() and backend.command_readers() == 1, 30), process.stop()
        first = arms()[0]
        assert first.names == ("joint_2", "joint_1", "joint_3") and first.position.tolist() == [0.2, 0.1, 0.3]
        assert first.velocity.tolist() == [0.0, 0.0, 1e-300] and np.signbit(first.velocity[1])
        assert first.stamp_s is not None and abs(first.stamp_s - time.time()) < 60
        for k in range(20):
            place = np.array([-1.0, 0.5, 0.01 * k])
            backend.write(Setpoint(("joint_1", "joint_2", "joint_3"), place, np.zeros(3), 0.02))
            time.sleep(0.01)
        assert until(lambda: np.allclose(arms()[-1].position, [0.5, -1.0, 0.19]))
        assert until(lambda: len(arms()) > 20)
        stamps = [sample.stamp_s for sample in arms() if sample.stamp_s is not None]
        assert stamps == sorted(stamps)
        told = {(peer.topic, peer.kind): peer for peer in backend.peers()}
        state, command = told["/joint_states", "publisher"], told["/arm_controller/joint_trajectory", "subscriber"]
        assert state.type_name == JOINT_STATE and command.type_name == TRAJECTORY
        assert state.qos["reliability"] == command.qos["reliability"] == "reliable"
    finally:
        process.stop()
        backend.close()
    report: dict[str, Any] = json.loads(process.lines[-1])
    assert report["strange"] == 0 and 15 <= report["heard"] <= 20 and report["from_start"] == 0.02
