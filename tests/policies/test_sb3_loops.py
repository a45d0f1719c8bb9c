"""Pieces for stable-baselines3's loops: residuals, sub-goals, filled buffers, pools, imagined transitions."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from dfplan import DFPlanner
from dfplan_envs.wrappers import GoalObservation
from dfplan_policies import AgentLoop, DFPolicy, FunctionalPolicy
from dfplan_policies.sb3 import (
    PlannerGoalWrapper,
    ResidualActionWrapper,
    add_transitions,
    fill_replay_buffer,
    imagined_transitions,
    imitate_buffer,
    judge,
)
from tests.core.tiny import small_spec, tiny_checkpoint
from tests.policies.fakes import FakePlanner
from tests.policies.shipped import ENVS as SHIPPED_ENVS
from tests.policies.shipped import planner as tiny_planner
from tests.policies.shipped import planner_for

sb3 = pytest.importorskip("stable_baselines3", reason="needs stable-baselines3")


def maze(**kwargs: Any) -> GoalObservation:
    return GoalObservation(gymnasium.make("maze2d-umaze-v1", **kwargs))


def df() -> DFPolicy:
    return DFPolicy(FakePlanner(via=[(3.0, 1.0)], jitter=0.3), replan_every=4)


class Line(gymnasium.Env[Any, Any]):
    """Adds the action, in [0, 4], to the observation; ends after 3 steps, or where it is above 100."""

    observation_space = spaces.Box(-1e3, 1e3, (1,), np.float32)
    action_space = spaces.Box(0.0, 4.0, (1,), np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x, self.t = 10.0, 0
        return np.array([self.x], np.float32), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(np.asarray(action))
        self.x, self.t = self.x + float(action[0]), self.t + 1
        return np.array([self.x], np.float32), float(action[0]), self.x > 100, self.t == 3, {}


def passes(env: Any) -> None:
    """Run both checkers with every warning an error."""
    from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        check_env(env, skip_render_check=True)
        check_env_of_sb3(env)


# ---- residuals


def test_no_residual_is_the_policy_itself() -> None:
    # Catches: a base action from the observation before, a state that is dropped, a reset that does not restart it.
    wrapped, plain, agent = ResidualActionWrapper(maze(), df()), maze(), AgentLoop(df())
    for episode in range(2):
        got, _ = wrapped.reset(seed=episode)
        wanted, _ = plain.reset(seed=episode)
        agent.reset(episode)
        for _ in range(7):
            np.testing.assert_array_equal(got["observation"], wanted["observation"])
            got, *_ = wrapped.step(np.zeros(2, np.float32))
            wanted, *_ = plain.step(agent(wanted))


@pytest.mark.parametrize(("residual", "action"), [(0.0, 1.0), (0.5, 1.5), (-1.0, 0.0), (1.0, 2.0), (3.0, 2.0)])
def test_residuals_are_scaled_added_and_clipped(residual: float, action: float) -> None:
    # Catches: the scale left out, bounds taken for -1 and 1, a residual beyond its own bounds.
    env = ResidualActionWrapper(Line(), FunctionalPolicy(lambda m, o, g: ([1.0], m)), scale=0.5)
    env.reset()
    observation, reward, *_, info = env.step(np.array([residual], np.float32))
    assert (observation[0], reward) == (10 + action, action)
    assert info["action"].tolist() == [action] and info["base_action"].tolist() == [1.0]
    env = ResidualActionWrapper(Line(), FunctionalPolicy(lambda m, o, g: ([3.9], m)), scale=0.5)
    env.reset()
    assert env.step(np.ones(1, np.float32))[1] == 4.0


def test_the_base_action_is_shown_where_it_is_about_to_be_executed() -> None:
    # Catches: the action of the step before, a policy asked twice for one step.
    calls: list[int] = []

    def act(memory: int, observation: Any, goal: Any) -> Any:
        calls.append(memory)
        return [0.5 * memory], memory + 1

    env = ResidualActionWrapper(Line(), FunctionalPolicy(act, lambda episode: 0), observe_base=True)
    observation, _ = env.reset()
    for step in range(3):
        assert observation[1] == 0.5 * step
        observation, reward, *_ = env.step(np.zeros(1, np.float32))
        assert reward == 0.5 * step
    assert calls == [0, 1, 2, 3]


@pytest.mark.parametrize("observe", [False, True])
@pytest.mark.parametrize("make", [maze, lambda: gymnasium.make("maze2d-umaze-v1")], ids=["dict", "box"])
def test_residual_environments_pass_the_checkers(make: Any, observe: bool) -> None:
    # Catches: spaces that do not fit, episodes that a seed does not repeat.
    policy = DFPolicy(FakePlanner(via=[(3.0, 1.0)], jitter=0.3), goal=np.array([1.0, 1.0]))
    env = ResidualActionWrapper(make(), policy, observe_base=observe)
    passes(env)


def test_residuals_of_what_cannot_have_them() -> None:
    with pytest.raises(ValueError, match=r"bounded Box actions, got Discrete\(2\)"):
        ResidualActionWrapper(gymnasium.make("CartPole-v1"), df())
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        ResidualActionWrapper(maze(), df(), scale=0)


# ---- sub-goals


def straight(observation: Any, goal: Any, episode: int, count: int) -> np.ndarray:
    return np.stack([observation[:2], goal])


def subgoals(source: Any = straight, **options: Any) -> PlannerGoalWrapper:
    return PlannerGoalWrapper(maze(), source, 0.5, radius=0.1, **options)


def test_subgoals_lie_on_the_plan_one_after_the_other_up_to_the_goal() -> None:
    # Catches: a sub-goal behind, one that is skipped, a reward for another than the one that is shown.
    env = subgoals(patience=10_000)
    start, info = env.reset(seed=0, options={"location": (1, 3), "goal": (1.0, 1.0)})
    goal, seen = info["final_goal"], [start["desired_goal"]]
    np.testing.assert_allclose(np.linalg.norm(seen[0] - start["achieved_goal"]), 0.5, atol=0.03)
    shown = start
    for _ in range(300):
        x, v = shown["achieved_goal"], shown["observation"][2:]
        force = np.clip(10 * (shown["desired_goal"] - x) - 1.5 * v, -1, 1)
        shown, reward, *_, info = env.step(force.astype(np.float32))
        distance = np.linalg.norm(shown["achieved_goal"] - shown["desired_goal"])
        assert reward == (0.0 if distance <= 0.1 else -1.0)
        if not np.array_equal(shown["desired_goal"], seen[-1]):
            seen.append(shown["desired_goal"])
    assert np.allclose(seen[-1], goal) and info["is_success"] and info["env_reward"] == 1.0
    assert info["reached"] == len(seen) >= 4
    to_go = [np.linalg.norm(s - goal) for s in seen]
    assert to_go == sorted(to_go, reverse=True)


def test_subgoals_out_of_reach_are_replaced_and_plans_made_anew() -> None:
    # Catches: an agent that chases one point for ever; a plan that is never made again, or with the same draws.
    counts: list[tuple[int, int]] = []

    def counting(observation: Any, goal: Any, episode: int, count: int) -> np.ndarray:
        counts.append((episode, count))
        return straight(observation, goal, episode, count)

    env = subgoals(counting, patience=5, replan_every=12)
    first, _ = env.reset(seed=4, options={"location": (3, 1)})
    for step in range(16):
        seen, *_ = env.step(np.array([-1.0, 0.0], np.float32))
        assert np.array_equal(seen["desired_goal"], first["desired_goal"]) == (step < 5)
    assert counts == [(4, 0), (4, 1)]
    env.reset()
    assert counts[-1] == (5, 0)


def test_subgoals_of_a_planner_and_the_reward_of_many_at_once() -> None:
    # Catches: rows mixed up, plans that do not end at the goal, draws that another episode shares.
    env = subgoals(DFPolicy(FakePlanner(via=[(3.0, 1.0)], jitter=0.3)))  # type: ignore[arg-type]
    achieved, desired = np.array([[0, 0], [1, 1.0]]), np.array([[0, 0.09], [1, 1.2]])
    assert env.compute_reward(achieved, desired, None).tolist() == [0.0, -1.0]
    assert env.compute_reward(achieved[0], desired[0], {}) == 0.0
    found = [env.reset(seed=s, options={"location": (3, 1)})[0]["desired_goal"] for s in (0, 0, 1)]
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


@pytest.mark.parametrize("env", ["reach", "hidden"])
def test_subgoals_where_the_goal_is_no_first_column(env: str) -> None:
    # Catches: a plan from a part of what the planner sees, a path read from other columns than the goal's, success
    # that is called is_success.
    planner = planner_for(env, returns=env == "reach")
    asked: list[Any] = []
    plan = planner.plan

    def spy(obs: Any, goal: Any, **options: Any) -> Any:
        asked.append((obs.numpy()[0], goal.numpy()[0], plan(obs, goal, **options)))
        return asked[-1][2]

    planner.plan = spy  # type: ignore[method-assign]
    try:
        led = PlannerGoalWrapper(SHIPPED_ENVS[env](), planner, 0.3, radius=3.0, samples=1)
        shown, info = led.reset(seed=1)
        obs, goal, found = asked[0]
    finally:
        planner.plan = plan  # type: ignore[method-assign]
    place, own = shown["achieved_goal"], shown["observation"]
    np.testing.assert_allclose(obs, np.append(own, place) if env == "hidden" else own, rtol=1e-6)
    np.testing.assert_allclose(goal[:2], info["final_goal"], rtol=1e-6)
    assert len(goal) == (3 if env == "reach" else 2)  # the return that is asked for stands behind the goal
    columns = [1, 2] if env == "hidden" else [2, 1]
    path = found.observations[0].numpy()[:, columns]
    np.testing.assert_allclose(path[0], place, atol=1e-5)
    along = np.concatenate([np.linspace(a, b, 400) for a, b in pairwise(path)])
    inside = np.clip(along, -2, 2)
    assert np.linalg.norm(inside - shown["desired_goal"], axis=1).min() < 0.05
    led.env.unwrapped.place = led.env.unwrapped.target.copy()  # type: ignore[attr-defined]
    *_, info = led.step(np.array([0.0, 1.5], np.float32))
    assert info["is_success"] and info["env_reward"] == 1.0


def test_planners_of_other_columns_are_refused() -> None:
    # Catches: a shape error deep in the network, at the first reset.
    with pytest.raises(ValueError, match=r"planner's goals have 0 numbers, those of the environment 2; use a check"):
        PlannerGoalWrapper(maze(), planner_for("pendulum"))
    with pytest.raises(ValueError, match=r"planner's observations have the width 1, those of the environment 4; use"):
        PlannerGoalWrapper(maze(), planner_for("hidden"))
    with pytest.raises(ValueError, match=r"planner's observations have the width 4, those of the environment 3; use"):
        PlannerGoalWrapper(SHIPPED_ENVS["reach"](), tiny_planner())


def test_subgoal_environments_pass_the_checkers() -> None:
    # Catches: a reward that is not that of the observation that is returned with it; spaces that do not fit.
    passes(subgoals())


def test_subgoals_of_what_cannot_have_them() -> None:
    with pytest.raises(ValueError, match="needs dict observations with observation, achieved_goal, desired_goal"):
        PlannerGoalWrapper(gymnasium.make("CartPole-v1"), straight)
    with pytest.raises(ValueError, match="ahead must be positive, got 0"):
        PlannerGoalWrapper(maze(), straight, 0)
    with pytest.raises(TypeError, match="needs a planner, a policy with one or a function, got int"):
        PlannerGoalWrapper(maze(), 3)


def test_features_forget_the_place() -> None:
    # Catches: the sign of the difference, columns that are left out, a network that sees where the maze is.
    from dfplan_policies.sb3 import RelativeGoal

    features = RelativeGoal(subgoals().observation_space, columns=(2, 3), scale=0.5)
    rows = {
        "observation": torch.tensor([[9.0, 9, 3, 4]]),
        "achieved_goal": torch.tensor([[1.0, 1]]),
        "desired_goal": torch.tensor([[1.5, 0]]),
    }
    assert features(rows).tolist() == [[1.0, -2.0, 3.0, 4.0]]
    assert features.features_dim == 4


# ---- buffers


def model(env: Any, n: int = 1, kind: str = "MlpPolicy", **options: Any) -> Any:
    from stable_baselines3.common.env_util import make_vec_env

    size = {"policy_kwargs": {"net_arch": [4]}, "buffer_size": 100, "device": "cpu", "seed": 0}
    return sb3.SAC(kind, make_vec_env(env, n), **size, **options)


def test_a_filled_buffer_holds_what_the_policy_did() -> None:
    # Catches: the first observation of the next episode as the last of this one, a time limit stored as an end,
    # actions that are not scaled, an episode_start that never comes.
    policy = FunctionalPolicy(lambda m, o, g: ([m + 1.0], m + 1), lambda episode: 0)
    sac = model(Line)
    filled = fill_replay_buffer(sac, policy, steps=5)
    buffer = sac.replay_buffer
    assert (filled.steps, filled.returns, buffer.size()) == (5, (6.0,), 5)
    assert buffer.observations[:5, 0, 0].tolist() == [10, 11, 13, 10, 11]
    assert buffer.next_observations[:5, 0, 0].tolist() == [11, 13, 16, 11, 13]
    assert buffer.actions[:5, 0, 0].tolist() == [-0.5, 0.0, 0.5, -0.5, 0.0]
    assert buffer.rewards[:5, 0].tolist() == [1, 2, 3, 1, 2]
    assert buffer.dones[:5, 0].tolist() == [0, 0, 1, 0, 0] and buffer.timeouts[:5, 0].tolist() == [0, 0, 1, 0, 0]
    sac.learn(2)  # begins with a reset of its own
    assert buffer.observations[5, 0, 0] == 10


def test_noise_is_executed_and_stored() -> None:
    # Catches: noise in the buffer only, or in the environment only; a seed that is not used.
    def actions(seed: int) -> np.ndarray:
        sac = model(Line, 2)
        fill_replay_buffer(sac, FunctionalPolicy(lambda m, o, g: ([2.0], m)), steps=6, noise=0.3, seed=seed)
        buffer = sac.replay_buffer
        np.testing.assert_allclose(buffer.rewards[:3], 2 + 2 * buffer.actions[:3, :, 0], rtol=1e-6)
        return buffer.actions[:3].copy()

    assert np.array_equal(actions(1), actions(1)) and np.ptp(actions(1)) > 0.01
    assert not np.array_equal(actions(1), actions(2))


def test_buffers_with_goals_and_hindsight() -> None:
    # Catches: dict observations that are copied by reference, an episode that runs over the end of filling.
    her = model(lambda: maze(max_episode_steps=4), kind="MultiInputPolicy", learning_starts=5,
                replay_buffer_class=sb3.HerReplayBuffer)  # fmt: skip
    filled = fill_replay_buffer(her, df(), steps=6)
    assert filled.steps == 6 and len(filled.returns) == 1
    her.learn(6)
    with pytest.raises(TypeError, match="PPO has no replay buffer"):
        fill_replay_buffer(sb3.PPO("MlpPolicy", Line(), device="cpu"), df())
    with pytest.raises(ValueError, match=r"needs an environment, steps of at least 1.*steps=0"):
        fill_replay_buffer(her, df(), steps=0)


@pytest.mark.parametrize("kind", ["SAC", "TD3"])
def test_the_actor_imitates_what_is_in_the_buffer(kind: str) -> None:
    # Catches: an actor that is trained on other actions than those stored, in the environment's units, on its own
    # noise, or not at all; critics that are changed; a target actor that is left behind.
    rule = FunctionalPolicy(lambda m, o, g: ([2.0 + 0.1 * (o[0] - 12)], m))
    options: dict[str, Any] = {"policy_kwargs": {"net_arch": [16]}, "buffer_size": 100, "device": "cpu", "seed": 0}
    agent = getattr(sb3, kind)("MlpPolicy", Line(), learning_rate=0.01, **options)
    fill_replay_buffer(agent, rule, steps=60)
    critics = [p.clone() for p in agent.critic.parameters()]
    told: list[int] = []
    losses = imitate_buffer(agent, 150, 32, on_step=lambda step, loss: told.append(step))
    assert losses[-1] < 0.01 < losses[0] and told == list(range(1, 151))
    for place in (10.0, 13.0):
        action, _ = agent.predict(np.array([place], dtype=np.float32), deterministic=True)
        assert abs(float(action[0]) - (2.0 + 0.1 * (place - 12))) < 0.3
    assert all(bool((a == b).all()) for a, b in zip(critics, agent.critic.parameters(), strict=True))
    if kind == "TD3":
        pairs = zip(agent.actor.parameters(), agent.actor_target.parameters(), strict=True)
        assert all(bool((a == b).all()) for a, b in pairs)


def test_imitation_refuses_what_it_cannot_use() -> None:
    # Catches: an endless or empty training, an error from inside torch.
    with pytest.raises(ValueError, match=r"the replay buffer is empty; fill it first"):
        imitate_buffer(model(Line))
    with pytest.raises(ValueError, match=r"must be at least 1, got 0 and 256"):
        imitate_buffer(model(Line), 0)
    with pytest.raises(TypeError, match="PPO has no replay buffer"):
        imitate_buffer(sb3.PPO("MlpPolicy", Line(), device="cpu"))
    with pytest.raises(TypeError, match="DQN has no actor to train"):
        imitate_buffer(sb3.DQN("MlpPolicy", "CartPole-v1", device="cpu", buffer_size=10))


# ---- pools, video


@pytest.mark.filterwarnings("ignore:Evaluation environment is not wrapped")
def test_one_callback_judges_planners_and_algorithms() -> None:
    # Catches: a callback that needs more of an algorithm than a policy has; a mean that is not evaluate_policy's.
    from stable_baselines3.common.callbacks import EvalCallback
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import DummyVecEnv

    env = DummyVecEnv([Line])
    push = FunctionalPolicy(lambda m, o, g: ([m], m + 1), lambda episode: 1)
    callback = EvalCallback(env, n_eval_episodes=2, eval_freq=1, verbose=0)
    sac = model(Line)
    assert judge(callback, push, env) == 6.0 == evaluate_policy(push, env, 2)[0]
    assert judge(callback, sac, env, num_timesteps=7) == evaluate_policy(sac, env, 2)[0]
    assert callback.num_timesteps == 7


# ---- Dyna


def imagining(stride: int = 1, kind: str = "interleaved") -> DFPlanner:
    options = {"samples": 2, "steps": 2, "precision": "fp32"}
    spec = small_spec(kind=kind, stride=stride, horizon=3)
    return DFPlanner(tiny_checkpoint(spec, planner=options, width=8, layers=1))


def test_imagined_transitions_are_the_model_s_own_steps() -> None:
    # Catches: steps that do not follow each other, roll-outs mixed up, a reward of the wrong step.
    planner, g = imagining(), torch.Generator().manual_seed(0)
    starts = torch.randn(2, 4, generator=g).numpy()
    actions = torch.rand(2, 3, 2, generator=g).numpy()

    def reward(before: Any, action: Any, after: Any) -> Any:
        return after[:, 0] - before[:, 0] + action[:, 1]

    found = imagined_transitions(planner, starts, actions, reward, generator=torch.Generator().manual_seed(1))
    states = planner.imagine(starts, actions, steps=1, generator=torch.Generator().manual_seed(1)).numpy()
    assert len(found) == 6 and not found.dones.any()
    np.testing.assert_allclose(found.observations, states[:, :3].reshape(6, 4))
    np.testing.assert_allclose(found.next_observations, states[:, 1:].reshape(6, 4))
    np.testing.assert_allclose(found.actions, actions.reshape(6, 2))
    np.testing.assert_allclose(found.rewards, (states[:, 1:, 0] - states[:, :3, 0] + actions[..., 1]).reshape(6))
    env = gymnasium.make("maze2d-umaze-v1")
    sac = model(lambda: env)
    assert add_transitions(sac, found) == 6 == sac.replay_buffer.size()
    np.testing.assert_allclose(sac.replay_buffer.next_observations[:6, 0], found.next_observations, rtol=1e-6)


def test_layouts_that_cannot_imagine_single_steps_say_so() -> None:
    starts, actions = np.zeros((2, 4)), np.zeros((2, 3, 2))
    with pytest.raises(ValueError, match=r"whose states see actions, got path tokens; use .*interleaved"):
        imagined_transitions(imagining(kind="path"), starts, actions, lambda a, b, c: a[:, 0])
    with pytest.raises(ValueError, match=r"one environment step per token, got a stride of 3.*train with --stride 1"):
        imagined_transitions(imagining(3), starts, actions, lambda a, b, c: a[:, 0])
    with pytest.raises(ValueError, match=r"actions must have shape \(2, n, A\), got \(3, 2\)"):
        imagined_transitions(imagining(), starts, actions[0], lambda a, b, c: a[:, 0])
    with pytest.raises(ValueError, match=r"one number per step, shape \(6,\), got \(6, 4\)"):
        imagined_transitions(imagining(), starts, actions, lambda a, b, c: a)
    found = imagined_transitions(imagining(), starts, actions, lambda a, b, c: a[:, 0])
    with pytest.raises(ValueError, match=r"one environment with array observations, got n_envs=2"):
        add_transitions(model(Line, 2), found)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: an ImportError from deep inside.
    from dfplan_policies.sb3 import PoolMember

    monkeypatch.setitem(__import__("sys").modules, "stable_baselines3", None)
    with warnings.catch_warnings(), pytest.raises(ImportError, match=r"pip install 'dfplan\[sb3\]'"):
        PoolMember(df(), None)
