"""Gymnasium's spaces as columns and back."""

from __future__ import annotations

import json
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dfplan.spaces import ActionCodec, ObservationCodec, Spaces


def goal_space(own: int = 4, goal: int = 2) -> spaces.Dict:
    def box(n: int) -> spaces.Box:
        return spaces.Box(-np.inf, np.inf, (n,), np.float64)

    return spaces.Dict({"observation": box(own), "achieved_goal": box(goal), "desired_goal": box(goal)})


@given(arrays(np.float64, (5, 2, 3), elements=st.floats(-1, 1)))
def test_bounded_actions_survive_the_round_trip(unit: Any) -> None:
    """Catches centre and half width mixed up, an axis lost, or a bound overstepped by rounding."""
    low, high = np.array([[-2, 0, 1], [5, -9, 0]]), np.array([[2, 1, 4], [6, 9, 0.1]])
    space = spaces.Box(low.astype(np.float32), high.astype(np.float32))
    codec = ActionCodec.from_space(space)
    actions = codec.decode(unit.reshape(5, 6))
    assert actions.dtype == np.float32 and all(space.contains(a) for a in actions)
    np.testing.assert_allclose(codec.encode(actions), unit.reshape(5, 6), atol=2e-5)
    np.testing.assert_array_equal(codec.decode(np.full(6, 7.0)), space.high)


def test_unbounded_actions_are_left_as_they_are() -> None:
    """Catches a missing bound that turns into NaN or a clip."""
    codec = ActionCodec.from_space(spaces.Box(np.array([-np.inf, -1.0]), np.array([np.inf, 3.0]), dtype=np.float64))
    np.testing.assert_allclose(codec.encode([40.0, 3.0]), [40.0, 1.0])
    np.testing.assert_allclose(codec.decode([40.0, 1.0]), [40.0, 3.0])
    np.testing.assert_allclose(codec.limit([40.0, 1.5]), [40.0, 1.0])
    again = ActionCodec.from_dict(json.loads(json.dumps(codec.to_dict(), allow_nan=False)))
    assert again == codec


@pytest.mark.parametrize("start", [0, -3])
def test_discrete_actions_are_one_hot(start: int) -> None:
    """Catches a start that is forgotten one way or added twice."""
    space = spaces.Discrete(3, start=start)
    codec = ActionCodec.from_space(space)
    chosen = np.arange(3) + start
    columns = codec.encode(chosen)
    np.testing.assert_array_equal(columns, 2 * np.eye(3) - 1)
    np.testing.assert_array_equal(codec.decode(columns), chosen)
    assert space.contains(codec.decode(np.array([0.1, 0.3, 0.2])))
    assert ActionCodec.from_dict(codec.to_dict()) == codec
    with pytest.raises(ValueError, match=f"must lie in {start}..{start + 2}"):
        codec.encode(start + 3)


def test_the_achieved_goal_is_found_among_the_columns() -> None:
    """Catches columns that are appended though they are there, or in another order."""
    rng = np.random.default_rng(0)
    own = rng.normal(size=(50, 4))
    codec = ObservationCodec.from_space(goal_space(), {"observation": own, "achieved_goal": own[:, [2, 0]]})
    assert codec.goal_columns == (2, 0) and codec.width == 4 and not codec.appended
    value = {"observation": own, "achieved_goal": own[:, [2, 0]], "desired_goal": own[:, :2]}
    np.testing.assert_array_equal(codec.encode(value), own)
    np.testing.assert_array_equal(codec.goal(value), own[:, :2])  # type: ignore[arg-type]
    assert codec.batched(value) and not codec.batched({k: v[0] for k, v in value.items()})


def test_a_goal_that_is_no_column_is_appended() -> None:
    """Catches a goal that matches a column by chance (it never moves in the samples), or is taken for known."""
    rng = np.random.default_rng(0)
    own, goal = rng.normal(size=(50, 4)), rng.normal(size=(50, 2))
    for samples in (
        None,
        {"observation": own, "achieved_goal": goal},
        {"observation": own * 0, "achieved_goal": goal * 0},
    ):
        codec = ObservationCodec.from_space(goal_space(), samples)
        assert codec.goal_columns == (4, 5) and codec.width == 6
        found = codec.encode({"observation": own, "achieved_goal": goal})
        np.testing.assert_array_equal(found, np.concatenate([own, goal], 1))
    assert ObservationCodec.from_dict(json.loads(json.dumps(codec.to_dict()))) == codec
    with pytest.raises(ValueError, match="needs the keys achieved_goal, got \\['observation'\\]"):
        codec.encode({"observation": own})


@pytest.mark.parametrize(
    ("space", "match"),
    [
        (spaces.Tuple([spaces.Discrete(2)]), "Tuple.*is not served; served are a Box, a Discrete, or a Dict"),
        (spaces.Dict({"camera": spaces.Box(0, 1, (2,))}), "Dict.*is not served"),
        (spaces.Box(0, 255, (8, 8, 3), np.uint8), "looks like an image"),
        (spaces.Box(0, 1, (0,)), "is empty"),
        (spaces.Text(3), "is not served"),
    ],
)
def test_observations_that_are_not_served(space: Any, match: str) -> None:
    """Catches a space that is flattened into nonsense."""
    with pytest.raises(ValueError, match=match):
        ObservationCodec.from_space(space)


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3), spaces.Tuple([])])
def test_actions_that_are_not_served(space: Any) -> None:
    """Catches an action space that is taken for a Box."""
    with pytest.raises(ValueError, match="is not served; served are a Box or a Discrete: wrap"):
        ActionCodec.from_space(space)


def test_the_spaces_of_a_vector_environment_are_those_of_one() -> None:
    """Catches a batch axis that becomes part of an observation."""
    one = Spaces.from_env(gymnasium.make("CartPole-v1"))
    many = Spaces.from_env(gymnasium.make_vec("CartPole-v1", num_envs=3))
    assert one == many and one.observation.width == 4 and one.action.width == 2
    assert Spaces.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    with pytest.raises(ValueError, match="spaces are damaged"):
        Spaces.from_dict({"action": {}})


def test_some_columns_of_a_box_are_kept() -> None:
    """Catches columns in another order, a choice among the kept taken for one among all, an old width."""
    codec = ObservationCodec.from_space(spaces.Box(-1, 1, (2, 3))).keeping([5, 0, 3])
    seen = np.arange(12.0).reshape(2, 2, 3)
    np.testing.assert_array_equal(codec.encode(seen), [[5, 0, 3], [11, 6, 9]])
    assert codec.width == 3 and codec.batched(seen) and not codec.batched(seen[0])
    fewer = codec.keeping([2, 0])
    np.testing.assert_array_equal(fewer.encode(seen), [[3, 5], [9, 11]])
    for one in (codec, fewer):
        assert ObservationCodec.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_where_all_columns_are_kept_nothing_is_stored() -> None:
    """Catches checkpoints and data of before that no longer compare equal, or cannot be read."""
    codec = ObservationCodec.from_space(spaces.Box(-1, 1, (3,)))
    assert "keep" not in codec.to_dict() and ObservationCodec.from_dict(codec.to_dict()) == codec


@pytest.mark.parametrize("columns", [[], [3], [-1], [0, 7]])
def test_columns_that_are_not_there_are_refused(columns: list[int]) -> None:
    """Catches no column taken for all of them, and a number counted from the end."""
    codec = ObservationCodec.from_space(spaces.Box(-1, 1, (3,)))
    with pytest.raises(ValueError, match="columns must be some of 0 to 2, got"):
        codec.keeping(columns)
    with pytest.raises(ValueError, match="columns must be some of 0 to 1, got"):
        codec.keeping([2, 1]).keeping([2])


def test_columns_are_kept_of_a_box_only() -> None:
    """Catches a goal or a number that loses its meaning."""
    for space in (spaces.Discrete(4), goal_space()):
        with pytest.raises(ValueError, match="keep must name numbers of a Box"):
            ObservationCodec.from_space(space).keeping([0])
