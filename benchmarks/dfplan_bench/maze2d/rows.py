"""What the table of maze2d consists of: one row per policy, task and number of episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dfplan.errors import unknown_name

MAZES = ("umaze", "medium", "large")
GROUPS = ("own", "scores", "ladder", "references")


@dataclass(frozen=True)
class Row:
    """Describe one row.

    Attributes:
        name: Its key, unique.
        label: What the report calls it.
        env: Environment, without the version.
        group: ``"own"``, ``"scores"``, ``"ladder"`` or ``"references"``.
        policy: A policy as for ``dfplan eval --policy``, or ``"perfect"``: the shortest way, from the map.
        options: Arguments of `DFPolicy`, if it plans; ``goal_guidance`` and ``monte_carlo`` (futures) are turned into
            guidance.
        episodes: How many, unless the run says otherwise.
    """

    name: str
    label: str
    env: str
    group: str
    policy: str = "df"
    options: Mapping[str, Any] = field(default_factory=dict)
    episodes: int = 500

    @property
    def maze(self) -> str:
        """Name of the maze, which is that of its checkpoint."""
        return self.env.rsplit("-", 1)[1]


def all_rows(mppi: bool = True) -> list[Row]:
    """List all rows; those of the sampling controller only where there is such a policy."""
    rows = [*_scores(), *_ladder()]
    for maze in MAZES:
        label = "fastest path on the map, chased (look-ahead 0.8, its best)"
        nearer = {"executor_options": {"lookahead": 0.8}}  # such a path hugs corners, a longer look-ahead cuts them
        rows.append(Row(f"{maze}-perfect", label, f"maze2d-{maze}", "references", "perfect", options=nearer))
        rows.append(
            Row(f"{maze}-waypoint", "the controller that made the data", f"maze2d-{maze}", "references", "waypoint")
        )
        if mppi:
            label = "sampling MPC in the true simulator"
            rows.append(Row(f"{maze}-mppi", label, f"maze2d-{maze}", "references", "mppi", episodes=30))
    return rows


def _scores() -> list[Row]:
    rows = []
    for maze in MAZES:
        single, multi = f"maze2d-{maze}", f"maze2d-multi-{maze}"
        own = {"executor": "diffused_actions"}
        rows.append(Row(f"{maze}-path", "Maze2D, `path`", single, "scores"))
        rows.append(Row(f"multi-{maze}-path", "Multi2D, `path`", multi, "scores"))
        rows.append(Row(f"{maze}-diffused", "Maze2D, `diffused_actions`", single, "scores", options=own))
    return rows


def _ladder() -> list[Row]:
    """Take one thing at a time away from the default, down to what planners without an executor do."""
    one: dict[str, Any] = {"samples": 1, "plausibility": 0.0}
    free: dict[str, Any] = {"executor_options": {"hold": False}}
    many: dict[str, Any] = {"plausibility": 0.0}
    full: dict[str, Any] = {"schedule": "full_sequence", "attention": "full"}
    mcg: dict[str, Any] = {"goal_guidance": 0.1, "samples": 4}
    steps: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("a", "(a) next waypoint at the plan's speed, one sample", {**one, "executor": "next_waypoint"}),
        ("b", "(b) + look-ahead at full speed", {**one, **free}),
        ("c", "(c) + holding the goal", one),
        ("d1", "(d) + selection among 8 by arrival", many),
        ("d2", "(d) + selection by plausibility too: **the default**", {}),
        ("e0", "(e) default with 4 samples and goal guidance", mcg),
        ("e1", "(e) the same with Monte Carlo Guidance, 8 futures", {**mcg, "monte_carlo": 8}),
        ("f1", "(f) default, causal attention, full sequence", {"schedule": "full_sequence"}),
        ("f2", "(f) default, full attention, pyramid", {"attention": "full"}),
        ("f3", "(f) default, full attention, full sequence", full),
        ("g", "(g) default + warm start", {"warm_start": True}),
        ("h", "(h) default, the model's own actions", {"executor": "diffused_actions"}),
    )
    return [
        Row(f"ladder-{key}", label, "maze2d-large", "ladder", options=options, episodes=100)
        for key, label, options in steps
    ]


def choose(rows: list[Row], wanted: str | None) -> list[Row]:
    """Choose rows by groups or names, separated by commas; all of them if nothing is named.

    Raises:
        ValueError: If a name is unknown.
    """
    if wanted is None:
        return rows
    known = [*(group for group in GROUPS if group != "own"), *(row.name for row in rows)]
    names = wanted.split(",")
    for name in names:
        if name not in known:
            raise unknown_name("row or group of rows", name, known)
    return [row for row in rows if row.name in names or row.group in names]
