"""The names of D4RL's data sets: where each file is, and how its rows are to be read.

Source: D4RL `infos.py`; the formats from its scripts under `scripts/generation`.
"""

from __future__ import annotations

import os
from pathlib import Path

from dfplan.errors import unknown_name

ROOT_URL = "http://rail.eecs.berkeley.edu/datasets/offline_rl/"
LOCOMOTION = ("halfcheetah", "hopper", "walker2d", "ant")
ADROIT = ("pen", "hammer", "door", "relocate")
STEP_LIMIT = 1000  # of D4RL's locomotion, for old files that mark terminations only

KINDS = ("tour", "steps", "antmaze", "kitchen")
"""How rows are read: maze2d's endless tours; one row per step; antmaze; kitchen's demonstrations."""


def _maze2d() -> dict[str, str]:
    names = {"maze2d-open-v0": "maze2d-open-sparse", "maze2d-open-dense-v0": "maze2d-open-dense"}
    for maze in ("umaze", "medium", "large", "eval-umaze", "eval-medium", "eval-large"):
        names[f"maze2d-{maze}-v1"] = f"maze2d-{maze}-sparse-v1"
        names[f"maze2d-{maze}-dense-v1"] = f"maze2d-{maze}-dense-v1"
    return {name: f"maze2d/{file}.hdf5" for name, file in names.items()}


def _locomotion() -> dict[str, str]:
    names = {"ant-random-expert-v0": "gym_mujoco/ant_random_expert.hdf5"}
    for body in LOCOMOTION:
        for data in ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert"):
            for version in ("v1", "v2"):
                file = f"{body}_{data.replace('-', '_')}-{version}.hdf5"
                names[f"{body}-{data}-{version}"] = f"gym_mujoco_{version}/{file}"
        for data in ("random", "medium", "expert", "medium-expert"):
            names[f"{body}-{data}-v0"] = f"gym_mujoco/{body}_{data.replace('-', '_')}.hdf5"
        names[f"{body}-medium-replay-v0"] = f"gym_mujoco/{'walker' if body == 'walker2d' else body}_mixed.hdf5"
    return names


def _antmaze() -> dict[str, str]:
    names: dict[str, str] = {}
    mazes = {"umaze": "u-maze", "medium-play": "big-maze", "large-play": "hardest-maze"}
    for version, folder, end in (("v0", "ant_maze_new", "sparse"), ("v2", "ant_maze_v2", "sparse_fixed")):
        for name, maze in mazes.items():
            single = "False" if name == "umaze" else "True"
            diverse = name.replace("-play", "") + "-diverse"
            for env, starts, goals in ((name, single, "False"), (diverse, "True", "True")):
                file = f"Ant_maze_{maze}_noisy_multistart_{starts}_multigoal_{goals}_{end}.hdf5"
                names[f"antmaze-{env}-{version}"] = f"{folder}/{file}"
    return names


def _kitchen() -> dict[str, str]:
    files = {
        "complete": "mini_kitchen_microwave_kettle_light_slider",
        "partial": "kitchen_microwave_kettle_light_slider",
        "mixed": "kitchen_microwave_kettle_bottomburner_light",
    }
    return {f"kitchen-{name}-v0": f"kitchen/{file}-v0.hdf5" for name, file in files.items()}


def _adroit() -> dict[str, str]:
    names: dict[str, str] = {}
    for task in ADROIT:
        old = {"human": "v0_demos_clipped", "cloned": "demos-v0-bc-combined", "expert": "v0_expert_clipped"}
        for data, file in old.items():
            names[f"{task}-{data}-v0"] = f"hand_dapg/{task}-{file}.hdf5"
            names[f"{task}-{data}-v1"] = f"hand_dapg_v1/{task}-{data}-v1.hdf5"
    return names


PATHS: dict[str, str] = {**_maze2d(), **_locomotion(), **_antmaze(), **_kitchen(), **_adroit()}
"""Path of D4RL's file under `ROOT_URL`, by the name of the data set."""

FILES: dict[str, str] = {name: path.rpartition("/")[2] for name, path in PATHS.items()}
"""D4RL's file name by the name of the data set."""


def resolve_d4rl(name: str) -> str:
    """Return the data set that `name` means, the newest version where it is missing.

    Raises:
        ValueError: for a name that D4RL has no file for; names the nearest.
    """
    for candidate in (name, f"{name}-v2", f"{name}-v1", f"{name}-v0"):
        if candidate in FILES:
            return candidate
    raise unknown_name("D4RL dataset", name, FILES)


def env_of_file(path: str | Path) -> str | None:
    """Return the data set that D4RL's file name stands for, or None for another name."""
    return next((env for env, name in FILES.items() if name == Path(path).name), None)


def kind_of(name: str) -> str:
    """Return how the rows of a data set are read, one of `KINDS`."""
    kinds = {"maze2d": "tour", "antmaze": "antmaze", "kitchen": "kitchen"}
    return kinds.get(name.partition("-")[0], "steps")


def d4rl_dataset_dir() -> Path:
    """Return D4RL's cache folder: the environment variable D4RL_DATASET_DIR, else ~/.d4rl/datasets."""
    return Path(os.environ.get("D4RL_DATASET_DIR") or Path.home() / ".d4rl" / "datasets")
