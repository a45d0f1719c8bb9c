"""The command line ``dfplan``. Torch and everything heavy is imported inside the commands."""

from __future__ import annotations

from dfplan.cli.main import app, main

__all__ = ["app", "main"]
