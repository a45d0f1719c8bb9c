"""A planner without a network and a ball without walls, for tests of policies."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

DT = 0.01


class Ball:
    """A point mass with the maze's motors and speed limit, in free space or under a half-plane wall ``x <= wall``."""

    def __init__(self, state: Any, wall: float = math.inf) -> None:
        self.state, self.wall = np.array(state, dtype=np.float64), wall

    def step(self, action: Any) -> np.ndarray:
        p, v = self.state[:2], np.clip(self.state[2:], -5, 5)
        v = v + (23.87 * np.clip(action, -1, 1) - v / 4.19) * DT
        p = p + v * DT
        if p[0] > self.wall:
            p[0], v[0] = self.wall, 0.0
        self.state = np.concatenate([p, v])
        return self.state.copy()


def route(points: np.ndarray, speed: float, tokens: int, stride: int) -> tuple[np.ndarray, float]:
    """Walk a polyline at constant speed: states (tokens+1, 4) every ``stride`` steps, and the steps until its end."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.minimum(np.arange(tokens + 1) * stride * DT * speed, length[-1])
    p = np.stack([np.interp(at, length, points[:, c]) for c in range(2)], 1)
    v = np.gradient(p, stride * DT, axis=0) if length[-1] > 0 else np.zeros_like(p)
    return np.concatenate([p, v], 1), math.ceil(length[-1] / (speed * stride * DT)) * stride


@dataclass
class FakePlanner:
    """Go through ``via`` to the goal in straight lines; ``jitter`` moves the corners by random draws."""

    via: Any = ()
    speed: float = 2.5
    tokens: int = 32
    stride: int = 15
    jitter: float = 0.0
    arrives: bool = True
    config: Any = field(default_factory=lambda: SimpleNamespace(samples=16, action_steps=1))
    calls: list[dict[str, Any]] = field(default_factory=list)
    queries: list[Any] = field(default_factory=list)

    def plan(
        self, obs: Any, goal: Any, *, samples: int = 16, generator: Any = None, trace: bool = False, **options: Any
    ) -> Any:
        obs, goals = np.atleast_2d(np.asarray(obs)), None if goal is None else np.atleast_2d(np.asarray(goal))
        assert len(obs) == 1
        noise = torch.randn(len(self.via), 2, generator=generator).numpy() * self.jitter
        target = np.zeros(2) if goals is None else goals[0]
        points = np.vstack([obs[0, :2], *(np.asarray(self.via) + noise if len(self.via) else []), target])
        states, arrival = route(points, self.speed, self.tokens, self.stride)
        self.calls.append({"obs": obs.copy(), "goal": goals, "samples": samples, **options})
        plan = SimpleNamespace(
            observations=torch.as_tensor(states, dtype=torch.float32)[None],
            candidates=torch.as_tensor(states, dtype=torch.float32)[None, None].repeat(1, samples, 1, 1),
            arrival_steps=torch.full((1, samples), float(arrival) if self.arrives and goal is not None else math.inf),
            feasible=torch.ones((1, samples), dtype=torch.bool),
            selected=torch.zeros(1, dtype=torch.int64),
            stride=self.stride,
            dt_s=DT,
            seconds=0.01,
            network_evaluations=20,
        )
        if options.get("actions"):
            steps = torch.arange(1.0, self.tokens * self.stride + 1)[None, :, None] / (self.tokens * self.stride)
            plan.actions = steps * torch.ones(2) * (1 - 0.5 * self.jitter * torch.rand(1, generator=generator))
        if trace:
            plan.schedule, plan.trace = self._trace(plan)
        return plan

    def _trace(self, plan: Any) -> tuple[Any, Any]:
        rows, T = 20 + self.tokens, self.tokens + 2
        levels = np.clip(20 + np.maximum(np.arange(T) - 2, 0)[None] - np.arange(rows + 1)[:, None], 0, 20) * 5
        levels[:, :2] = 0
        u = torch.as_tensor(levels[:, 1:] / 100.0)[:, None, None, :, None]
        noise = torch.randn(plan.candidates.shape, generator=torch.Generator().manual_seed(0)) * 1.5 + 4
        return torch.as_tensor(levels), (1 - u).sqrt() * plan.candidates[None] + u.sqrt() * noise[None]

    def first_actions(self, obs: Any, plan_states: Any, *, steps: int = 1, generator: Any = None) -> Any:
        self.queries.append((np.asarray(obs).copy(), np.asarray(plan_states).copy()))
        obs, nxt = np.asarray(obs, dtype=np.float64)[0], np.asarray(plan_states, dtype=np.float64)[0, 0]
        wanted = 20 * (nxt[:2] - obs[:2]) / (self.stride * DT) - 20 * obs[2:] + 0.0 * nxt[2:]
        action = np.clip(0.05 * wanted, -1, 1) + self.jitter * torch.randn(2, generator=generator).numpy()
        return torch.as_tensor(np.repeat(action[None, None], self.stride, 1), dtype=torch.float32)


def drive(policy: Any, ball: Ball, goal: Any, steps: int) -> tuple[np.ndarray, Any]:
    """Run one environment of balls; returns the states (steps+1, 4) and the last policy state."""
    states, state = [ball.state.copy()], None
    for _ in range(steps):
        observation = {"observation": states[-1][None], "desired_goal": np.asarray(goal, dtype=float)[None]}
        action, state = policy.predict(observation, state)
        states.append(ball.step(action[0]))
    return np.array(states), state
