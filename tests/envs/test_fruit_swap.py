"""The fruit swap in the simulator, and its scripted expert."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest

import dfplan_envs  # noqa: F401

pytest.importorskip("pybullet", reason="needs pybullet")

from dfplan_envs.arm.base import canonical
from dfplan_envs.arm.expert import Move, SwapExpert, next_move
from dfplan_envs.arm.fruit_swap import REST_Z, STATE_COLUMNS, SwapView
from dfplan_envs.arm.swap_rules import SLOT_XY


@pytest.fixture(scope="module")
def env() -> Iterator[Any]:
    shared = gymnasium.make("fruit-swap-v0", disable_env_checker=True).unwrapped
    yield shared
    shared.close()


def swap(env: Any, expert: SwapExpert, seed: int, **options: Any) -> list[dict[str, Any]]:
    infos = [env.reset(seed=seed, **options)[1]]
    for _ in range(300):
        _, reward, over, _, info = env.step(expert.act(env.view()))
        infos.append({**info, "reward": reward})
        if over:
            break
    return infos


def put(env: Any, fruit: int, slot: int) -> None:
    env.world.put(env.movables[fruit].id, (*SLOT_XY[slot], REST_Z[fruit]))


def test_the_columns_say_what_they_hold(env: Any) -> None:
    """Catches columns in another order, an unsigned quaternion, and a state that is a step late."""
    env.reset(seed=0)
    for action in ([0.5, 0.5, -0.5, -1], [0.5, 0, -0.5, -1]):
        state = env.step(action)[0]
    place, turn = env.panda.tool()
    apple, orange = (env.world.pose(body.id) for body in env.movables)
    wanted = {
        "joint_pos": env.panda.joints(), "tool_pos": place, "tool_rot6": turn[:, :2].T.ravel(),
        "gripper_width": env.panda.width(), "apple_pos": apple[0], "orange_pos": orange[0],
    }  # fmt: skip
    for name, value in wanted.items():
        np.testing.assert_allclose(state[STATE_COLUMNS[name]], value, atol=1e-6)
    env.world.put(env.movables[0].id, apple[0], (0.0, 0.0, -0.8, -0.6))
    quaternion = env.observe()[STATE_COLUMNS["apple_quat"]]
    np.testing.assert_allclose(quaternion, [0, 0, 0.8, 0.6], atol=1e-6)
    np.testing.assert_array_equal(canonical(np.array([0, 0, -0.8, 0.6])), [0, 0, 0.8, -0.6])
    assert state.shape == (31,) and max(part.stop for part in STATE_COLUMNS.values()) == 31


def test_one_look_does_not_tell_where_the_fruits_were() -> None:
    """Catches the first slots in the observation, in numbers or in colours: a policy without memory could know."""
    env = gymnasium.make("fruit-swap-v0", obs="both", image_size=64, disable_env_checker=True).unwrapped
    looks = []
    for slots in ((0, 2), (1, 2)):
        _, info = env.reset(seed=0, options={"slots": slots})
        assert tuple(info["initial_slots"]) == slots
        put(env, 0, 1)
        looks.append(env.observe())
    for name in ("scene", "hand", "state", "proprio"):
        np.testing.assert_array_equal(looks[0][name], looks[1][name])
    env.close()


def test_starts_are_drawn_over_all_pairs_and_within_the_slots(env: Any) -> None:
    """Catches a start that is always the same, out of its slot, or not the one asked for."""
    pairs = set()
    for seed in range(24):
        _, info = env.reset(seed=seed)
        assert tuple(info["slots"]) == tuple(info["initial_slots"])  # at rest, within 3 cm, from the first moment
        pairs.add(tuple(info["slots"]))
    assert len(pairs) == 6
    assert tuple(env.reset(seed=0, options={"slots": (2, 0)})[1]["slots"]) == (2, 0)
    with pytest.raises(ValueError, match="two different ones"):
        env.reset(options={"slots": (1, 1)})


def test_success_pays_once_and_a_lost_fruit_ends_without_pay(env: Any) -> None:
    """Catches a reward for half a swap, stages that are forgotten, and an episode that goes on without a fruit."""
    env.reset(seed=0, options={"slots": (0, 1)})
    for fruit, slot, stage in ((0, 2, 1), (1, 0, 2), (0, 1, 3)):
        put(env, fruit, slot)
        _, reward, over, _, info = env.step([0, 0, 0, 1])
        assert info["stage"] == stage and reward == float(stage == 3) and over == (stage == 3)
        assert [info["first_moved"], info["second_moved"], info["done"]] == [stage >= k for k in (1, 2, 3)]
    assert info["success"]
    env.reset(seed=0, options={"slots": (0, 1)})
    put(env, 0, 2)
    env.step([0, 0, 0, 1])
    put(env, 0, 0)
    info = env.step([0, 0, 0, 1])[4]
    assert info["stage"] == 1 and info["stage_now"] == 0  # moved back: it was there once
    env.world.put(env.movables[1].id, (0.5, 0.7, 0.05))
    for _ in range(4):
        _, reward, over, _, info = env.step([0, 0, 0, 1])
        if over:
            break
    assert over and reward == 0.0 and info["lost"].tolist() == [False, True] and not info["success"]


@pytest.mark.parametrize("first", ["apple", "orange"])
def test_the_expert_swaps_whichever_fruit_goes_first(env: Any, first: str) -> None:
    """Catches an order that is ignored, a fruit carried to the wrong slot, and stages that come out of turn."""
    slots = (2, 0)
    infos = swap(env, SwapExpert(0, order=first, noise=0.004), 1, options={"slots": slots})
    assert infos[-1]["success"] and infos[-1]["reward"] == 1.0 and 90 < len(infos) < 220
    moved = next(info for info in infos if info["stage"] == 1)
    assert moved["slots"][("apple", "orange").index(first)] == 1
    stages = [info["stage"] for info in infos]
    assert stages == sorted(stages) and set(stages) == {0, 1, 2, 3}
    assert not any(info["clipped_workspace"] or info["clipped_action"] or info["blocked"] for info in infos)


def test_the_expert_tries_again_after_a_miss_and_goes_after_a_pushed_fruit(env: Any) -> None:
    """Catches an expert that carries air, and one that puts a fruit where it was before the push."""
    expert = SwapExpert(0, order="apple", noise=0.004)
    expert._offset = np.array([-0.045, 0.0])  # beside the fruit
    assert swap(env, expert, 1, options={"slots": (2, 0)})[-1]["success"]
    pushed = gymnasium.make("fruit-swap-v0", push=1, disable_env_checker=True).unwrapped
    infos = swap(pushed, SwapExpert(3), 3)
    assert infos[-1]["success"] and infos[-1]["pushes"] == 1
    pushed.close()


def test_the_same_seed_gives_the_same_demonstration_and_seeds_both_orders(env: Any) -> None:
    """Catches a global generator in the expert, and an order that is not drawn."""
    runs = []
    for _ in range(2):
        env.reset(seed=2)
        expert = SwapExpert(5, noise=0.005)
        runs.append([env.step(expert.act(env.view()))[0] for _ in range(25)])
    np.testing.assert_array_equal(*runs)
    firsts = [SwapExpert(seed).first for seed in range(100)]
    assert 35 <= sum(firsts) <= 65
    with pytest.raises(ValueError, match=r"unknown order 'aple'\. Did you mean 'apple'"):
        SwapExpert(0, order="aple")
    with pytest.raises(ValueError, match="noise must be at least 0"):
        SwapExpert(0, noise=-1.0)


def test_the_next_move_follows_from_where_the_fruits_are() -> None:
    """Catches a plan that needs to be remembered, and a fruit put upon the other."""

    def view(apple: tuple[float, float], orange: tuple[float, float], held: tuple[bool, bool]) -> SwapView:
        fruits = np.array([[*apple, REST_Z[0]], [*orange, REST_Z[1]]])
        fruits[list(held), 2] = 0.15
        return SwapView(np.zeros(3), np.zeros(3), 0.08, fruits, np.zeros(2), held, (0, 1), 0, 10)

    left, middle, right = SLOT_XY
    aside, none = (0.6, 0.1), (False, False)
    assert next_move(view(left, middle, none), 0) == Move(0, right)
    assert next_move(view(left, middle, (True, False)), 0) == Move(0, right)  # in hand: the slot is still taken
    assert next_move(view(right, middle, none), 0) == Move(1, left)
    assert next_move(view(right, left, none), 0) == Move(0, middle)
    assert next_move(view(middle, left, none), 0) is None
    assert next_move(view(left, middle, none), 1) == Move(1, right)
    assert next_move(view(aside, middle, none), 0) == Move(1, left)  # dropped on the way
    assert next_move(view(aside, left, none), 0) == Move(0, middle)


@pytest.mark.slow
def test_the_expert_succeeds_in_98_of_100(env: Any) -> None:
    """Catches a change of physics, limits or motions that makes demonstrations fail."""
    won = [swap(env, SwapExpert(seed, noise=0.005), seed)[-1]["success"] for seed in range(100)]
    assert sum(won) >= 98
