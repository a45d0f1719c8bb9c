"""Fill the command-line reference from the program itself, so that the page cannot differ from it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MARKER = "<!-- commands -->"


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

    return "\n".join(section for path, command in walk(typer.main.get_command(app), "dfplan") for section in render(path, command))


def walk(command: Any, path: str) -> list[tuple[str, Any]]:
    """List the commands that do something, each with the words that call it."""
    children = getattr(command, "commands", None)
    if children is None:
        return [(path, command)]
    return [pair for name, child in sorted(children.items()) for pair in walk(child, f"{path} {name}")]


def render(path: str, command: Any) -> list[str]:
    """Render one command: its help, its arguments and options with their defaults."""
    lines = [f"## `{path}`", "", (command.help or "").strip(), "", "| argument or option | default | meaning |", "| --- | --- | --- |"]
    for param in command.params:
        if getattr(param, "hidden", False) or param.name == "help":
            continue
        is_option = param.param_type_name == "option"
        name = ", ".join([*param.opts, *param.secondary_opts]) if is_option else str(param.name).upper()
        default = "required" if param.required else "" if param.default in (None, (), []) else f"`{param.default}`"
        meaning = " ".join(str(getattr(param, "help", "") or "").split()).replace("|", "\\|")
        lines.append(f"| `{name}` | {default} | {meaning} |")
    return [*lines, ""]
