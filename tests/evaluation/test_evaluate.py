"""The evaluator: matched starts, numbers that do not depend on the batch, scores."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from dfplan.evaluation import EpisodeRecord, Report, evaluate, flatten, mean_stderr
from dfplan.evaluation.rollout import make_env
from dfplan_envs import get_normalized_score
from dfplan_policies import DFPolicy, RandomPolicy
from tests.evaluation.helpers import Failing, Scripted, jittery, tiny_checkpoint

TIMES = (
    "plan_seconds",
    "predict_seconds",
    "control_hz",
    "policy_seconds",
    "wall_seconds",
    "num_envs",
    "workers",
    "command",
    "hardware",
    "git",
)


def numbers(report: Report) -> dict[str, Any]:
    """Everything but timings, and a fingerprint of every trajectory."""
    flat = {k: v for k, v in flatten(report.metrics).items() if not k.startswith(TIMES)}
    flat["observations"] = [r.observations.tobytes() for r in report.records]
    flat["actions"] = [r.actions.tobytes() for r in report.records]
    return flat


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    return numbers(evaluate(jittery(), "maze2d-umaze", episodes=7, seed=5, num_envs=7))


@pytest.mark.parametrize("num_envs", [1, 3])
def test_numbers_do_not_depend_on_the_batch(num_envs: int, reference: dict[str, Any]) -> None:
    # Catches: starts or draws that depend on the slot or on how many act side by side.
    assert numbers(evaluate(jittery(), "maze2d-umaze", episodes=7, seed=5, num_envs=num_envs)) == reference


def test_numbers_do_not_depend_on_the_processes() -> None:
    # Catches: records out of order, episodes lost or run twice, another seed in a worker.
    report = evaluate(RandomPolicy(2), "maze2d-umaze", episodes=7, seed=5, num_envs=2, workers=2)
    assert [r.number for r in report.records] == list(range(7))
    assert numbers(report) == numbers(evaluate(RandomPolicy(2), "maze2d-umaze", episodes=7, seed=5))


def test_the_first_episodes_of_a_longer_run_are_those_of_a_shorter() -> None:
    short = evaluate(RandomPolicy(2), "maze2d-umaze", episodes=2, seed=1)
    long = evaluate(RandomPolicy(2), "maze2d-umaze", episodes=3, seed=1)
    for a, b in zip(short.records, long.records, strict=False):
        np.testing.assert_array_equal(a.observations, b.observations)


def test_starts_are_matched_over_policies_and_differ_over_seeds_and_episodes() -> None:
    # Catches: an environment that is seeded once and goes on drawing (starts then depend on the policy).
    def starts(policy: Any, seed: int) -> np.ndarray:
        return np.array([r.observations[0] for r in evaluate(policy, "maze2d-umaze", 3, seed).records])

    a, b = starts(RandomPolicy(2), 0), starts(Scripted([1, 0], 5, [0, 1]), 0)
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - starts(RandomPolicy(2), 1)).max() > 0.01
    assert len(np.unique(a[:, 2])) == 3


def leaving() -> Report:
    """Start in the goal's cell, wait 20 steps, leave it for ever."""
    options = {"location": (1, 1), "goal": (1, 1)}
    return evaluate(Scripted([0, 0], 20, [0, 1]), "maze2d-umaze", episodes=3, reset_options=options)


def test_latched_counts_on_after_the_goal_is_left_and_strict_does_not() -> None:
    # Catches: the two scores being one; a latched return that is off by one or counts from the start.
    report = leaving()
    for record in report.records:
        assert record.first_reach == 1
        assert record.latched_return == 300
        assert 20 <= record.strict_return < 80
        assert record.strict_return == record.success.sum() == record.rewards.sum()
    assert report.metrics["return"]["latched"]["mean"] == 300
    assert report.metrics["score"]["latched"]["mean"] == pytest.approx(
        100 * get_normalized_score("maze2d-umaze", 300.0)
    )


def record(success: list[int], rewards: list[float] | None = None, contact: list[int] | None = None) -> EpisodeRecord:
    n = len(success)
    return EpisodeRecord(
        0,
        0,
        np.zeros(2),
        np.zeros((n + 1, 4), np.float32),
        np.zeros((n, 2), np.float32),
        np.array(success if rewards is None else rewards, dtype=float),
        np.array(success, dtype=bool),
        np.array(contact or [0] * n, dtype=bool),
    )


@pytest.mark.parametrize(
    ("success", "first", "strict", "latched"),
    [([0, 0, 1, 0, 1], 3, 2, 3), ([1, 1, 1], 1, 3, 3), ([0, 0], None, 0, 0), ([0, 0, 1], 3, 1, 1)],
)
def test_returns_of_an_episode(success: list[int], first: int | None, strict: float, latched: float) -> None:
    r = record(success)
    assert (r.first_reach, r.strict_return, r.latched_return) == (first, strict, latched)


def test_latched_is_not_defined_for_dense_rewards() -> None:
    # Catches: a latched score made up for rewards that are not the touch itself.
    assert record([0, 1], [0.3, 0.9]).latched_return is None
    report = evaluate(RandomPolicy(2), "maze2d-umaze-dense", episodes=2)
    assert report.metrics["score"]["latched"] == {"mean": None, "stderr": None}
    assert report.metrics["score"]["strict"]["mean"] is not None


def test_collisions_count_contacts_that_begin() -> None:
    assert record([0] * 7, contact=[1, 1, 0, 1, 0, 0, 1]).collisions == 3
    assert record([0] * 3, contact=[0, 0, 0]).collisions == 0


def test_standard_error_is_the_sample_standard_deviation_over_root_n() -> None:
    # Catches: the population's standard deviation, a missing square root.
    values = [1.0, 4.0, 4.0, 7.0]
    mean = sum(values) / 4
    expected = math.sqrt(sum((v - mean) ** 2 for v in values) / 3) / 2
    assert mean_stderr(values) == {"mean": mean, "stderr": pytest.approx(expected)}
    assert mean_stderr([2.0]) == {"mean": 2.0, "stderr": None}
    assert mean_stderr([]) == {"mean": None, "stderr": None}


STABLE = """
env policy executor episodes seed score.strict.mean score.strict.stderr score.latched.mean score.latched.stderr
success_rate first_reach_steps.mean plan_seconds.median plan_seconds.p95 control_hz network_evaluations versions.python
versions.torch versions.numpy versions.mujoco versions.gymnasium versions.dfplan git.revision git.dirty hardware.cpu
hardware.cores hardware.threads command return.strict.mean return.latched.mean
"""


def test_stable_keys_are_there_and_json_holds_no_nan() -> None:
    # Catches: a renamed key; NaN (for example the mean of no first reaches), which is not JSON.
    report = evaluate(Scripted([0, 0], 1, [0, 0]), "maze2d-umaze", 1, reset_options={"location": (3, 1)})
    flat = flatten(report.metrics)
    assert [key for key in STABLE.split() if key not in flat] == []
    text = report.to_json()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    parsed = json.loads(text, parse_constant=refuse)
    assert parsed == report.metrics
    assert flat["first_reach_steps.mean"] is None and flat["score.strict.stderr"] is None


def test_planning_is_counted() -> None:
    # Catches: telemetry of the last environment only, evaluations per episode in place of per plan.
    report = evaluate(jittery(), "maze2d-umaze", episodes=3, num_envs=2)
    m = report.metrics
    plans = [len(r.telemetry.plans) for r in report.records]
    assert all(n >= 1 for n in plans)
    assert m["plans_per_episode"] == pytest.approx(np.mean(plans))
    assert m["network_evaluations"] == 20
    assert m["network_evaluations_per_step"] == pytest.approx(20 * sum(plans) / (3 * 300))
    assert m["plan_seconds"]["median"] == pytest.approx(0.01)


def test_the_horizon_is_full_and_the_goal_is_shown() -> None:
    report = evaluate(RandomPolicy(2), "maze2d-multi-umaze", episodes=3)
    assert [r.steps for r in report.records] == [300] * 3
    env = make_env("maze2d-multi-umaze-v1")
    for r in report.records:
        np.testing.assert_array_equal(env.reset(seed=r.seed)[0]["desired_goal"], r.goal)
    assert len({tuple(r.goal) for r in report.records}) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": 0}, "episodes must be at least 1, got 0"),
        ({"num_envs": 0}, "num_envs must be at least 1"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"env_id": "maze2d-lrge"}, "Did you mean 'maze2d-large-v1'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(RandomPolicy(2), **{"env_id": "maze2d-umaze", **arguments})


def test_an_error_in_a_worker_reaches_the_caller() -> None:
    # Catches: waiting for ever for a worker that has failed.
    with pytest.raises(ValueError, match="step of doom"):
        evaluate(Failing("value"), "maze2d-umaze", 4, workers=2)


def test_a_worker_that_dies_is_noticed() -> None:
    with pytest.raises(RuntimeError, match="worker died"):
        evaluate(Failing("dies"), "maze2d-umaze", 4, workers=2)


@pytest.mark.parametrize("executor", ["path", "diffused_actions"])
def test_the_real_planner_gives_the_same_numbers_alone_and_in_a_batch(executor: str, tmp_path: Any) -> None:
    # Catches: a call of the network that mixes environments; what the fake planner would not show.
    from dfplan import DFPlanner

    planner = DFPlanner.from_pretrained(tiny_checkpoint(tmp_path / "tiny"))
    options = {"requery_every": 5} if executor == "diffused_actions" else {}
    policy = DFPolicy(planner, executor, replan_every=50, executor_options=options)
    first, second = (numbers(evaluate(policy, "maze2d-open", 3, num_envs=n)) for n in (1, 3))
    assert first == second
