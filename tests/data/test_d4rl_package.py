"""The d4rl package where it is installed: our constants and transitions against its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dfplan.data.d4rl import load_d4rl
from dfplan.data.d4rl_names import PATHS, ROOT_URL
from dfplan.data.d4rl_package import d4rl_reference_scores, import_d4rl, qlearning_dataset, without_dead_bindings
from dfplan_envs.scores import D4RL_SCORES, REFERENCE_SCORES, get_normalized_score


def installed() -> Any:
    try:
        return import_d4rl()
    except ImportError as error:
        pytest.skip(str(error))


def test_dead_bindings_are_kept_out_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a block that outlives the import, and bindings that are lost to whoever has imported them."""
    alive, part = ModuleType("mujoco_py"), ModuleType("mujoco_py.builder")
    monkeypatch.setitem(sys.modules, "mujoco_py", alive)
    monkeypatch.setitem(sys.modules, "mujoco_py.builder", part)
    monkeypatch.delenv("D4RL_SUPPRESS_IMPORT_ERROR", raising=False)

    def inside() -> None:
        with without_dead_bindings():
            assert os.environ["D4RL_SUPPRESS_IMPORT_ERROR"] == "1"
            with pytest.raises(ImportError):
                __import__("mujoco_py.builder")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        inside()
    assert (sys.modules["mujoco_py"], sys.modules["mujoco_py.builder"]) == (alive, part)
    assert "D4RL_SUPPRESS_IMPORT_ERROR" not in os.environ
    monkeypatch.delitem(sys.modules, "mujoco_py")
    with without_dead_bindings():
        pass
    assert "mujoco_py" not in sys.modules


def test_without_the_package_the_way_to_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "d4rl", None)
    with pytest.raises(ImportError, match=r"pip install 'dfplan\[d4rl\]' && pip install --no-deps d4rl"):
        import_d4rl()
    with pytest.raises(ValueError, match="must hold timeouts"):
        qlearning_dataset({"observations": np.zeros((2, 1))})


def test_reference_scores_are_d4rls() -> None:
    """Catches a constant that was mistyped: every name of ours, by value."""
    infos = installed().infos
    ours = {**D4RL_SCORES, **{name: pair for name, pair in REFERENCE_SCORES.items() if name in infos.REF_MIN_SCORE}}
    assert len(ours) > 110
    assert {name: d4rl_reference_scores(name) for name in ours} == ours
    d4rl = import_d4rl()
    for name in ("hopper-medium-v2", "maze2d-large-v1", "pen-human-v1"):
        assert get_normalized_score(name, 123.4) == pytest.approx(d4rl.get_normalized_score(name, 123.4), rel=1e-12)
    with pytest.raises(ValueError, match="d4rl has no reference scores for 'Hopper-v5'"):
        d4rl_reference_scores("Hopper-v5")


def test_addresses_are_d4rls() -> None:
    urls = installed().infos.DATASET_URLS
    assert {name: ROOT_URL + path for name, path in PATHS.items()} == {name: urls[name] for name in PATHS}


@pytest.mark.parametrize("next_states", [False, True])
def test_transitions_are_d4rls(write_h5: Callable[..., Any], next_states: bool) -> None:
    """Ours are d4rl's but for those that go from an episode's end to the start of the next."""
    installed()
    rng = np.random.default_rng(0)
    ends = np.array([5, 9, 19])
    arrays: dict[str, Any] = {
        "observations": rng.normal(size=(20, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, size=(20, 2)).astype(np.float32),
        "rewards": rng.normal(size=20).astype(np.float32),
        "terminals": np.arange(20) == 9,
        "timeouts": np.isin(np.arange(20), [5, 19]),
    }
    theirs = qlearning_dataset(arrays)
    if next_states:
        following = np.roll(arrays["observations"], -1, axis=0)
        following[ends] = -1.0
        arrays["next_observations"] = following
    ours = load_d4rl(write_h5(arrays, "hopper_medium-v2.hdf5"))
    rows = ours.next_rows
    mine = {
        tuple(row)
        for row in np.column_stack([ours.observations[rows - 1], ours.actions, ours.observations[rows], ours.rewards])
    }
    keys = ("observations", "actions", "next_observations", "rewards")
    other = {tuple(row) for row in np.column_stack([theirs[key] for key in keys])}
    unreal = {tuple(row) for row in np.column_stack([theirs[key] for key in keys])[theirs["terminals"]]}
    assert len(unreal) == 1  # d4rl joins a terminal row to the next episode, and flags it
    assert other - mine == unreal
    assert len(mine - other) == (3 if next_states else 0)  # the last step of each episode, which only we have
