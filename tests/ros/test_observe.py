"""What a policy is shown, at which noise level, and what its actions become."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dfplan_policies.ros.actions import to_chunk
from dfplan_policies.ros.config import ObservationSettings, RobotConfig, load_config
from dfplan_policies.ros.observe import collect, noise_share, policy_input, show, square
from dfplan_policies.ros.signals import Observation, Signals
from dfplan_policies.ros.sources import PlannerSource, PolicySource, SourceRequest, coming_actions, make_source
from dfplan_policies.ros.wire import ImageSample, JointSample
from tests.ros.rig import NAMES, config

SEEN = Observation(5.0, np.zeros(3), np.array([0.1, 0.2, 0.3]), dict.fromkeys(NAMES, 0.0), shares={"state": 0.0})


def signals(settings: RobotConfig, now_s: float = 10.0) -> Signals:
    found = Signals(settings)
    found.take([JointSample(now_s, ("c", "x", "a", "b"), np.array([3.0, 9.0, 1.0, 2.0]), np.zeros(0))])
    return found


def test_columns_come_by_name_whatever_the_order() -> None:
    # Catches: columns in the message's order; a name of another topic that is lost; a time that is not the joints'.
    settings = config(observation={"state": ["b", "apple", "a"], "latency_s": 0.01})
    cell = signals(settings)
    assert collect(Signals(settings), 10.0, None, None) is None
    cell.take([JointSample(10.05, ("apple",), np.array([7.0]), np.zeros(0), None, "", "/objects")])
    seen = collect(cell, 10.06, None, 0.04, 3)
    assert seen is not None and seen.observed_s == pytest.approx(9.99) and seen.episode == 3
    assert seen.joints.tolist() == seen.command.tolist() == [1, 2, 3]
    assert show(seen, settings).state.tolist() == [2, 7, 1]


def test_a_stale_or_missing_part_gets_a_noise_level() -> None:
    # Catches: an old picture shown as if it were new, a missing one shown as if it were black, ages of one camera taken
    # for those of another.
    settings = config(
        topics={"cameras": {"front": "/front", "hand": "/hand"}},
        observation={
            "pictures": {"scene": "front", "wrist": "hand"},
            "picture_size": 8,
            "fresh_s": 0.1,
            "missing_s": 0.5,
        },
    )
    cell = signals(settings)
    white = np.full((20, 30, 3), 255, np.uint8)
    cell.take([ImageSample(9.7, "front", white)])
    seen = collect(cell, 10.0, None, None)
    assert seen is not None and seen.shares == {"state": 0.0, "scene": pytest.approx(0.5), "wrist": 1.0}
    shown = show(seen, settings)
    assert shown.missing() == ["wrist"]
    assert (shown.pictures["scene"] == 255).all() and (shown.pictures["wrist"] == 0).all()
    with pytest.raises(ValueError, match="wrist missing or stale"):
        policy_input(shown, settings, object())
    given = policy_input(shown, settings, SimpleNamespace(accepts_levels=True))
    assert given["levels"]["scene"] == pytest.approx(0.5) and given["scene"].shape == (8, 8, 3)
    assert set(given) == {"scene", "wrist", "proprio", "state", "levels"}


def test_ages_become_shares_of_the_levels() -> None:
    # Catches: a share beyond 0..1, NaN for what never came.
    limits = ObservationSettings(fresh_s=0.1, missing_s=0.5)
    ages = [0.0, 0.1, 0.2, 0.5, 9.0, float("inf"), float("nan")]
    assert [noise_share(age, limits) for age in ages] == pytest.approx([0, 0, 0.25, 1, 1, 1, 1])


def test_a_column_that_is_not_known_makes_the_state_missing() -> None:
    # Catches: NaN in one column handed to a network; a policy asked that cannot do without.
    settings = config(observation={"state": ["a", "apple"]})
    seen = collect(signals(settings), 10.0, None, None)
    assert seen is not None
    shown = show(seen, settings)
    assert np.isnan(shown.state).all() and shown.shares["state"] == 1.0
    assert np.isnan(policy_input(shown, settings, SimpleNamespace(accepts_missing=True))).all()
    with pytest.raises(ValueError, match="state missing"):
        policy_input(shown, settings, object())


def test_pictures_are_shrunk_by_areas() -> None:
    # Catches: a corner in place of the middle, pixels picked instead of averaged, edges counted twice.
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:, 2:6] = np.arange(4)[None, :, None] * 40
    assert square(picture, 2)[0, :, 0].tolist() == [20, 100]
    assert np.array_equal(square(picture, 4), picture[:, 2:6])
    flat = np.full((7, 5, 3), 200, np.uint8)
    for size in (2, 3, 5, 8):
        assert square(flat, size).shape == (size, size, 3) and (square(flat, size) == 200).all()


def test_joint_positions_and_changes_become_a_chunk() -> None:
    # Catches: changes added to the measurement instead of the command, or not added up; a first knot that is missing;
    # times that begin at the action's end.
    chunk = to_chunk(np.array([[1.0, 1, 0.2], [1.5, 1, 0.2]]), SEEN, config())
    assert np.allclose(chunk.times_s, [5.0, 5.1, 5.2]) and chunk.observed_s == 5.0 and chunk.gripper is None
    assert np.allclose(chunk.positions, [[0.1, 0.2, 0.3], [1, 1, 0.2], [1.5, 1, 0.2]])
    settings = config(action={"form": "joint_delta", "scale": 0.5})
    chunk = to_chunk(np.array([[1.0, 0, 0], [1.0, -1, 0]]), SEEN, settings)
    assert np.allclose(chunk.positions, [[0.1, 0.2, 0.3], [0.6, 0.2, 0.3], [1.1, -0.3, 0.3]])
    settings = config(action={"normalized": True, "gripper": True}, gripper={"open_m": 0.08})
    chunk = to_chunk(np.array([[1.0, -1, 0, -1], [0, 0, 0, 0.5]]), SEEN, settings)
    assert np.allclose(chunk.positions[1], [2.0, -1.0, 0.2])
    assert chunk.gripper is not None and np.allclose(chunk.gripper, [0.0, 0.06, 0.06])
    with pytest.raises(ValueError, match=r"must have shape \(n, 3 \+ 1 for the gripper\), got \(2, 3\)"):
        to_chunk(np.zeros((2, 3)), SEEN, settings)


class Counting:
    """A policy that remembers how often it was asked, and what it was shown."""

    accepts_missing = False

    def __init__(self) -> None:
        self.shown: list[Any] = []

    def predict(self, observation: Any, state: Any, episode_start: Any, deterministic: bool) -> tuple[Any, Any]:
        self.shown.append((observation, state, episode_start))
        count = 0 if state is None else state
        return np.full((1, 3), 0.1 * count), count + 1


def test_a_policy_is_asked_in_batches_of_one_and_episodes_begin_with_starts() -> None:
    # Catches: a state that outlives its episode, a vector where a batch belongs.
    policy = Counting()
    source = PolicySource(policy, config())
    for episode, wanted in ((1, 0.0), (1, 0.1), (1, 0.2), (2, 0.0)):
        seen = Observation(5.0, np.zeros(3), np.zeros(3), dict.fromkeys(NAMES, 0.0), episode=episode)
        assert np.allclose(source.chunk(seen).positions[-1], wanted)
    assert policy.shown[0][0].shape == (1, 3) and policy.shown[3][1] is None and policy.shown[1][2] is None


def test_the_actions_to_come_are_read_from_our_policies() -> None:
    # Catches: a plan read from its beginning although some of it is done; the chosen action lost.
    policy = SimpleNamespace(limited=lambda a: np.clip(a, -1, 1), spaces=None)
    plan = SimpleNamespace(actions=np.arange(10.0)[:, None] / 5, step=4)
    state = SimpleNamespace(memories=(SimpleNamespace(plans=(plan,), step=6, pending=None),))
    assert np.allclose(coming_actions(policy, state, [[9.0]])[:, 0], [9, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1])
    state = SimpleNamespace(memories=(SimpleNamespace(pending=np.array([[0.3], [0.5]])),))
    assert coming_actions(policy, state, [[0.1]])[:, 0].tolist() == [0.1, 0.3, 0.5]
    assert coming_actions(policy, None, [[0.1]]).tolist() == [[0.1]]


def test_a_planner_is_told_the_level_of_what_is_stale() -> None:
    # Catches: a stale observation planned from as if it were clean; a level on another scale than the planner's.
    calls: list[dict[str, Any]] = []

    def plan(obs: Any, goal: Any, **options: Any) -> Any:
        calls.append({"obs": obs, **options})
        return SimpleNamespace(actions=torch.full((1, 4, 3), 5.0))

    planner = SimpleNamespace(plan=plan, levels=20, spaces=None)
    settings = config(topics={"cameras": {"front": "/f"}}, observation={"pictures": {"scene": "front"}})
    source = PlannerSource(planner, settings, None, 0, {"samples": 2})
    for share in (0.0, 0.5, 1.0):
        seen = Observation(
            5.0, np.zeros(3), np.zeros(3), dict.fromkeys(NAMES, 0.0), shares={"state": 0.0, "scene": share}
        )
        assert np.allclose(source.chunk(seen).positions[1:], 1.0)
    assert [call.get("obs_level") for call in calls] == [None, 10, 20]
    assert all(call["samples"] == 2 and call["actions"] for call in calls)


def test_sources_are_looked_up() -> None:
    # Catches: a typing error that shows as an ImportError of something else, a missing checkpoint that shows late.
    with pytest.raises(ValueError, match="source:MODULE:FUNCTION"):
        make_source(SourceRequest(config(), "source:nowhere"))
    with pytest.raises(ValueError, match="unknown policy 'dff'"):
        make_source(SourceRequest(config(), "dff"))
    with pytest.raises(ValueError, match="needs a checkpoint"):
        make_source(SourceRequest(config(), "plan"))
    assert isinstance(make_source(SourceRequest(config(), "random")), PolicySource)


def test_the_tool_is_moved_by_the_arms_model() -> None:
    # Catches: places measured from the wrong frame, joints in the model's order, moves that do not add up, a tool that
    # leaves its workspace.
    pytest.importorskip("pybullet")
    from dfplan_policies.ros.kinematics import Kinematics

    robot = load_config("panda")
    model = Kinematics(robot)
    start = np.array([0.0, -0.2, 0.0, -2.2, 0.0, 2.0, 0.785])
    place, turn = model.forward(start)
    moves = np.array([[0.03, 0.0, -0.02]] * 3)
    joints = model.path(start, moves)
    for k, row in enumerate(joints):
        at, way = model.forward(row)
        assert np.allclose(at, place + (k + 1) * moves[0], atol=1e-3)
        assert np.allclose(way[:, 2], [0, 0, -1], atol=1e-2)
    assert np.abs(np.diff(np.vstack([start, joints]), axis=0)).max() < 0.3
    low = model.path(start, np.array([[0.0, 0.0, -0.5]] * 3))
    assert model.forward(low[-1])[0][2] == pytest.approx(0.015, abs=5e-3)
    turned = model.path(start, np.zeros((1, 3)), np.array([[0.0, 0.0, 0.2]]))
    spun = model.forward(turned[0])[1] @ turn.T
    assert np.allclose(np.arctan2(spun[1, 0], spun[0, 0]), 0.2, atol=1e-2)
    robot = replace(robot, action=replace(robot.action, form="tool_delta", scale=0.04, gripper=True))
    seen = Observation(1.0, start, start, {})
    chunk = to_chunk(np.array([[1.0, 0, 0, 1.0]] * 2), seen, robot, model)
    assert np.allclose(model.forward(chunk.positions[-1])[0] - place, [0.08, 0, 0], atol=1e-3)
    with pytest.raises(ValueError, match="unknown link of the model 'hand'"):
        Kinematics(replace(robot, tool=replace(robot.tool, link="hand")))  # type: ignore[type-var]
    model.close()


class Blocks:
    """Choose three actions after an observation, and remember them."""

    block = 3

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.seen: list[float] = []

    def start(self, episodes: list[int]) -> int:
        self.begun += episodes
        return 0

    def predict(self, observation: Any, state: Any, episode_start: Any = None, deterministic: bool = True) -> Any:
        if state % 3 == 0:
            self.seen.append(float(observation[0, 0]))
        return np.full((1, 3), 0.1 * (state + 1)), state + 1


def test_a_policy_of_blocks_is_asked_for_all_of_them_and_knows_its_episode() -> None:
    # Catches: one action of six played, so that the policy remembers what never happened; the draws of the first
    # episode in every one; a block that goes on without the arm's being there.
    policy = Blocks()
    source = PolicySource(policy, config(action={"form": "joint_delta"}))
    first = source.chunk(replace(SEEN, episode=1))
    assert np.allclose(first.positions[:, 0], [0.1, 0.2, 0.4, 0.7, 0.7])
    assert first.done_s == pytest.approx(5.3) and first.times_s[-1] == pytest.approx(10.3)
    second = source.chunk(replace(SEEN, episode=1, columns=dict.fromkeys(NAMES, 7.0)))
    assert np.allclose(second.positions[:, 0], [0.1, 0.5, 1.0, 1.6, 1.6])
    source.chunk(replace(SEEN, episode=4))
    assert policy.begun == [0, 3] and policy.seen == [0.0, 7.0, 0.0]


def test_moves_of_the_tool_are_no_longer_than_they_may_be_and_start_near_the_arm() -> None:
    # Catches: a diagonal that is faster than the policy learned; an arm that is blocked and winds up.
    told: list[Any] = []

    class Tool:
        def path(self, start: Any, moves: Any, turns: Any = None, measured: Any = None) -> Any:
            told.append((moves, measured))
            return np.zeros((len(moves), 3))

    settings = config(action={"form": "tool_delta", "normalized": True, "scale": 0.04, "longest": 0.04}, tool={})
    to_chunk(np.array([[1.0, 1.0, 1.0], [0.0, 0.5, 0.0]]), SEEN, settings, Tool())
    moves, measured = told[0]
    assert np.allclose(np.linalg.norm(moves, axis=1), [0.04, 0.02]) and np.allclose(moves[0] / moves[0][0], 1)
    assert measured is SEEN.joints
    from dfplan_policies.ros.kinematics import pulled_back

    assert np.allclose(pulled_back(np.array([0.5, 0.0, 0.3]), np.array([0.4, 0.0, 0.3]), 0.06), [0.46, 0.0, 0.3])
    near = np.array([0.45, 0.0, 0.3])
    assert pulled_back(near, np.array([0.4, 0.0, 0.3]), 0.06) is near
