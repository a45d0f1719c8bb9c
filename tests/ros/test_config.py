"""The configuration: what is wrong in a file is said with its place, the rule and the nearest name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dfplan_policies.ros.config import examples, load_config, read_config
from tests.ros.rig import CONFIG, config


@pytest.mark.parametrize("name", ["panda", "ur5e", "generic7", "sim-panda"])
def test_the_examples_are_sound(name: str) -> None:
    # Catches: an example that its own schema refuses, or that comes back changed from the log.
    found = load_config(name)
    assert name in examples() and found.robot == name
    assert found.used_limits().inside((found.joint_limits().lower + found.joint_limits().upper) / 2)
    assert read_config(found.to_dict()) == found


WRONG = [
    ({"rate": 100}, r"config: unknown key 'rate'\. Did you mean 'rate_hz'"),
    ({"rate_hz": "fast"}, "config.rate_hz must be a number, got 'fast'"),
    ({"rate_hz": 1e9}, r"rate_hz must lie in 5..1000"),
    ({"rate_hz": float("nan")}, "rate_hz must be a number, got NaN"),
    ({"joints": "a"}, "config.joints must be a list, got 'a'"),
    ({"joints": ["a", "b", "b"]}, "different names"),
    ({"joints": ["a", "b", "d"]}, "unknown joint with limits 'c'"),
    ({"joints": ["a", "b", 3]}, r"joints\[2\] must be text, got 3"),
    ({"plan": {"blend": 1}}, r"config.plan: unknown key 'blend'\. Did you mean 'blend_s'"),
    ({"plan": {"threads": 1.5}}, "config.plan.threads must be a whole number"),
    ({"plan": {"threads": True}}, "config.plan.threads must be a whole number, got True"),
    ({"plan": 3}, "config.plan must be a table"),
    ({"limits": {"margin": 5}}, r"config.limits: margin must lie in 0..1"),
    ({"limits": {"margin": 0.4}}, "a margin must be 0 or more and leave room"),
    ({"limits": {"urdf": "x.urdf"}}, "not both or neither"),
    ({"topics": {"enable": "no slash"}}, "a topic must look like"),
    ({"action": {"form": "joints"}}, r"unknown form of actions 'joints'\. Did you mean 'joint'"),
    ({"action": {"form": "tool_delta"}}, "need the key tool"),
    ({"action": {"gripper": True}}, "need the key gripper"),
    ({"observation": {"pictures": {"scene": "front"}}}, "unknown camera 'front'"),
    ({"observation": {"fresh_s": 2.0}}, "fresh_s must be below missing_s"),
    ({"tool": {"lower": [0, 0]}}, "three numbers"),
]


@pytest.mark.parametrize(("changes", "text"), WRONG)
def test_what_is_wrong_is_said(changes: dict[str, object], text: str) -> None:
    # Catches: a key that is passed over, a value of a wrong type that becomes a default, an error without its place.
    with pytest.raises(ValueError, match=text):
        config(**changes)


def test_a_key_that_is_missing_is_named() -> None:
    # Catches: a TypeError about __init__.
    with pytest.raises(ValueError, match="config needs the key 'joints'"):
        read_config({key: value for key, value in CONFIG.items() if key != "joints"})


def test_files_are_read_and_a_urdf_lies_beside_them(tmp_path: Path) -> None:
    # Catches: a URDF looked for in the working directory; YAML that is none shown as a traceback.
    joint = '<joint name="{}" type="revolute"><limit lower="-1" upper="1" velocity="2"/></joint>'
    (tmp_path / "arm.urdf").write_text(f"<robot>{joint.format('a')}{joint.format('b')}</robot>")
    text = "robot: x\njoints: [b, a]\nlimits: {urdf: arm.urdf, acceleration: 3}\ntopics: {}\n"
    (tmp_path / "x.yaml").write_text(text)
    assert load_config(tmp_path / "x.yaml").joint_limits().velocity.tolist() == [2, 2]
    assert np.allclose(load_config(tmp_path / "x.yaml").used_limits().acceleration, 1.5)
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    with pytest.raises(ValueError, match="is not YAML"):
        load_config(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="must be a table"):
        load_config(tmp_path / "list.yaml")
    with pytest.raises(ValueError, match="generic7, panda, sim-panda, ur5e"):
        load_config(tmp_path / "none.yaml")
