"""Plain panels for benchmark figures: lines with bands, clouds of points, and tracks in a plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan.plotting.style import FAINT, INK, new_figure, save

COLOURS = ("#1b4f9c", "#d1495b", "#2a9d63", "#e09f3e", "#7d5ba6", "#4f5d75", "#00a6a6")
Values = Sequence[float] | NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        label: In the legend; "" for none.
        x: (n,).
        y: (n,).
        err: (n,) half width of a band, or None.
        dashed: For references.
    """

    label: str
    x: Values
    y: Values
    err: Values | None = None
    dashed: bool = False


@dataclass(frozen=True)
class Cloud:
    """One set of points.

    Attributes:
        label: In the legend; "" for none.
        x: (n,).
        y: (n,).
    """

    label: str
    x: Values
    y: Values


@dataclass(frozen=True)
class Bar:
    """One value under its name.

    Attributes:
        label: Beside it.
        value: Where it lies.
        err: Half width of its error bar.
    """

    label: str
    value: float
    err: float = 0.0


@dataclass(frozen=True)
class Panel:
    """One set of axes with curves and points.

    Attributes:
        title: Above the axes.
        xlabel: With its unit.
        ylabel: With its unit.
        lines: The curves.
        log: Which axes are logarithmic: "", "x", "y" or "xy".
        tracks: Curves in the plane (n, 2), drawn thin without legend, for `plane`.
        ylim: Limits, or None.
        clouds: Points, drawn small under the curves.
        diagonal: Draw the line y = x, where what is on both axes agrees.
        bars: Values under their names, from top to bottom; ``xlabel`` says what they are.
    """

    title: str
    xlabel: str
    ylabel: str
    lines: Sequence[Line] = ()
    log: str = ""
    tracks: Sequence[NDArray[np.floating[Any]]] = field(default_factory=tuple)
    track_colours: Sequence[str] = ()
    ylim: tuple[float, float] | None = None
    clouds: Sequence[Cloud] = ()
    diagonal: bool = False
    bars: Sequence[Bar] = ()


def panels_figure(path: str | Path, panels: Sequence[Panel], *, height_in: float = 3.0, dpi: int = 100) -> Path:
    """Draw panels side by side.

    Args:
        path: Where to.
        panels: At least one.
        height_in: Height in inches; a panel is a little wider than high.
        dpi: Dots per inch.
    """
    if not panels:
        raise ValueError("a figure needs at least one panel, got none")
    figure = new_figure(3.5 * len(panels), height_in, dpi)
    figure.set_layout_engine("constrained")
    for i, panel in enumerate(panels):
        _draw(figure.add_subplot(1, len(panels), i + 1), panel)
    return save(figure, path)


def _draw(ax: Any, panel: Panel) -> None:
    for i, track in enumerate(panel.tracks):
        colour = panel.track_colours[i] if panel.track_colours else COLOURS[0]
        ax.plot(track[:, 0], track[:, 1], color=colour, linewidth=0.6, alpha=0.55)
    if panel.tracks:
        ax.set_aspect("equal")
    for i, cloud in enumerate(panel.clouds):
        colour = COLOURS[i % len(COLOURS)]
        ax.scatter(cloud.x, cloud.y, s=7, color=colour, alpha=0.55, linewidths=0, label=cloud.label or None)
    if panel.diagonal:
        at = float(np.median(panel.clouds[0].x)) if panel.clouds else 0.0  # a point that is in view anyway
        ax.axline((at, at), slope=1, color=FAINT, linestyle="--", linewidth=1.0, zorder=0.5)
    for i, line in enumerate(panel.lines):
        colour = FAINT if line.dashed else COLOURS[i % len(COLOURS)]
        style = "--" if line.dashed else "-"
        x, y = np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float)
        marker = "o" if len(x) <= 12 and not line.dashed else None
        ax.plot(x, y, style, color=colour, linewidth=1.5, marker=marker, markersize=3.5, label=line.label or None)
        if line.err is not None:
            e = np.asarray(line.err, dtype=float)
            if len(x) == 1:
                ax.errorbar(x, y, e, color=colour, linewidth=1.5, capsize=3)
            else:
                ax.fill_between(x, y - e, y + e, color=colour, alpha=0.18, linewidth=0)
    if panel.bars:
        _draw_bars(ax, panel.bars)
    if "x" in panel.log:
        ax.set_xscale("log")
        places = sorted({float(v) for line in panel.lines for v in line.x})
        if len(places) <= 8:  # few values are named, decades and their parts are not
            ax.set_xticks(places, [f"{v:g}" for v in places])
            ax.set_xticks([], minor=True)
    if "y" in panel.log:
        ax.set_yscale("log")
    if panel.ylim is not None:
        ax.set_ylim(*panel.ylim)
    ax.set_title(panel.title, fontsize=9, color=INK, loc="left")
    ax.set_xlabel(panel.xlabel, fontsize=8)
    ax.set_ylabel(panel.ylabel, fontsize=8)
    ax.tick_params(labelsize=7)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if any(line.label for line in panel.lines) or any(cloud.label for cloud in panel.clouds):
        ax.legend(fontsize=7, frameon=False)


def _draw_bars(ax: Any, bars: Sequence[Bar]) -> None:
    places = np.arange(len(bars))
    values, errors = [bar.value for bar in bars], [bar.err for bar in bars]
    ax.errorbar(values, places, xerr=errors, fmt="o", color=COLOURS[0], markersize=5, capsize=3, linewidth=1.5)
    ax.set_yticks(places, [bar.label for bar in bars])
    ax.set_ylim(len(bars) - 0.5, -0.5)
    ax.grid(axis="x", color=FAINT, linewidth=0.4, alpha=0.5)
