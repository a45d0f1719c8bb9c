"""What `dfplan train` trains on, and what follows from the environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from dfplan.data import Episodes


def load_data(env_id: str, data: str | None, seed: int, say: Callable[[str], None]) -> tuple[Episodes, dict[str, Any]]:
    """Load the data set, or make the one that is named or the recipe's in memory; returns it and where it is from."""
    from dfplan.cli.data_make import make_episodes
    from dfplan.cli.train_layout import recipe_of

    if data is not None:
        return _named(data, seed, say)
    base, steps = env_id.rsplit("-v", 1)[0], recipe_of(env_id).data_steps
    if not steps:
        raise ValueError(
            f"no data are made for {env_id}; pass --data, a Minari id or a file, for example after "
            f"`dfplan data collect --env {env_id} --policy sb3:FILE --episodes 200 --npz data.npz`"
        )
    if base.startswith("ogbench-"):
        raise ValueError(f"{env_id} has several data sets; pass --data, for example {_example(base)}")
    say(f"no --data given: making {steps:,} steps by D4RL's recipe in memory (seed {seed})")
    workers = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    episodes, _ = make_episodes(env_id, steps, seed=seed, noisy=True, workers=workers)
    return episodes, {"id": f"dfplan data make {base} --steps {steps} --seed {seed} --noisy", **episodes.meta}


def _named(data: str, seed: int, say: Callable[[str], None]) -> tuple[Episodes, dict[str, Any]]:
    from dfplan.data import load_episodes

    if data.startswith("pointmaze-"):
        from dfplan.cli.data_ogbench import is_dataset, make_pointmaze

        if is_dataset(data):
            say(f"making {data} by OGBench's recipe in memory (seed {seed})")
            episodes, _ = make_pointmaze(data, 1_000_000, seed=seed)
            return episodes, {"id": f"dfplan data make {data} --steps 1000000 --seed {seed}", **episodes.meta}
    episodes = load_episodes(data)
    return episodes, {"id": data, **episodes.meta}


def _example(base: str) -> str:
    return f"{base.removeprefix('ogbench-')}-navigate or {base.removeprefix('ogbench-')}-stitch"


def stitched(episodes: Episodes, radius: float, steps: int, seed: int) -> Episodes:
    """Compose longer episodes; see `dfplan.stitching`."""
    from dfplan.stitching import StitchConfig, stitch

    return stitch(episodes, StitchConfig(radius, steps=2 * steps), seed)


def checkpoint_name(env_id: str, data: str | None) -> str:
    """Name a checkpoint after its data set if that is one of several of its environment, else after the environment."""
    base = env_id.rsplit("-v", 1)[0]
    if base.startswith("ogbench-") and data is not None and data.startswith(base.removeprefix("ogbench-")):
        return data.removesuffix("-v0").removesuffix(".npz")
    return base.lower()
