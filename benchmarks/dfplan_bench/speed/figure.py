"""Draw the curves of the speed benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dfplan.plotting import Line, Panel, panels_figure


def draw(path: Path, found: dict[str, Any]) -> None:
    """Draw cost against horizon and environments, and seconds per plan of the designs."""

    def lines(part: str, over: str) -> list[Line]:
        return [
            Line(f"{name} (exponent {curve['exponent']:.2f})", [p[over] for p in curve["points"]],
                 [p["seconds"] for p in curve["points"]])
            for name, curve in found[part].items()
        ]  # fmt: skip

    panels = [
        Panel("16 candidates, one thread", "horizon, environment steps", "seconds per plan",
              lines=lines("horizon", "steps"), log="xy"),
        Panel("one candidate each, two threads", "environments", "seconds for all",
              lines=lines("environments", "environments"), log="xy"),
    ]  # fmt: skip
    panels_figure(path, panels)
