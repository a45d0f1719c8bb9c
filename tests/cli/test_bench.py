"""`dfplan bench`: the list, errors, and what a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dfplan_bench.registry import BENCHMARKS


def test_without_a_name_they_are_listed(dfplan: Any) -> None:
    # Catches: a benchmark that is registered under a name whose module is missing.
    code, out, _ = dfplan("bench")
    assert code == 0 and all(name in out for name in BENCHMARKS)
    assert all(callable(b.load()) for b in BENCHMARKS.values())


def test_an_unknown_name_gets_the_nearest(dfplan: Any) -> None:
    # Catches: a traceback, or a run folder made for nothing.
    code, _, err = dfplan("bench", "crss")
    assert code == 2 and "cross" in err and not Path("runs").exists()


def test_a_run_leaves_numbers_with_their_origin_and_a_figure(dfplan: Any, tmp_path: Path) -> None:
    # Catches: a result without command, seed or hardware; --json and --figure ignored; --quick not said in the result.
    code, out, _ = dfplan(
        "bench", "cache", "--quick", "--seed", 3, "--json", "copy/result.json", "--figure", "copy/figure.png"
    )
    assert code == 0 and "runs/bench-cache-quick" in out
    written = json.loads((tmp_path / "runs/bench-cache-quick/metrics.json").read_text())
    assert written == json.loads((tmp_path / "copy/result.json").read_text())
    assert written["benchmark"] == "cache" and written["seed"] == 3 and written["quick"] is True
    assert {"command", "git", "versions", "hardware", "wall_seconds"} <= set(written)
    assert {row["history"] for row in written["rows"]["recurrent"]} == {10, 25, 50}
    assert (tmp_path / "copy/figure.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cross", "schedules", "forecasting"])
def test_quick_runs_end_with_a_figure(dfplan: Any, tmp_path: Path, name: str) -> None:
    # Catches: a benchmark that has rotted; models of a finished run are used again.
    code, out, _ = dfplan("bench", name, "--quick", "--threads", 1, "--out", "run")
    assert code == 0 and (tmp_path / "run" / f"{name}.png").is_file()
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["headline"][0] in out
