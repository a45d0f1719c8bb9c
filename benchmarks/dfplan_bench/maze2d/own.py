"""Rows of one's own: any policy that `dfplan eval` takes, on the starts of the rows beside it."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dfplan.evaluation.rollout import make_env
from dfplan.spaces import Spaces
from dfplan_bench.maze2d.rows import Row
from dfplan_envs import resolve
from dfplan_envs.maze2d import MazeOracle, WaypointController
from dfplan_policies import NumberedPolicy, find_policy, load_policy

GROUP = "own"
SHARED = ("dfplan", "dfplan_policies")  # packages whose revision stands in the result anyway


def own_rows(specs: Sequence[str], beside: Sequence[Row], episodes: int = 500) -> list[Row]:
    """List the rows of policies: one for each environment that other rows are run in.

    Args:
        specs: ``"sb3:FILE"``, ``"py:MODULE:ATTRIBUTE"`` ... as for `dfplan eval --policy`.
        beside: The other rows.
        episodes: Per row.

    Raises:
        ValueError: If a policy is named twice, is unknown, or plans by a checkpoint.
    """
    rows: list[Row] = []
    for number, spec in enumerate(specs):
        entry, _ = find_policy(spec)
        if spec in specs[:number]:
            raise ValueError(f"--policy {spec} is given twice; name every policy once")
        if entry.plans:
            raise ValueError(
                f"the policy {entry.name!r} plans by a checkpoint, and such rows are there (--rows); "
                f"judge others with dfplan eval --policy {entry.name} --checkpoint ..."
            )
        name = re.sub(r"[^A-Za-z0-9_]+", "_", Path(spec.partition(":")[2] or spec).name).strip("_")
        if any(row.name.startswith(f"own-{name}-") for row in rows):
            name += f"_{number}"
        rows += [
            Row(f"own-{name}-{env.removeprefix('maze2d-')}", f"`{spec}`", env, GROUP, spec, episodes=episodes)
            for env in dict.fromkeys(row.env for row in beside)
        ]
    return rows


def fingerprint(spec: str) -> str:
    """Return the SHA-256 of what a policy is read from: its file, its module, or its package's module; "" if ours.

    Raises:
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If there is no such module.
    """
    entry, argument = find_policy(spec)
    where = argument.rpartition(":")[0] if entry.name == "py" else argument
    if entry.name == "py" and not where.endswith(".py"):
        file = _source(where)
    elif where:
        file = Path(where)
        file = file / "actions.npz" if file.is_dir() else file
    else:
        module = inspect.getmodule(entry.build)
        if module is None or module.__name__.partition(".")[0] in SHARED:
            return ""
        file = Path(str(module.__file__))
    if not file.is_file():
        raise FileNotFoundError(f"no file {file} for --policy {spec}; check the path")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _source(module: str) -> Path:
    """Find the file of a module without running it; packages above it are run."""
    known = sys.modules.get(module)
    if known is not None and getattr(known, "__file__", None):
        return Path(str(known.__file__))
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            f"no module {module!r} for --policy py:{module}:...; install it, or name its file: py:FILE.py:..."
        )
    return Path(found.origin)


def build(spec: str, env_id: str, seed: int) -> Any:
    """Build a policy for a maze, with all that `dfplan eval` would offer it."""
    env: Any = make_env(env_id)
    maze, spaces = env.unwrapped.maze, Spaces.from_env(env)
    env.close()
    return load_policy(
        spec, seed=seed, controller=partial(WaypointController, maze), oracle=MazeOracle(maze), spaces=spaces,
        act_dim=spaces.action.width,
    )  # fmt: skip


def build_same(spec: str, env_id: str, seed: int, wanted: str) -> Any:
    """Build a policy from the file that the run began with.

    Raises:
        ValueError: If it is another one by now, or on this machine.
    """
    if fingerprint(spec) != wanted:
        raise ValueError(
            f"{spec} is not what it was when the run began; leave it until the run is over, and copy it to every node"
        )
    return build(spec, env_id, seed)


def try_out(rows: Iterable[Row], seed: int) -> None:
    """Ask every policy of one's own for two actions, before anything long begins.

    Raises:
        ValueError: If a policy cannot act in its environment; the text says what came instead of actions.
    """
    for row in rows:
        env_id = resolve(row.env)
        policy, env = build(row.policy, env_id, seed), make_env(env_id)
        shown, _ = env.reset(seed=seed)
        env.close()
        batch = {key: np.stack([value, value]) for key, value in shown.items()}
        state = policy.start([0, 1]) if isinstance(policy, NumberedPolicy) else None
        try:
            answer = policy.predict(batch, state=state, episode_start=np.ones(2, dtype=bool), deterministic=True)
            actions = np.asarray(answer[0])
        except Exception as error:
            raise ValueError(
                f"--policy {row.policy} cannot act in {env_id} ({type(error).__name__}: {error}); "
                "try it with dfplan_policies.check_policy"
            ) from error
        wanted = (2, *(env.action_space.shape or ()))
        if actions.shape != wanted or actions.dtype.kind != "f" or not np.isfinite(actions).all():
            raise ValueError(
                f"--policy {row.policy} must give finite numbers of shape {wanted} for two {env_id}, got "
                f"{actions.dtype} of shape {actions.shape}; try it with dfplan_policies.check_policy"
            )
