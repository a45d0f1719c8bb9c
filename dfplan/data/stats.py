"""What a data set looks like: sizes, moments, and how often each place was visited."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan.data.episodes import Episodes

SHADES = " .:-=+*#%@"


def summary(episodes: Episodes) -> dict[str, Any]:
    """Summarise episodes as numbers that survive JSON.

    Returns:
        episodes, steps, digest; episode_steps with min, p05, median, mean, p95, max; observation and action with mean,
        std, min, max per column; reward with mean and the share of rows that are not 0; episode_return with mean, std,
        min, max; normalized_return (the mean on the scale of the data's reference scores) or None; terminated_share;
        meta.
    """
    lengths, rewards = episodes.lengths, episodes.rewards.astype(np.float64)
    quantiles = np.percentile(lengths, (0, 5, 50, 95, 100))
    returns = episodes.returns
    return {
        "episodes": len(episodes),
        "steps": episodes.steps,
        "digest": episodes.digest(),
        "episode_steps": {
            **dict(zip(("min", "p05", "median", "p95", "max"), quantiles.tolist(), strict=True)),
            "mean": float(lengths.mean()),
        },
        "observation": _columns(episodes.observations),
        "action": _columns(episodes.actions),
        "reward": {"mean": float(rewards.mean()), "nonzero_share": float((rewards != 0).mean())},
        "episode_return": {
            "mean": float(returns.mean()),
            "std": float(returns.std()),
            "min": float(returns.min()),
            "max": float(returns.max()),
        },
        "normalized_return": normalized_return(episodes),
        "terminated_share": float(episodes.terminated.mean()),
        "meta": episodes.meta,
    }


def normalized_return(episodes: Episodes) -> float | None:
    """Return the mean return as (return - min) / (max - min) by the data's own reference scores.

    Returns:
        A fraction, or None for data that bring no `reference_scores` in their meta.
    """
    scores = episodes.meta.get("reference_scores")
    if not scores or scores["max"] == scores["min"]:
        return None
    return (float(episodes.returns.mean()) - float(scores["min"])) / (float(scores["max"]) - float(scores["min"]))


def _columns(array: NDArray[np.float32]) -> dict[str, list[float]]:
    wide = array.astype(np.float64)
    return {
        "mean": wide.mean(axis=0).tolist(),
        "std": wide.std(axis=0).tolist(),
        "min": wide.min(axis=0).tolist(),
        "max": wide.max(axis=0).tolist(),
    }


def coverage(episodes: Episodes, cells_per_unit: float = 2.0) -> tuple[NDArray[np.int64], tuple[float, float]]:
    """Count visits on a grid over the first two observation columns (x, y).

    Args:
        episodes: with at least two observation columns.
        cells_per_unit: grid cells per unit of x and y, > 0.

    Returns:
        Counts (X, Y), row i covering x from low[0] + i / cells_per_unit; and low, the (x, y) of the grid's corner.

    Raises:
        ValueError: for fewer than two columns, or a grid of more than 4 million cells.
    """
    if episodes.observations.shape[1] < 2:
        raise ValueError(f"coverage needs (x, y) in columns 0 and 1, got {episodes.observations.shape[1]} column")
    if not cells_per_unit > 0:
        raise ValueError(f"cells_per_unit must be positive, got {cells_per_unit}")
    scaled = np.floor(episodes.observations[:, :2].astype(np.float64) * cells_per_unit)
    low, high = scaled.min(axis=0), scaled.max(axis=0)
    shape = high - low + 1
    if shape.prod() > 4e6:
        raise ValueError(f"a grid of {shape[0]:.0f} x {shape[1]:.0f} cells is too fine; lower cells_per_unit")
    index = (scaled - low).astype(np.int64)
    width = int(shape[1])
    counts = np.bincount(index[:, 0] * width + index[:, 1], minlength=int(shape.prod()))
    corner = low / cells_per_unit
    return counts.reshape(int(shape[0]), width).astype(np.int64), (float(corner[0]), float(corner[1]))


def coverage_text(episodes: Episodes, cells_per_unit: float = 2.0) -> str:
    """Draw visits with characters: x runs down, y to the right, as in the text of a maze; the denser the darker.

    Shades are spaced evenly in the square root of the count; a blank place was never visited.
    """
    counts, _ = coverage(episodes, cells_per_unit)
    level = np.sqrt(counts / counts.max()) * (len(SHADES) - 1)
    shade = np.where(counts > 0, np.clip(np.ceil(level), 1, len(SHADES) - 1), 0).astype(int)
    return "\n".join("".join(SHADES[cell] * 2 for cell in row).rstrip() for row in shade)
