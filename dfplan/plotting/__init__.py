"""Figures and animations; needs the extra ``viz``. Works on numpy arrays and knows no environment.

matplotlib is imported when something is drawn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfplan.plotting.denoising import denoising_gif
    from dfplan.plotting.frames import frames_gif
    from dfplan.plotting.guided import PlansPanel, guided_figure
    from dfplan.plotting.maze import MazeMap
    from dfplan.plotting.panels import Bar, Cloud, Line, Panel, panels_figure
    from dfplan.plotting.paths import PathPanel, paths_figure
    from dfplan.plotting.plan import plan_figure
    from dfplan.plotting.side_by_side import beside

_LAZY = {
    "Bar": "panels",
    "Cloud": "panels",
    "Line": "panels",
    "MazeMap": "maze",
    "Panel": "panels",
    "PathPanel": "paths",
    "PlansPanel": "guided",
    "beside": "side_by_side",
    "denoising_gif": "denoising",
    "frames_gif": "frames",
    "guided_figure": "guided",
    "panels_figure": "panels",
    "paths_figure": "paths",
    "plan_figure": "plan",
}


__all__ = [
    "Bar",
    "Cloud",
    "Line",
    "MazeMap",
    "Panel",
    "PathPanel",
    "PlansPanel",
    "beside",
    "denoising_gif",
    "frames_gif",
    "guided_figure",
    "panels_figure",
    "paths_figure",
    "plan_figure",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"dfplan.plotting.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'dfplan.plotting' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
