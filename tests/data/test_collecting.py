"""Collecting: what is drawn and kept, and that neither depends on how many environments act or on being stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from dfplan.data.collecting import CollectConfig, Rollout, check_exploration, collect, reset_seed
from dfplan.data.shards import ShardFolder
from dfplan.data.trajectories import Trajectories, check_spaces


class Counter(gymnasium.Env[Any, Any]):
    """Count up from a random start; ends by itself when the count reaches 12, is cut after 9 steps."""

    def __init__(self, action: gymnasium.Space[Any] | None = None, goal: bool = False) -> None:
        box = Box(-np.inf, np.inf, (2,))
        self.goal = goal
        self.observation_space = Dict(
            {"observation": box, "achieved_goal": Box(0, 99, (1,)), "desired_goal": Box(0, 99, (1,))}
        ) if goal else box  # fmt: skip
        self.action_space = action or Box(np.float32([-2, 0]), np.float32([2, 1]))
        self.state = np.zeros(2)

    def _show(self) -> Any:
        if not self.goal:
            return self.state  # the very array that is written to: who does not copy it keeps its last value only
        return {"observation": self.state, "achieved_goal": self.state[:1] + 50, "desired_goal": np.array([12.0])}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.state = np.array([float(self.np_random.integers(0, 10)), 0.0])
        self.steps = 0
        return self._show(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.steps += 1
        self.state += [1.0, float(np.sum(action))]
        return self._show(), float(self.state[0]), bool(self.state[0] >= 12), self.steps >= 9, {}


class Steady:
    """Answer with a number of its own episode, and remember how often it was asked."""

    def start(self, episodes: list[int]) -> Any:
        return [(number, 0) for number in episodes]

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> Any:
        rows = np.asarray(observation["observation"] if isinstance(observation, dict) else observation)
        assert len(rows) == len(state) == len(episode_start)
        assert [count == 0 for _, count in state] == episode_start.tolist()
        answers = np.array([[0.1 * number, 0.01 * count] for number, count in state])
        return answers, [(number, count + 1) for number, count in state]


CONFIG = CollectConfig(seed=3, noise=0.3, epsilon=0.2)


def run(num_envs: int, numbers: Any = range(7), config: CollectConfig = CONFIG, policy: Any = None, **kw: Any) -> Any:
    envs = [Counter(**kw) for _ in range(num_envs)]
    return {rollout.number: rollout for rollout in collect(envs, policy, list(numbers), config)}


def same(a: Rollout, b: Rollout) -> bool:
    pairs = [(a.actions, b.actions), (a.rewards, b.rewards)]
    keys = a.observations if isinstance(a.observations, dict) else None
    if keys is None:
        pairs.append((a.observations, b.observations))
    else:
        pairs += [(a.observations[key], b.observations[key]) for key in keys]  # type: ignore[index, call-overload]
    return a.terminated == b.terminated and all(np.array_equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("policy", [None, Steady()])
def test_an_episode_depends_on_seed_and_number_alone(policy: Any) -> None:
    """Catches noise drawn from a shared stream, a policy's memory of the slot, and a seed that counts resets."""
    alone = run(1, policy=policy)
    for found in (run(3, policy=policy), run(8, policy=policy), run(2, [5, 1, 6], policy=policy)):
        assert all(same(found[number], alone[number]) for number in found)
    other = run(1, policy=policy, config=CollectConfig(seed=4, noise=0.3, epsilon=0.2))
    assert not same(other[0], alone[0])
    assert len({rollout.actions.tobytes() for rollout in alone.values()}) == 7


def test_asking_together_is_asking_alone_for_a_policy_without_rounding() -> None:
    together = CollectConfig(seed=3, noise=0.3, epsilon=0.2, batched=True)
    alone, batch = run(4, policy=Steady()), run(4, policy=Steady(), config=together)
    assert all(same(alone[number], batch[number]) for number in range(7))


def test_ends_are_told_apart() -> None:
    """Catches a truncation taken for a termination, a step too many, and an observation that is overwritten later."""
    for number, rollout in run(4).items():
        start = int(np.random.default_rng(np.random.PCG64(reset_seed(3, number))).integers(0, 10))
        steps = min(9, 12 - start)
        assert len(rollout.rewards) == steps
        assert isinstance(rollout.observations, np.ndarray)
        assert rollout.observations[:, 0].tolist() == list(range(start, start + steps + 1))
        assert rollout.terminated == (start >= 3)
    assert {len(r.rewards) for r in run(2, config=CollectConfig(max_steps=2)).values()} == {2}
    assert not any(r.terminated for r in run(2, config=CollectConfig(max_steps=1)).values())


def test_noise_is_in_halves_of_the_range_and_clipped() -> None:
    """Catches noise in absolute units (the axes have ranges 4 and 1), and actions outside the bounds."""

    class Middle:
        def predict(self, observation: Any, **_: Any) -> Any:
            return np.tile([0.0, 0.5], (len(observation), 1)), None

    found = run(1, range(400), CollectConfig(noise=0.2), Middle())
    actions = np.concatenate([rollout.actions for rollout in found.values()])
    np.testing.assert_allclose(actions.std(axis=0), [0.4, 0.1], rtol=0.1)
    wild = run(1, range(50), CollectConfig(noise=5.0), Middle())
    actions = np.concatenate([rollout.actions for rollout in wild.values()])
    assert actions.min(axis=0).tolist() == [-2, 0]
    assert actions.max(axis=0).tolist() == [2, 1]


def test_epsilon_is_the_share_of_random_actions() -> None:
    class Same:
        def predict(self, observation: Any, **_: Any) -> Any:
            return np.full(len(observation), 7), None

    found = run(1, range(300), CollectConfig(epsilon=0.4), Same(), action=Discrete(4, start=5))
    actions = np.concatenate([rollout.actions for rollout in found.values()])
    assert actions.dtype == np.int64
    assert set(actions.tolist()) == {5, 6, 7, 8}
    assert np.mean(actions != 7) == pytest.approx(0.4 * 3 / 4, abs=0.04)


def test_exploration_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise is for Box actions, got a Discrete; use epsilon \(--epsilon\)"):
        check_exploration(Discrete(2), CollectConfig(noise=0.1))
    free = Box(-np.inf, np.inf, (1,))
    with pytest.raises(ValueError, match="need a Box with finite bounds, got Box"):
        check_exploration(free, CollectConfig(), has_policy=False)
    check_exploration(free, CollectConfig())
    for wrong in ({"noise": -1.0}, {"epsilon": 1.5}, {"seed": -1}, {"max_steps": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
            CollectConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("observation", "action", "match"),
    [
        (
            gymnasium.spaces.Tuple([Discrete(2)]),
            Discrete(2),
            "observation space Tuple.* is not served; served are a Box",
        ),
        (gymnasium.spaces.Text(4), Discrete(2), "is not served; .*wrap the environment"),
        (Box(0, 255, (8, 8, 3), np.uint8), Discrete(2), "looks like an image"),
        (Dict({"camera": Box(0, 1, (2,))}), Discrete(2), "observation space Dict.* is not served"),
        (Box(0, 1, (2,)), gymnasium.spaces.MultiBinary(3), "action space MultiBinary.* is not served"),
    ],
)
def test_spaces_that_are_not_served_are_named(observation: Any, action: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        check_spaces(observation, action)


def stopped(count: int) -> Iterator[Rollout]:
    """Yield some episodes, then stop as Ctrl-C does."""
    envs = [Counter(goal=True) for _ in range(3)]
    for index, rollout in enumerate(collect(envs, None, list(range(7)), CONFIG)):
        if index == count:
            raise KeyboardInterrupt
        yield rollout


def gather(folder: Path, rollouts: Any) -> ShardFolder:
    shards = ShardFolder(folder, {"seed": 3})
    try:
        for rollout in rollouts:
            shards.add(rollout)
    finally:
        shards.flush()
    return shards


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path, count: int) -> None:
    """Catches finished episodes that are lost or made twice, and an order that depends on when they ended."""
    spaces = Counter(goal=True).observation_space, Counter().action_space
    whole = gather(tmp_path / "whole", collect([Counter(goal=True)], None, list(range(7)), CONFIG)).read(7, *spaces)
    with pytest.raises(KeyboardInterrupt):
        gather(tmp_path / "parts", stopped(count))
    again = ShardFolder(tmp_path / "parts", {"seed": 3})
    missing = again.missing(7)
    assert len(missing) == 7 - count
    with pytest.raises(ValueError, match=f"lacks {7 - count} episodes"):
        again.read(7, *spaces)
    rest = gather(tmp_path / "parts", collect([Counter(goal=True)] * 1, None, missing, CONFIG)).read(7, *spaces)
    assert whole.to_episodes().digest() == rest.to_episodes().digest()
    assert isinstance(rest.observations, dict) and isinstance(whole.observations, dict)
    np.testing.assert_array_equal(rest.observations["desired_goal"], whole.observations["desired_goal"])


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    ShardFolder(tmp_path / "run", {"seed": 3, "env": "A"})
    with pytest.raises(ValueError, match=r"begun with something else: seed 3 there, 4 asked; repeat that, or name"):
        ShardFolder(tmp_path / "run", {"seed": 4, "env": "A"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "text.txt").touch()
    with pytest.raises(ValueError, match="holds something else than collected episodes"):
        ShardFolder(tmp_path / "mine", {})
    gather(tmp_path / "cut", collect([Counter()], None, [0], CONFIG))
    shard = next((tmp_path / "cut").glob("shard-*.npz"))
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"is damaged .*remove it, and its episodes are collected again"):
        ShardFolder(tmp_path / "cut", {"seed": 3})


def test_columns_of_a_goal_environment() -> None:
    """Catches an achieved goal that is lost, and Box actions that keep the environment's units."""
    rollout = run(1, [0], goal=True)[0]
    found = Trajectories(
        rollout.observations, rollout.actions, rollout.rewards, np.array([len(rollout.rewards)]),
        np.array([rollout.terminated]), Counter(goal=True).observation_space, Counter().action_space,
    ).to_episodes({"env": "x"})  # fmt: skip
    assert found.observations.shape[1] == 3
    np.testing.assert_array_equal(found.observations[:, 2], found.observations[:, 0] + 50)
    np.testing.assert_allclose(found.actions, rollout.actions / [2, 0.5] - [0, 1], atol=1e-6)
    assert found.meta["spaces"]["observation"]["goal_columns"] == [2]
    assert found.terminated.tolist() == [rollout.terminated]
