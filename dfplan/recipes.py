"""How the bundled models are made: layout, length of training and data for each task, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dfplan.errors import unknown_name


@dataclass(frozen=True)
class Recipe:
    """Hold the defaults of ``dfplan train --env ...``.

    Attributes:
        stride: F, environment steps per token.
        horizon: H, tokens.
        steps: Optimiser steps.
        data_steps: Environment steps to generate if no data set is named (the size of the published file).
        dt_s: Seconds per environment step.
        planner: Defaults of the planner that are stored in the checkpoint.
        policy: Arguments of `DFPolicy` with which `dfplan eval` and the benchmarks act.
        tokens: Kind of token.
        discount: Of returns, per step; None for tasks that are about goals alone.
        columns: Numbers of an observation that are used, as ``--columns`` takes them; empty for all.
        differences: Differences of such numbers that are appended, as ``--differences`` takes them.
        image_columns: The same for pictures, where latents stand behind the arm's own 17 numbers.
        network: Size of the network, where it is not the usual one.
    """

    stride: int
    horizon: int
    steps: int
    data_steps: int
    dt_s: float = 0.01
    planner: Mapping[str, Any] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    tokens: str = "path"
    discount: float | None = None
    columns: str = ""
    differences: str = ""
    image_columns: str = ""
    network: Mapping[str, Any] = field(default_factory=dict)


# What any other environment is trained with: bundles of four steps, eight of them; no data are made for it.
GENERAL = Recipe(stride=4, horizon=8, steps=5_000, data_steps=0, dt_s=0.05, tokens="bundle")

RECIPES: dict[str, Recipe] = {
    "maze2d-umaze": Recipe(stride=8, horizon=24, steps=3_000, data_steps=1_000_000),
    "maze2d-medium": Recipe(stride=12, horizon=32, steps=7_000, data_steps=2_000_000),
    "maze2d-large": Recipe(stride=15, horizon=32, steps=10_000, data_steps=4_000_000),
    "maze2d-open": Recipe(stride=8, horizon=24, steps=3_000, data_steps=1_000_000),
}

# Tasks for reward; their data are made by benchmarks/behaviour/make.py.
_REWARD: dict[str, Any] = {"data_steps": 0, "tokens": "bundle", "discount": 0.99}
_CLOSED: dict[str, Any] = {"planner": {"samples": 1, "steps": 3, "slope": 0.0}, "policy": {"replan_every": 1}}
RECIPES["Pendulum"] = Recipe(stride=4, horizon=8, steps=4_000, dt_s=0.05, **_CLOSED, **_REWARD)
RECIPES["CartPole"] = Recipe(stride=4, horizon=8, steps=3_000, dt_s=0.02, **_CLOSED, **_REWARD)
RECIPES["HalfCheetah"] = Recipe(stride=4, horizon=8, steps=6_000, dt_s=0.05, **_CLOSED, **_REWARD)

# The robot arm: whole episodes as memory; blocks of 0.6 s, as many as an episode may last; what the arm's
# tool does and where the fruits are, without joints and rotations.
RECIPES["fruit-swap"] = Recipe(
    stride=6, horizon=50, steps=3_000, data_steps=0, dt_s=0.1, tokens="episode", columns="7-9,16-19,24-26",
    differences="17-19:7-9,24-26:7-9",
    image_columns="7-9,16-80",
    network={"width": 128, "layers": 4, "batch": 32, "octaves": 4},
)  # fmt: skip

# OGBench's pointmaze: cells of 4 units, success within 1.0, and a world without surprises, so that plans last.
_POINTMAZE: dict[str, Any] = {
    "data_steps": 1_000_000,
    "dt_s": 0.1,
    "planner": {"goal_radius": 1.0},
    "policy": {
        "executor": "kinematic",
        "replan_every": 60,
        "samples": 8,
        "steps": 8,
        "schedule": "full_sequence",
        "attention": "full",
        "block_radius": 1.2,
    },
}
for _size, _stride, _horizon, _steps in (
    ("medium", 13, 16, 3_000),
    ("large", 15, 26, 8_000),
    ("giant", 20, 32, 12_000),
):
    RECIPES[f"ogbench-pointmaze-{_size}"] = Recipe(_stride, _horizon, _steps, **_POINTMAZE)


def recipe_for(env: str) -> Recipe:
    """Find the recipe of an environment id, its reward and version left aside.

    Args:
        env: For example ``"maze2d-large-v1"`` or ``"maze2d-large-dense-v1"``.

    Raises:
        ValueError: If there is none; ``--stride``, ``--horizon``, ``--steps`` and ``--data`` must then be given.
    """
    base = env.rsplit("-v", 1)[0].replace("-dense", "").replace("-multi", "").replace("-eval", "")
    if base not in RECIPES:
        error = unknown_name("training recipe", base, RECIPES)
        raise ValueError(f"{error}; or give --data, --stride, --horizon and --steps")
    return RECIPES[base]


def policy_options(env: str) -> dict[str, Any]:
    """Return the options with which plans are followed in an environment, none if it has no recipe that says so."""
    try:
        return dict(recipe_for(env).policy)
    except ValueError:
        return {}
