"""`dfplan bench maze2d`: rows, parts that stay done, sums that are right, a report one can read."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dfplan.planner_config import PlannerConfig
from dfplan_bench import maze2d
from dfplan_bench.maze2d import report, runner
from dfplan_bench.maze2d.oracle import FINE, Grid, PerfectPlanner
from dfplan_bench.maze2d.rows import Row, all_rows, choose
from dfplan_bench.maze2d.runner import Part, read, run_part, split
from dfplan_envs.maze2d.layouts import LAYOUTS
from dfplan_policies import EXECUTORS

WAYPOINT = Row("u", "the controller", "maze2d-umaze", "references", "waypoint")


def episode(number: int, strict: float, latched: float | None = None, first: int | None = 5) -> dict[str, Any]:
    return {
        "episode": number, "strict_return": strict, "latched_return": strict if latched is None else latched,
        "first_reach_steps": first, "plans": 2, "network_evaluations": 10,
    }  # fmt: skip


def test_rows_are_unique_and_name_things_that_exist() -> None:
    # Catches: two rows under one name (the later one would be shown twice), an executor that is misspelt.
    rows = all_rows()
    assert len({row.name for row in rows}) == len(rows)
    assert {row.maze for row in rows} == {"umaze", "medium", "large"}
    assert all(row.options.get("executor", "path") in EXECUTORS for row in rows)
    assert [r.name for r in choose(rows, "umaze-path,ladder-a")] == ["umaze-path", "ladder-a"]
    assert {r.group for r in choose(rows, "ladder")} == {"ladder"} and choose(rows, None) == rows
    assert not any(r.policy == "mppi" for r in all_rows(mppi=False))
    with pytest.raises(ValueError, match=r"unknown row or group of rows 'ladde'\. Did you mean 'ladder'"):
        choose(rows, "scores,ladde")


def test_parts_cover_every_episode_once_and_know_what_they_belong_to() -> None:
    # Catches: the last part dropped or too long, a result reused for other weights, another seed or other options.
    parts = split(WAYPOINT, 60, 0, "", "w", size=25)
    assert [(p.first, p.count) for p in parts] == [(0, 25), (25, 25), (50, 10)]
    one = parts[0]
    others = [
        replace(one, seed=1), replace(one, weights="v"), replace(one, first=25),
        replace(one, row=replace(WAYPOINT, options={"samples": 2})),
    ]  # fmt: skip
    assert len({p.file for p in (one, *others)}) == 5
    assert replace(one, row=replace(WAYPOINT, label="another name"), checkpoint="elsewhere").file == one.file


def test_other_defaults_of_the_planner_make_another_part(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: episodes of older defaults taken for those of the new ones, since a row without options names neither.
    config: dict[str, Any] = {"weights_sha256": "w", "planner": {"goal_radius": 1.0}}
    before = maze2d.planner_key(config)
    assert before == maze2d.planner_key(dict(config)) != maze2d.planner_key({**config, "planner": {}})
    assert maze2d.planner_key({**config, "weights_sha256": "v"}) != before

    @dataclass(frozen=True)
    class Newer(PlannerConfig):
        steps: int = 99

    monkeypatch.setattr(maze2d, "PlannerConfig", Newer)
    assert maze2d.planner_key(config) != before


def test_episodes_do_not_depend_on_the_part_they_are_in() -> None:
    # Catches: starts counted from the part's beginning, a policy whose draws go on from episode to episode.
    together = run_part(Part(WAYPOINT, 0, 4, 3, "", ""))
    apart = run_part(Part(WAYPOINT, 2, 2, 3, "", ""))
    for a, b in zip(together[2:], apart, strict=True):
        assert {**a, "control_hz": 0} == {**b, "control_hz": 0}
    assert [e["episode"] for e in together] == [0, 1, 2, 3]


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: episodes run again, a part lost when the next one fails, a report without what was done before.
    said: list[str] = []
    calls: list[Part] = []
    real = runner.run_part

    def stops(part: Part, threads: int = 1) -> list[dict[str, Any]]:
        calls.append(part)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(part, threads)

    monkeypatch.setattr(runner, "PART", 2)
    monkeypatch.setattr(maze2d, "split", lambda *a: split(*a, size=2))
    monkeypatch.setattr(runner, "run_part", stops)
    options: dict[str, Any] = {"seed": 0, "quick": False, "say": said.append, "rows": "umaze-waypoint", "workers": 1}
    with pytest.raises(KeyboardInterrupt):
        maze2d.run(tmp_path, episodes=4, **options)
    assert len(list((tmp_path / "parts").iterdir())) == 1
    result = maze2d.run(tmp_path, episodes=4, **options)
    assert [p.first for p in calls] == [0, 2, 2] and "4 episodes; 2 still to run" in said[-1]
    row = result["rows"]["umaze-waypoint"]
    assert row["episodes"] == 4 and row["success_rate"] == 1.0
    again = maze2d.run(tmp_path, episodes=4, **options)
    assert again == result and len(calls) == 3
    assert "the controller that made the data | maze2d-umaze-v1 | 4 |" in (tmp_path / "report.md").read_text()
    page = (tmp_path / "report.html").read_text()
    assert "data:image/png;base64," in page and "<td>the controller that made the data</td>" in page
    next((tmp_path / "parts").iterdir()).write_text('{"x"')
    with pytest.raises(ValueError, match=r"parts/umaze-waypoint-.* is damaged .*; delete it to run its episodes again"):
        maze2d.run(tmp_path, episodes=4, **options)


def test_two_processes_give_what_one_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: parts mixed up when they come back in another order.
    monkeypatch.setattr(maze2d, "split", lambda *a: split(*a, size=1))
    found = [
        maze2d.run(
            tmp_path / str(workers), seed=1, quick=True, say=lambda text: None, rows="umaze-waypoint,umaze-perfect",
            workers=workers,
        )["rows"]
        for workers in (1, 2)
    ]  # fmt: skip
    assert found[0] == found[1]


def test_ray_is_asked_for_the_same_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: results given to another part, a cluster left open after a failure, a missing extra that is not named.
    log: list[Any] = []
    ray = ModuleType("ray")

    def remote(function: Any) -> Any:
        task = ModuleType("task")
        task.remote = lambda part: partial(function, part)  # type: ignore[attr-defined]
        return task

    ray.init = lambda **k: log.append(k["address"])  # type: ignore[attr-defined]
    ray.shutdown = lambda: log.append("shutdown")  # type: ignore[attr-defined]
    ray.remote = remote  # type: ignore[attr-defined]
    ray.wait = lambda waiting, num_returns: ([waiting[-1]], waiting[:-1])  # type: ignore[attr-defined]
    ray.get = lambda task: task()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(runner, "run_part", lambda part: [episode(part.first, float(part.first))])
    parts = split(WAYPOINT, 3, 0, "", "", size=1)
    found = {part.first: rows[0]["strict_return"] for part, rows in runner.on_ray(parts, "auto")}
    assert found == {0: 0.0, 1: 1.0, 2: 2.0} and log == ["auto", "shutdown"]
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install .*dfplan\[ray\]"):
        list(runner.on_ray(parts, "auto"))


def test_numbers_of_a_row_are_those_of_its_episodes() -> None:
    # Catches: latched for strict, success counted among those that succeeded, pairs of different starts.
    row = replace(WAYPOINT, env="maze2d-large")
    rows = [episode(0, 273.99, 273.99, 10), episode(1, 6.7, 273.99, None)]
    found = report.summarise(row, rows)
    assert found["strict"]["mean"] == pytest.approx(50) and found["latched"]["mean"] == pytest.approx(100)
    assert found["strict"]["stderr"] == pytest.approx(50) and found["success_rate"] == 0.5
    assert found["first_reach_steps"]["mean"] == 10
    scale = (273.99 - 6.7) / 100
    other = [episode(1, 6.7 + 3 * scale), episode(0, 273.99 - scale), episode(7, 0)]
    assert report.difference(other, rows, "maze2d-large")["mean"] == pytest.approx((3 - 1) / 2)
    steps, share = report.reached_by(rows, "maze2d-large")
    assert share[steps.index(8)] == 0 and share[steps.index(16)] == 0.5 and steps[-1] == 800


def test_an_impossible_score_is_not_reported() -> None:
    # Catches: a count that is wrong (two rewards a step, another maze's scale) printed as a record.
    row = replace(WAYPOINT, env="maze2d-large")
    with pytest.raises(ValueError, match=r"a score of 29\d.\d is above the bound of 257.6 at top speed"):
        report.summarise(row, [episode(i, 795.0 + i % 2) for i in range(40)])
    report.summarise(row, [episode(i, 690.0 + i % 2) for i in range(40)])


@pytest.mark.parametrize("maze", ["umaze", "large"])
def test_the_perfect_path_keeps_clear_of_walls_and_is_short(maze: str) -> None:
    # Catches: coordinates off by the 0.2 of D4RL, a way through a wall or round a corner too tightly.
    rows = LAYOUTS[maze]
    goal = next((i, j) for i, row in enumerate(rows) for j, c in enumerate(row) if c == "G")
    planner = PerfectPlanner(tuple(rows))
    cells = [(i, j) for i, row in enumerate(rows) for j, c in enumerate(row) if c == "O"]
    for start in cells:
        plan = planner.plan(np.array([[*start, 0.0, 0.0]]), np.array([goal], dtype=float))
        points = plan.observations[0, :, :2].double().numpy()
        assert np.allclose(points[0], start) and np.allclose(points[-1], goal)
        dense = np.concatenate([np.linspace(a, b, 6) for a, b in pairwise(points)])
        for corner in ((-0.08, -0.08), (-0.08, 0.08), (0.08, -0.08), (0.08, 0.08)):
            at = np.floor(dense + corner + 0.7).astype(int)
            assert all(rows[i][j] != "#" for i, j in at)
    left = planner.grid.distances(planner.grid.nearest(np.array(goal, dtype=float)))
    here = planner.grid.nearest(np.array(goal, dtype=float))
    assert left[here] == 0 and left[here[0], here[1] + 3] == pytest.approx(3, abs=0.01)
    assert left[here[0] + 0, here[1]] < FINE


def test_a_grid_closes_what_the_ball_does_not_fit_through() -> None:
    # Catches: walls that are not grown by the ball's radius.
    grid = Grid.of(("####", "#OO#", "####"))
    assert grid.free.sum() == (FINE - 4) * (2 * FINE - 4)


def test_unknown_options_are_refused(capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Catches: --retrain taken in silence by a benchmark that trains nothing.
    from dfplan.cli import main

    monkeypatch.chdir(tmp_path)
    for options, text in (
        (["cache", "--retrain"], "the benchmark 'cache' has no --retrain; leave it out"),
        (["maze2d", "--episodes", "0"], "--episodes must be at least 1, got 0"),
        (["maze2d", "--rows", "scoers"], "unknown row or group of rows 'scoers'"),
    ):
        monkeypatch.setattr("sys.argv", ["dfplan", "bench", *options])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code and text in capsys.readouterr().err


def test_the_command_is_kept_with_its_options(capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Catches: a result whose command would make another one.
    from dfplan.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "sys.argv",
        ["dfplan", "bench", "maze2d", "--quick", "--rows", "umaze-waypoint", "--workers", "1", "--json", "x.json"],
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    capsys.readouterr()
    written = json.loads(Path("x.json").read_text())
    assert written["command"] == "dfplan bench maze2d --seed 0 --quick --rows umaze-waypoint --workers 1"
    assert written["rows"]["umaze-waypoint"]["episodes"] == 2
    assert read(Path("nothing.json")) is None
