"""`dfplan bench returns`: what is compared, what is kept and when it is judged anew."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from dfplan.evaluation import Report
from dfplan_bench import cloning, returns

TASK = returns.Task("Pendulum-v1", "pendulum", samples=2, rows=("plain", "chosen"))


@pytest.fixture
def data(tmp_path: Path, dfplan: Any) -> Path:
    """Return a folder with a little data of the task."""
    folder = tmp_path / "behaviour" / "pendulum"
    folder.mkdir(parents=True)
    code, _, err = dfplan("data", "collect", "--env", TASK.env, "--episodes", 3, "--npz", folder / "data.npz")
    assert code == 0, err
    return folder.parent


def test_rows_are_judged_once_by_data_settings_and_defaults(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Catches: the data's return taken from another episode, rows that act with other candidates than they say, an
    # evaluation that is run again, or is kept for other defaults of the planner or another seed.
    monkeypatch.setattr(gymnasium.spec(TASK.env), "max_episode_steps", 6)
    judged: list[tuple[Any, str, int, int]] = []
    real = returns.evaluate

    def counted(policy: Any, env: str, episodes: int, seed: int) -> Report:
        judged.append((policy, env, episodes, seed))
        return real(policy, env, episodes, seed)

    monkeypatch.setattr(returns, "evaluate", counted)

    def run(task: returns.Task = TASK, seed: int = 0) -> dict[str, Any]:
        judged.clear()
        options: dict[str, Any] = {"tasks": {"pendulum": task}, "data": data, "quick": True, "seed": seed}
        return returns.run(tmp_path / "run", say=lambda text: None, **options)

    first = run()
    json.dumps(first, allow_nan=False)
    rows = first["tasks"]["pendulum"]
    assert list(rows) == ["data", "cloning", "plain", "chosen"] and (tmp_path / "run" / "returns.png").is_file()
    with np.load(data / "pendulum" / "data.npz") as file:
        assert rows["data"]["returns"]["mean"] == pytest.approx(file["rewards"].astype(float).sum() / 3, rel=1e-5)
    assert [(env, count, seed) for _, env, count, seed in judged] == [("Pendulum-v1", 2, 0)] * 3
    assert isinstance(judged[0][0], cloning.CloningPolicy)
    assert [policy.planner.config.samples for policy, *_ in judged[1:]] == [1, 2]
    assert run() == first and not judged
    run(seed=1)
    assert len(judged) == 3
    run(replace(TASK, samples=3))
    assert [policy.planner.config.samples for policy, *_ in judged] == [3]
    older = returns.DFPlanner.from_pretrained

    def other_defaults(source: str, **options: Any) -> Any:
        return older(source, **{"steps": 5, **options})

    monkeypatch.setattr(returns.DFPlanner, "from_pretrained", other_defaults)
    run()
    assert [policy.planner.config.steps for policy, *_ in judged] == [5, 5]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    # Catches: a table without rows that looks like a result.
    said: list[str] = []
    with pytest.raises(ValueError, match=r"there are data for none of .*behaviour/make\.py"):
        returns.run(tmp_path, quick=True, say=said.append, data=tmp_path)
    assert len(said) == len(returns.TASKS) and "make.py pendulum" in said[0]
