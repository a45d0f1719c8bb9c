"""Reference policies, the registry, and stable-baselines3 on both sides."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dfplan_envs.maze2d import WaypointController
from dfplan_policies import DFPolicy, PolicyEntry, ReplayPolicy, load_policy, policies
from dfplan_policies import registry as registry_module
from tests.policies.fakes import Ball, FakePlanner


def observation(rows: int = 2) -> dict[str, np.ndarray]:
    states = np.array([[1.0, 1.0, 0, 0], [3.0, 2.0, 0, 0], [3.0, 1.0, 0, 0]])[:rows]
    return {"observation": states, "desired_goal": np.tile([3.0, 3.0], (rows, 1))}


@pytest.mark.parametrize(
    "policy",
    [
        load_policy("random", act_dim=2, seed=3),
        load_policy("waypoint", controller=partial(WaypointController, "umaze"), seed=3),
    ],
    ids=["random", "waypoint"],
)
def test_references_are_functional_and_independent_of_the_batch(policy: Any) -> None:
    # Catches: one generator for the batch; a controller in the state that acting changes.
    state, seen = policy.start([0, 1, 2]), observation(3)
    history = []
    for step in range(30):
        goal = seen["desired_goal"] if step < 20 else seen["desired_goal"] * 0 + 1.0  # a new goal: a new path is drawn
        shown = {"observation": seen["observation"], "desired_goal": goal}
        actions, after = policy.predict(shown, state)
        for i in range(3):
            own = type(state)(state.episodes[i : i + 1], state.memories[i : i + 1])
            np.testing.assert_array_equal(
                policy.predict({k: v[i : i + 1] for k, v in shown.items()}, own)[0], actions[[i]]
            )
        history.append((shown, state, actions))
        seen["observation"] = np.array([Ball(s).step(a) for s, a in zip(seen["observation"], actions, strict=True)])
        state = after
    for shown, before, actions in history:  # what came later must not have changed what was
        np.testing.assert_array_equal(policy.predict(shown, before)[0], actions)
    assert np.ptp(np.array([actions for _, _, actions in history]), axis=0).min() > 0.05


def test_random_actions_are_uniform_and_differ_by_step_episode_and_seed() -> None:
    def actions(seed: int, episode: int) -> np.ndarray:
        policy = load_policy("random", act_dim=2, seed=seed)
        state, out = policy.start([episode]), []  # type: ignore[attr-defined]
        for _ in range(300):
            action, state = policy.predict(observation(1), state)
            out.append(action[0])
        return np.array(out)

    a = actions(0, 0)
    assert abs(a.mean()) < 0.1 and abs(a.std() - 1 / np.sqrt(3)) < 0.05 and np.abs(a).max() <= 1
    assert len(np.unique(a)) == a.size
    assert not np.isin(actions(0, 1), a).any() and not np.isin(actions(1, 0), a).any()


def save_actions(path: Path, **changes: Any) -> Path:
    content = {
        "env": "maze2d-umaze-v1",
        "seed": 0,
        "episodes": np.array([0, 1]),
        "lengths": np.array([2, 3]),
        "actions": np.arange(10, dtype=np.float32).reshape(5, 2) / 10,
    }
    content.update(changes)
    np.savez(path, **{k: v for k, v in content.items() if v is not None})
    return path


def test_replay_gives_each_episode_its_own_actions(tmp_path: Path) -> None:
    policy = ReplayPolicy(save_actions(tmp_path / "actions.npz"))
    assert ReplayPolicy(tmp_path).actions.keys() == policy.actions.keys()
    state = policy.start([1, 0])
    first, state = policy.predict(observation(), state)
    second, state = policy.predict(observation(), state)
    np.testing.assert_allclose(first, [[0.4, 0.5], [0.0, 0.1]])
    np.testing.assert_allclose(second, [[0.6, 0.7], [0.2, 0.3]])
    with pytest.raises(ValueError, match="holds 2 actions of episode 0"):
        policy.predict(observation(), state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": None}, "lengths missing"),
        ({"lengths": np.array([2, 2])}, "is damaged: 5 actions for lengths that add up to 4"),
    ],
)
def test_replay_refuses_a_damaged_file(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ReplayPolicy(save_actions(tmp_path / "actions.npz", **changes))


def test_replay_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no recorded actions at"):
        load_policy(f"replay:{tmp_path / 'none'}")
    policy = ReplayPolicy(save_actions(tmp_path / "actions.npz"))
    with pytest.raises(ValueError, match="holds no episode 7"):
        policy.predict(observation(1), policy.start([7]))


@pytest.mark.parametrize(
    ("spec", "request_", "message"),
    [
        ("dff", {}, "unknown policy 'dff'. Did you mean 'df'"),
        ("replay", {}, "written 'replay:FILE', got 'replay'"),
        ("random:3", {"act_dim": 2}, "written 'random', got 'random:3'"),
        ("df", {}, "needs a checkpoint"),
        ("waypoint", {}, "needs a controller"),
        ("random", {}, "width of an action"),
        ("df", {"planner": FakePlanner(), "executor": "paths"}, "Did you mean 'path'"),
    ],
)
def test_registry_errors(spec: str, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_policy(spec, **request_)


def test_load_policy_passes_options_on() -> None:
    policy: Any = load_policy("df", planner=FakePlanner(), executor="path", replan_every=7, seed=4, samples=3)
    assert isinstance(policy, DFPolicy)
    assert (policy.replan_every, policy.seed, policy.samples) == (7, 4, 3)


def test_other_packages_can_offer_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = PolicyEntry("mine", "a policy of another package", lambda request: request.argument, argument="FILE")  # type: ignore[arg-type, return-value]
    points = [SimpleNamespace(name="mine", load=lambda: entry)]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: points if group == "dfplan.policies" else [])
    assert policies()["mine"].description == "a policy of another package"
    assert load_policy("mine:x") == "x"
    points[0].load = lambda: "no entry"
    with pytest.raises(TypeError, match="must be a PolicyEntry"):
        policies()


def vec_env(count: int) -> Any:
    import gymnasium as gym
    from stable_baselines3.common.vec_env import DummyVecEnv

    from dfplan_envs.wrappers import GoalObservation

    return DummyVecEnv([lambda: GoalObservation(gym.make("maze2d-umaze-v1"))] * count)


def test_sb3_evaluate_policy_accepts_our_policy() -> None:
    # Catches: a signature, a shape or a state that stable-baselines3 cannot handle.
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.evaluation import evaluate_policy

    env = vec_env(2)
    env.seed(0)
    policy: Any = DFPolicy(FakePlanner(via=[(3.0, 2.0)]), replan_every=1000)
    returns, lengths = evaluate_policy(policy, env, n_eval_episodes=4, return_episode_rewards=True, warn=False)
    assert lengths == [300] * 4 and len(returns) == 4


def test_sb3_file_acts_on_what_it_was_trained_on(tmp_path: Path) -> None:
    # Catches: feeding the goal to a model that was trained without it (or the other way round); a wrong algorithm.
    pytest.importorskip("stable_baselines3")
    import gymnasium as gym
    from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3

    import dfplan_envs  # noqa: F401

    plain, rows = gym.make("maze2d-umaze-v1"), observation()
    for algorithm in (PPO, A2C, SAC, TD3, DDPG):
        options = {} if algorithm in (PPO, A2C) else {"buffer_size": 10}
        model = algorithm("MlpPolicy", plain, policy_kwargs={"net_arch": [4]}, seed=0, device="cpu", **options)
        model.save(tmp_path / "m.zip")
        policy: Any = load_policy(f"sb3:{tmp_path / 'm.zip'}")
        assert isinstance(policy.model, TD3 if algorithm is DDPG else algorithm)  # DDPG is TD3 with other settings
        np.testing.assert_array_equal(
            policy.predict(rows)[0], model.predict(rows["observation"], deterministic=True)[0]
        )
    model = PPO("MultiInputPolicy", vec_env(1), policy_kwargs={"net_arch": [4]}, seed=0, device="cpu")
    model.save(tmp_path / "d.zip")
    rows["achieved_goal"] = rows["observation"][:, :2]
    got, _ = load_policy(f"sb3:{tmp_path / 'd.zip'}").predict({**rows, "more": np.zeros((2, 1))})
    np.testing.assert_array_equal(got, model.predict(rows, deterministic=True)[0])
    with pytest.raises(ValueError, match="'achieved_goal'"):
        load_policy(f"sb3:{tmp_path / 'd.zip'}").predict(observation())


def test_sb3_bad_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="no stable-baselines3 file at"):
        load_policy(f"sb3:{tmp_path / 'none.zip'}")
    (tmp_path / "x.zip").write_text("no archive")
    monkeypatch.setitem(__import__("sys").modules, "stable_baselines3", None)
    with pytest.raises(ImportError, match=r"pip install 'dfplan\[sb3\]'"):
        load_policy(f"sb3:{tmp_path / 'x.zip'}")
    monkeypatch.undo()
    pytest.importorskip("stable_baselines3")
    with pytest.raises(ValueError, match="is not a file of stable-baselines3"):
        load_policy(f"sb3:{tmp_path / 'x.zip'}")
