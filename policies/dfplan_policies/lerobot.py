"""A planner or a policy with what lerobot's loops call: ``reset``, ``select_action``, ``predict_action_chunk``.

Nothing of lerobot is imported: what counts is the shape of the calls.

Source: lerobot's ``PreTrainedPolicy`` (methods) and ``DiffusionPolicy`` (a queue of actions for the whole batch: when
it is empty a chunk is predicted and its first ``n_action_steps`` are queued; ``reset`` empties it).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dfplan_policies.protocol import FloatArray, NumberedPolicy
from dfplan_policies.streams import stream

STATE, ENVIRONMENT, GOAL = "observation.state", "observation.environment_state", "observation.goal"


class LeRobotAdapter:
    """Serve tensors by name, a batch at a time, as lerobot's evaluation and robot loops ask for them.

    Observations come as ``observation.state`` (B, O), the columns that the model was trained on. A goal (B, G) comes as
    ``observation.goal``, or as ``observation.environment_state``; other keys are not looked at. With a planner, actions
    come in chunks of its own actions along a plan; with a policy, one at a time, and its state is kept here.

    Args:
        source: A `dfplan.DFPlanner`, or anything with ``predict``.
        n_action_steps: Actions of a chunk that are executed before the next is predicted, 1..horizon; for a planner
            the stride by default, for a policy always 1.
        goal: (G,), for batches that bring none.
        seed: With the number of the episode, the row and a count, decides all draws.
        clip: Bound of a planner's actions, where its checkpoint does not know the action space; None leaves them as
            they are.
        **plan_options: Passed to ``planner.plan``: ``samples``, ``schedule``, ``steps`` ...

    Raises:
        TypeError: If ``source`` is neither.
        ValueError: If a number is out of range, or options are given that a policy has no use for.
    """

    def __init__(
        self,
        source: Any,
        *,
        n_action_steps: int | None = None,
        goal: FloatArray | None = None,
        seed: int = 0,
        clip: float | None = 1.0,
        **plan_options: Any,
    ) -> None:
        self.policy = source if hasattr(source, "predict") else None
        self.planner = None if self.policy is not None else source
        if self.policy is None and not hasattr(source, "plan"):
            raise TypeError(f"LeRobotAdapter takes a planner or a policy, got {type(source).__name__}; see load_policy")
        if self.policy is not None and (plan_options or n_action_steps not in (None, 1)):
            given = sorted(plan_options) or [f"n_action_steps={n_action_steps}"]
            raise ValueError(f"a policy acts step by step and takes no {', '.join(given)}; pass its planner instead")
        longest = 1 if self.planner is None else int(self.planner.spec.steps)
        usual = 1 if self.planner is None else int(self.planner.spec.stride)
        self.n_action_steps = usual if n_action_steps is None else n_action_steps
        if not 1 <= self.n_action_steps <= longest:
            raise ValueError(f"n_action_steps must lie in 1..{longest}, the plan's length, got {n_action_steps}")
        self.goal, self.seed, self.clip, self.plan_options = goal, seed, clip, plan_options
        self._episode = -1
        self.reset()

    def reset(self) -> None:
        """Begin an episode in every environment of the batch: forget the queue and the state."""
        self._episode += 1
        self._queue: deque[Tensor] = deque()
        self._state: Any = None
        self._chunks, self._rows = 0, 0

    def eval(self) -> LeRobotAdapter:
        """Return itself: there is nothing to switch to evaluation."""
        return self

    @torch.no_grad()
    def select_action(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return one action (B, A) per environment, on the device of the state, and remember the rest of the chunk.

        Args:
            batch: ``observation.state`` (B, O), a goal perhaps; an entry ``action`` is not looked at.

        Raises:
            ValueError: If the state is missing or has another shape, or the batch changed its size since `reset`.
        """
        state, goal = self._read(batch)
        if self._rows not in (0, len(state)):
            raise ValueError(
                f"the batch had {self._rows} environments since reset(), got {len(state)}; call reset() first"
            )
        self._rows = len(state)
        if self.policy is not None:
            action, self._state = self._ask(state, goal)
            return action
        if not self._queue:
            self._queue.extend(self._chunk(state, goal).transpose(0, 1))
            self._chunks += 1
        return self._queue.popleft()

    @torch.no_grad()
    def predict_action_chunk(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the actions (B, n_action_steps, A) that follow the observation; neither queue nor state changes."""
        state, goal = self._read(batch)
        return self._ask(state, goal)[0][:, None] if self.policy is not None else self._chunk(state, goal)

    # ---- inside

    def _read(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Take state and goal out of a batch."""
        if STATE not in batch:
            raise ValueError(
                f"a batch needs {STATE!r} (B, O), got {sorted(batch)}; rename the key of the robot's state"
            )
        state = torch.as_tensor(batch[STATE])
        if state.ndim != 2:
            raise ValueError(
                f"{STATE!r} must have shape (B, O), got {tuple(state.shape)}; pass one observation per step"
            )
        found = batch.get(GOAL, batch.get(ENVIRONMENT))
        if found is None:
            found = None if self.goal is None else torch.as_tensor(np.asarray(self.goal, dtype=np.float32))
        if found is None:
            return state, None
        goal = torch.as_tensor(found)
        if goal.shape[:-1] not in ((), (len(state),)):
            raise ValueError(f"a goal must have shape ({len(state)}, G) or (G,), got {tuple(goal.shape)}")
        return state, goal.expand(len(state), -1)

    def _ask(self, state: Tensor, goal: Tensor | None) -> tuple[Tensor, Any]:
        """Ask the policy for one action per row; the first call of an episode begins it."""
        observation: Any = state.cpu().numpy()
        if goal is not None:
            observation = {"observation": observation, "desired_goal": goal.cpu().numpy()}
        kept, starts = self._state, None
        if kept is None:
            starts = np.ones(len(state), dtype=bool)
            if isinstance(self.policy, NumberedPolicy):
                kept = self.policy.start([self._episode * len(state) + row for row in range(len(state))])
        policy: Any = self.policy
        actions, following = policy.predict(observation, state=kept, episode_start=starts, deterministic=True)
        return torch.as_tensor(np.asarray(actions), device=state.device), following

    def _chunk(self, state: Tensor, goal: Tensor | None) -> Tensor:
        """Plan and return the beginning of the model's own actions along the plan."""
        first = self._episode * len(state)
        generators = [stream(self.seed, first + row, self._chunks) for row in range(len(state))]
        planner: Any = self.planner
        plan = planner.plan(
            state.float().cpu(), None if goal is None else goal.float().cpu(), actions=True, generator=generators,
            **self.plan_options,
        )  # fmt: skip
        actions: Tensor = plan.actions[:, : self.n_action_steps]
        spaces = getattr(planner, "spaces", None)
        if spaces is not None:  # the model's actions are columns in [-1, 1] there
            return torch.as_tensor(spaces.action.decode(actions.cpu().numpy()), device=state.device)
        return (actions if self.clip is None else actions.clamp(-self.clip, self.clip)).to(state.device)
