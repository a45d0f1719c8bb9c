"""Statistics of features, per episode and of all, exact: readers normalise with them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
LEVELS = np.arange(256)


def number_stats(values: Array) -> dict[str, Any]:
    """Return min, max, mean, std, count and quantiles of (N,) or (N, D) numbers, as lists of D (or 1)."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    found = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    found |= dict(zip(QUANTILES, np.quantile(rows, list(QUANTILES.values()), axis=0), strict=True))
    return {**{key: value.tolist() for key, value in found.items()}, "count": [len(rows)]}


def image_counts(frames: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count how often each of the 256 levels occurs per channel of (N, H, W, 3) frames: (3, 256)."""
    return np.stack([np.bincount(frames[..., c].ravel(), minlength=256) for c in range(3)]).astype(np.int64)


def image_stats(counts: NDArray[np.int64], frames: int) -> dict[str, Any]:
    """Return the statistics of frames in [0, 1], per channel as (3, 1, 1) lists, from their `image_counts`.

    A quantile is the lowest level that at least that share of the pixels does not exceed.

    Args:
        counts: (3, 256); those of several episodes may be added up.
        frames: how many frames were counted.
    """
    total = counts.sum(1, keepdims=True)
    mean = (counts * LEVELS).sum(1) / total[:, 0]
    variance = (counts * (LEVELS - mean[:, None]) ** 2).sum(1) / total[:, 0]
    share = counts.cumsum(1) / total
    found = {
        "min": (counts > 0).argmax(1),
        "max": 255 - (counts[:, ::-1] > 0).argmax(1),
        "mean": mean,
        "std": np.sqrt(variance),
        **{key: (share >= level).argmax(1) for key, level in QUANTILES.items()},
    }
    return {**{key: (value / 255.0).reshape(3, 1, 1).tolist() for key, value in found.items()}, "count": [frames]}
