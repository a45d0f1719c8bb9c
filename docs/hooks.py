"""Fill the command-line reference from the program itself, so that the page cannot differ from it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MARKER = "<!-- commands -->"
TABLE_HEAD = ["| argument or option | default | meaning |", "| --- | --- | --- |"]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace the marker on a page by one section per command."""
    return markdown.replace(MARKER, command_sections()) if MARKER in markdown else markdown


def command_sections() -> str:
    """Render every command of ``dfplan`` as Markdown."""
    for source in (ROOT, ROOT / "envs", ROOT / "policies"):
        if str(source) not in sys.path:
            sys.path.insert(0, str(source))
    import typer

    from dfplan.cli import app

    lines = [line for path, command in walk(typer.main.get_command(app), "dfplan") for line in render(path, command)]
    return "\n".join(lines)


def walk(command: Any, path: str) -> list[tuple[str, Any]]:
    """List the commands that do something, each with the words that call it."""
    children = getattr(command, "commands", None)
    if children is None:
        return [(path, command)]
    return [pair for name, child in sorted(children.items()) for pair in walk(child, f"{path} {name}")]


def render(path: str, command: Any) -> list[str]:
    """Render one command: its help, its arguments and options with their defaults."""
    shown = [p for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]
    table = [*TABLE_HEAD, *map(row, shown), ""] if shown else []
    return [f"## `{path}`", "", (command.help or "").strip(), "", *table]


def row(param: Any) -> str:
    """Render one argument or option as a line of the table."""
    names = [*param.opts, *param.secondary_opts] if param.param_type_name == "option" else [str(param.name).upper()]
    meaning = " ".join(str(getattr(param, "help", "") or "").split()).replace("|", "\\|")
    return f"| `{', '.join(names)}` | {default(param)} | {meaning} |"


def default(param: Any) -> str:
    """Say what holds if an argument or option is not given; nothing for a flag that is then off."""
    shown = getattr(param, "show_default", None)
    if param.required:
        return "required"
    if isinstance(shown, str):
        return shown
    if isinstance(param.default, bool):
        given = param.opts if param.default else param.secondary_opts
        return f"`{given[0]}`" if given else ""
    return "" if param.default is None or param.default in ((), []) else f"`{param.default}`"
