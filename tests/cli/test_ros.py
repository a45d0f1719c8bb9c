"""`dfplan ros` and `python -m dfplan_policies.ros`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from dfplan.cli.ros import app
from dfplan_policies.ros.__main__ import main, parser
from dfplan_policies.ros.config import load_config
from dfplan_policies.ros.options import read_numbers, read_options
from dfplan_policies.ros.record import replay

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., tuple[int, str, str]]
YAML = """
robot: small
joints: [a, b]
rate_hz: 50
limits:
  joints:
    a: {lower: -1, upper: 1, velocity: 1, acceleration: 5}
    b: {lower: -1, upper: 1, velocity: 1, acceleration: 5}
topics: {}
state: {rate_hz: 50}
guard: {ramp_s: 0.2, hold_s: 0.1}
"""
SOURCE = "source:tests.ros.plans:slow"


@pytest.fixture
def robot(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(YAML)
    return tmp_path / "small.yaml"


def test_a_run_on_the_simulated_arm_is_logged_and_replayed(dfplan: Run, robot: Path, tmp_path: Path) -> None:
    # Catches: options that do not arrive, a planner that is left behind, a log that nobody can repeat.
    log = tmp_path / "run.jsonl"
    code, _, err = dfplan(
        "ros", "run", "--config", robot, "--backend", "sim", "--policy", SOURCE, "--duration", 2, "--log", log
    )
    assert code == 0 and "RUN" in err, err
    code, out, _ = dfplan("ros", "replay", log)
    assert code == 0 and "every command is repeated bit for bit" in out
    assert replay(log).modes["RUN"] > 20 and replay(log).modes["STOPPED"] > 2
    log.write_text(log.read_text().replace('"m":3', '"m":2', 1))
    code, out, _ = dfplan("ros", "replay", log)
    assert code == 1 and "1 ticks differ" in out


def test_a_dry_run_says_what_it_kept_back(dfplan: Run, robot: Path) -> None:
    # Catches: a dry run that sends.
    code, _, err = dfplan(
        "ros", "run", "--config", robot, "--backend", "sim", "--policy", SOURCE, "--duration", 1.5, "--dry-run"
    )
    found = re.search(r"dry run: (\d+) commands were not sent", err)
    assert code == 0 and found and int(found[1]) > 20


def test_a_signal_stops_it_in_good_order(robot: Path, tmp_path: Path) -> None:
    # Fault 30. Catches: SIGTERM or Ctrl-C that ends the process in motion, or leaves the planner behind.
    for number in (signal.SIGTERM, signal.SIGINT):
        log = tmp_path / f"{number}.jsonl"
        command = [sys.executable, "-m", "dfplan_policies.ros", "run", "--config", str(robot), "--backend", "sim"]
        paths = os.pathsep.join([str(ROOT), *(str(ROOT / part) for part in ("envs", "policies", "benchmarks"))])
        process = subprocess.Popen(
            [*command, "--policy", SOURCE, "--log", str(log)], env={**os.environ, "PYTHONPATH": paths},
            stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        end = time.monotonic() + 120
        while time.monotonic() < end and not (log.exists() and '"m":3' in log.read_text()):
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(30) == 0, process.stderr and process.stderr.read()
        found = replay(log)
        assert found.same and found.modes["STOPPED"] >= 5 and found.modes["RUN"] > 0


def test_what_is_wrong_is_one_line(dfplan: Run, robot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Catches: a traceback where a sentence belongs; a planner that cannot be built and is waited for.
    code, _, err = dfplan("ros", "run", "--config", "pand", "--backend", "sim")
    assert code == 2 and "generic7, panda, sim-panda, ur5e" in err
    code, _, err = dfplan("ros", "run", "--config", robot, "--policy", "source:tests.ros.plans:slow", "--option", "how")
    assert code == 2 and "NAME=VALUE" in err
    code, _, err = dfplan("ros", "run", "--config", robot, "--policy", SOURCE, "--option", "how=no start")
    assert code == 2 and "this source cannot be built" in err
    assert main(["replay", "none.jsonl"]) == 2
    assert "there is no log" in capsys.readouterr().err


def test_the_two_programs_have_the_same_options() -> None:
    # Catches: an option that one of them lacks.
    group: Any = typer.main.get_command(app)
    subparsers: Any = next(a for a in parser()._actions if a.dest == "command")
    for name, program in subparsers.choices.items():
        ours = {a.dest for a in program._actions} - {"help"}
        assert ours == {p.name for p in group.commands[name].params} - {"help"}, name
    assert set(group.commands) == {*subparsers.choices, "sim-arm"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there is always a display")
def test_a_window_without_a_display_is_one_line(dfplan: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: an arm that runs on without its window, or ends without a word.
    pytest.importorskip("cyclonedds")
    pytest.importorskip("pybullet")
    monkeypatch.delenv("DISPLAY", raising=False)
    code, out, err = dfplan("ros", "sim-arm", "--gui", "--duration", 0.1, "--domain", 231)
    assert code == 2 and "DISPLAY is not set" in err and "Traceback" not in err and out == ""


def test_an_example_is_printed_as_it_is(dfplan: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Catches: an example that cannot be loaded from a copy, or loses its comments; a name that is not explained.
    code, out, _ = dfplan("ros", "example", "panda")
    (tmp_path / "mine.yaml").write_text(out)
    copy, ours = load_config(tmp_path / "mine.yaml"), load_config("panda")
    assert code == 0 and out.startswith("# Franka") and copy.limits == ours.limits and copy.topics == ours.topics
    assert main(["example", "panda"]) == 0 and capsys.readouterr().out == out
    code, _, err = dfplan("ros", "example", "pand")
    assert code == 2 and "panda" in err


def test_options_are_read() -> None:
    # Catches: numbers that stay text, a hyphen that makes a name unknown.
    assert read_options(["samples=8", "warm-start=true", "schedule=pyramid"]) == {
        "samples": 8, "warm_start": True, "schedule": "pyramid"
    }  # fmt: skip
    assert read_numbers("0.4,-1") == (0.4, -1.0) and read_numbers(None) is None
    with pytest.raises(ValueError, match="separated by commas"):
        read_numbers("a,b")
