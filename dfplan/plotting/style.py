"""Colours, and a figure that has nothing to do with pyplot's global state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfplan.data.files import atomic_path
from dfplan.errors import missing_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOOR, WALL = "#fbfaf7", "#3b4252"
INK, FAINT = "#2b303c", "#8d94a3"
PLAN, GOAL = "#5f7fb8", "#2a9d63"
FORBIDDEN = "#b5523b"
TIME_MAP = "plasma"


def new_figure(width_in: float, height_in: float, dpi: int = 110) -> Figure:
    """Make a figure with a canvas of its own.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "viz", "drawing a figure") from error
    figure = Figure(figsize=(width_in, height_in), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def noise_map() -> Any:
    """Return the colours of noise levels, from clean (0) to pure noise (1)."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(
        "noise", ["#1b4f9c", "#3f8fc4", "#7fbfae", "#e5c26b", "#e98a5b", "#bdb6ac"]
    )


def time_map() -> Any:
    """Return the colours of time; the pale end, which a light floor would swallow, is cut off."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    return ListedColormap([matplotlib.colormaps[TIME_MAP](0.88 * i / 255) for i in range(256)])


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure at once and return where it is."""
    path = Path(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "png")
    return path
