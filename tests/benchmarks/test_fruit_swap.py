"""The fruit-swap benchmark: which rows are judged, and with which weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dfplan_bench.fruit_swap import table

RATE = {"rate": 0.5, "low": 0.2, "high": 0.8, "trials": 2}
JUDGED = {
    "success": RATE, "stages": dict.fromkeys("123", RATE), "predict_seconds": {"median": 0.1, "p95": 0.2},
    "steps": {"mean": 9.0},
}  # fmt: skip


def test_rows_are_chosen_by_name() -> None:
    # Catches: rows that are not asked for, another order, a misspelt name that judges nothing.
    assert list(table.named("pushed,state")) == ["pushed", "state"]
    with pytest.raises(ValueError, match=r"'stat'.*state"):
        table.named("stat")


def test_rows_without_weights_are_named_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a baseline judged with the policy's weights, a row that is dropped in silence, a second judgement of what
    # the run folder holds.
    judged, told = list[str](), list[str]()

    def judge(out: Path, name: str, row: table.Row, policy: Any, *rest: Any) -> dict[str, Any]:
        judged.append(name)
        assert policy.missing == row.policy.get("missing", "predicted")
        return JUDGED

    monkeypatch.setattr(table, "_judge", judge)
    for _ in range(2):
        found = table.run(tmp_path, quick=True, say=told.append, rows="state,dark_clean,memoryless", made=tmp_path)
        assert list(found["rows"]) == ["state", "dark_clean"] and found["episodes"] == 2
    assert judged == ["state", "dark_clean"]
    assert sum("memoryless: no weights" in line for line in told) == 2
    assert (tmp_path / "fruit-swap.png").is_file()
    with pytest.raises(ValueError, match="weights for no row"):
        table.run(tmp_path, rows="memoryless", say=told.append, made=tmp_path)
