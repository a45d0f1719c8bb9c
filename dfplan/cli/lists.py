"""`dfplan envs`, `dfplan policies`, `dfplan checkpoints`: what there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def envs(json: Json = False) -> None:
    """List the environments: id, steps of an episode, reference returns (score 0 and 100)."""
    from dfplan_envs import list_envs

    rows: list[dict[str, Any]] = [
        {
            "id": info.id,
            "max_episode_steps": info.max_episode_steps,
            "reference_scores": info.reference_scores,
            "description": info.description,
        }
        for info in list_envs()
    ]
    if json:
        _print_json(rows)
        return
    cells = [
        (
            row["id"],
            row["max_episode_steps"],
            "-" if row["reference_scores"] is None else "{:.2f} / {:.2f}".format(*row["reference_scores"]),
            row["description"],
        )
        for row in rows
    ]
    _print_table(("id", "steps", "score 0 / 100", "what"), cells)


def policies(json: Json = False) -> None:
    """List the policies and, for those that plan, the executors."""
    from dfplan_policies import policies as known
    from dfplan_policies.executors import DESCRIPTIONS, EXECUTORS

    rows: list[dict[str, Any]] = [
        {"kind": "policy", "name": entry.usage, "description": entry.description} for entry in known().values()
    ]
    rows += [{"kind": "executor", "name": name, "description": DESCRIPTIONS.get(name, "")} for name in EXECUTORS]
    if json:
        _print_json(rows)
        return
    _print_table(("", "name", "what"), [(row["kind"], row["name"], row["description"]) for row in rows])


def checkpoints(json: Json = False) -> None:
    """List the bundled checkpoints; a folder or a Hugging Face Hub id works as well."""
    from dfplan.checkpoint import list_pretrained

    rows = list_pretrained()
    if json:
        _print_json(rows)
        return
    cells = [
        (
            row["name"],
            row["env"],
            f"{row['params'] / 1e6:.2f} M",
            f"{row['size_bytes'] / 1e6:.1f} MB",
            row["trained"],
            row["data"],
        )
        for row in rows
    ]
    _print_table(("name", "environment", "parameters", "size", "trained", "data"), cells)


def _print_json(rows: Any) -> None:
    from dfplan.evaluation.files import to_json

    typer.echo(to_json(rows), nl=False)


def _print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table on standard output; where that is not a terminal nothing is cut off."""
    import sys

    from rich.console import Console
    from rich.table import Table

    table = Table(*head, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(str, row))
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(table, highlight=False, markup=False)
