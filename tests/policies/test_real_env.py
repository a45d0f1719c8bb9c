"""Executors on the real environment, along a path that is known to be free."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfplan.evaluation import evaluate
from dfplan_policies import DFPolicy, WaypointPolicy
from tests.policies.fakes import FakePlanner

# umaze, start (3, 1), goal (1, 1): along row 3, up column 3, back along row 1; cell centres lie 0.2 below locations.
CORNERS = [(2.8, 1.2), (2.8, 2.9), (0.9, 2.9)]


def run(executor: str, **options: Any) -> Any:
    class Shrinking(FakePlanner):
        """Plans along the corners that are still ahead."""

        def plan(self, obs: Any, goal: Any, **kwargs: Any) -> Any:
            x, y = np.asarray(obs)[0, :2]
            ahead = 0 if y < 2.4 and x > 2 else 2 if x > 1.5 else 3
            self.via = CORNERS[1:][ahead - (ahead > 0) :] if ahead else CORNERS[1:]
            return super().plan(obs, goal, **kwargs)

    policy = DFPolicy(Shrinking(), executor, **options)
    return evaluate(policy, "maze2d-umaze", 4, reset_options={"location": (3, 1)})


@pytest.mark.parametrize("executor", ["path", "diffused_actions"])
def test_a_free_path_leads_to_the_goal_and_the_goal_is_held(executor: str) -> None:
    # Catches: rows and columns swapped, a plan in another frame than the environment's, leaving the goal.
    report = run(executor, replan_every=1000)
    assert report.metrics["success_rate"] == 1
    for record in report.records:
        assert record.success[record.first_reach - 1 :].all()
        assert record.strict_return == record.latched_return


def test_path_beats_the_waypoint_controller_from_the_same_starts() -> None:
    # Catches: an executor that follows the data's timing.
    from functools import partial

    from dfplan_envs.maze2d import WaypointController

    path = run("path").metrics
    reference = evaluate(
        WaypointPolicy(partial(WaypointController, "umaze")), "maze2d-umaze", 4, reset_options={"location": (3, 1)}
    ).metrics
    assert reference["success_rate"] == 1
    assert path["first_reach_steps"]["mean"] < 0.95 * reference["first_reach_steps"]["mean"]
