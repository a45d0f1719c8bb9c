"""`python -m dfplan_policies.ros`: the commands of `dfplan ros`, for a computer on the robot."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from dfplan_policies.ros.config import example_text
from dfplan_policies.ros.options import read_numbers, read_options
from dfplan_policies.ros.run import RunOptions, replay_report, run


def parser() -> argparse.ArgumentParser:
    """Build the parser; its options are those of `dfplan ros`."""
    program = argparse.ArgumentParser(prog="python -m dfplan_policies.ros", description="Run a policy on an arm.")
    commands = program.add_subparsers(dest="command", required=True)
    p = commands.add_parser("run", help="run a policy on a robot")
    p.add_argument("--config", required=True, help="YAML file, or panda, ur5e, generic7, sim-panda")
    p.add_argument("--checkpoint", help="name, folder or Hub id")
    p.add_argument("--policy", default="df", help="df, act, plan, py:MODULE:ATTRIBUTE, ...")
    p.add_argument("--backend", help="dds, rclpy or sim, in place of the configuration's")
    p.add_argument("--dry-run", action="store_true", help="do everything but send")
    p.add_argument("--duration", type=float, help="seconds after which it stops")
    p.add_argument("--log", help="file for the log")
    p.add_argument("--goal", help="numbers separated by commas")
    p.add_argument("--option", action="append", help="NAME=VALUE of the policy; may be given several times")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cpu")
    p.add_argument("--quiet", action="store_true", help="no status line")
    p = commands.add_parser("check", help="compare what is on the network with a configuration")
    p.add_argument("--config", required=True)
    p.add_argument("--backend")
    p.add_argument("--seconds", type=float, default=5.0)
    p.add_argument("--urdf", help="the maker's model, whose limits must not be exceeded")
    p = commands.add_parser("replay", help="repeat a run from its log")
    p.add_argument("log")
    p = commands.add_parser("example", help="print a configuration to begin your robot's with")
    p.add_argument("name", help="panda, ur5e, generic7 or sim-panda")
    return program


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    chosen, console = parser().parse_args(arguments), Console(stderr=True)
    try:
        return COMMANDS[chosen.command](chosen)
    except (ValueError, TypeError, ImportError, OSError, RuntimeError) as error:
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2


def _run(chosen: Any) -> int:
    run(
        RunOptions(
            chosen.config, chosen.checkpoint, chosen.policy, chosen.backend, chosen.dry_run, chosen.duration,
            chosen.log, read_numbers(chosen.goal), chosen.seed, chosen.device, read_options(chosen.option),
            chosen.quiet,
        )
    )  # fmt: skip
    return 0


def _check(chosen: Any) -> int:
    from dfplan_policies.ros.watch import check_robot, report

    checked = check_robot(chosen.config, chosen.backend, chosen.seconds, chosen.urdf)
    Console().print(report(checked), markup=False, highlight=False, soft_wrap=True)
    return 0 if checked.fine else 1


def _replay(chosen: Any) -> int:
    text, same = replay_report(chosen.log)
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
    return 0 if same else 1


def _example(chosen: Any) -> int:
    sys.stdout.write(example_text(chosen.name))
    return 0


COMMANDS = {"run": _run, "check": _check, "replay": _replay, "example": _example}

if __name__ == "__main__":
    sys.exit(main())
