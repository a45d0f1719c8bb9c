"""The ``planned_actions`` executor: the actions that the plan itself holds, one after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dfplan_policies.executors.base import Outcome, Query
from dfplan_policies.plans import PlanView
from dfplan_policies.protocol import FloatArray


@dataclass(frozen=True)
class ActionTrack:
    """Remember the plan and how old it is.

    Attributes:
        plan: The plan.
        age: Steps since it was made.
    """

    plan: PlanView
    age: int = 0


@dataclass(frozen=True)
class PlannedActionsExecutor:
    """Execute the actions of a plan as they stand; what happens meanwhile is seen by the next plan.

    For tasks without a path: the plan must be made anew before its actions are used up (``replan_every``).
    """

    needs_actions = True

    def start(self, plan: PlanView) -> ActionTrack:
        """Begin with the first action.

        Raises:
            ValueError: If the plan holds no actions.
        """
        if plan.actions is None:
            raise ValueError("the plan holds no actions; make it with planner.plan(..., actions=True)")
        return ActionTrack(plan)

    def remaining(self, track: ActionTrack) -> float:
        """Return the environment steps until the plan arrives."""
        return track.plan.arrival_steps - track.age if track.plan.arrives else math.inf

    def step(self, track: ActionTrack, state: FloatArray, query: Query) -> Outcome[ActionTrack]:
        """Return the next action; the last one again if there are no more, and a wish for a new plan."""
        actions = track.plan.actions
        if actions is None:
            raise ValueError("the plan holds no actions; make it with planner.plan(..., actions=True)")
        over = track.age >= len(actions)
        action = actions[min(track.age, len(actions) - 1)]
        return Outcome(action, replace(track, age=track.age + 1), stuck=over)
