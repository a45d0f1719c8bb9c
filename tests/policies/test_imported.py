"""The policy ``py:MODULE:ATTRIBUTE``."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfplan_policies import find_policy, load_policy

SOURCE = """
import numpy as np
from dfplan_policies import PolicyEntry, RandomPolicy

class Still:
    def __init__(self, act_dim, seed=5, *, push=0.0):
        self.act_dim, self.seed, self.push = act_dim, seed, push
    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        return np.full((len(observation), self.act_dim), self.push, np.float32), None

def make(request):
    return Still(7, request.seed)

class Box:
    ready = Still(3)

ready = Still(3)
entry = PolicyEntry("x", "y", lambda request: RandomPolicy(request.act_dim, seed=request.seed))
number = 3
nothing = lambda: 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    path = tmp_path / "someones_policies.py"
    path.write_text(SOURCE)
    yield path
    sys.modules.pop("someones_policies", None)


def test_objects_classes_functions_and_entries(module: Path) -> None:
    # Catches: a class taken for a policy, an argument that is not passed on.
    where = f"py:{module}:"
    assert load_policy(where + "ready").act_dim == 3  # type: ignore[attr-defined]
    assert load_policy(where + "Box.ready").act_dim == 3  # type: ignore[attr-defined]
    made: Any = load_policy(where + "Still", act_dim=4, seed=9, push=0.5)
    assert (made.act_dim, made.seed, made.push) == (4, 9, 0.5)
    assert load_policy(where + "make", seed=9).seed == 9  # type: ignore[attr-defined]
    assert load_policy(where + "entry", act_dim=2, seed=4).seed == 4  # type: ignore[attr-defined]
    np.testing.assert_array_equal(made.predict(np.zeros((2, 1)))[0], np.full((2, 4), 0.5))
    assert pickle.loads(pickle.dumps(made)).push == 0.5


def test_modules(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: files only.
    monkeypatch.syspath_prepend(str(module.parent))
    assert load_policy("py:someones_policies:ready").act_dim == 3  # type: ignore[attr-defined]
    assert find_policy("py:someones_policies:ready")[1] == "someones_policies:ready"


@pytest.mark.parametrize(
    ("spec", "options", "error", "text"),
    [
        ("py:{}:raedy", {}, ValueError, r"unknown attribute of .* 'raedy'. Did you mean 'ready'"),
        ("py:{}:number", {}, TypeError, "must be a policy or make one, got int"),
        ("py:{}:nothing", {}, TypeError, "got int without predict; see dfplan_policies.check_policy"),
        ("py:{}:ready", {"push": 1}, ValueError, "is made already and takes no push"),
        ("py:{}:Still", {"act_dim": 1, "pusch": 1}, ValueError, "unknown option of .* 'pusch'. Did you mean 'push'"),
        ("py:{}", {}, ValueError, "is written py:MODULE:ATTRIBUTE or py:FILE.py:ATTRIBUTE"),
        ("py:not.there:x", {}, ModuleNotFoundError, r"install it, or name its file: py:./not/there.py"),
        ("py:not_there.py:x", {}, FileNotFoundError, "no file not_there.py"),
        ("py", {}, ValueError, "is written 'py:MODULE:ATTRIBUTE', got 'py'"),
    ],
)
def test_what_does_not_fit_is_named(module: Path, spec: str, options: Any, error: Any, text: str) -> None:
    # Catches: errors from deep inside, or none.
    with pytest.raises(error, match=text):
        load_policy(spec.format(module), **options)
