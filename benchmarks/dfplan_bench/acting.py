"""Acting: what a call of ``predict`` costs outside the network.

Planners are doubles that answer at once with a plan made beforehand, so that what is left is the policy's own work:
taking observations apart, following the plan, keeping the memory. The ball is put where the plan says, step by step.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dfplan import DFPlanner
from dfplan.plotting import Line, Panel, panels_figure
from dfplan_envs.maze2d import WaypointController
from dfplan_policies import ActPolicy, DFPolicy, load_policy

START, GOAL = (3.1, 3.1, 0.0, 0.0), (1.0, 1.0)
BATCHES = (1, 4, 16, 64)
TARGET_US = 200.0
OBS, ACT = 4, 2


class Answering:
    """A planner that has its answer ready; everything but its questions is the real one's.

    Args:
        planner: A real planner; it is asked for one plan.
        seed: Of that plan.
    """

    def __init__(self, planner: DFPlanner, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.spec, self.norm, self.config = planner.spec, planner.norm, planner.config
        self.levels, self.checkpoint = planner.levels, planner.checkpoint
        self.answer = planner.plan(np.array(START), np.array(GOAL), samples=4, generator=generator)
        self.actions = torch.zeros(1, planner.spec.stride, ACT)

    def plan(self, *_: Any, **__: Any) -> Any:
        """Return the plan."""
        return self.answer

    def act(self, *_: Any, **__: Any) -> Any:
        """Return actions."""
        return self.actions

    first_actions = act


def policies(folder: Path, seed: int) -> dict[str, Any]:
    """Build the policies that are timed."""
    path = Answering(DFPlanner.from_pretrained("maze2d-umaze"), seed)
    tokens = Answering(DFPlanner.from_pretrained("maze2d-umaze-interleaved"), seed)
    found: dict[str, Any] = {
        "df, path": DFPolicy(path),
        "df, diffused_actions": DFPolicy(path, "diffused_actions"),
        "df, path, interleaved tokens": DFPolicy(tokens),  # type: ignore[arg-type]
        "act": ActPolicy(tokens),
        "waypoint": load_policy("waypoint", controller=partial(WaypointController, "umaze")),
        "mlp (its network included)": load_policy(f"mlp:{_actor(folder, seed)}"),
        "random": load_policy("random", act_dim=ACT),
    }
    with suppress(ImportError):
        found["sb3 (its network included)"] = load_policy(f"sb3:{_algorithm(folder, seed)}")
    return found


def _actor(folder: Path, seed: int) -> Path:
    """Write an actor of three layers."""
    import json

    from safetensors.numpy import save_file

    rng, widths = np.random.default_rng(seed), [OBS, 64, 64, ACT]
    tensors = {}
    for i, (a, b) in enumerate(pairwise(widths)):
        tensors |= {f"layer.{i}.weight": rng.normal(size=(b, a)) / np.sqrt(a), f"layer.{i}.bias": np.zeros(b)}
    header = {
        "format": "dfplan-mlp-1", "widths": widths, "activation": "relu", "output": "tanh",
        "observation": {"mean": [0.0] * OBS, "std": [1.0] * OBS},
        "action": {"offset": [0.0] * ACT, "scale": [1.0] * ACT},
    }  # fmt: skip
    save_file(tensors, folder / "actor.safetensors", {"dfplan-mlp": json.dumps(header)})
    return folder / "actor.safetensors"


def _algorithm(folder: Path, seed: int) -> Path:
    """Save an algorithm of stable-baselines3 that has not learned anything.

    Raises:
        ImportError: If it is not installed.
    """
    import gymnasium

    from dfplan_policies.sb3.package import stable_baselines3

    sac = stable_baselines3("timing its policies").SAC
    size = {"net_arch": [64, 64]}
    env = gymnasium.make("maze2d-umaze-v1")
    sac("MlpPolicy", env, policy_kwargs=size, buffer_size=1, seed=seed, device="cpu").save(folder / "sac.zip")
    return folder / "sac.zip"


def timed(policy: Any, places: np.ndarray, batch: int) -> list[float]:
    """Return the seconds of every call along an episode of ``batch`` equal environments."""
    goal = np.tile(GOAL, (batch, 1))
    seconds, state = [], None
    for place in places:
        observation = {"observation": np.tile(place, (batch, 1)), "desired_goal": goal}
        began = time.perf_counter()
        _, state = policy.predict(observation, state)
        seconds.append(time.perf_counter() - began)
    return seconds


def run(out: Path, *, seed: int = 0, quick: bool = False, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Time every policy at several batch sizes."""
    batches, steps, repeats = (BATCHES[:2], 30, 1) if quick else (BATCHES, 150, 3)
    rows: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        chosen = policies(Path(folder), seed)
        plan = chosen["df, path"].planner.answer
        places = plan.states_at(torch.arange(steps)[None].float())[0].numpy().astype(np.float64)
        for name, policy in tqdm(chosen.items(), desc="policies"):
            timed(policy, places[:10], 1)  # what is loaded on first use is not timed
            rows[name] = [_row(policy, places, batch, repeats) for batch in batches]
            say(f"{name}: " + ", ".join(f"{r['median_us']:.0f} us at {r['batch']}" for r in rows[name]))
    ours = {name: row[0]["median_us"] for name, row in rows.items() if "included" not in name}
    lines = [Line(name, [r["batch"] for r in row], [r["median_us"] for r in row]) for name, row in rows.items()]
    panel = Panel("One call of predict", "environments", "microseconds", lines, log="xy")
    panels_figure(out / "acting.png", [panel], height_in=4.0)
    worst = max(ours, key=lambda name: ours[name])
    headline = f"at batch 1 the slowest, {worst}, takes {ours[worst]:.0f} us a call; the target is {TARGET_US:.0f}"
    return {"rows": rows, "target_us": TARGET_US, "within": ours[worst] <= TARGET_US, "headline": [headline]}


def _row(policy: Any, places: np.ndarray, batch: int, repeats: int) -> dict[str, Any]:
    """Time one policy at one batch size; plans that are due count in the mean, hardly in the median."""
    seconds = [s for _ in range(repeats) for s in timed(policy, places, batch)[1:]]
    return {
        "batch": batch,
        "median_us": 1e6 * statistics.median(seconds),
        "mean_us": 1e6 * statistics.fmean(seconds),
        "per_environment_us": 1e6 * statistics.median(seconds) / batch,
    }
