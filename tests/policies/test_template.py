"""The template of a package that adds a policy and an environment: found by its entry points, checked, evaluated."""

from __future__ import annotations

import json
import sys
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from dfplan.cli import main
from dfplan_envs import list_envs, plugins
from dfplan_envs.registry import ENVS
from dfplan_policies import check_policy, load_policy

TEMPLATE = Path(__file__).resolve().parents[2] / "examples" / "template"


PUSH = """
import numpy as np
from dfplan_policies import FunctionalPolicy

class Push(FunctionalPolicy):
    def __init__(self, act_dim):
        assert act_dim == 2
        super().__init__(lambda m, o, g: (np.clip(5 * (g - o[:2]) - o[2:], -1, 1), m))
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Lay the template where an installer would put it, with the metadata that it would write."""
    project = tomllib.loads((TEMPLATE / "pyproject.toml").read_text())["project"]
    site = tmp_path / "site"
    folder = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [line for group, points in groups for line in (f"[{group}]", *(f"{k} = {v}" for k, v in points.items()))]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (site / "my_dfplan_plugin.py").write_text((TEMPLATE / "my_dfplan_plugin.py").read_text())
    monkeypatch.syspath_prepend(str(site))
    known = dict(ENVS)
    yield plugins.register_offered()
    for name in set(ENVS) - set(known):
        del ENVS[name]
        gymnasium.registry.pop(name, None)
    sys.modules.pop("my_dfplan_plugin", None)


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    monkeypatch.setattr(sys, "argv", ["dfplan", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert not end.value.code, err
    return out


def test_the_template_is_listed(installed: Any, monkeypatch: Any, capsys: Any) -> None:
    # Catches: an entry point that is not read, a name that differs between the pages and the template.
    assert [info.id for info in installed] == ["my-cart-v0"]
    assert "my-cart-v0" in {row["id"] for row in json.loads(run(monkeypatch, capsys, "envs", "--json"))}
    assert "my-pusher" in {row["name"] for row in json.loads(run(monkeypatch, capsys, "policies", "--json"))}
    assert installed[0] in list_envs()


def test_the_template_keeps_the_rules(installed: Any) -> None:
    # Catches: an example that teaches mistakes.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make("my-cart-v0").unwrapped)
        check_policy(load_policy("my-pusher", seed=1, gain=2.0), gymnasium.make("my-cart-v0"))


def test_the_template_is_evaluated(installed: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    # Catches: an evaluator that knows our own environments only.
    out = tmp_path / "run"
    command = ("eval", "--env", "my-cart", "--policy", "my-pusher", "--episodes", 3, "--out", out, "--json")
    metrics = json.loads(run(monkeypatch, capsys, *command))
    assert metrics["env"] == "my-cart-v0" and metrics["episodes"] == 3 and metrics["success_rate"] == 1.0


def test_anyone_s_object_is_evaluated_by_its_place(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    # Catches: a command line that refuses the spec, or does not say how wide an action is.
    (tmp_path / "some_push.py").write_text(PUSH)
    monkeypatch.chdir(tmp_path)
    command = ("eval", "--env", "maze2d-open", "--policy", "py:some_push.py:Push", "--episodes", 2, "--out", "run")
    metrics = json.loads(run(monkeypatch, capsys, *command, "--json"))
    assert metrics["policy"] == "py:some_push.py:Push" and metrics["success_rate"] == 1.0
    sys.modules.pop("some_push", None)
