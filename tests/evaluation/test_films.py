"""Tasks in stages: what an evaluation counts, draws and films."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest

from dfplan.evaluation import films
from dfplan.evaluation.metrics import stage_rates, summarise, wilson
from dfplan.evaluation.rollout import Clock, EpisodeRecord, run_episodes
from tests.evaluation.helpers import Scripted

ENV_ID = "Stages-v0"


class Stages(gymnasium.Env[Any, Any]):
    """Reach a stage by the size of the action, fall back a step later; stage 3 is success and ends the episode."""

    observation_space = gymnasium.spaces.Box(-9, 9, (1,))
    action_space = gymnasium.spaces.Box(0, 9, (1,))

    def __init__(self, told: bool = True) -> None:
        self.told = told

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {"stage": 9}  # what a reset says does not count

    def step(self, action: Any) -> Any:
        self.steps += 1
        stage = int(action[0])
        info: dict[str, Any] = {"stage": stage, "success": stage == 3} if self.told else {}
        return np.zeros(1, np.float32), float(stage == 3), stage == 3, self.steps >= 4, info


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    """Register the environment."""
    gymnasium.register(ENV_ID, Stages)
    yield
    del gymnasium.registry[ENV_ID]


def record(number: int, success: bool = False, stage: int | None = 1) -> EpisodeRecord:
    won = np.array([False, success])
    one = np.zeros((3, 1), np.float32)
    return EpisodeRecord(number, 5, np.zeros(0), one, one[:2], won.astype(float), won, won, stage=stage)


def test_the_furthest_stage_counts() -> None:
    """Catches the last stage taken for the furthest, one of another environment, calls that are not timed."""
    records, clock = [], Clock()
    for first in (2.0, 0.0, 3.0):
        some, own = run_episodes(Scripted([first], 2, [0.0]), ENV_ID, [0, 1], seed=0, num_envs=2)
        records += some
        clock.add(own)
    assert [r.stage for r in records] == [2, 2, 0, 0, 3, 3]
    metrics = summarise(ENV_ID, records, clock)
    assert metrics["stages"] == {"1": wilson(4, 6), "2": wilson(4, 6), "3": wilson(2, 6)}
    assert metrics["success"] == wilson(2, 6) and metrics["success_rate"] == pytest.approx(1 / 3)
    assert len(clock.calls_s) == 4 + 4 + 1 and clock.policy_s == pytest.approx(sum(clock.calls_s))
    assert metrics["predict_seconds"]["median"] == np.median(clock.calls_s) <= metrics["predict_seconds"]["p95"]


def test_a_task_without_stages_has_none() -> None:
    """Catches a stage 0 that is made up."""
    found, clock = run_episodes(Scripted([1.0], 2, [0.0]), ENV_ID, [0], seed=0, num_envs=1, env_kwargs={"told": False})
    metrics = summarise(ENV_ID, found, clock)
    assert found[0].stage is None and metrics["stages"] is None and metrics["success"] is None
    assert stage_rates([record(0, stage=5), record(1, stage=None)])["5"] == wilson(1, 1)  # type: ignore[index]


def test_the_curve_begins_with_all_episodes() -> None:
    """Catches stages in the order of their letters (10 before 2), and a band that is the whole interval."""
    rates = {str(stage): wilson(12 - stage, 12) for stage in range(1, 12)}
    line = films.stage_line("x", rates)
    np.testing.assert_allclose(line.y, 1 - np.arange(12) / 12)
    np.testing.assert_array_equal(line.x, np.arange(12))
    assert line.err is not None and line.err[0] == 0.0
    assert line.err[2] == pytest.approx((rates["2"]["high"] - rates["2"]["low"]) / 2)
    with pytest.raises(ValueError, match="has no stages; draw its rewards"):
        films.stage_line("x", None)


@pytest.mark.parametrize(("failures", "successes", "count", "expected"), [
    (3, 3, 2, ["0-failure", "3-success"]),
    (3, 3, 3, ["0-failure", "1-failure", "3-success"]),
    (3, 0, 2, ["0-failure", "1-failure"]),
    (0, 3, 2, ["0-success", "1-success"]),
    (1, 3, 4, ["0-failure", "1-success", "2-success", "3-success"]),
    (3, 1, 4, ["0-failure", "1-failure", "2-failure", "3-success"]),
    (1, 1, 1, ["0-failure"]),
    (1, 1, 9, ["0-failure", "1-success"]),
    (2, 2, 0, []),
])  # fmt: skip
def test_as_many_films_as_there_can_be(
    failures: int, successes: int, count: int, expected: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Catches fewer films than were asked for although there are episodes, or one under another's name."""
    filmed = []
    monkeypatch.setattr(films, "replayed", lambda env_id, kwargs, one: one.number)
    monkeypatch.setattr(films, "write_video", lambda path, frames, fps: filmed.append(frames) or path)
    records = [record(i, i >= failures) for i in range(failures + successes)]
    report: Any = SimpleNamespace(records=records, env_id=ENV_ID)
    paths = films.film(report, {}, count, tmp_path)
    assert [p.name for p in paths] == [f"episode-{name}.mp4" for name in expected]
    assert filmed == [int(name.split("-")[0]) for name in expected]


def test_an_episode_is_played_again_as_it_was() -> None:
    """Catches another start, a picture too few, options that are lost, and a film of something else."""
    pytest.importorskip("pybullet", reason="needs pybullet")
    kwargs = {"max_steps": 3, "push": 1}
    policy = Scripted([1.0, 0.5, -1.0, 1.0], 2, [0, 0, 0, 1.0])
    (one,), _ = run_episodes(policy, "fruit-swap-v0", [4], seed=2, num_envs=1, env_kwargs=kwargs)
    assert one.stage == 0 and one.steps == 3
    frames = list(films.replayed("fruit-swap-v0", {**kwargs, "obs": "image", "image_size": 32, "render_size": 32}, one))
    assert len(frames) == 4 and frames[0].shape == (32, 32, 3)
    env: Any = gymnasium.make("fruit-swap-v0", render_mode="rgb_array", render_size=32, **kwargs)
    env.reset(seed=one.seed)
    np.testing.assert_array_equal(frames[0], env.render())
    for action, frame in zip(one.actions, frames[1:], strict=True):
        env.step(action)
        np.testing.assert_array_equal(frame, env.render())
    env.close()
    paid = EpisodeRecord(
        4, one.seed, one.goal, one.observations, one.actions, one.rewards + 1, one.success, one.contact
    )
    with pytest.raises(ValueError, match="fruit-swap-v0, episode 4: the environment does not play an episode again"):
        list(films.replayed("fruit-swap-v0", {**kwargs, "render_size": 32}, paid))
