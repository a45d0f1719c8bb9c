"""Acting without a plan, and optimising actions in imagination: with a world that is imagined exactly."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dfplan.noise import alpha_bar_table
from dfplan_policies import ActPolicy, ModelPredictivePolicy, load_policy
from dfplan_policies.mpc import distance_to_goal
from tests.policies.fakes import FakePlanner
from tests.policies.shipped import mpc, planner_for

F, H, K, O = 2, 4, 20, 4  # noqa: E741
NAN = np.full(O, np.nan)


def simulate(obs: Tensor, actions: Tensor) -> Tensor:
    """Move points (N, 4) by actions (N, n*F, 2): position += 0.1 action; states (N, n+1, 4) every F steps."""
    moved = 0.1 * actions.cumsum(1)[:, F - 1 :: F]
    states = torch.cat([obs[:, None, :2], obs[:, None, :2] + moved], 1)
    return torch.cat([states, torch.zeros_like(states)], -1)


class World:
    """A planner whose imagination is exact, whose proposals are poor, and which notes what it is asked."""

    def __init__(self, proposal: Any = (0.0, 0.0)) -> None:
        self.proposal = torch.tensor(proposal, dtype=torch.float32)
        self.spec = SimpleNamespace(
            kind="interleaved", stride=F, horizon=H, history=2, obs_dim=O, act_dim=2, dt_s=0.01, goal_columns=(0, 1)
        )
        self.levels, self.norm = K, SimpleNamespace(obs_std=torch.ones(O), act_std=torch.ones(2))
        self.checkpoint = SimpleNamespace(model=SimpleNamespace(alpha_bar=alpha_bar_table("cosine", K)))
        self.config = SimpleNamespace(steps=5)
        self.imagined: list[dict[str, Any]] = []
        self.acted: list[dict[str, Any]] = []
        self.planned: list[dict[str, Any]] = []

    def plan(self, obs: Any, goal: Any, **options: Any) -> Any:
        self.planned.append({"obs": obs, "goal": goal, **options})
        return SimpleNamespace(candidates=torch.zeros(1, options["samples"], options["horizon"] + 1, O))

    def infer_actions(self, states: Tensor, *, steps: int, generator: torch.Generator) -> Tensor:
        n = states.shape[1] - 1
        noise = 0.01 * torch.randn(len(states), n * F, 2, generator=generator)
        return self.proposal.expand(len(states), n * F, 2) + noise

    def imagine(self, obs: Tensor, actions: Tensor, **options: Any) -> Tensor:
        self.imagined.append({"obs": obs, "actions": actions, **options})
        return simulate(obs, actions)

    def estimate(self, obs: Tensor, **options: Any) -> Tensor:
        return torch.full((1, 1, O), 0.25)

    def act(self, obs: Tensor, goal: Any, **options: Any) -> Tensor:
        self.acted.append({"obs": obs, "goal": goal, **options})
        g = options["generator"]
        return torch.arange(F, dtype=torch.float32)[None, :, None] * 3 + torch.rand(1, 1, 2, generator=g)


def rows(B: int = 1, goal: tuple[float, float] = (0.5, -0.3), seen: Any = None) -> dict[str, np.ndarray]:
    seen = np.zeros(O) if seen is None else seen
    return {"observation": np.repeat(np.asarray(seen)[None], B, 0), "desired_goal": np.repeat(np.array([goal]), B, 0)}


# ---- optimising


def test_rounds_find_what_no_proposal_has() -> None:
    # Catches: elites of the highest cost, candidates that are not drawn around them, a choice that is not the best.
    goal = np.array([0.5, -0.3])
    distances = []
    for rounds in (0, 1, 8):
        policy = ModelPredictivePolicy(World(), rounds=rounds, candidates=64, spread=1.0)
        _, state = policy.predict(rows())
        memory = state.memories[0]
        assert memory is not None
        plan = torch.as_tensor(np.vstack([policy.predict(rows())[0], memory.plan]), dtype=torch.float32)
        states = simulate(torch.zeros(1, O), plan[None])
        cost = float((states[0, 1:, :2] - torch.as_tensor(goal)).norm(dim=-1).mean())
        assert memory.costs[1] == pytest.approx(cost, abs=1e-5) and memory.costs[1] <= memory.costs[0]
        distances.append(cost)
    # The best that actions within [-1, 1] can do: 0.2 per token along each axis until the goal is met.
    best = np.mean([np.hypot(max(0, 0.5 - 0.2 * i), max(0, 0.3 - 0.2 * i)) for i in range(1, H + 1)])
    assert distances[0] > distances[1] > distances[2] and distances[2] < best + 0.05


def test_candidates_are_imagined_in_one_call_from_the_state() -> None:
    # Catches: a loop over candidates, another observation, actions that the motors cannot do, wrong lengths.
    world = World((3.0, 0.0))
    policy = ModelPredictivePolicy(world, rounds=2, candidates=20, proposals=6, horizon=3)
    seen = np.array([0.1, 0.2, 0.0, 0.0])
    action, _ = policy.predict(rows(seen=seen))
    assert len(world.imagined) == 3
    for call in world.imagined:
        assert call["actions"].shape == (20, 3 * F, 2) and call["obs"].shape == (20, O) and call["steps"] == 1
        assert bool((call["obs"] == torch.as_tensor(seen, dtype=torch.float32)).all())
        assert float(call["actions"].abs().max()) <= 1.0
    chunks = world.imagined[0]["actions"][6:] - world.imagined[0]["actions"][6:].reshape(14, 3, F, 2)[
        :, :, :1
    ].repeat_interleave(F, 2).reshape(14, 6, 2)
    assert float(chunks.abs().max()) < 0.1  # noise is the same for all steps of a token
    assert world.planned[0]["samples"] == 6 and world.planned[0]["horizon"] == 3 and action.shape == (1, 2)


def test_the_last_choice_is_among_the_next_candidates_shifted() -> None:
    # Catches: a warm start that begins with actions already executed, or that is forgotten.
    world = World()
    policy = ModelPredictivePolicy(world, replan_every=3, candidates=12, proposals=4, rounds=1)
    state, chosen = None, []
    for _ in range(4):
        _, state = policy.predict(rows(), state)
        chosen.append(state.memories[0].plan)  # type: ignore[union-attr]
    second = world.imagined[2]["actions"]  # first round of the second choice
    assert len(world.imagined) == 4 and len(chosen[2]) == H * F - 3
    np.testing.assert_allclose(second[4, : H * F - 3], chosen[2], atol=1e-6)
    np.testing.assert_allclose(second[4, H * F - 3 :], second[0, H * F - 3 :], atol=1e-6)


def test_costs_are_the_users_in_environment_units() -> None:
    # Catches: a cost that is ignored, or that gets normalised states; a shape that broadcasts.
    def leftwards(states: Tensor, goal: Tensor | None) -> Tensor:
        assert goal is None and states.shape[1:] == (H + 1, O)
        return states[:, -1, 0]

    policy = ModelPredictivePolicy(World(), cost=leftwards, rounds=4, spread=1.0)
    action, _ = policy.predict({"observation": np.zeros((1, O))})
    assert action[0, 0] < -0.5
    with pytest.raises(ValueError, match=r"one number per candidate, shape \(48,\), got \(48, 5\)"):
        ModelPredictivePolicy(World(), cost=lambda s, g: s[..., 0]).predict(rows())
    with pytest.raises(ValueError, match="the cost is the distance to a goal, but there is none; pass cost="):
        ModelPredictivePolicy(World()).predict({"observation": np.zeros((1, O))})


def test_a_missing_observation_is_planned_from_its_estimate() -> None:
    # Catches: NaN that reaches the imagination.
    world = World()
    ModelPredictivePolicy(world, rounds=0).predict(rows(seen=NAN))
    assert bool((world.imagined[0]["obs"] == 0.25).all()) and world.planned[0]["obs_level"] == K


# ---- acting


def test_act_executes_its_chunk_and_asks_again() -> None:
    # Catches: a question every step, a chunk executed twice, actions that are not clipped, a missing row taken for a
    # clean one, a history that is left out.
    world = World()
    policy = ActPolicy(world, steps=7)
    state, actions = None, []
    for t in range(5):
        action, state = policy.predict(rows(seen=NAN if t == 4 else None), state)
        actions.append(action[0])
    assert len(world.acted) == 3 and [a[0] for a in actions[1::2]] == [1.0, 1.0]  # 3 + something, clipped
    assert 0 <= actions[0][0] < 1 and not np.array_equal(actions[0], actions[2])
    assert [c["obs_level"] for c in world.acted] == [0, 0, K] and all(c["steps"] == 7 for c in world.acted)
    assert [c["history"] is None for c in world.acted] == [True, False, False]
    np.testing.assert_allclose(world.acted[2]["history"].act[0], np.array(actions[:4]), rtol=1e-6)
    assert policy.telemetry(state)[0].action_evaluations == 21


@pytest.mark.parametrize("make", [ActPolicy, ModelPredictivePolicy])
def test_environments_are_apart_and_memory_is_in_the_state(make: Any) -> None:
    # Catches: one random stream for all, memory in attributes.
    def roll(numbers: list[int]) -> np.ndarray:
        policy, out = make(World()), []
        state = policy.start(numbers)
        for _ in range(5):
            actions, after = policy.predict(rows(len(numbers)), state)
            again, _ = policy.predict(rows(len(numbers)), state)
            np.testing.assert_array_equal(actions, again)
            out.append(actions)
            state = after
        return np.array(out)

    together = roll([0, 1, 2])
    assert not np.array_equal(together[:, 0], together[:, 1])
    for i in range(3):
        np.testing.assert_array_equal(roll([i])[:, 0], together[:, i])


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("mpc", {"elites": 99}, r"elites and proposals must lie in 1..candidates"),
        ("mpc", {"horizon": 9}, r"horizon must lie in 1..4 and replan_every inside it, got 9"),
        ("mpc", {"replan_every": 9}, r"replan_every inside it, got 4 and 9"),
        ("mpc", {"candidtes": 9}, r"unknown option of the policy 'mpc' 'candidtes'\. Did you mean 'candidates'"),
        ("act", {"requery_every": 3}, r"requery_every must lie in 1..2, the stride, got 3"),
        ("act", {"executor": "path"}, r"unknown option of the policy 'act' 'executor'"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        load_policy(name, planner=World(), **options)


def test_models_without_visible_actions_are_refused() -> None:
    # Catches: an optimisation of actions that change nothing.
    path: Any = FakePlanner()
    path.spec = SimpleNamespace(kind="path", stride=F, horizon=H)
    with pytest.raises(ValueError, match=r"needs a model whose states see actions, got path tokens.+interleaved"):
        ModelPredictivePolicy(path)
    with pytest.raises(ValueError, match="the policy 'mpc' needs a checkpoint, got none"):
        load_policy("mpc")


def test_the_distance_is_that_of_the_goal_s_columns() -> None:
    # Catches: the first columns taken for the place, whatever the layout says.
    states, goal = torch.tensor([[[9.0, 9, 9], [0, 3, 4], [0, 0, 0]]]), torch.tensor([0.0, 0.0])
    assert distance_to_goal(states, goal, (2, 1)).tolist() == [2.5] and distance_to_goal(states, goal).tolist() == [1.5]
    policy = mpc(planner_for("reach", "interleaved"))
    assert policy.cost(states, goal).tolist() == [2.5]
