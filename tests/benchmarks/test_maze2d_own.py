"""`dfplan bench maze2d --policy`: rows of one's own on the same starts, run again when their file has changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfplan_bench import maze2d
from dfplan_bench.maze2d import own
from dfplan_bench.maze2d.rows import Row, all_rows, choose
from dfplan_bench.maze2d.runner import Part, run_part

PUSHER = """
import numpy as np

from dfplan_policies import FunctionalPolicy


def act(memory, observation, goal):
    return SCALE * np.clip(goal - observation[:2], -1, 1), memory


def pusher(seed=0):
    return FunctionalPolicy(act)


def flat():
    return FunctionalPolicy(lambda m, o, g: (np.zeros(1), m))


def broken():
    return FunctionalPolicy(lambda m, o, g: (o["x"], m))


SCALE = 1.0
"""
BESIDE = choose(all_rows(), "umaze-waypoint,multi-umaze-path,umaze-path")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"own_{tmp_path.name}.py"
    path.write_text(PUSHER)
    return Path(path.name)


def test_a_row_for_every_environment_of_the_others(file: Path) -> None:
    # Catches: a maze twice, a row beside nothing, two policies under one name, names that are no file names.
    spec = f"py:{file}:pusher"
    rows = own.own_rows([spec, f"py:sub/{file}:pusher", "random"], BESIDE)
    assert [row.env for row in rows] == ["maze2d-umaze", "maze2d-multi-umaze"] * 3
    names = [row.name for row in rows]
    assert len(set(names)) == 6 and all(name.replace("-", "").replace("_", "").isalnum() for name in names)
    assert {row.policy for row in rows} == {spec, f"py:sub/{file}:pusher", "random"}
    assert {row.group for row in rows} == {"own"} and own.own_rows([], BESIDE) == []
    for specs, text in (
        ([spec, spec], "is given twice; name every policy once"),
        (["act"], "'act' plans by a checkpoint, and such rows are there"),
        (["sb3"], "the policy 'sb3' is written 'sb3:FILE'"),
        (["randm"], "Did you mean 'random'"),
    ):
        with pytest.raises(ValueError, match=text):
            own.own_rows(specs, BESIDE)
    with pytest.raises(ValueError, match="unknown row or group of rows 'own'"):
        choose(all_rows(), "own")


def test_the_key_follows_from_the_content(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: results of an older file shown for a newer one; a module that is run in order to be found.
    monkeypatch.syspath_prepend(str(file.resolve().parent))
    Path("agent.zip").write_bytes(b"one")
    specs = [f"py:{file}:pusher", f"py:{file.stem}:pusher", "sb3:agent.zip", "mlp:agent.zip"]
    before = [own.fingerprint(spec) for spec in specs]
    file.write_text(PUSHER.replace("1.0", "0.5"))
    Path("agent.zip").write_bytes(b"two")
    after = [own.fingerprint(spec) for spec in specs]
    assert all(a != b for a, b in zip(before, after, strict=True)) and before[0] == before[1]
    assert own.fingerprint("random") == ""
    Path("recorded").mkdir()
    np.savez("recorded/actions.npz", x=1)
    assert own.fingerprint("replay:recorded") != ""
    for spec, text in (("sb3:other.zip", "no file other.zip for --policy sb3:other.zip"),
                       ("py:nowhere.py:x", "no file nowhere.py")):  # fmt: skip
        with pytest.raises(FileNotFoundError, match=text):
            own.fingerprint(spec)
    for module in ("nowhere_at_all", "nowhere.at_all"):
        with pytest.raises(ModuleNotFoundError, match=f"no module '{module}' for --policy py:{module}"):
            own.fingerprint(f"py:{module}:x")
    row = Row("own-x-umaze", "x", "maze2d-umaze", "own", specs[0])
    with pytest.raises(ValueError, match="is not what it was when the run began"):
        run_part(Part(row, 0, 1, 0, "", before[0]))


def test_what_cannot_act_is_refused_before_the_run(file: Path) -> None:
    # Catches: an hour of planners before the error of the last row.
    for name, text in (
        ("flat", r"must give finite numbers of shape \(2, 2\) for two maze2d-umaze-v1, got float32 of shape \(2, 1\)"),
        ("broken", r"cannot act in maze2d-umaze-v1 \(IndexError.*try it with dfplan_policies.check_policy"),
    ):
        with pytest.raises(ValueError, match=text):
            own.try_out(own.own_rows([f"py:{file}:{name}"], BESIDE), 0)


def test_rows_of_ones_own_are_run_and_shown(dfplan: Any, file: Path, tmp_path: Path) -> None:
    # Catches: other starts than the rows beside, a difference of another environment, a command that would not make
    # this result, saved algorithms that are not served.
    sb3 = pytest.importorskip("stable_baselines3", reason="needs stable-baselines3")
    from tests.policies.shipped import maze

    sb3.SAC("MultiInputPolicy", maze(), policy_kwargs={"net_arch": [4]}, device="cpu", buffer_size=1).save("agent.zip")
    given = ["--quick", "--rows", "umaze-waypoint", "--policy", f"py:{file}:pusher", "--policy", "sb3:agent.zip",
             "--workers", "1"]  # fmt: skip
    code, out, err = dfplan("bench", "maze2d", *given, "--out", "run", "--json", "x.json")
    assert code == 0, err
    assert "6 episodes; 6 still to run" in err and f"py:{file}:pusher`, maze2d-umaze-v1" in out
    result = json.loads(Path("x.json").read_text())
    assert result["command"] == "dfplan bench maze2d --seed 0 " + " ".join([given[0], *given[1:3], *given[3:]])
    assert set(result["policies"]) == {f"py:{file}:pusher", "sb3:agent.zip"}
    assert set(result["rows"]) == {f"own-{file.stem}_py_pusher-umaze", "own-agent_zip-umaze", "umaze-waypoint"}
    assert all(row["episodes"] == 2 for row in result["rows"].values())
    report = Path("run/report.md").read_text()
    assert "## Policies of your own" in report and f"| `py:{file}:pusher` | maze2d-umaze-v1 | 2 |" in report
    assert "Policies of your own" in Path("run/report.html").read_text()
    _, _, err = dfplan("bench", "maze2d", *given, "--out", "run")
    assert "0 still to run" in err
    sb3.SAC("MultiInputPolicy", maze(), policy_kwargs={"net_arch": [5]}, device="cpu", buffer_size=1).save("agent.zip")
    _, _, err = dfplan("bench", "maze2d", *given, "--out", "run")
    assert "6 episodes; 2 still to run" in err


def test_the_difference_is_that_of_the_same_starts(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: the planner of another environment, a sign, a column that is left out.
    from dfplan_bench.maze2d import runner

    def fake(part: Part, threads: int = 1) -> list[dict[str, Any]]:
        score = 100.0 if part.row.group == "own" else 60.0 if part.row.env == "maze2d-umaze" else 80.0
        return [
            {"episode": n, "strict_return": score + n, "latched_return": score, "first_reach_steps": 5, "plans": 0,
             "network_evaluations": 0}
            for n in range(part.first, part.first + part.count)
        ]  # fmt: skip

    monkeypatch.setattr(runner, "run_part", fake)
    result = maze2d.run(
        tmp_path, seed=0, quick=True, say=lambda text: None, rows="umaze-path,multi-umaze-path", workers=1,
        policy=[f"py:{file}:pusher"],
    )  # fmt: skip
    rows = {row["env"]: row for row in result["rows"].values() if row["group"] == "own"}
    scale = 100 / (161.86 - 23.85)
    assert rows["maze2d-umaze-v1"]["against_planner"]["mean"] == pytest.approx(40 * scale, rel=1e-3)
    assert rows["maze2d-multi-umaze-v1"]["against_planner"]["mean"] == pytest.approx(20 * scale, rel=1e-3)
    text = (tmp_path / "report.md").read_text()
    assert "against the planner (`path`), same starts |" in text and "| 0.0 | 29.0 ± 0.0 |" in text
