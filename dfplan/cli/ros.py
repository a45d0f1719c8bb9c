"""`dfplan ros run|check|replay|example|sim-arm`: policies on real and simulated arms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Run a policy on an arm over ROS 2.", no_args_is_help=True, rich_markup_mode=None)

Config = Annotated[
    str, typer.Option(metavar="FILE|NAME", help="Configuration: a YAML file, or panda, ur5e, generic7, sim-panda.")
]
BackendName = Annotated[str | None, typer.Option(help="dds, rclpy or sim, in place of the configuration's.")]


@app.command("run")
def run_command(
    config: Config,
    checkpoint: Annotated[str | None, typer.Option(metavar="NAME|DIR|HUB", help="Checkpoint of the policy.")] = None,
    policy: Annotated[
        str, typer.Option(help="df, act, plan (a fresh plan for every observation), py:MODULE:ATTRIBUTE ...")
    ] = "df",
    backend: BackendName = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do everything but send.")] = False,
    duration: Annotated[float | None, typer.Option(help="Seconds after which it stops by itself.")] = None,
    log: Annotated[Path | None, typer.Option(help="File for the log, .jsonl or .jsonl.gz.")] = None,
    goal: Annotated[str | None, typer.Option(help="Where to go, numbers separated by commas.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Option of the policy; may be given several times.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides the policy's draws.")] = 0,
    device: Annotated[str, typer.Option(help="Where the network runs: cpu, cuda ...")] = "cpu",
    quiet: Annotated[bool, typer.Option("--quiet", help="No status line.")] = False,
) -> None:
    """Run a policy on a robot until Ctrl-C; the arm is braked and held before it ends."""
    from dfplan_policies.ros.options import read_numbers, read_options
    from dfplan_policies.ros.run import RunOptions, run

    kept = None if log is None else str(log)
    options = RunOptions(
        config, checkpoint, policy, backend, dry_run, duration, kept, read_numbers(goal), seed, device,
        read_options(option), quiet,
    )  # fmt: skip
    try:
        run(options)
    except RuntimeError as error:  # the planner or the robot cannot be reached
        raise OSError(str(error)) from error


@app.command("check")
def check_command(
    config: Config,
    backend: BackendName = None,
    seconds: Annotated[float, typer.Option(help="How long to listen.")] = 5.0,
    urdf: Annotated[
        str | None, typer.Option(help="The maker's model, whose limits the configuration must not exceed.")
    ] = None,
) -> None:
    """Compare what is on the network with a configuration, and say what is wrong and what to do."""
    from dfplan_policies.ros.watch import check_robot, report

    try:
        checked = check_robot(config, backend, seconds, urdf)
    except RuntimeError as error:  # the network cannot be joined
        raise OSError(str(error)) from error
    typer.echo(report(checked))
    raise typer.Exit(0 if checked.fine else 1)


@app.command("replay")
def replay_command(log: Annotated[Path, typer.Argument(help="A log that `dfplan ros run --log` wrote.")]) -> None:
    """Repeat a run from its log and compare every command."""
    from dfplan_policies.ros.run import replay_report

    text, same = replay_report(log)
    typer.echo(text)
    raise typer.Exit(0 if same else 1)


@app.command("example")
def example_command(name: Annotated[str, typer.Argument(help="panda, ur5e, generic7 or sim-panda.")]) -> None:
    """Print a configuration that comes with the package, to begin your robot's with."""
    from dfplan_policies.ros.config import example_text

    typer.echo(example_text(name), nl=False)


@app.command("sim-arm")
def sim_arm_command(
    domain: Annotated[int | None, typer.Option(help="0 to 232; by default ROS_DOMAIN_ID, else 0.")] = None,
    interface: Annotated[str, typer.Option(help="Network interface; lo for this machine only.")] = "lo",
    rate: Annotated[float, typer.Option(help="Joint states per second, 1 to 240.")] = 120.0,
    camera_rate: Annotated[float, typer.Option(help="Pictures per second of each camera; 0: none.")] = 0.0,
    camera_size: Annotated[int, typer.Option(help="Side of a picture in pixels.")] = 128,
    seed: Annotated[int, typer.Option(help="Of the first episode.")] = 0,
    duration: Annotated[float | None, typer.Option(help="Seconds after which it ends.")] = None,
    gui: Annotated[bool, typer.Option("--gui", help="Show it in PyBullet's window; needs a display.")] = False,
    speed: Annotated[float, typer.Option(help="Below 1 in slow motion, on a slow computer; then also in FILE.")] = 1.0,
) -> None:
    """Run a simulated Panda with the fruit-swap table on the network until Ctrl-C (extras ros and bullet)."""
    from dfplan_policies.ros.sim_arm import main as simulate

    try:
        simulate(
            domain=domain, interface=interface, rate_hz=rate, camera_hz=camera_rate, camera_size=camera_size, seed=seed,
            seconds=duration, speed=speed, gui=gui, say=typer.echo,
        )  # fmt: skip
    except RuntimeError as error:  # the network cannot be joined
        raise OSError(str(error)) from error
