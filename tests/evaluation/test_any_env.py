"""Environments of other packages: three commands from nothing to a judged planner, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from dfplan.checkpoint import load_checkpoint
from dfplan.evaluation import evaluate
from dfplan.evaluation.rollout import episode_seed
from dfplan.spaces import Spaces
from dfplan_envs import episode_steps, registry, resolve
from dfplan_policies import DFPolicy, RandomPolicy, load_policy
from tests.policies.shipped import Reach, planner_for

TINY = ("--stride", 2, "--horizon", 3, "--steps", 3, "--batch", 8, "--width", 16, "--layers", 1, "--threads", 1,
        "--value-steps", 2)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def registered() -> Any:
    gymnasium.register("tests/Reach-v3", Reach, max_episode_steps=12)
    yield
    del gymnasium.registry["tests/Reach-v3"]


@pytest.mark.parametrize(
    ("env", "rewards", "goal", "success"),
    [("Pendulum-v1", True, (), False), ("CartPole-v1", True, (), False), ("tests/Reach-v3", False, (2, 1), True)],
)
def test_three_commands(
    dfplan: Any, tmp_path: Path, env: str, rewards: bool, goal: tuple[int, ...], success: bool
) -> None:
    # Catches: spaces that get lost between data, checkpoint and policy; a goal in the wrong columns; a path executor
    # for what has no path; success made up where the environment does not tell.
    assert dfplan("data", "collect", "--env", env, "--episodes", 12, "--npz", "d.npz", "--out", "c")[0] == 0
    code, _, err = dfplan("train", "--env", env, "--data", "d.npz", "--out", "run", *TINY)
    assert code == 0, err
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint")
    spec = checkpoint.spec
    assert (spec.kind, spec.rewards, spec.returns, spec.goal_columns) == ("bundle", rewards, rewards, goal)
    assert (checkpoint.value is not None) == rewards and checkpoint.spaces is not None
    code, out, err = dfplan(
        "eval", "--env", env, "--checkpoint", "run/checkpoint", "--episodes", 2, "--json", "--out", "e"
    )
    assert code == 0, err
    metrics = json.loads(out)
    assert metrics["executor"] == "planned_actions" and metrics["plans_per_episode"] >= 3
    assert (metrics["success_rate"] is not None) == success and metrics["return"]["strict"]["mean"] is not None
    assert (tmp_path / "e" / "rewards.png").is_file() and not (tmp_path / "e" / "paths.png").exists()


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1", "tests/Reach-v3"])
def test_returns_are_those_of_a_plain_loop(env: str) -> None:
    # Catches: actions that are clipped to [-1, 1] or left as columns, a step too many, another start.
    made = gymnasium.make(env)
    policy = RandomPolicy(2, seed=4, spaces=Spaces.from_env(made))
    policy.act_dim = policy.spaces.action.width  # type: ignore[union-attr]
    report = evaluate(policy, env, episodes=3, seed=1, num_envs=2)
    for record in report.records:
        observation, _ = made.reset(seed=episode_seed(1, record.number))
        state, total, over = policy.start([record.number]), 0.0, False
        while not over:
            action, state = policy.predict(observation, state)
            assert made.action_space.contains(action)
            observation, reward, terminated, truncated, _ = made.step(action)
            total, over = total + float(reward), terminated or truncated
        assert record.strict_return == pytest.approx(total)
    assert (report.metrics["success_rate"] is None) == (env != "tests/Reach-v3")


@pytest.mark.parametrize(
    ("env", "like"), [("Pendulum-v1", "pendulum"), ("CartPole-v1", "cartpole"), ("tests/Reach-v3", "reach")]
)
def test_side_by_side_is_one_after_the_other(env: str, like: str) -> None:
    # Catches: draws, goals or plans that depend on who else is in the batch, an episode that ends early and takes the
    # others with it.
    policy = DFPolicy(planner_for(like), replan_every=6, seed=2)
    kwargs = {"max_episode_steps": 15} if env == "Pendulum-v1" else {}
    one, three = (evaluate(policy, env, 4, seed=1, num_envs=n, env_kwargs=kwargs) for n in (1, 3))
    for a, b in zip(one.records, three.records, strict=True):
        assert (a.number, a.seed, a.steps, a.judged) == (b.number, b.seed, b.steps, b.judged)
        np.testing.assert_allclose(a.actions, b.actions, rtol=0, atol=1e-6)
        np.testing.assert_allclose(a.observations, b.observations, rtol=0, atol=1e-5)
        assert len(a.telemetry.plans) == len(b.telemetry.plans) > 0


def test_random_actions_fill_the_bounds() -> None:
    # Catches: a torque of at most half of what the environment takes.
    policy = load_policy("random", act_dim=1, spaces=Spaces.from_env(gymnasium.make("Pendulum-v1")))
    actions, _ = policy.predict(np.zeros((400, 3), dtype=np.float32), policy.start(list(range(400))))  # type: ignore[attr-defined]
    assert actions.shape == (400, 1) and 1.8 < float(np.abs(actions).max()) <= 2.0


def test_names_of_other_packages_are_completed() -> None:
    # Catches: a refusal of what Gymnasium knows, a suggestion that is none of its ids.
    assert resolve("Pendulum") == "Pendulum-v1" and resolve("tests/Reach") == "tests/Reach-v3"
    assert resolve("somewhere:Else-v0") == "somewhere:Else-v0" and episode_steps("tests/Reach-v3") == 12
    with pytest.raises(ValueError, match=r"unknown environment 'Pendulm-v1'\. Did you mean 'Pendulum-v1'"):
        resolve("Pendulm-v1")
    with pytest.raises(ValueError, match=r"unknown environment 'Pendulm'\. Did you mean 'Pendulum'"):
        resolve("Pendulm")
    with pytest.raises(ValueError, match="Did you mean 'maze2d-large-v1'"):
        resolve("maze2d-lage")


def test_names_that_are_known_load_no_other_package(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: half a second, and a greeting on standard error, for every command on a maze.
    def fail() -> Any:
        raise AssertionError("Gymnasium-Robotics was asked")

    monkeypatch.setattr(registry, "register_robotics", fail)
    assert resolve("maze2d-large") == "maze2d-large-v1" and resolve("Pendulum") == "Pendulum-v1"
    with pytest.raises(AssertionError, match="was asked"):
        resolve("Nowhere")


def test_training_without_data_says_how_to_get_some(dfplan: Any) -> None:
    # Catches: maze data made for a pendulum.
    code, _, err = dfplan("train", "--env", "Pendulum-v1")
    assert code != 0 and "no data are made for Pendulum-v1; pass --data" in err.replace("\n", " ")
    assert "dfplan data collect --env Pendulum-v1" in err.replace("\n", " ")


def test_a_return_is_asked_for_only_where_there_are_returns(dfplan: Any, tmp_path: Path) -> None:
    # Catches: a wish that nobody hears, NaN that turns the whole plan into NaN, a plan followed longer than it is.
    assert dfplan("data", "collect", "--env", "Pendulum-v1", "--episodes", 4, "--npz", "d.npz", "--out", "c")[0] == 0
    assert dfplan("train", "--env", "Pendulum-v1", "--data", "d.npz", "--out", "run", *TINY)[0] == 0
    from dfplan import DFPlanner

    planner = DFPlanner.from_pretrained(tmp_path / "run" / "checkpoint")
    stats = planner.norm.returns
    assert stats is not None and DFPolicy(planner).target == pytest.approx(stats.at(0.95))
    wishes = [
        DFPolicy(planner, target_return=r, seed=1).predict(np.zeros((1, 3)))[0] for r in (stats.at(0), stats.at(1))
    ]
    assert not np.array_equal(*wishes)
    assert DFPolicy(planner, target_return="none").target is None
    with pytest.raises(ValueError, match="unknown target_return 'high'"):
        DFPolicy(planner, target_return="high")
    with pytest.raises(ValueError, match="target_return must be finite, got nan"):
        DFPolicy(planner, target_return=float("nan"))
    with pytest.raises(ValueError, match="replan_every must be at most 6, the steps of a plan, got 7"):
        DFPolicy(planner, replan_every=7)
    with pytest.raises(ValueError, match="trained without returns"):
        DFPolicy(DFPlanner.from_pretrained("maze2d-umaze"), target_return=1.0)
