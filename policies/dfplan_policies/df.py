"""`DFPolicy`: plan with a diffusion planner every now and then, execute the plan in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from dfplan_policies.avoidance import away_from
from dfplan_policies.belief import Belief, Believer, as_numpy, as_row, make_believer
from dfplan_policies.executors import Executor, make_executor
from dfplan_policies.late import Pending, Worker, at_once, joined
from dfplan_policies.past import Past
from dfplan_policies.per_environment import PerEnvironmentPolicy, PolicyState
from dfplan_policies.plans import PlanView, Telemetry
from dfplan_policies.protocol import FloatArray
from dfplan_policies.streams import stream
from dfplan_policies.wanted import target_of, wanted

BLOCK_RADIUS = 0.3  # cells around a blocked place that plans stay out of; less than where a ball fits beside a wall
DETOUR_AFTER = 2  # plans in a row that could not be followed, from which on plans are pushed away from blocked places
REPLAN_EVERY = 50  # steps between plans that are followed as a path
MOST_SAMPLES = 4  # how many times the usual number of samples is drawn after repeated sticking


class Planner(Protocol):
    """What the policy needs of a planner; `dfplan.DFPlanner` has it."""

    @property
    def config(self) -> Any:
        """Defaults, with ``samples`` and ``action_steps``."""
        ...

    @property
    def plan(self) -> Callable[..., Any]:
        """Plan: (obs (B, O), goal (B, G) or None, ..., generator=) -> `dfplan.Plan`."""
        ...

    @property
    def first_actions(self) -> Callable[..., Any]:
        """Act: (obs (B, O), plan_states (B, n, O), *, steps, generator) -> actions (B, stride, A)."""
        ...


@dataclass(frozen=True)
class DFMemory:
    """Remember one environment's episode.

    Attributes:
        episode: Its number.
        step: Steps taken.
        draws: Random streams used so far; stream ``n`` is seeded by (policy's seed, episode, n).
        plans: All plans of the episode, the last one in use.
        raw: The plan in use as the planner returned it and the step it was made at; kept only for warm starts.
        planned_at: Step from which the next routine re-plan is counted.
        track: The executor's memory.
        settled: Whether the goal is reached and held.
        sticks: Plans in a row that could not be followed.
        blocked: Places (2,) that the ball has run up against in this episode.
        action_evaluations: Network calls for actions and for states that are not measured.
        past: What was observed and done; kept only if the planner's layout has use for it.
        pending: A plan that was asked for and is not in use yet.
    """

    episode: int
    step: int = 0
    draws: int = 0
    plans: tuple[PlanView, ...] = ()
    raw: tuple[Any, int] | None = None
    planned_at: int = 0
    track: Any = None
    settled: bool = False
    sticks: int = 0
    blocked: tuple[FloatArray, ...] = ()
    action_evaluations: int = 0
    past: Past | None = None
    pending: Pending | None = None


class DFPolicy(PerEnvironmentPolicy[DFMemory]):
    """Plan, follow the plan with an executor, re-plan.

    Args:
        planner: A `dfplan.DFPlanner`, or anything with its ``plan`` and ``first_actions``.
        executor: Name of an executor (`dfplan_policies.EXECUTORS`); None takes ``path``, and ``planned_actions`` for
            checkpoints whose tokens hold their actions.
        replan_every: Environment steps between routine plans; no plan is made while the goal is held. None is 50, and
            a token's steps with ``planned_actions``.
        goal: (G,), for observations that bring no ``desired_goal``.
        seed: With the episode's number and a count, seeds every random draw.
        executor_options: Fields of the executor, for example ``{"lookahead": 0.6}``.
        warm_start: Whether a routine re-plan starts from the shifted previous plan.
        keep_shorter: Whether a routine re-plan is dropped if the plan in use is nearer to the goal.
        action_steps: Denoising steps for the actions of ``diffused_actions``; the planner's default if None.
        obs_noise: Standard deviation of the sensor's Gaussian noise in environment units, a number or (O,); with a
            checkpoint of interleaved tokens an observation may also be missing (all NaN).
        history: Whether the planner is told what came before, if its layout has a history.
        block_radius: Distance from a place that the ball has run up against that plans had better keep; environment
            units.
        trust: Share of K at which a plan takes a state that was imagined because its observation is missing.
        asynchronous: Whether plans are made in a thread while the last one is followed, so that planning never blocks
            control; a plan is used as soon as it is there, from the point nearest to the ball. Only the first plan of
            an episode is waited for. When a plan arrives depends on the machine, so episodes are not reproducible.
            A state that waits for a plan cannot be pickled. `close` ends the thread.
        latency_steps: In its place, a fixed delay: a plan that is asked for at step t is used from step
            t + latency_steps on (the first of an episode at once). Deterministic, for tests and for studies of delay.
        target_return: Return to ask for, in rewards per step (`dfplan.returns`), if the layout holds returns; None
            takes the one that the planner's ``target_share`` of the data stays below, ``"none"`` asks for nothing.
        **plan_options: Passed to ``planner.plan``: ``samples``, ``schedule``, ``slope``, ``steps``, ``attention``,
            ``eta``, ``hold``, ``guidance``, ``steering``, ``score``, ``budget_ms``, ``search``.

    Raises:
        ValueError: If a number is out of range or a name unknown.
    """

    def __init__(
        self,
        planner: Planner,
        executor: str | None = None,
        replan_every: int | None = None,
        goal: FloatArray | None = None,
        *,
        seed: int = 0,
        executor_options: Mapping[str, Any] | None = None,
        warm_start: bool = False,
        keep_shorter: bool = False,
        action_steps: int | None = None,
        obs_noise: Any = None,
        history: bool = True,
        trust: float = 0.05,
        asynchronous: bool = False,
        latency_steps: int = 0,
        block_radius: float = BLOCK_RADIUS,
        target_return: float | str | None = None,
        **plan_options: Any,
    ) -> None:
        executor, replan_every = usual(planner, executor, replan_every)
        samples = plan_options.pop("samples", None)
        samples = planner.config.samples if samples is None else samples
        action_steps = planner.config.action_steps if action_steps is None else action_steps
        for name, value in (("replan_every", replan_every), ("action_steps", action_steps), ("samples", samples)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}")
        if latency_steps < 0 or (asynchronous and latency_steps):
            raise ValueError(
                f"latency_steps must be 0 or more, and 0 with asynchronous=True, got {latency_steps}; "
                "choose a real delay or a simulated one"
            )
        self.planner = planner
        self.executor_name = executor
        self.executor: Executor[Any] = make_executor(executor, executor_options)
        self.replan_every = replan_every
        self.spaces, self.target = getattr(planner, "spaces", None), target_of(planner, target_return)
        if getattr(self.executor, "needs_actions", False):
            plan_options["actions"] = True
            _check_replan(planner, replan_every)
        self.goal = goal
        self.block_radius = block_radius
        self.seed = seed
        self.warm_start = warm_start
        self.keep_shorter = keep_shorter
        self.action_steps = action_steps
        self.samples = samples
        self.plan_options = plan_options
        self.latency_steps = latency_steps
        self.worker = Worker() if asynchronous else None
        self.believer = _believer(planner, obs_noise, history, trust)
        self.accepts_missing = self.believer is not None and self.believer.planner.spec.kind == "interleaved"

    def begin(self, episode: int) -> DFMemory:
        """Return an empty memory."""
        return DFMemory(episode)

    def telemetry(self, state: PolicyState[DFMemory]) -> list[Telemetry]:
        """Return what planning and acting have cost so far in each environment's current episode."""
        return [Telemetry() if m is None else Telemetry(m.plans, m.action_evaluations) for m in state.memories]

    def act(self, memory: DFMemory, observation: FloatArray, goal: FloatArray | None) -> tuple[FloatArray, DFMemory]:
        """Act in one environment."""
        memory, belief = self._believe(memory, observation)
        memory = self._collect(memory, belief, goal)
        if memory.pending is None and self._is_due(memory, goal):
            memory = self._replan(memory, belief, goal, stuck=False)
        memory, outcome = self._execute(memory, belief.state)
        if outcome.stuck and memory.pending is None:
            if outcome.blocked is not None:
                memory = replace(memory, blocked=(*memory.blocked, outcome.blocked))
            known = len(memory.plans)
            memory = self._replan(memory, belief, goal, stuck=True)
            if len(memory.plans) > known:
                memory, outcome = self._execute(memory, belief.state)
        past, action = memory.past, self.limited(outcome.action)
        if past is not None and self.believer is not None:
            past = past.after(observation, action, self.believer.needed)
        memory = replace(memory, step=memory.step + 1, track=outcome.track, settled=outcome.settled, past=past)
        return action, memory

    def _believe(self, memory: DFMemory, observation: FloatArray) -> tuple[DFMemory, Belief]:
        """Find out where the ball is; without a layout that needs it, where it was measured."""
        if self.believer is None:
            return memory, Belief(observation, observation, 0)
        past = memory.past
        if past is None:
            past = Past.empty(len(observation), self.believer.planner.spec.act_dim)
        belief = self.believer.believe(past, observation, self._generator(memory))
        return replace(memory, past=past, action_evaluations=memory.action_evaluations + belief.calls), belief

    def _is_due(self, memory: DFMemory, goal: FloatArray | None) -> bool:
        """Tell whether a routine plan is due: at the start, when the goal has moved, every ``replan_every`` steps."""
        if not memory.plans or _goal_moved(memory, goal):
            return True
        return not memory.settled and memory.step - memory.planned_at >= self.replan_every

    def _execute(self, memory: DFMemory, observation: FloatArray) -> tuple[DFMemory, Any]:
        """Let the executor take a step; its questions to the model draw from the memory's next random stream."""
        generator = self._generator(memory)
        outcome = self.executor.step(
            memory.track, observation, lambda state, upcoming: self._query(state, upcoming, generator)
        )
        used = outcome.evaluations * self.action_steps
        draws = memory.draws + min(outcome.evaluations, 1)
        return replace(memory, draws=draws, action_evaluations=memory.action_evaluations + used), outcome

    def _query(self, state: FloatArray, upcoming: FloatArray, generator: Callable[[], torch.Generator]) -> FloatArray:
        """Ask the model for the actions (stride, A) from a measured state (O,) to upcoming planned states (n, O)."""
        actions = self.planner.first_actions(
            as_row(state), as_row(upcoming), steps=self.action_steps, generator=generator()
        )
        return self.limited(as_numpy(actions)[0])

    def close(self) -> None:
        """End the thread that makes plans, if there is one; the policy then makes no more."""
        if self.worker is not None:
            self.worker.close()

    def _replan(self, memory: DFMemory, belief: Belief, goal: FloatArray | None, *, stuck: bool) -> DFMemory:
        """Ask for a plan, and use it if it is there at once."""
        sticks = memory.sticks + 1 if stuck else 0
        call = partial(self.planner.plan, **self._question(memory, belief, goal, stuck, sticks))
        job = at_once(call) if self.worker is None else self.worker.submit(call)
        due = None if self.worker is not None else memory.step + self.latency_steps
        pending = Pending(job, memory.step, due, goal, stuck, sticks)
        memory = replace(memory, draws=memory.draws + 1, planned_at=memory.step, pending=pending)
        return self._collect(memory, belief, goal)

    def _question(
        self, memory: DFMemory, belief: Belief, goal: FloatArray | None, stuck: bool, sticks: int
    ) -> dict[str, Any]:
        """Put together what the planner is to be asked."""
        samples = self.samples * min(MOST_SAMPLES, 2 ** max(0, sticks - 1))
        options = {**self.plan_options, "samples": samples, "generator": self._generator(memory)()}
        if self.warm_start and memory.raw is not None and self._usable(memory, goal, stuck):
            options |= {"warm_start": memory.raw[0], "elapsed": torch.tensor([memory.step - memory.raw[1]])}
        if sticks >= DETOUR_AFTER and memory.blocked and self.plan_options.get("guidance") is None:
            options["guidance"] = away_from(memory.blocked)
        if self.believer is not None and memory.past is not None:
            options |= {"obs_level": belief.level, "history": self.believer.history(memory.past)}
        goal = wanted(goal, self.target)
        return {"obs": as_row(belief.shown), "goal": None if goal is None else as_row(goal), **options}

    @staticmethod
    def _usable(memory: DFMemory, goal: FloatArray | None, stuck: bool) -> bool:
        """Tell whether the plan in use could be followed on."""
        return bool(memory.plans) and not stuck and not _goal_moved(memory, goal)

    def _collect(self, memory: DFMemory, belief: Belief, goal: FloatArray | None) -> DFMemory:
        """Start to follow the plan that was asked for, if it is there; drop it if it is no longer wanted.

        It is not if the goal is held by now, or is another one. If the one in use is nearer to the goal, and that is
        wanted, that one is followed on.
        """
        pending = memory.pending
        if pending is None or (memory.plans and not pending.ready(memory.step)):
            return memory
        if memory.plans and (memory.settled or not _same_goal(pending.goal, goal)) and pending.asked_at < memory.step:
            return replace(memory, pending=None)
        plan, stuck = pending.job.result(), pending.stuck
        view = view_plan(plan, goal, pending.asked_at, stuck, choose_free(plan, memory.blocked, self.block_radius))
        track = self.executor.start(joined(view, belief.state, memory.step - pending.asked_at))
        raw = (plan, pending.asked_at) if self.warm_start else None
        if self.keep_shorter and self._usable(memory, goal, stuck) and self._is_nearer(memory.track, track):
            track, raw = memory.track, memory.raw
        plans = (*memory.plans, view)
        return replace(memory, plans=plans, raw=raw, track=track, sticks=pending.sticks, pending=None)

    def _is_nearer(self, old: Any, new: Any) -> bool:
        """Tell whether the old track arrives, and no later than the new one."""
        left = self.executor.remaining(old)
        return left < math.inf and left <= self.executor.remaining(new)

    def _generator(self, memory: DFMemory) -> Callable[[], torch.Generator]:
        """Return a maker of the memory's next random stream; it depends on nothing but (seed, episode, count)."""
        return lambda: stream(self.seed, memory.episode, memory.draws)


def usual(planner: Any, executor: str | None, replan_every: int | None) -> tuple[str, int]:
    """Fill in how plans of a layout are followed where nothing else is asked for."""
    spec = getattr(planner, "spec", None)
    holds_actions = spec is not None and spec.kind == "bundle" and not spec.rest_columns
    executor = executor or ("planned_actions" if holds_actions else "path")
    if replan_every is None:
        replan_every = spec.stride if executor == "planned_actions" and spec is not None else REPLAN_EVERY
    return executor, replan_every


def _check_replan(planner: Any, replan_every: int) -> None:
    """Refuse a plan that is to be followed longer than it is."""
    spec = getattr(planner, "spec", None)
    if spec is not None and replan_every > (steps := spec.steps):
        raise ValueError(f"replan_every must be at most {steps}, the steps of a plan, got {replan_every}")


def _believer(planner: Any, obs_noise: Any, history: bool, trust: float) -> Believer | None:
    """Make what estimates states, if the layout or the sensor calls for it."""
    spec = getattr(planner, "spec", None)
    if spec is None or (spec.kind != "interleaved" and obs_noise is None):
        return None
    return make_believer(planner, obs_noise, history=history, trust=trust)


def _goal_moved(memory: DFMemory, goal: FloatArray | None) -> bool:
    """Tell whether the goal is another one than that of the last plan."""
    return not _same_goal(memory.plans[-1].goal, goal)


def _same_goal(one: FloatArray | None, other: FloatArray | None) -> bool:
    """Compare goals, either of which may be missing."""
    return one is other if one is None or other is None else np.array_equal(one, other)


def view_plan(
    plan: Any, goal: FloatArray | None, step: int = 0, stuck: bool = False, chosen: int | None = None
) -> PlanView:
    """Copy one candidate of a batch of one into numpy; the selected one if ``chosen`` is None."""
    selected = int(plan.selected[0]) if chosen is None else chosen
    return PlanView(
        states=as_numpy(plan.candidates)[0, selected],
        stride=int(plan.stride),
        dt_s=float(plan.dt_s),
        arrival_steps=float(plan.arrival_steps[0, selected]),
        goal=None if goal is None else np.array(goal, dtype=np.float64),
        step=step,
        seconds=float(plan.seconds),
        network_evaluations=int(plan.network_evaluations),
        stuck=stuck,
        actions=None if getattr(plan, "actions", None) is None else as_numpy(plan.actions)[0],
    )


def choose_free(plan: Any, blocked: Sequence[FloatArray], radius: float = BLOCK_RADIUS) -> int:
    """Choose the candidate to follow: the planner's choice, unless it leads through a place known to be blocked.

    Then it is the candidate that arrives first of those that lead through no such place, feasible ones before others;
    if there is none, the planner's choice after all.

    Args:
        plan: A `dfplan.Plan` of a batch of one.
        blocked: Places (2,) that the ball has run up against.
        radius: Distance to keep from them, environment units.

    Returns:
        Index of the candidate.
    """
    selected = int(plan.selected[0])
    if not blocked:
        return selected
    states, arrival = as_numpy(plan.candidates)[0], as_numpy(plan.arrival_steps)[0]
    fine = [
        np.linspace(a, b, 8)
        for a, b in zip(states[:, :-1, :2].swapaxes(0, 1), states[:, 1:, :2].swapaxes(0, 1), strict=True)
    ]
    points = np.concatenate(fine).swapaxes(0, 1)  # (N, 8 H, 2)
    late = np.repeat(np.arange(states.shape[1] - 1), 8)[None] * plan.stride > arrival[:, None]
    nearest = np.linalg.norm(points[:, None] - np.stack(blocked)[None, :, None], axis=-1).min(1)
    free = ~((nearest < radius) & ~late).any(1)
    if free[selected]:
        return selected
    feasible = plan.feasible[0].cpu().numpy()
    order = sorted(range(len(states)), key=lambda i: (not free[i], not feasible[i], arrival[i]))
    return order[0] if free[order[0]] and math.isfinite(arrival[order[0]]) else selected
