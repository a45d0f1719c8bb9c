"""Plain loops and lerobot's: state kept outside the policy, queues, restarts."""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from dfplan import DFPlanner
from dfplan_envs.wrappers import GoalObservation
from dfplan_policies import AgentLoop, DFPolicy, FunctionalPolicy, LeRobotAdapter, check_policy, run_episode
from tests.core.tiny import small_spec, tiny_checkpoint
from tests.policies.fakes import FakePlanner


def push(memory: int, observation: Any, goal: Any) -> tuple[Any, int]:
    """Push towards the goal, more with every step."""
    return np.clip(0.1 * (memory % 10) * (goal - observation[:2]), -1, 1), memory + 1


def maze() -> GoalObservation:
    return GoalObservation(gymnasium.make("maze2d-umaze-v1"))


def test_a_policy_of_two_functions_is_a_policy() -> None:
    # Catches: one memory for the batch, the episode's number lost.
    check_policy(FunctionalPolicy(push), maze())
    policy = FunctionalPolicy(push, lambda episode: 100 * episode)
    _, state = policy.predict(np.zeros((2, 4)), policy.start([3, 4])) if policy.goal else (None, policy.start([3, 4]))
    assert [policy.begin(n) for n in state.episodes] == [300, 400]


def test_agent_loop_equals_predict() -> None:
    # Catches: a state that is dropped, an episode_start that stays True or never comes, an action with a batch axis.
    policy, env = DFPolicy(FakePlanner(jitter=0.2, via=[(3.0, 1.0)]), replan_every=4), maze()
    agent, state = AgentLoop(policy), None
    for episode in range(2):
        observation, _ = env.reset(seed=episode)
        agent.reset()
        for step in range(9):
            row = {k: v[None] for k, v in observation.items()}
            wanted, state = policy.predict(row, state, np.array([step == 0]))
            action = agent(observation)
            np.testing.assert_array_equal(action, wanted[0])
            observation, *_ = env.step(action)
    assert agent.state.episodes == (1,)


def test_agent_loop_by_number_and_for_policies_without_one() -> None:
    # Catches: a number that is ignored; one that is taken by a policy that cannot use it.
    agent = AgentLoop(DFPolicy(FakePlanner(), goal=np.zeros(2)))
    agent.reset(episode=7)
    agent(np.ones(4))
    assert agent.state.episodes == (7,)

    class Plain:
        def predict(
            self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: Any = 1
        ) -> Any:
            return np.array([3]), None

    agent = AgentLoop(Plain())
    assert agent(2) == 3
    with pytest.raises(ValueError, match=r"Plain has no start\(episodes\), so episode=2 says nothing to it"):
        agent.reset(episode=2)


# ---- lerobot


@cache
def planner() -> DFPlanner:
    options = {"samples": 2, "steps": 2, "precision": "fp32", "action_steps": 1}
    return DFPlanner(tiny_checkpoint(small_spec(), planner=options))  # 5 tokens of 3 steps


def batch(rows: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "observation.state": torch.randn(rows, 4, generator=g),
        "observation.goal": torch.randn(rows, 2, generator=g),
    }


def test_chunks_are_queued_for_as_many_steps_as_asked() -> None:
    # Catches: a chunk per step, a queue that runs over the reset, actions of another row or time.
    adapter = LeRobotAdapter(planner(), n_action_steps=4)
    chunk = adapter.predict_action_chunk(batch())
    assert chunk.shape == (2, 4, 2) and chunk.dtype == torch.float32
    got = [adapter.select_action(batch(seed=0 if step == 0 else 9)) for step in range(4)]
    torch.testing.assert_close(torch.stack(got, 1), chunk, rtol=0, atol=0)
    later = adapter.select_action(batch(seed=9))
    assert later.shape == (2, 2) and not torch.equal(later, got[0])
    adapter.reset()
    adapter.select_action(batch())
    fresh = LeRobotAdapter(planner(), n_action_steps=4)
    torch.testing.assert_close(fresh.select_action({**batch(), "action": torch.zeros(2, 2)}), got[0], rtol=0, atol=0)


def test_the_chunk_is_the_planner_s_and_the_goal_is_read() -> None:
    # Catches: a goal that is not passed on, a key that hides another, a row that depends on the batch.
    adapter = LeRobotAdapter(planner())
    assert adapter.n_action_steps == 3
    b = batch()
    wanted = adapter.predict_action_chunk(b)
    one = adapter.predict_action_chunk({k: v[:1] for k, v in b.items()})
    torch.testing.assert_close(one, wanted[:1], rtol=0, atol=0)
    as_environment = {
        "observation.state": b["observation.state"],
        "observation.environment_state": b["observation.goal"],
    }
    torch.testing.assert_close(adapter.predict_action_chunk(as_environment), wanted, rtol=0, atol=0)
    fixed = LeRobotAdapter(planner(), goal=b["observation.goal"][0].numpy())
    found = fixed.predict_action_chunk({"observation.state": b["observation.state"]})
    torch.testing.assert_close(found[0], wanted[0], rtol=0, atol=0)
    assert not torch.equal(found[1], wanted[1])


def test_a_policy_keeps_its_state_until_the_reset() -> None:
    # Catches: a state that is dropped, a chunk that moves it, an episode that is the same one again.
    policy = DFPolicy(FakePlanner(via=[(3.0, 1.0)], jitter=0.5), replan_every=4)
    adapter, b = LeRobotAdapter(policy), batch()
    observation = {"observation": b["observation.state"].numpy(), "desired_goal": b["observation.goal"].numpy()}
    for first in (0, 2):
        state: Any = policy.start([first, first + 1])
        for _ in range(6):
            wanted, state = policy.predict(observation, state)
            assert adapter.predict_action_chunk(b).shape == (2, 1, 2)
            np.testing.assert_array_equal(adapter.select_action(b).numpy(), wanted)
        adapter.reset()


def test_what_does_not_fit_is_named() -> None:
    # Catches: silent use of the wrong thing.
    adapter = LeRobotAdapter(planner())
    with pytest.raises(ValueError, match=r"needs 'observation.state' \(B, O\), got \['state'\]"):
        adapter.select_action({"state": torch.zeros(1, 4)})
    with pytest.raises(ValueError, match=r"must have shape \(B, O\), got \(1, 2, 4\)"):
        adapter.select_action({"observation.state": torch.zeros(1, 2, 4)})
    adapter.select_action(batch(2))
    with pytest.raises(ValueError, match=r"had 2 environments since reset\(\), got 3; call reset"):
        adapter.select_action(batch(3))
    with pytest.raises(ValueError, match=r"n_action_steps must lie in 1..15, the plan's length, got 16"):
        LeRobotAdapter(planner(), n_action_steps=16)
    with pytest.raises(ValueError, match="a policy acts step by step and takes no samples"):
        LeRobotAdapter(DFPolicy(FakePlanner()), samples=3)
    with pytest.raises(TypeError, match="takes a planner or a policy, got int"):
        LeRobotAdapter(3)


def test_an_episode_and_its_film(tmp_path: Any) -> None:
    # Catches: the first reward left out, a success that has to last, frames that are not pictures.
    image = pytest.importorskip("PIL.Image")
    from dfplan.plotting import frames_gif

    class Short(gymnasium.Env[Any, Any]):
        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            self.t = 0
            return np.array([0.0]), {}

        def step(self, action: Any) -> Any:
            self.t += 1
            return np.array([0.0]), float(self.t), False, self.t == 5, {"success": self.t == 2}

        def render(self) -> Any:
            return np.full((8, 6, 3), 40 * self.t, np.uint8)

    outcome = run_episode(FunctionalPolicy(lambda m, o, g: ([0.0], m)), Short(), 0, frame_every=2)
    assert (outcome.total, outcome.steps, outcome.success) == (15.0, 5, True)
    assert [int(f[0, 0, 0]) for f in outcome.frames] == [0, 80, 160]
    with image.open(frames_gif(tmp_path / "film.gif", outcome.frames, fps=10)) as film:
        assert (film.n_frames, film.size, film.info["duration"]) == (3, (6, 8), 100)
    with pytest.raises(ValueError, match=r"frames must be uint8 \(H, W, 3\), at least one, got none"):
        frames_gif(tmp_path / "none.gif", [])
