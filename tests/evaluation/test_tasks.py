"""Success task by task."""

from __future__ import annotations

import numpy as np
import pytest

from dfplan.cli.evaluate_tasks import read_tasks
from dfplan.evaluation import evaluate_tasks, wilson
from dfplan_policies.protocol import FloatArray


class Beeline:
    """Head straight for the goal."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):  # type: ignore[no-untyped-def]
        """Act for a batch."""
        way: FloatArray = observation["desired_goal"] - observation["observation"]
        return np.clip(5 * way, -1, 1), state


def test_every_task_has_its_own_rate_and_starts() -> None:
    """Catches tasks that all run the same cells, share their noise, or a rate over the wrong episodes."""
    pytest.importorskip("ogbench")
    found = evaluate_tasks(Beeline(), "ogbench-pointmaze-medium", (1, 3), 2, seed=0, num_envs=2)
    rows = found.rows()
    assert rows["tasks"]["1"]["success"]["trials"] == 2 and rows["all"]["success"]["trials"] == 4
    starts = {t: np.array([r.observations[0] for r in rep.records]) for t, rep in found.reports.items()}
    centres = {1: (0, 0), 3: (8, 16)}
    for task, centre in centres.items():
        assert np.abs(starts[task] - centre).max() <= 1.0
    assert not np.allclose(starts[1][0] - centres[1], starts[3][0] - centres[3])
    again = evaluate_tasks(Beeline(), "ogbench-pointmaze-medium", (3,), 2, seed=0, num_envs=1)
    np.testing.assert_array_equal(again.reports[3].records[1].observations, found.reports[3].records[1].observations)
    assert all(r.steps == 1000 or bool(r.success[-1]) for rep in found.reports.values() for r in rep.records)
    with pytest.raises(ValueError, match="at least one task"):
        evaluate_tasks(Beeline(), "ogbench-pointmaze-medium", ())


def test_tasks_are_read_from_text() -> None:
    """Catches a task that does not exist taken for one that does."""
    assert read_tasks("all") == [1, 2, 3, 4, 5]
    assert read_tasks("1, 3") == [1, 3]
    for text in ("0", "6", "one", ""):
        with pytest.raises(ValueError, match="'all' or numbers from 1 to 5"):
            read_tasks(text)


def test_the_interval_is_wilsons() -> None:
    """Catches the normal interval, which for 50 of 50 has no width."""
    assert wilson(50, 50)["low"] == pytest.approx(0.9287, abs=1e-4)
    assert wilson(25, 50)["low"] + wilson(25, 50)["high"] == pytest.approx(1.0)
