"""The environment ids: what each one is, and their registration with Gymnasium. Imports no simulator."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium

from dfplan_envs._errors import unknown

ENTRY_POINT = "dfplan_envs.maze2d.env:Maze2dEnv"
POINTMAZE = "dfplan_envs.ogbench.env:PointMazeEnv"
POINTMAZE_STEPS = 1000
ROBOTICS = "dfplan_envs.maze2d.robotics:RoboticsPointMaze"
ARM = "dfplan_envs.arm"
ARM_STEPS = {"fruit-swap": 300, "arm-reach": 100, "arm-pick-place": 150}
CUSTOM_LIMIT = 800  # steps of an episode in mazes that D4RL does not have

# Steps of an episode by layout, in D4RL's newest version of each.
EPISODE_STEPS: dict[str, int] = {
    "umaze": 300,
    "medium": 600,
    "large": 800,
    "open": 150,
    "eval-umaze": 300,
    "eval-medium": 600,
    "eval-large": 800,
}
_STEPS_V0 = {"umaze": 150, "medium": 250, "large": 600, "open": 150}


@dataclass(frozen=True)
class EnvInfo:
    """Describe one registered environment."""

    id: str
    """The id `gymnasium.make` takes."""
    description: str
    """One line."""
    max_episode_steps: int
    """Steps after which an episode is truncated."""
    kwargs: dict[str, Any]
    """What the environment is made with."""
    entry_point: str = ENTRY_POINT
    """Where its class is."""
    dt_s: float = 0.01
    """Seconds per step."""
    scores: tuple[float, float] | None = None
    """Returns that count as 0 and as 1, of an environment that is not D4RL's."""

    @property
    def reference_scores(self) -> tuple[float, float] | None:
        """Return the (min, max) returns, for D4RL's ids those of D4RL, or None."""
        from dfplan_envs.scores import REFERENCE_SCORES

        return REFERENCE_SCORES.get(self.id, self.scores)


def _entries() -> Iterator[EnvInfo]:
    for layout, steps in EPISODE_STEPS.items():
        version = "v0" if layout == "open" else "v1"
        for reward, suffix, text in (
            ("sparse", "", "1 within 0.5 of the goal"),
            ("dense", "-dense", "exp(-distance to the goal)"),
        ):
            kwargs = {"maze": layout, "reward": reward}
            yield EnvInfo(f"maze2d-{layout}{suffix}-{version}", f"D4RL {layout}, reward {text}", steps, kwargs)
    for layout in ("umaze", "medium", "large"):
        kwargs = {"maze": layout, "reward": "sparse"}
        yield EnvInfo(f"maze2d-{layout}-v0", f"D4RL {layout}, the shorter first version", _STEPS_V0[layout], kwargs)
        text = f"Multi2D {layout}: a goal drawn at every reset"
        yield EnvInfo(f"maze2d-multi-{layout}-v1", text, EPISODE_STEPS[layout], {**kwargs, "goal": "random"})
    yield EnvInfo(
        "maze2d-v1", "a maze of your own: maze=['#####', '#OOG#', '#####']", CUSTOM_LIMIT, {"reward": "sparse"}
    )
    for layout in ("umaze", "medium", "large"):
        text = f"Gymnasium-Robotics' PointMaze {layout} in D4RL's frame, goals drawn at every reset (extra: robotics)"
        yield EnvInfo(f"robotics-pointmaze-{layout}-v3", text, EPISODE_STEPS[layout], {"maze": layout}, ROBOTICS)
    for size in ("medium", "large", "giant"):
        text = f"OGBench pointmaze {size}: 5 tasks, success within 1.0 of the goal (extra: ogbench)"
        yield EnvInfo(f"ogbench-pointmaze-{size}-v0", text, POINTMAZE_STEPS, {"size": size}, POINTMAZE, 0.1)
    for task, where, text in (
        ("fruit-swap", "fruit_swap:FruitSwapEnv", "Panda: swap an apple and an orange between three slots"),
        ("arm-reach", "reach:ReachEnv", "Panda: bring the tool to a place"),
        ("arm-pick-place", "pick_place:PickPlaceEnv", "Panda: put a cube on a place"),
    ):
        text, steps = f"{text} (extra: bullet)", ARM_STEPS[task]
        yield EnvInfo(f"{task}-v0", text, steps, {}, f"{ARM}.{where}", 0.1)


ENVS: dict[str, EnvInfo] = {info.id: info for info in _entries()}


def list_envs() -> list[EnvInfo]:
    """List every environment, in the order of registration."""
    return list(ENVS.values())


def resolve(name: str) -> str:
    """Complete a name to its id: "maze2d-large" becomes "maze2d-large-v1", the newest version.

    Args:
        name: an id, or an id without its version: this package's, or any that Gymnasium knows (Gymnasium-Robotics is
            asked to register its own where it is installed); "package:Id-v0" is left as it is.

    Returns:
        The id.

    Raises:
        ValueError: unknown name; the text lists the ids and the nearest one.
    """
    if name in ENVS or name in gymnasium.registry or ":" in name:
        return name
    for look in (lambda: ENVS, lambda: gymnasium.registry, register_robotics):
        known: Mapping[str, Any] = look()
        if name in known:
            return name
        versions = [env_id for env_id in known if re.fullmatch(re.escape(name) + r"-v\d+", env_id)]
        if versions:
            return max(versions, key=lambda env_id: int(env_id.rpartition("-v")[2]))
    others = {env_id for env_id in gymnasium.registry if env_id not in ENVS}
    near = difflib.get_close_matches(name, others | {env_id.rpartition("-v")[0] for env_id in others}, 1, 0.8)
    if near and not difflib.get_close_matches(name, ENVS, 1, 0.8):
        raise ValueError(f"unknown environment {name!r}. Did you mean {near[0]!r}? `dfplan envs` lists this package's")
    raise unknown("environment", name, sorted(ENVS))


def register_robotics() -> Mapping[str, Any]:
    """Let Gymnasium-Robotics register its environments, if it is installed; returns Gymnasium's registry."""
    greeting = io.StringIO()  # it greets on standard output and standard error
    with contextlib.suppress(ImportError), contextlib.redirect_stdout(greeting), contextlib.redirect_stderr(greeting):
        gymnasium.register_envs(importlib.import_module("gymnasium_robotics"))
    return gymnasium.registry


def episode_steps(env_id: str) -> int:
    """Return the steps after which an episode of a registered environment is truncated; 1000 if it has no limit."""
    if env_id in ENVS:
        return ENVS[env_id].max_episode_steps
    return gymnasium.spec(env_id).max_episode_steps or 1000


def register_all() -> None:
    """Register every id with Gymnasium; does nothing for those it has."""
    for info in ENVS.values():
        if info.id not in gymnasium.registry:
            gymnasium.register(
                info.id, info.entry_point, max_episode_steps=info.max_episode_steps, kwargs=dict(info.kwargs)
            )
