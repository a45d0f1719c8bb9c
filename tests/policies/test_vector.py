"""Vector environments of Gymnasium: the outcome is that of single environments, in every autoreset mode."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from dfplan_policies import AgentLoop, DFPolicy, EpisodeOutcome, FunctionalPolicy, VectorLoop, run_vector_episodes
from tests.policies.shipped import Reach, planner_for, push, random

MODES = list(AutoresetMode)
EPISODES, SEED = 3, 7


class Arrive(Reach):
    """End where the goal is reached."""

    radius = 0.9

    def step(self, action: Any) -> Any:
        seen, reward, _, truncated, info = super().step(action)
        return seen, reward, info["is_success"], truncated, info


def limited(make: Any, steps: int) -> Any:
    return TimeLimit(make(), steps)


ENVS: dict[str, Any] = {
    "pendulum": partial(gymnasium.make, "Pendulum-v1", max_episode_steps=5),
    "cartpole": partial(gymnasium.make, "CartPole-v1"),
    "lake": partial(gymnasium.make, "FrozenLake-v1", max_episode_steps=6),
    "reach": partial(limited, Arrive, 12),
}
"""Box, Discrete and goal-Dict spaces; episodes that are cut and episodes that end."""


def together(policy: Any, env: str, mode: AutoresetMode, n: int = 3, kind: Any = SyncVectorEnv, **options: Any) -> Any:
    envs = kind([ENVS[env]] * n, autoreset_mode=mode, **options)
    try:
        return run_vector_episodes(policy, envs, EPISODES, seed=SEED)
    finally:
        envs.close()


def alone(policy: Any, env: str, i: int) -> list[EpisodeOutcome]:
    """Run one environment in a plain loop."""
    made, agent, found = ENVS[env](), AgentLoop(policy), []
    for j in range(EPISODES):
        observation, _ = made.reset(seed=SEED + i if j == 0 else None)
        agent.reset(i * EPISODES + j)
        total, steps, success, over = 0.0, 0, False, False
        while not over:
            observation, reward, terminated, truncated, info = made.step(agent(observation))
            total, steps, over = total + float(reward), steps + 1, terminated or truncated
            success = success or bool(info.get("is_success", False))
        found.append(EpisodeOutcome(total, steps, success))
    return found


def same(found: Any, wanted: Any) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert [(o.steps, o.success) for o in ours] == [(o.steps, o.success) for o in theirs]
        np.testing.assert_allclose([o.total for o in ours], [o.total for o in theirs], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env", ENVS)
def test_a_vector_gives_what_single_environments_give(env: str, mode: AutoresetMode) -> None:
    # Catches: an episode that begins a step too early or too late, the reward of a step that was none, success that is
    # lost when the next episode begins, the next start mistaken for the last observation.
    policy = random(env)
    wanted = [alone(policy, env, i) for i in range(3)]
    same(together(policy, env, mode), wanted)
    same(together(policy, env, mode, copy=False), wanted)
    if env == "reach":
        assert 0 < sum(o.success for own in wanted for o in own) < 3 * EPISODES


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env", ["pendulum", "reach"])
def test_planners_too(env: str, mode: AutoresetMode) -> None:
    # Catches: a plan that is followed into the next episode, goals of other rows, draws that depend on the batch.
    policy = DFPolicy(planner_for(env), seed=3)
    same(together(policy, env, mode, n=2), [alone(policy, env, i) for i in range(2)])


@pytest.mark.parametrize("mode", MODES)
def test_in_processes_too(mode: AutoresetMode) -> None:
    # Catches: observations in shared memory that are kept and written over.
    for env in ("reach", "cartpole"):
        wanted = [alone(random(env), env, i) for i in range(2)]
        same(together(random(env), env, mode, 2, AsyncVectorEnv, context="fork", copy=False), wanted)


def test_the_flags_are_those_of_the_observation_that_begins() -> None:
    # Catches: a flag for the last observation of an episode, as `done` of the last step would be.
    for mode, flagged, live in (
        (AutoresetMode.NEXT_STEP, [0, 6, 12], [6, 12]),  # step 5 ends an episode, step 6 is none, and begins the next
        (AutoresetMode.SAME_STEP, [0, 5, 10], []),
        (AutoresetMode.DISABLED, [0, 5, 10], []),
    ):
        starts: list[bool] = []

        class Asked(FunctionalPolicy):
            def predict(self, observation: Any, state: Any = None, episode_start: Any = None, **rest: Any) -> Any:
                starts.append(bool(episode_start[0]))  # noqa: B023
                return super().predict(observation, state, episode_start)

        loop = VectorLoop(
            Asked(lambda m, o, g: ([0.0], m)), SyncVectorEnv([ENVS["pendulum"]], autoreset_mode=mode)
        )  # fmt: skip
        loop.reset(seed=0)
        was = []
        for _ in range(13):
            loop.step()
            was.append(bool(loop.live[0]))
        assert [t for t, start in enumerate(starts) if start] == flagged
        assert [t + 1 for t, step in enumerate(was) if not step] == live


def test_what_is_refused() -> None:
    # Catches: a single environment taken for a vector, episodes that cannot be numbered, a loop that was never reset.
    policy = FunctionalPolicy(push)
    with pytest.raises(TypeError, match=r"needs a Gymnasium vector environment, got .*; use gymnasium.make_vec"):
        VectorLoop(policy, ENVS["pendulum"]())
    envs = SyncVectorEnv([ENVS["pendulum"]] * 2)
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        VectorLoop(policy, envs).step()
    with pytest.raises(ValueError, match="episodes must hold 2 numbers, one per environment, got 3"):
        VectorLoop(policy, envs).reset(episodes=[0, 1, 2])
    with pytest.raises(ValueError, match=r"object has no start\(episodes\)"):
        VectorLoop(object(), envs).reset(episodes=[0, 1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="episodes must be at least 1 and seed 0 or more, got 0 and 0"):
        run_vector_episodes(policy, envs, 0)
