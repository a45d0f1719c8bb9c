"""The program: its commands and what they share."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Annotated

import typer

from dfplan.cli.bench import bench
from dfplan.cli.errors import ErrorGroup
from dfplan.cli.evaluate import evaluate_command
from dfplan.cli.imagine import imagine_command
from dfplan.cli.lists import checkpoints, envs, policies
from dfplan.cli.plan import plan_command

app = typer.Typer(
    name="dfplan",
    cls=ErrorGroup,
    help="Diffusion Forcing as a planner and a policy: train, plan and evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        import dfplan

        typer.echo(f"dfplan {dfplan.__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Diffusion Forcing as a planner and a policy: train, plan and evaluate."""


app.command("eval")(evaluate_command)
app.command("plan")(plan_command)
if find_spec("dfplan.cli.train"):
    app.command("train")(import_module("dfplan.cli.train").train)
if find_spec("dfplan.cli.finetune"):
    app.command("finetune")(import_module("dfplan.cli.finetune").finetune_command)
if find_spec("dfplan.cli.data"):
    app.add_typer(import_module("dfplan.cli.data").app, name="data")
app.command("imagine")(imagine_command)
if find_spec("dfplan.cli.ros"):
    app.add_typer(import_module("dfplan.cli.ros").app, name="ros")
app.command("bench")(bench)
app.command("envs")(envs)
app.command("policies")(policies)
app.command("checkpoints")(checkpoints)


def main() -> None:
    """Run the program."""
    app()
