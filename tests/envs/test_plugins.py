"""Environments of other packages: entry points in the group ``dfplan.envs``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import dfplan_envs
from dfplan_envs import plugins
from dfplan_envs.registry import ENVS, EnvInfo


class Empty(gymnasium.Env[Any, Any]):
    observation_space = spaces.Box(-1.0, 1.0, (2,))
    action_space = spaces.Box(-1.0, 1.0, (2,))


def info(name: str = "empty-room-v0") -> EnvInfo:
    return EnvInfo(name, "nothing in it", 10, {}, "a_third_party:Empty", scores=(1.0, 3.0))


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Offer something as an installed package would; forget it afterwards."""
    module = ModuleType("a_third_party")
    module.Empty = Empty  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_third_party", module)
    known = dict(ENVS)

    def offer(thing: Any) -> list[EnvInfo]:
        module.THING = thing  # type: ignore[attr-defined]
        return plugins.register_offered([EntryPoint("room", "a_third_party:THING", plugins.GROUP)])

    yield offer
    for name in set(ENVS) - set(known):
        del ENVS[name]
        gymnasium.registry.pop(name, None)


@pytest.mark.parametrize("thing", [info(), [info()], lambda: (info(),), lambda: info()], ids=["one", "list", "f", "g"])
def test_an_environment_of_another_package_is_one_of_ours(offered: Any, thing: Any) -> None:
    # Catches: an entry that is listed and cannot be made, a name without its version that is not known, lost scores.
    assert offered(thing) == [info()]
    assert info() in dfplan_envs.list_envs()
    assert dfplan_envs.resolve("empty-room") == "empty-room-v0"
    assert isinstance(gymnasium.make("empty-room-v0").unwrapped, Empty)
    assert gymnasium.spec("empty-room-v0").max_episode_steps == 10
    np.testing.assert_allclose(dfplan_envs.get_normalized_score("empty-room", 2.0), 0.5)


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        (3, "must be an EnvInfo, several of them or a function that returns them, got int"),
        ([3], "got int"),
        (info("maze2d-umaze-v1"), "offers 'maze2d-umaze-v1', which there is; choose another id"),
    ],
)
def test_what_is_no_environment_is_left_out_with_a_warning(offered: Any, thing: Any, text: str) -> None:
    # Catches: one broken package that takes `import dfplan_envs` with it; an id of ours that is replaced.
    ours = ENVS["maze2d-umaze-v1"]
    with pytest.warns(RuntimeWarning, match="environments of 'a_third_party:THING' are left out: .*" + text):
        assert offered(thing) == []
    assert ENVS["maze2d-umaze-v1"] is ours


def test_a_package_that_is_gone_is_left_out(offered: Any) -> None:
    with pytest.warns(RuntimeWarning, match="environments of 'not_there:ENVS' are left out: No module named"):
        plugins.register_offered([EntryPoint("room", "not_there:ENVS", plugins.GROUP)])


def test_the_group_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a group of another name.
    asked: list[str] = []
    monkeypatch.setattr(plugins, "entry_points", lambda group: asked.append(group) or [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plugins.register_offered() == []
    assert asked == ["dfplan.envs"]
