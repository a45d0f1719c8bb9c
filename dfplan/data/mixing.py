"""Mix and filter data sets; what came from where stays in `meta`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan.data.episodes import Episodes

SHARED_META = ("env", "spaces", "reference_scores", "observation_key")


def filter_episodes(
    episodes: Episodes,
    *,
    min_return: float | None = None,
    max_return: float | None = None,
    top: float | None = None,
    count: int | None = None,
    seed: int = 0,
) -> Episodes:
    """Keep some episodes, in their order.

    First those whose return lies within the limits, then of these the best share, then of these a random choice.

    Args:
        episodes: to choose from.
        min_return: keep episodes whose sum of rewards is at least this.
        max_return: ... at most this.
        top: share in (0, 1] of the best, rounded up; of equal returns the earlier.
        count: how many to keep, drawn without replacement; all if there are no more.
        seed: of that choice.

    Raises:
        ValueError: for a number out of range, or limits that leave no episode.
    """
    if top is not None and not 0 < top <= 1:
        raise ValueError(f"top must be a share in (0, 1], got {top}")
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    returns = episodes.returns
    low, high = -math.inf if min_return is None else min_return, math.inf if max_return is None else max_return
    kept: NDArray[Any] = np.flatnonzero((returns >= low) & (returns <= high))
    if not kept.size:
        raise ValueError(
            f"no episode has a return in [{low:g}, {high:g}]; they lie in [{returns.min():g}, {returns.max():g}]"
        )
    if top is not None:
        best = np.argsort(-returns[kept], kind="stable")[: math.ceil(top * len(kept))]
        kept = np.sort(kept[best])
    if count is not None and count < len(kept):
        kept = np.sort(np.random.default_rng(seed).choice(kept, count, replace=False))
    rule = {"min_return": min_return, "max_return": max_return, "top": top, "episodes": count, "seed": seed}
    given = {key: value for key, value in rule.items() if value is not None and (key != "seed" or count is not None)}
    return episodes.select(kept, {**_shared([episodes]), "filtered": {**given, **_origin(episodes)}})


def mix_episodes(
    parts: Sequence[Episodes], weights: Sequence[float | None] | None = None, *, seed: int = 0
) -> Episodes:
    """Put data sets together.

    A weight w takes floor(w) copies of every episode of a part and a random share of what is left over: 0.25 keeps a
    quarter of its episodes, 2 has each of them twice, so that a training window is drawn from it twice as often.

    Args:
        parts: data sets of the same columns.
        weights: one per part, above 0; None stands for 1.
        seed: of the choice of episodes.

    Raises:
        ValueError: for widths or spaces that differ, or a weight that is not above 0.
    """
    if not parts:
        raise ValueError("at least one data set is needed, got none")
    given = [1.0 if w is None else float(w) for w in (weights or [None] * len(parts))]
    if len(given) != len(parts) or not all(0 < w < math.inf for w in given):
        raise ValueError(f"weights must be one number above 0 per data set ({len(parts)}), got {given}")
    _check_alike(parts)
    chosen = [
        part.select(_drawn(len(part), w, [seed, i])) for i, (part, w) in enumerate(zip(parts, given, strict=True))
    ]
    origins = [{**_origin(part), "weight": w, "kept": len(c)} for part, w, c in zip(parts, given, chosen, strict=True)]
    return Episodes(
        np.concatenate([part.observations for part in chosen]),
        np.concatenate([part.actions for part in chosen]),
        np.concatenate([part.rewards for part in chosen]),
        np.concatenate([part.lengths for part in chosen]),
        {**_shared(parts), "mixed": origins, "seed": seed},
        np.concatenate([part.terminated for part in chosen]),
    )


def _drawn(count: int, weight: float, seed: list[int]) -> NDArray[np.int64]:
    """Return episode numbers in order, each as often as the weight says; at least one."""
    whole = int(weight)
    extra = max(round((weight - whole) * count), 0 if whole else 1)
    picked = np.random.default_rng(seed).choice(count, extra, replace=False)
    return np.sort(np.concatenate([np.repeat(np.arange(count), whole), picked])).astype(np.int64)


def _check_alike(parts: Sequence[Episodes]) -> None:
    first = parts[0]
    for part in parts[1:]:
        for name in ("observations", "actions"):
            widths = getattr(first, name).shape[1], getattr(part, name).shape[1]
            if widths[0] != widths[1]:
                raise ValueError(
                    f"data sets that are mixed must have the same columns: {_name(first)} has {widths[0]} of {name}, "
                    f"{_name(part)} has {widths[1]}; mix data of one environment"
                )
        spaces = first.meta.get("spaces"), part.meta.get("spaces")
        if None not in spaces and spaces[0] != spaces[1]:
            raise ValueError(
                f"data sets that are mixed must have the same spaces: {_name(first)} has {spaces[0]}, "
                f"{_name(part)} has {spaces[1]}; mix data of one environment"
            )


def _name(episodes: Episodes) -> str:
    return str(episodes.meta.get("dataset_id") or episodes.meta.get("source") or episodes.digest())


def _origin(episodes: Episodes) -> dict[str, Any]:
    """Say where a part came from: its description without what the result says itself."""
    rest = {key: value for key, value in episodes.meta.items() if key not in ("spaces", "versions")}
    return {"digest": episodes.digest(), "of": len(episodes), "meta": rest}


def _shared(parts: Sequence[Episodes]) -> dict[str, Any]:
    """Return what all parts agree on, of what a reader needs; spaces that only some know are taken from them."""
    known = {key: [part.meta[key] for part in parts if key in part.meta] for key in SHARED_META}
    agreed = {key: values[0] for key, values in known.items() if values and all(v == values[0] for v in values)}
    return {key: value for key, value in agreed.items() if key == "spaces" or len(known[key]) == len(parts)}
