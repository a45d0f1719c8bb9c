"""The d4rl package, as far as it still works: score tables and dataset helpers, without its environments.

Its import asks for simulator bindings that no longer start and raise what its guards let through. Here those bindings
are kept out while it is imported. Nothing in dfplan needs the package.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEAD = "mujoco_py"
QUIET = "D4RL_SUPPRESS_IMPORT_ERROR"


@contextlib.contextmanager
def without_dead_bindings() -> Iterator[None]:
    """Let an import of mujoco_py fail as if it were not installed; afterwards all is as it was."""
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == DEAD}
    quiet = os.environ.get(QUIET)
    for name in kept:
        del sys.modules[name]
    sys.modules[DEAD] = None  # type: ignore[assignment]
    os.environ[QUIET] = "1"
    try:
        yield
    finally:
        del sys.modules[DEAD]
        sys.modules.update(kept)
        if quiet is None:
            del os.environ[QUIET]
        else:
            os.environ[QUIET] = quiet


def import_d4rl() -> Any:
    """Import the d4rl package without its environments.

    Returns:
        The module: `infos`, `get_normalized_score`, `qlearning_dataset`, `sequence_dataset` work; `gym.make` does not.

    Raises:
        ImportError: when it, or what its helpers need, is not installed; says how to install it.
    """
    told = io.StringIO()
    with without_dead_bindings(), warnings.catch_warnings(), contextlib.redirect_stderr(told):
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module("d4rl")
        except ImportError as error:
            raise ImportError(
                f"the d4rl package cannot be imported ({error}): pip install 'dfplan[d4rl]' && "
                "pip install --no-deps d4rl"
            ) from error


def d4rl_reference_scores(name: str) -> tuple[float, float]:
    """Return the package's own (min, max) returns of a data set.

    Raises:
        ValueError: for a name that it does not have.
        ImportError: without the package.
    """
    infos = import_d4rl().infos
    if name not in infos.REF_MIN_SCORE:
        raise ValueError(f"d4rl has no reference scores for {name!r}; see d4rl.infos.REF_MIN_SCORE")
    return float(infos.REF_MIN_SCORE[name]), float(infos.REF_MAX_SCORE[name])


def qlearning_dataset(arrays: Mapping[str, NDArray[Any]], *, terminate_on_end: bool = False) -> dict[str, NDArray[Any]]:
    """Let the package cut the arrays of one of its files into transitions.

    Args:
        arrays: observations (N, O), actions (N, A), rewards (N,), terminals (N,) and timeouts (N,).
        terminate_on_end: passed on.

    Returns:
        observations, actions, next_observations, rewards, terminals, M rows each.

    Raises:
        ValueError: without timeouts, for which it would ask an environment that does not run.
        ImportError: without the package.
    """
    if "timeouts" not in arrays:
        raise ValueError(
            "arrays must hold timeouts (N,), got none; without them d4rl asks its environment, which is dead"
        )
    found = import_d4rl().qlearning_dataset(None, dataset=dict(arrays), terminate_on_end=terminate_on_end)
    return {key: np.asarray(value) for key, value in found.items()}
