"""Import one of D4RL's HDF5 files, and check its rewards against the environment's."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

import dfplan_envs
from dfplan.cli.data_make import describe_env, reward_text, score_rewards
from dfplan.data import Episodes
from dfplan.data.d4rl import load_d4rl
from dfplan.data.d4rl_names import kind_of, resolve_d4rl

AGREEMENT = 0.999


def import_d4rl(
    file: Path, env: str | None, rewards: str | None, relabel: bool, kind: str | None = None
) -> tuple[Episodes, Any, str | None]:
    """Read a D4RL file and describe it.

    Args:
        file: the file.
        env: an environment id or a name of D4RL's, or None when it is not known.
        rewards: "same", "next" or None, as for `load_d4rl`.
        relabel: replace the file's rewards by the environment's; for mazes.
        kind: how rows are read, as for `load_d4rl`; None goes by `env` or the file.

    Returns:
        The episodes; the Gymnasium spec or None; a warning when the file's rewards are not the environment's, or None.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a broken file, an unknown environment, or `relabel` without one.
    """
    if relabel and env is None:
        raise ValueError(
            f"--relabel needs the environment, and {file.name} is no file name of D4RL's; pass --env maze2d-large"
        )
    other = env is not None and _not_a_maze(env)
    if relabel and other:
        raise ValueError(f"--relabel is for mazes, got {env}; leave it out")
    episodes = load_d4rl(file, rewards=rewards, kind=kind or (kind_of(env) if env is not None else None))
    with file.open("rb") as handle:
        episodes.meta["sha256"] = hashlib.file_digest(handle, "sha256").hexdigest()
    if env is None:
        return episodes, None, None
    env_id, rows, reward, spec = (resolve_d4rl(env), (), "", None) if other else describe_env(env)
    episodes.meta["env"] = env_id
    with contextlib.suppress(ValueError):
        episodes.meta["reference_scores"] = dict(zip(("min", "max"), dfplan_envs.reference_scores(env_id), strict=True))
    if other:
        return episodes, None, None
    expected = score_rewards(episodes, rows, reward)
    if expected is None:
        return episodes, spec, None
    agreement = float(np.isclose(expected, episodes.rewards, atol=1e-3).mean())
    episodes.meta["reward_agreement"] = round(agreement, 6)
    if relabel:
        episodes.meta["reward"] = f"relabelled: {reward_text(rows, reward)}"
        return Episodes(episodes.observations, episodes.actions, expected, episodes.lengths, episodes.meta), spec, None
    warning = None
    if agreement < AGREEMENT:
        warning = (
            f"{file.name}: rewards agree with {env_id} on {agreement:.1%} of the steps only; pass --relabel to compute "
            "them from the states, --rewards next if they score the state after the step, or another --env"
        )
    return episodes, spec, warning


def _not_a_maze(env: str) -> bool:
    """Tell whether a name is one of D4RL's other data sets."""
    try:
        return kind_of(resolve_d4rl(env)) != "tour"
    except ValueError:
        return False
