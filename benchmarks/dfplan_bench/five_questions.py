"""One checkpoint, five questions: planner, policy, world model, inverse dynamics, prior.

The world model and the inverse dynamics are held against the simulator on episodes that were not trained on; planner,
policy and a model-predictive controller inside the world model act in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dfplan.evaluation import evaluate
from dfplan.planner import DFPlanner, History
from dfplan.plotting import Line, Panel, panels_figure
from dfplan_bench.common import CAREFUL_PLAN, mean_interval, wilson
from dfplan_policies import ActPolicy, DFPolicy, ModelPredictivePolicy

CHECKPOINT, ENV = "maze2d-umaze-interleaved", "maze2d-umaze"
AHEAD = 8  # tokens of world model and inverse dynamics


@dataclass(frozen=True)
class Windows:
    """Hold pieces of episodes.

    Attributes:
        states: (B, AHEAD + 1, O), every ``stride`` steps.
        actions: (B, AHEAD * stride, A).
        history: What came before.
    """

    states: Tensor
    actions: Tensor
    history: History


def windows(planner: DFPlanner, count: int, seed: int) -> Windows:
    """Cut windows with a whole history out of a new tour by the data's recipe, each between two targets as there."""
    from dfplan_envs.maze2d.generate import generate_tour

    F, h = planner.spec.stride, planner.spec.history
    tour = generate_tour("umaze", 100 * count, [seed, 1000], noisy=True)
    targets = np.append(0, np.asarray(tour["timeouts"]).cumsum())
    every = np.arange(h * F, 100 * count - AHEAD * F)
    whole = every[targets[every - h * F] == targets[every + AHEAD * F]]
    now = np.random.default_rng(seed).choice(whole, count)[:, None]
    past, ahead = np.arange(-h * F, 0), np.arange(AHEAD * F + 1)

    def take(name: str, steps: Any) -> Tensor:
        return torch.as_tensor(np.asarray(tour[name], dtype=np.float32)[now + steps])

    history = History(take("observations", past[::F]), take("actions", past))
    return Windows(take("observations", ahead[::F]), take("actions", ahead[:-1]), history)


def simulate(starts: Tensor, actions: Tensor, stride: int) -> Tensor:
    """Run the simulator from states (B, O) with actions (B, n*F, A): states (B, n+1, O)."""
    import gymnasium

    import dfplan_envs  # noqa: F401  (registers the ids)

    env: Any = gymnasium.make(f"{ENV}-v1", disable_env_checker=True).unwrapped
    env.reset(seed=0)
    out = []
    for start, row in zip(starts.double().numpy(), actions.clamp(-1, 1).numpy(), strict=True):
        env.set_state(start)
        states = [start]
        for i, action in enumerate(row):
            env.step(action)
            if i % stride == stride - 1:
                states.append(env.get_state())
        out.append(states)
    env.close()
    return torch.as_tensor(np.array(out), dtype=torch.float32)


def errors(found: Tensor, true: Tensor) -> list[dict[str, float]]:
    """Return the mean distance of positions from the truth for each column of (B, n, O)."""
    gap = (found - true)[..., :2].norm(dim=-1)
    return [mean_interval(gap[:, i].numpy()) for i in range(gap.shape[1])]


def world_model(planner: DFPlanner, w: Windows) -> dict[str, Any]:
    """Compare what is imagined with what the simulator did, with and without a history, and with two simple guesses."""
    now, true = w.states[:, 0], w.states[:, 1:]
    dt = planner.spec.stride * planner.spec.dt_s * torch.arange(1, AHEAD + 1)[None, :, None]
    straight = true.clone()
    straight[..., :2] = now[:, None, :2] + dt * now[:, None, 2:]
    told = planner.imagine(now, w.actions, history=w.history, steps=1)[:, 1:]
    found = {
        "model": planner.imagine(now, w.actions, steps=1)[:, 1:], "with_history": told,
        "constant_velocity": straight, "no_motion": now[:, None].expand_as(true),
    }  # fmt: skip
    others = w.actions.roll(1, 0)
    led = simulate(now, others, planner.spec.stride)[:, 1:]
    off = {"model": planner.imagine(now, others, steps=1)[:, 1:], "as_recorded": true}
    speed = (told - true)[:, 0, 2:].norm(dim=-1).numpy()
    return {
        "position_error": {name: errors(v, true) for name, v in found.items()},
        "other_actions_position_error": {name: errors(v, led) for name, v in off.items()},
        "velocity_error_one_step": mean_interval(speed),
    }


def inverse_dynamics(planner: DFPlanner, w: Windows) -> dict[str, Any]:
    """Execute inferred actions in the simulator: how far from the states that they were inferred from do they lead?"""
    F = planner.spec.stride
    inferred = planner.infer_actions(w.states, steps=1)
    flat = w.states[:, :-1].flatten(0, 1)
    found = {
        "inferred": inferred, "recorded": w.actions, "none": torch.zeros_like(w.actions),
    }  # fmt: skip
    wanted = w.states[:, 1:].flatten(0, 1)
    reached = {n: simulate(flat, a.reshape(len(flat), F, -1), F)[:, 1] for n, a in found.items()}
    gap = (inferred - w.actions).reshape(len(flat), F, -1)
    return {
        "reached_one_token": {n: errors(v[:, None], wanted[:, None])[0] for n, v in reached.items()},
        "mean_action_rmse": float(gap.mean(1).square().mean().sqrt()),
        "mean_action_std": float(w.actions.reshape(len(flat), F, -1).mean(1).std()),
    }


def prior(planner: DFPlanner, count: int, seed: int) -> tuple[dict[str, Any], Tensor]:
    """Sample from nothing: are states possible, and do they follow from their actions?"""
    from dfplan_envs.maze2d.layouts import as_maze

    maze, F = as_maze("umaze"), planner.spec.stride
    drawn = planner.prior(count, attention="full", generator=torch.Generator().manual_seed(seed))
    points = drawn.observations[:, :, :2].flatten(0, 1).numpy()
    free = np.array([maze.is_free(maze.cell_at(float(x), float(y))) for x, y in points])
    begin_free = free.reshape(count, -1)[:, 0]
    starts = drawn.observations[torch.as_tensor(begin_free), 0]
    led = simulate(starts, drawn.actions[torch.as_tensor(begin_free)][:, :F], F)[:, 1:]
    said = drawn.observations[torch.as_tensor(begin_free), 1:2]
    moved = (said - starts[:, None])[..., :2].norm(dim=-1)[:, 0].numpy()
    return {
        "states_in_free_cells": wilson(int(free.sum()), len(free)),
        "first_token_against_simulator": errors(said, led)[0], "first_token_moves": mean_interval(moved),
    }, drawn.observations  # fmt: skip


def acting(planner: DFPlanner, episodes: int, slow: int, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Act in the simulator: as planner with two executors, as policy, and by optimising inside the world model."""
    policies: dict[str, tuple[Any, int]] = {
        "plan, path executor": (DFPolicy(planner, seed=seed), episodes),
        "plan, its own actions": (
            DFPolicy(planner, "diffused_actions", seed=seed, executor_options={"requery_every": 4, "phase": "nearest"}),
            episodes,
        ),
        "act": (ActPolicy(planner, seed=seed), episodes),
        "mpc in imagination": (
            ModelPredictivePolicy(planner, 4 * planner.spec.stride, seed=seed, rounds=2, candidates=32, proposals=16),
            slow,
        ),
    }
    rows = {}
    for name, (policy, count) in policies.items():
        say(f"{name}: {count} episodes")
        metrics = evaluate(policy, ENV, count, seed, num_envs=8).metrics
        strict = metrics["score"]["strict"]
        rows[name] = {
            "score": {"mean": strict["mean"], "stderr": strict["stderr"]}, "episodes": count,
            "success": wilson(round(metrics["success_rate"] * count), count),
        }  # fmt: skip
    return rows


def run(
    out: Path, *, seed: int = 0, quick: bool = False, say: Callable[[str], None] = print, checkpoint: str = CHECKPOINT
) -> dict[str, Any]:
    """Ask one checkpoint all five questions."""
    planner = DFPlanner.from_pretrained(checkpoint, **CAREFUL_PLAN)
    count, episodes, slow = (20, 2, 2) if quick else (500, 48, 12)
    say(f"world model and inverse dynamics on {count} windows")
    w = windows(planner, count, seed)
    world, inverse = world_model(planner, w), inverse_dynamics(planner, w)
    say("prior")
    nothing, tracks = prior(planner, 16 if quick else 256, seed)
    acted = acting(planner, episodes, slow, seed, say)
    _figure(out / "five-questions.png", planner, world, acted, tracks)
    one = {name: v[0] for name, v in world["position_error"].items()}
    led = inverse["reached_one_token"]
    headline = [
        f"world model, one token: {one['model']['mean']:.3f} cells off (constant velocity "
        f"{one['constant_velocity']['mean']:.3f}, no motion {one['no_motion']['mean']:.3f})",
        f"inverse dynamics, one token: {led['inferred']['mean']:.3f} cells off (no action {led['none']['mean']:.3f})",
        *(f"{name}: score {r['score']['mean']:.1f} +- {r['score']['stderr']:.1f}" for name, r in acted.items()),
    ]
    return {
        "headline": headline, "checkpoint": planner.name, "env": ENV, "windows": count, "stride": planner.spec.stride,
        "world_model": world, "inverse_dynamics": inverse, "prior": nothing, "acting": acted,
    }  # fmt: skip


def _figure(path: Path, planner: DFPlanner, world: dict[str, Any], acted: dict[str, Any], tracks: Tensor) -> None:
    x = [i * planner.spec.stride for i in range(1, AHEAD + 1)]
    lines = [
        Line(name.replace("_", " "), x, [v["mean"] for v in rows], [v["stderr"] for v in rows],
             dashed=name in ("constant_velocity", "no_motion"))
        for name, rows in world["position_error"].items()
    ]  # fmt: skip
    scores = [
        Line(name, [i], [row["score"]["mean"]], [row["score"]["stderr"]]) for i, (name, row) in enumerate(acted.items())
    ]
    panels_figure(
        path,
        [
            Panel("imagine: distance from the simulator", "steps ahead", "cells", lines=lines, log="y"),
            Panel("prior: trajectories from nothing", "x", "y", tracks=[t[:, :2].numpy() for t in tracks[:60]]),
            Panel("acting: score", "question", "score", lines=scores),
        ],
    )
