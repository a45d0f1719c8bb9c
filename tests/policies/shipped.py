"""Every policy that ships, small, in every kind of environment that it serves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.numpy import save_file

from dfplan import DFPlanner
from dfplan.episode import EpisodeModel, EpisodeSpec
from dfplan.returns import ReturnStats
from dfplan.spaces import Spaces
from dfplan.tokens import TokenSpec
from dfplan_envs.maze2d import MazeOracle, WaypointController
from dfplan_envs.wrappers import GoalObservation
from dfplan_policies import (
    EXECUTORS,
    ActPolicy,
    DFPolicy,
    FunctionalPolicy,
    MLPPolicy,
    ModelPredictivePolicy,
    ReplayPolicy,
    SB3Policy,
    load_policy,
)
from dfplan_policies.episode import EpisodePolicy
from tests.core.episodic import model_of
from tests.core.tiny import small_spec, tiny_checkpoint

PLANNER = {"samples": 2, "steps": 2, "precision": "fp32", "action_steps": 1}
Make = Callable[[Path], Any]


class Reach(gymnasium.Env[Any, Any]):
    """Move a point towards a goal, which is reached within the radius; the observation is (clock, y, x).

    With ``hidden`` the place is not in the observation at all, only in the achieved goal.
    """

    radius = 0.3

    def __init__(self, hidden: bool = False) -> None:
        self.hidden, place = hidden, spaces.Box(-2.0, 2.0, (2,), np.float64)
        own = spaces.Box(-2.0, 2.0, (1 if hidden else 3,), np.float64)
        self.observation_space = spaces.Dict({"observation": own, "achieved_goal": place, "desired_goal": place})
        self.action_space = spaces.Box(np.array([-0.5, 0.0], np.float32), np.array([0.5, 3.0], np.float32))

    def seen(self) -> dict[str, Any]:
        own = np.array([self.clock]) if self.hidden else np.array([self.clock, self.place[1], self.place[0]])
        return {"observation": own, "achieved_goal": self.place.copy(), "desired_goal": self.target.copy()}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place, self.target = self.np_random.uniform(-1, 1, 2), self.np_random.uniform(-1, 1, 2)
        self.clock = 0.0
        return self.seen(), {}

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        away = np.linalg.norm(np.asarray(achieved_goal) - np.asarray(desired_goal), axis=-1)
        return (away <= self.radius).astype(np.float64)

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(np.asarray(action)), action
        self.place = np.clip(self.place + 0.1 * (np.asarray(action) - [0.0, 1.5]), -2, 2)
        self.clock = min(self.clock + 0.1, 2.0)
        reward = float(self.compute_reward(self.place, self.target, {}))
        return self.seen(), reward, False, False, {"is_success": bool(reward)}


def maze() -> Any:
    return GoalObservation(gymnasium.make("maze2d-umaze-v1"))


ENVS: dict[str, Callable[[], gymnasium.Env[Any, Any]]] = {
    "maze": maze,
    "pendulum": partial(gymnasium.make, "Pendulum-v1", max_episode_steps=4),  # episodes that end within a check
    "cartpole": partial(gymnasium.make, "CartPole-v1"),
    "lake": partial(gymnasium.make, "FrozenLake-v1"),
    "reach": Reach,
    "hidden": partial(Reach, hidden=True),
}
"""Box, Discrete and goal-Dict observations; Box and Discrete actions."""


@cache
def samples() -> dict[str, Any]:
    """Draw observations of `Reach`, from which the columns of its goal follow."""
    env, seen = Reach(), []
    for seed in range(4):
        seen += [env.reset(seed=seed)[0], env.step(np.array([0.3, 2.0], np.float32))[0]]
    return {key: np.stack([o[key] for o in seen]) for key in seen[0]}


@cache
def planner(kind: str = "path") -> DFPlanner:
    """Build a planner of the mazes' columns."""
    return DFPlanner(tiny_checkpoint(small_spec(kind=kind), planner=PLANNER, width=8, layers=1))


@cache
def planner_for(name: str, kind: str = "bundle", returns: bool | None = None) -> DFPlanner:
    """Build a planner of an environment's own spaces; one without goals holds rewards and returns."""
    codec = Spaces.from_env(ENVS[name](), samples() if name == "reach" else None)
    goal = codec.observation.goal_columns
    returns = not goal if returns is None else returns
    spec = TokenSpec(
        codec.observation.width, codec.action.width, 2, 3, kind=kind, goal_columns=goal, rest_columns=(),
        rewards=returns and kind == "bundle", returns=returns,
    )  # fmt: skip
    checkpoint = tiny_checkpoint(spec, planner=PLANNER, width=8, layers=1)
    stats = ReturnStats(0.9, 0.0, 1.0, 0.0, 1.0, tuple(np.linspace(-2, 2, 21).tolist()))
    norm = replace(checkpoint.norm, returns=stats if returns else None)
    return DFPlanner(replace(checkpoint, norm=norm, spaces=codec))


def replay(folder: Path) -> ReplayPolicy:
    actions = np.random.default_rng(0).uniform(-1, 1, (40, 2)).astype(np.float32)
    np.savez(
        folder / "actions.npz", env="maze2d-umaze-v1", seed=0, episodes=np.arange(4), lengths=[10] * 4, actions=actions
    )
    return ReplayPolicy(folder)


def mlp(folder: Path, inputs: int = 4, outputs: int = 2, scale: float = 1.0) -> MLPPolicy:
    rng = np.random.default_rng(0)
    tensors = {f"layer.{i}.weight": rng.normal(size=(b, a)) for i, (a, b) in enumerate([(inputs, 8), (8, outputs)])}
    tensors |= {"layer.0.bias": np.zeros(8), "layer.1.bias": np.zeros(outputs)}
    header = {
        "format": "dfplan-mlp-1", "widths": [inputs, 8, outputs], "activation": "relu", "output": "tanh",
        "observation": {"mean": [0] * inputs, "std": [1] * inputs},
        "action": {"offset": [0] * outputs, "scale": [scale] * outputs},
    }  # fmt: skip
    save_file(tensors, folder / "actor.safetensors", {"dfplan-mlp": json.dumps(header)})
    return MLPPolicy(folder / "actor.safetensors")


def algorithm(name: str, env: str) -> Any:
    """Build an untrained algorithm of stable-baselines3."""
    sb3 = pytest.importorskip("stable_baselines3", reason="needs stable-baselines3")
    made = ENVS[env]()
    kind = "MultiInputPolicy" if isinstance(made.observation_space, spaces.Dict) else "MlpPolicy"
    buffer = {"buffer_size": 10} if name in ("SAC", "TD3", "DDPG", "DQN") else {}
    return getattr(sb3, name)(kind, made, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **buffer)


def saved(name: str, env: str) -> Make:
    """Return what saves an algorithm and reads it again."""

    def make(folder: Path) -> SB3Policy:
        model = algorithm(name, env)
        model.save(folder / "model.zip")
        return SB3Policy(folder / "model.zip")

    return make


def sampling(method: str) -> Any:
    return load_policy(method, oracle=MazeOracle("umaze"), samples=8, horizon=10, iterations=1, elites=3)


def mpc(planner: DFPlanner, **options: Any) -> ModelPredictivePolicy:
    return ModelPredictivePolicy(
        planner, replan_every=2, horizon=2, candidates=4, proposals=2, rounds=1, elites=2, **options
    )


def episodes_of(env: str) -> EpisodeModel:
    """Build a model of whole episodes in an environment's own spaces."""
    codec = Spaces.from_env(ENVS[env]())
    return model_of(spec=EpisodeSpec(codec.observation.width, codec.action.width, 2, 9), spaces=codec)


def random(env: str) -> Any:
    codec = Spaces.from_env(ENVS[env]())
    return load_policy("random", act_dim=codec.action.width, spaces=codec)


def centred(states: torch.Tensor, goal: Any) -> torch.Tensor:
    """Cost states by how far they are from 0."""
    return states.abs().mean((1, 2))


def push(memory: int, observation: Any, goal: Any) -> Any:
    return np.clip(0.1 * observation[:2] + 0.01 * memory, -1, 1), memory + 1


def none(episode: int) -> int:
    return 0


def theirs(folder: Path) -> Any:
    (folder / "shipped_theirs.py").write_text(
        "import numpy as np\nfrom dfplan_policies import PerEnvironmentPolicy\n\n\nclass Mine(PerEnvironmentPolicy):\n"
        "    def begin(self, episode):\n        return 0\n\n    def act(self, memory, observation, goal):\n"
        "        return np.clip(goal - observation[:2], -1, 1), memory + 1\n"
    )
    return load_policy(f"py:{folder / 'shipped_theirs.py'}:Mine")


MAZE: dict[str, Make] = {
    **{f"df-{name}": lambda _, name=name: DFPolicy(planner(), name, replan_every=2) for name in EXECUTORS},
    "df-interleaved": lambda _: DFPolicy(planner("interleaved"), replan_every=2, obs_noise=0.01),
    "df-warm": lambda _: DFPolicy(planner(), warm_start=True, replan_every=2),
    "df-late": lambda _: DFPolicy(planner(), keep_shorter=True, replan_every=2, latency_steps=1),
    "df-later": lambda _: DFPolicy(planner(), warm_start=True, replan_every=3, latency_steps=2),
    "act": lambda _: ActPolicy(planner("interleaved"), 2, steps=2),
    "mpc": lambda _: mpc(planner("interleaved")),
    "waypoint": lambda _: load_policy("waypoint", controller=partial(WaypointController, "umaze")),
    "mppi": lambda _: sampling("mppi"),
    "cem": lambda _: sampling("cem"),
    "random": lambda _: load_policy("random", act_dim=2),
    "replay": replay,
    "mlp": mlp,
    "sb3": saved("SAC", "maze"),
    "sb3-itself": lambda _: algorithm("SAC", "maze"),
    "py": theirs,
    "functional": lambda _: FunctionalPolicy(push, none),
}


def _others() -> Iterator[tuple[str, str, Make]]:
    """List the policies that serve environments of other packages: environment, name, what makes it."""
    for env in ("pendulum", "cartpole", "lake", "reach", "hidden"):
        yield env, "df", lambda _, env=env: DFPolicy(planner_for(env))
        yield env, "act", lambda _, env=env: ActPolicy(planner_for(env), steps=2)
        cost = {} if env in ("reach", "hidden") else {"cost": centred}
        yield env, "mpc", lambda _, env=env, cost=cost: mpc(planner_for(env, "interleaved"), **cost)
        yield env, "random", lambda _, env=env: random(env)
    for env in ("pendulum", "cartpole"):
        yield env, "episode", lambda _, env=env: EpisodePolicy(episodes_of(env), steps=2)
    yield "pendulum", "mlp", lambda folder: mlp(folder, 3, 1, 2.0)
    yield "pendulum", "df-late", lambda _: DFPolicy(planner_for("pendulum"), replan_every=2, latency_steps=1)
    for name in ("SAC", "TD3", "DDPG", "PPO", "A2C"):
        yield "pendulum", f"sb3-{name}", saved(name, "pendulum")
    for name in ("PPO", "A2C", "DQN"):
        yield "cartpole", f"sb3-{name}", saved(name, "cartpole")
    for name in ("PPO", "DQN"):
        yield "lake", f"sb3-{name}", saved(name, "lake")
    yield "hidden", "sb3-SAC", saved("SAC", "hidden")


SHIPPED: dict[str, tuple[str, Make]] = {
    **{f"maze-{name}": ("maze", make) for name, make in MAZE.items()},
    **{f"{env}-{name}": (env, make) for env, name, make in _others()},
}
"""Environment and what makes the policy in an empty folder, by a name that has the policy's own in the middle."""
