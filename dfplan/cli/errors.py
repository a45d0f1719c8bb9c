"""Turn the errors a user can cause into one message and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

FAILED, INTERRUPTED = 2, 130
DEBUG = "DFPLAN_DEBUG"


class ErrorGroup(TyperGroup):
    """Show bad input as one message (exit code 2) and Ctrl-C as another (130); with ``--debug`` the traceback too."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (ValueError, TypeError, ImportError, OSError) as error:
            _fail(error, ctx)
        except KeyboardInterrupt:
            typer.echo("\nstopped: no results were written", err=True)
            raise typer.Exit(INTERRUPTED) from None


def _fail(error: Exception, ctx: Any) -> NoReturn:
    """Show an error and end; errors that are bugs rather than bad input still point at ``--debug``."""
    if ctx.params.get("debug") or os.environ.get(DEBUG):
        raise error
    text = str(error) or type(error).__name__
    typer.secho("error: ", fg=typer.colors.RED, bold=True, nl=False, err=True)
    typer.echo(text, err=True)
    if isinstance(error, TypeError):
        typer.echo(f"(`{os.path.basename(sys.argv[0])} --debug ...` shows where)", err=True)
    raise typer.Exit(FAILED) from None
