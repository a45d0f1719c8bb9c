"""What makes chunks: a policy or a planner, an observation at a time. Runs in the planner's process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dfplan_policies.ros.actions import done_first, to_chunk
from dfplan_policies.ros.chunks import Chunk
from dfplan_policies.ros.config import RobotConfig
from dfplan_policies.ros.observe import policy_input, show
from dfplan_policies.ros.signals import Observation

Floats = NDArray[np.float64]


class Source(Protocol):
    """What turns an observation into a chunk."""

    def chunk(self, seen: Observation) -> Chunk:
        """Return the chunk that follows an observation.

        Raises:
            ValueError: If it cannot do with this observation; the next one may be better.
        """
        ...


@dataclass(frozen=True)
class SourceRequest:
    """Say which source to build; it travels to the planner's process.

    Attributes:
        config: Of the robot.
        policy: ``plan`` (a plan of the checkpoint's model for every observation), a name of
            `dfplan_policies.load_policy`, or ``source:MODULE:FUNCTION``, which is called with this request.
        checkpoint: Name, folder or Hub id.
        goal: (G,), or None.
        seed: Of all draws.
        device: Where the network runs.
        options: Of the policy.
    """

    config: RobotConfig
    policy: str = "df"
    checkpoint: str | None = None
    goal: tuple[float, ...] | None = None
    seed: int = 0
    device: str = "cpu"
    options: Mapping[str, Any] = field(default_factory=dict)


def make_source(request: SourceRequest) -> Source:
    """Build a source.

    Raises:
        ValueError: If a name is unknown or something it needs is missing.
    """
    if request.policy.startswith("source:"):
        module, colon, name = request.policy.removeprefix("source:").partition(":")
        if not colon:
            raise ValueError(f"a source is written source:MODULE:FUNCTION, got {request.policy!r}")
        source: Source = getattr(import_module(module), name)(request)
        return source
    goal = None if request.goal is None else np.array(request.goal)
    if request.policy == "plan":
        if request.checkpoint is None:
            raise ValueError("the source 'plan' needs a checkpoint; pass --checkpoint")
        from dfplan import DFPlanner

        planner = DFPlanner.from_pretrained(request.checkpoint, device=request.device)
        return PlannerSource(planner, request.config, goal, request.seed, request.options)
    from dfplan_policies.registry import load_policy

    policy = load_policy(
        request.policy, checkpoint=request.checkpoint, goal=goal, seed=request.seed, device=request.device,
        act_dim=len(request.config.joints) + request.config.action.gripper, options=dict(request.options),
    )  # fmt: skip
    return PolicySource(policy, request.config)


def tool_model(config: RobotConfig) -> Any:
    """Return the model of the arm if actions or observations need it, else None."""
    if config.action.form != "tool_delta" and not {"tool_pos", "tool_rot6"} & set(config.signals):
        return None
    from dfplan_policies.ros.kinematics import Kinematics

    return Kinematics(config)


class PolicySource:
    """Ask a policy once per observation; what it already knows of the actions to come fills the chunk.

    Args:
        policy: Anything with ``predict``; a `DFPolicy` that executes its plan's actions and an `ActPolicy` tell the
            actions to come, of any other there is one. One with an attribute ``block`` (`EpisodePolicy`) chooses that
            many actions per observation and remembers them as done: the arm does all of them, and waits at their end
            for the next block.
        config: Of the robot.
    """

    def __init__(self, policy: Any, config: RobotConfig) -> None:
        self.policy, self.config, self.tool = policy, config, tool_model(config)
        self._state: Any = None
        self._episode = -1

    def chunk(self, seen: Observation) -> Chunk:
        """Return the next actions as a chunk; a start of the arm begins an episode."""
        forward = None if self.tool is None else self.tool.forward
        shown = _batch(policy_input(show(seen, self.config, forward), self.config, self.policy))
        fresh = seen.episode != self._episode
        state, start = (self._start(seen.episode), np.array([True])) if fresh else (self._state, None)
        block, actions = int(getattr(self.policy, "block", 0)), []
        for _ in range(max(1, block)):
            action, state = self.policy.predict(shown, state, start, True)
            actions.append(np.asarray(action, dtype=np.float64).reshape(1, -1))
            start = None
        self._state, self._episode = state, seen.episode
        if block:
            chunk = to_chunk(np.vstack(actions), seen, self.config, self.tool)
            return done_first(chunk, self.config.plan.timeout_s)
        return to_chunk(coming_actions(self.policy, state, actions[0]), seen, self.config, self.tool)

    def _start(self, episode: int) -> Any:
        """Return the state of a policy that begins an episode, the first one number 0: it decides the draws."""
        begin = getattr(self.policy, "start", None)
        return None if begin is None else begin([max(0, episode - 1)])


def coming_actions(policy: Any, state: Any, action: Any) -> Floats:
    """Return the action (1, A) that was chosen and those that the policy's memory holds after it, (n, A)."""
    now = np.asarray(action, dtype=np.float64).reshape(1, -1)
    memories = getattr(state, "memories", None)
    rest = None if not memories or memories[0] is None else _remembered(memories[0])
    if rest is None or not len(rest):
        return now
    rest = policy.limited(rest)
    spaces = getattr(policy, "spaces", None)
    return np.vstack([now, rest if spaces is None else spaces.action.decode(rest)])


def _remembered(memory: Any) -> Floats | None:
    """Return the actions to come from the memory of our own policies, as columns."""
    pending = getattr(memory, "pending", None)
    if isinstance(pending, np.ndarray):
        return pending
    plans = getattr(memory, "plans", ())
    if not plans or plans[-1].actions is None:
        return None
    rest: Floats = plans[-1].actions[memory.step - plans[-1].step :]
    return rest


class PlannerSource:
    """Make a plan for every observation and take its actions; what is stale is given its noise level.

    Args:
        planner: A `dfplan.DFPlanner`.
        config: Of the robot.
        goal: (G,), or None.
        seed: With the count of plans, decides all draws.
        options: Of ``planner.plan``.
    """

    def __init__(
        self, planner: Any, config: RobotConfig, goal: Floats | None, seed: int, options: Mapping[str, Any]
    ) -> None:
        self.planner, self.config, self.tool = planner, config, tool_model(config)
        self.goal, self.seed, self.options = goal, seed, dict(options)
        self._count = 0

    def chunk(self, seen: Observation) -> Chunk:
        """Return the actions of a fresh plan; the observation's token is at the level of its stalest part."""
        from dfplan_policies.belief import as_numpy, as_row
        from dfplan_policies.streams import stream

        shown = show(seen, self.config, None if self.tool is None else self.tool.forward)
        level = round(max(shown.shares.values()) * self.planner.levels)
        generator = stream(self.seed, seen.episode, self._count)
        self._count += 1
        plan = self.planner.plan(
            as_row(np.nan_to_num(shown.state)), None if self.goal is None else as_row(self.goal), actions=True,
            generator=generator, **({"obs_level": level} if level else {}), **self.options,
        )  # fmt: skip
        actions, spaces = as_numpy(plan.actions)[0], getattr(self.planner, "spaces", None)
        actions = np.clip(actions, -1.0, 1.0) if spaces is None else spaces.action.decode(actions)
        return to_chunk(actions, seen, self.config, self.tool)


def _batch(observation: Any) -> Any:
    """Make a batch of one; the shares of noise stay as they are."""
    if isinstance(observation, Mapping):
        return {key: value if key == "levels" else np.asarray(value)[None] for key, value in observation.items()}
    return np.asarray(observation)[None]
