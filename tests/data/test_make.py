"""Made data: true to the environment, and the same for any number of workers."""

from __future__ import annotations

import time

import gymnasium
import numpy as np
import pytest

pytest.importorskip("mujoco")

import dfplan.cli.data_make as data_make
from dfplan.cli.data_make import describe_env, generate, make_episodes, maze_rows, score_rewards, shards
from dfplan_envs.maze2d import as_maze

UMAZE = as_maze("umaze").rows


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_make, "SHARD_STEPS", 400)


@pytest.mark.usefixtures("small_shards")
def test_workers_do_not_change_the_data() -> None:
    """Catches a seed or an order that depends on who worked."""
    counts: list[int] = []
    one, _ = make_episodes("maze2d-umaze", 1500, seed=3, workers=1)
    two, _ = make_episodes("maze2d-umaze", 1500, seed=3, workers=2, progress=counts.append)
    assert two.digest() == one.digest()
    assert two.meta == one.meta
    assert sum(counts) == 1500
    other, _ = make_episodes("maze2d-umaze", 1500, seed=4, workers=1)
    assert other.digest() != one.digest()


@pytest.mark.usefixtures("small_shards")
def test_shards_differ_and_a_longer_run_starts_with_the_shorter() -> None:
    short, long = (generate(UMAZE, steps, 0, noisy=False) for steps in (800, 1100))
    assert [len(tour["rewards"]) for tour in long] == [400, 400, 300]
    for a, b in zip(short, long, strict=False):
        np.testing.assert_array_equal(a["observations"], b["observations"])
    assert not np.array_equal(short[0]["observations"], short[1]["observations"])
    assert shards(800, 0) == shards(1100, 0)[:2]


def test_episodes_replay_in_the_environment() -> None:
    """Catches actions, states or rewards that do not belong together, in every one of an episode's rows."""
    episodes, spec = make_episodes("maze2d-umaze", 400, seed=1)
    env = gymnasium.make(spec, max_episode_steps=10_000)
    env.reset(seed=0)
    for index in range(len(episodes)):
        observations, actions, rewards = episodes.episode(index)
        for t, action in enumerate(actions):
            env.unwrapped.set_state(observations[t].astype(np.float64))
            state, reward, *_ = env.step(action)
            np.testing.assert_allclose(state, observations[t + 1], atol=1e-4)
            assert reward == rewards[t]
    env.close()


def test_every_episode_ends_at_a_target() -> None:
    """Catches a cut elsewhere: a target counts as reached within 0.1 of its cell's location."""
    episodes, _ = make_episodes("maze2d-medium", 4000, seed=0)
    last = episodes.observations[episodes.starts + episodes.lengths][:, :2]
    cells = np.array(as_maze("medium").free_cells)
    nearest = np.linalg.norm(last[:, None] - cells[None], axis=-1).min(axis=1)
    assert len(episodes) > 10
    assert nearest.max() <= 0.1 + 1e-5


def test_dense_rewards_and_noise() -> None:
    sparse, _ = make_episodes("maze2d-umaze", 600, noisy=False)
    dense, spec = make_episodes("maze2d-umaze-dense", 600, noisy=False)
    noisy, _ = make_episodes("maze2d-umaze", 600, noisy=True)
    np.testing.assert_array_equal(dense.observations, sparse.observations)
    distance = np.linalg.norm(dense.observations[dense.next_rows, :2] - (1, 1), axis=1)
    np.testing.assert_allclose(dense.rewards, np.exp(-distance), rtol=1e-5)
    np.testing.assert_array_equal(sparse.rewards, distance <= 0.5)
    np.testing.assert_array_equal(sparse.rewards, score_rewards(sparse, UMAZE, "sparse"))
    assert spec.id == "maze2d-umaze-dense-v1"
    assert (noisy.meta["action_noise_std"], sparse.meta["action_noise_std"]) == (0.5, 0.0)
    assert noisy.digest() != sparse.digest()
    assert dense.meta["reference_scores"] == {"min": 68.537689, "max": 193.66285642381482}
    assert "exp(-" in dense.meta["reward"]


def test_a_maze_of_ones_own() -> None:
    rows = ("#####", "#OGO#", "#####")
    registered = dict(gymnasium.spec("maze2d-v1").kwargs)
    episodes, spec = make_episodes("maze2d", 500, maze=rows)
    assert episodes.observations[:, 1].min() > 0.3
    assert spec.kwargs["maze"] == list(rows)
    assert maze_rows(episodes.meta) == rows
    assert gymnasium.spec("maze2d-v1").kwargs == registered  # the registry is not to remember this maze
    bare = score_rewards(episodes, ("#####", "#OOO#", "#####"), "sparse")
    assert bare is None
    assert maze_rows({"env": "maze2d-large-v1"}) == as_maze("large").rows
    assert maze_rows({"env": "Hopper-v5"}) is None
    assert maze_rows({}) is None


@pytest.mark.parametrize(
    ("name", "rows", "match"),
    [
        ("maze2d-lrge", None, "unknown environment 'maze2d-lrge'. Did you mean 'maze2d-large-v1'"),
        ("maze2d-multi-large", None, "draws a goal for every episode.*make maze2d-large-v1"),
        ("maze2d-v1", None, "is a maze of your own and needs its text; pass --maze"),
        ("maze2d-large", ("###", "#G#", "###"), "maze2d-large-v1 has its maze; drop --maze"),
        ("maze2d", ("###", "#G", "###"), "maze is ragged"),
    ],
)
def test_what_cannot_be_made_is_refused(name: str, rows: tuple[str, ...] | None, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        describe_env(name, rows)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        make_episodes("maze2d-umaze", 0)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        make_episodes("maze2d-umaze", 10, seed=-1)
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        make_episodes("maze2d-umaze", 10, workers=0)
    with pytest.raises(ValueError, match="at least one target must be reached in the tours, got none; generate more"):
        make_episodes("maze2d-large", 3)


def test_stopping_does_not_wait_for_the_rest() -> None:
    """Catches workers that go on after Ctrl-C: what is left here would take minutes."""

    def stop(rows: int) -> None:
        if rows:
            raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        make_episodes("maze2d-umaze", 40_000_000, workers=2, progress=stop)
    assert time.monotonic() - begin < 60
