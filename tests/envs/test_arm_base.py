"""The arm's base: limits, rates, disturbances, cameras, saved states; on all three tasks."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv

import dfplan_envs  # noqa: F401

pytest.importorskip("pybullet", reason="needs pybullet")

from dfplan_envs.arm import _bullet
from dfplan_envs.arm.actions import WORKSPACE_HIGH, WORKSPACE_LOW
from dfplan_envs.arm.expert import field
from dfplan_envs.arm.fruit_swap import FruitSwapEnv
from dfplan_envs.arm.panda import HOME, JOINT_HIGH, JOINT_LOW, forward

IDS = ("fruit-swap-v0", "arm-reach-v0", "arm-pick-place-v0")


def made(env_id: str = "fruit-swap-v0", **options: Any) -> Any:
    return gymnasium.make(env_id, disable_env_checker=True, **options).unwrapped


@pytest.fixture(scope="module")
def env() -> Iterator[Any]:
    shared = made(render_mode="rgb_array", render_size=48)
    yield shared
    shared.close()


def play(env: Any, seed: int, steps: int = 12) -> Any:
    """Roll out drawn actions that go down to the fruits; returns all observations."""
    rng = np.random.default_rng(seed)
    first = env.reset(seed=seed)[0]
    shape = env.action_space.shape
    drawn = [np.clip(rng.uniform(-1, 1, shape) - [0, 0, 0.6, 0], -1, 1).astype(np.float32) for _ in range(steps)]
    return np.stack([first, *[env.step(action)[0] for action in drawn]])


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("obs", ["state", "both"])
def test_the_checkers_have_nothing_to_say(env_id: str, obs: str) -> None:
    """Catches unbounded spaces, a reset that depends on what was before (contacts), wrong dtypes, shared buffers."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(made(env_id, obs=obs, image_size=32, render_mode="rgb_array", render_size=32))


@pytest.mark.parametrize("obs", ["state", "image"])
def test_stable_baselines3_accepts_it(obs: str) -> None:
    """Catches spaces that its algorithms refuse."""
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(made(obs=obs, image_size=64), warn=False)


def test_speed_and_workspace_are_kept_and_reported(env: Any) -> None:
    """Catches a limit per axis taken for the whole, a limit that is not reported, and one that is but not kept."""
    env.reset(seed=0)
    before = env.panda.tool_target.copy()
    info = env.step([1, 1, 0, 1])[4]
    assert np.linalg.norm(env.panda.tool_target - before) == pytest.approx(0.04)
    assert info["clipped_speed"] and not info["clipped_action"] and not info["clipped_workspace"]
    info = env.step([0, 5, 0, 1])[4]
    assert info["clipped_action"] and not info["clipped_speed"]
    for _ in range(12):
        info = env.step([0, 1, 0, 1])[4]
    assert info["clipped_workspace"] and env.panda.tool()[0][1] == pytest.approx(WORKSPACE_HIGH[1], abs=0.004)
    info = env.step([0, -0.5, 0, 1])[4]
    assert not any(info[name] for name in ("clipped_action", "clipped_speed", "clipped_workspace", "blocked"))


@pytest.mark.parametrize("action", [[0, 0, 0], [0, 0, np.nan, 0], [[0, 0, 0, 0]]])
def test_a_wrong_action_is_refused(env: Any, action: Any) -> None:
    """Catches NaN that reaches the motors."""
    env.reset(seed=0)
    with pytest.raises(ValueError, match="a delta action must be 4 finite numbers"):
        env.step(action)


def test_the_tool_goes_where_it_is_sent_and_never_runs_far_ahead(env: Any) -> None:
    """Catches a solver's point that is off the tool, a hand that tilts, and a target that winds up."""
    env.reset(seed=0, options={"slots": (0, 2)})
    before, _ = env.panda.tool()
    for _ in range(5):
        env.step([0.5, 0.25, -0.5, 1])
    after, turn = env.panda.tool()
    np.testing.assert_allclose(after - before, [0.1, 0.05, -0.1], atol=0.004)
    assert turn[2, 2] < -0.999
    env.panda.tool_target = after + np.array([0.0, 0.2, 0.0])  # as if something had held the arm back
    info = env.step([0, 0, 0, 1])[4]
    assert info["blocked"] and env.panda.tool()[0][1] - after[1] == pytest.approx(0.06, abs=0.01)
    assert not env.step([0, 0, 0, 1])[4]["blocked"]


def test_the_chain_is_the_simulators() -> None:
    """Catches a wrong link, sign or order in the chain that the joint mode's workspace is checked with."""
    env = made("arm-reach-v0")
    rng = np.random.default_rng(0)
    for joints in [HOME, *rng.uniform(JOINT_LOW, JOINT_HIGH, (5, 7))]:
        env.panda._set_joints(joints)
        np.testing.assert_allclose(forward(joints), env.panda.tool()[0], atol=1e-4)
    env.close()


def test_absolute_and_joint_actions_go_to_their_place_within_the_limits() -> None:
    """Catches a scale that is off, and joints that take the tool through the table."""
    env = made("arm-reach-v0", action="absolute")
    env.reset(seed=0)
    for _ in range(12):
        info = env.step([0.5, -0.5, 0.0, 1])[4]
    place = WORKSPACE_LOW + np.array([0.75, 0.25, 0.5]) * (WORKSPACE_HIGH - WORKSPACE_LOW)
    np.testing.assert_allclose(env.panda.tool()[0], place, atol=0.005)
    assert not info["clipped_speed"]
    env.close()
    env = made("arm-reach-v0", action="joint")
    env.reset(seed=0, options={"target": (0.32, 0.3, 0.38)})
    rng, reported = np.random.default_rng(0), False
    for _ in range(25):
        now = env.panda.joint_target.copy()
        info = env.step(rng.uniform(-1, 1, 8))[4]
        assert np.abs(env.panda.joint_target - now).max() <= 0.15 + 1e-9
        reported = reported or info["clipped_workspace"]
        tool = env.panda.tool()[0]
        assert (tool > WORKSPACE_LOW - 0.02).all() and (tool < WORKSPACE_HIGH + 0.02).all()
    assert reported
    env.close()


def test_a_second_has_as_many_physics_steps_whatever_the_rate() -> None:
    """Catches physics that runs faster at 20 Hz, and a speed limit per step instead of per second."""
    for hz in (10, 20):
        env = made(control_hz=hz)
        env.reset(seed=0)
        steps, world_step = [], env.world.step
        env.world.step = lambda steps=steps, go=world_step: (steps.append(1), go())
        before = env.panda.tool_target.copy()
        for _ in range(hz // 2):
            env.step([0, 0.5, 0, 1])
        assert len(steps) == 120
        np.testing.assert_allclose(env.panda.tool_target - before, [0, 0.1, 0], atol=1e-9)
        env.close()


def test_dark_cameras_and_hidden_poses() -> None:
    """Catches darkness in the wrong camera, out of step with `info`, or NaN that nobody asked for."""
    env = made(obs="both", image_size=32, occlude=0.5, occlude_cameras=("scene",))
    env.reset(seed=0)
    dark = []
    for _ in range(30):
        observation, *_, info = env.step([0, 0, 0, 1])
        assert (observation["scene"].max() == 0) == info["occluded"] and observation["hand"].max() > 0
        assert np.isfinite(observation["state"]).all()
        dark.append(info["occluded"])
    assert True in dark and False in dark
    assert dark == env._live["dark"][1:31].tolist()
    env.close()
    env = made(occlude=0.5, occlude_state=True)
    env.reset(seed=0)
    for wanted in dark:
        state, *_, info = env.step([0, 0, 0, 1])
        assert info["occluded"] == wanted == np.isnan(state[17:]).all() == np.isnan(state[17:]).any()
        assert np.isfinite(state[:17]).all()
    env.close()


def test_pictures_show_the_fruits_and_the_hand_camera_moves_with_the_hand() -> None:
    """Catches a camera that looks elsewhere, channels in another order, and a hand camera that stays."""
    env = made(obs="image", image_size=64)
    seen, _ = env.reset(seed=0, options={"slots": (0, 2)})
    scene = seen["scene"].astype(int)
    red = (scene[..., 0] > 120) & (scene[..., 1] < 60)
    orange = (scene[..., 0] > 180) & (scene[..., 1] > 80) & (scene[..., 2] < 60)
    assert red.sum() > 6 and orange.sum() > 6
    assert np.argwhere(red)[:, 1].mean() < 20 < 44 < np.argwhere(orange)[:, 1].mean()  # slot 0 is on the left
    for _ in range(5):
        after = env.step([0, 1, 0, 1])[0]
    assert np.abs(after["hand"].astype(int) - seen["hand"]).mean() > 10
    assert set(seen) == {"scene", "hand", "proprio"}
    env.close()


def test_what_disturbs_does_not_change_the_start_and_distractors_nothing_at_all() -> None:
    """Catches draws that move each other, and a distractor that the arm or a fruit can touch."""
    plain = made()
    wanted, start = play(plain, 3), plain.reset(seed=3)[0]
    plain.close()
    loud = made(distractors=3)
    np.testing.assert_array_equal(play(loud, 3), wanted)
    assert [loud.world.call("getCollisionShapeData", body, -1) for body in loud._distractors] == [()] * 3
    loud.close()
    other = made(push=2, occlude=0.3, randomize=0.5)
    np.testing.assert_allclose(other.reset(seed=3)[0], start, atol=2e-3)
    body = other.movables[0]
    masses = set()
    for seed in (3, 3, 4):
        other.reset(seed=seed)
        mass, friction, *_ = other.world.call("getDynamicsInfo", body.id, -1)
        assert 0.5 <= mass / body.mass_kg <= 1.5 and 0.5 <= friction <= 1.5 and mass != body.mass_kg
        masses.add(mass)
    assert len(masses) == 2
    other.close()


def test_a_push_moves_a_fruit_and_a_knock_empties_the_gripper() -> None:
    """Catches a disturbance that is only announced."""
    env = made(push=1)
    env.reset(seed=0)
    env._live["push_steps"] = (2,)
    before = np.stack([env.world.pose(body.id)[0] for body in env.movables])
    infos = [env.step([0, 0, 0, 1])[4] for _ in range(12)]
    after = np.stack([env.world.pose(body.id)[0] for body in env.movables])
    assert np.linalg.norm(after - before, axis=1).max() > 0.005
    assert [info["disturbed"] for info in infos[:4]] == [False, False, True, False] and infos[-1]["pushes"] == 1
    env.reset(seed=0)
    orange = env.movables[1].id
    place = env.world.pose(orange)[0]
    env.panda.put(place)
    env._live["push_steps"] = (10,)
    held = []
    for k in range(14):
        env.step([0, 0, 1 if k > 3 else 0, -1])
        held.append(env.panda.held(orange))
    assert held[8] and not held[13]
    env.close()


@pytest.mark.parametrize("env_id", ["fruit-swap-v0", "arm-pick-place-v0"])
def test_a_saved_state_goes_on_bit_for_bit_elsewhere(env_id: str) -> None:
    """Catches motor targets, generators, step counts or contacts that are not in it."""
    first, other = made(env_id, push=2), made(env_id, push=2)
    body = first.movables[0].id

    def grip(env: Any, k: int) -> Any:
        return env.step([0.1, 0.3 * (k > 6), 0.8 * (k > 3), -1])[0]

    first.reset(seed=1)
    first.panda.put(first.world.pose(body)[0])
    for k in range(5):
        grip(first, k)
    saved = pickle.dumps(first.save_state())
    wanted = [grip(first, k) for k in range(5, 25)] + [first.reset()[0]]
    play(other, 7)  # another past
    other.restore_state(pickle.loads(saved))
    found = [grip(other, k) for k in range(5, 25)] + [other.reset()[0]]
    np.testing.assert_array_equal(found, wanted)
    first.restore_state(pickle.loads(saved))  # and in the world it came from
    np.testing.assert_array_equal([grip(first, k) for k in range(5, 25)], wanted[:-1])
    first.close()
    other.close()


CHILD = """
import sys
sys.path.insert(0, {root!r})
from tests.envs.test_arm_base import made, play
import hashlib
env = made()
play(env, 9, 3)
print(hashlib.sha256(play(env, 5).tobytes()).hexdigest())
"""


def test_processes_and_neighbours_make_no_difference() -> None:
    """Catches a global generator, and worlds that share a client."""
    import hashlib
    from pathlib import Path

    env, neighbour = made(), made()
    neighbour.reset(seed=2)
    steps = env.step

    def stepped(action: Any) -> Any:
        neighbour.step([0, 0, -1, -1])
        return steps(action)

    env.step = stepped
    found = hashlib.sha256(play(env, 5).tobytes()).hexdigest()
    neighbour.close()
    env.step = steps
    assert hashlib.sha256(play(env, 5).tobytes()).hexdigest() == found  # closing one leaves the other
    env.close()
    env.close()
    code = CHILD.format(root=str(Path(__file__).parents[2]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == found


def test_vectors_in_processes_give_what_one_gives() -> None:
    """Catches an environment that cannot be made in another process."""
    vector = AsyncVectorEnv([lambda: gymnasium.make("fruit-swap-v0")] * 2)
    seen, _ = vector.reset(seed=4)
    after = vector.step(np.full((2, 4), 0.5, np.float32))[0]
    vector.close()
    for row in range(2):
        single = made()
        np.testing.assert_array_equal(single.reset(seed=4 + row)[0], seen[row])
        np.testing.assert_array_equal(single.step(np.full(4, 0.5, np.float32))[0], after[row])
        single.close()


def test_importing_brings_no_simulator_and_a_missing_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an import at the top, and a bare ModuleNotFoundError."""
    code = (
        "import dfplan_envs, dfplan_envs.arm.fruit_swap, dfplan_envs.arm.expert, sys; print('pybullet' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
    monkeypatch.setitem(sys.modules, "pybullet", None)
    for env_id in IDS:
        with pytest.raises(ImportError, match=r"pip install 'dfplan\[bullet\]'"):
            made(env_id)
    with pytest.raises(ImportError, match="needs pybullet"):
        _bullet.load()


def test_wrong_options_are_refused_by_name() -> None:
    """Catches an option typo that is ignored, and a choice that falls back to another."""
    with pytest.raises(TypeError, match="Did you mean 'occlude'"):
        made(oclude=0.3)
    for options, text in (
        ({"obs": "images"}, "unknown obs 'images'. Did you mean 'image'"),
        ({"action": "joints"}, "Did you mean 'joint'"),
        ({"control_hz": 13}, "unknown control_hz"),
        ({"image_size": 48}, "unknown image_size"),
        ({"occlude": 1.0}, r"occlude must be from 0.0 to 0.9, got 1.0"),
        ({"occlude_cameras": ("wrist",)}, "unknown camera 'wrist'"),
        ({"push": -1}, "push must be"),
    ):
        with pytest.raises(ValueError, match=text):
            made(**options)
    with pytest.raises(ValueError, match="unknown render_mode"):
        FruitSwapEnv(render_mode="human")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there is always a display")
def test_a_window_without_a_display_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches pybullet's way of saying so, which is to end the process."""
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(OSError, match="DISPLAY is not set; leave out --gui"):
        made(window=True)


def test_limits_of_an_episode(env: Any) -> None:
    """Catches a limit that is ignored without a word, and a step before the first reset."""
    short = gymnasium.make("fruit-swap-v0", max_steps=3)
    with pytest.raises(gymnasium.error.ResetNeeded):
        short.unwrapped.step([0, 0, 0, 1])
    short.reset(seed=0)
    assert [short.step(np.zeros(4, np.float32))[3] for _ in range(3)] == [False, False, True]
    short.close()
    long = gymnasium.make("fruit-swap-v0", max_steps=400)
    with pytest.raises(ValueError, match="max_episode_steps=400"):
        long.reset(seed=0)
    long.close()
    with pytest.raises(ValueError, match=r"unknown option of reset 'slot'\. Did you mean 'slots'"):
        env.reset(options={"slot": (0, 1)})
    env.reset(seed=0)
    assert env.render().shape == (48, 48, 3)


def test_reach_and_pick_place_can_be_done() -> None:
    """Catches a target that is not where the state says, and success for a cube that is still held."""
    env = made("arm-reach-v0")
    state, _ = env.reset(seed=0)
    for _ in range(30):
        away = state[env.columns["target_pos"]] - state[env.columns["tool_pos"]]
        state, reward, over, _, info = env.step(np.append(np.clip(8 * away, -0.5, 0.5), 1))
        assert info["distance_to_goal"] == pytest.approx(np.linalg.norm(info["goal"] - env.panda.tool()[0]))
        if over:
            break
    assert over and reward == 1.0 and info["success"]
    env.close()
    env = made("arm-pick-place-v0")
    state, _ = env.reset(seed=0)
    cols, gripped, placed = env.columns, 0, False
    for _ in range(120):
        tool, cube, goal = (state[cols[name]].astype(float) for name in ("tool_pos", "cube_pos", "target_pos"))
        gripped += int(gripped or np.linalg.norm(tool - cube) < 0.008)
        placed = placed or (gripped > 4 and np.linalg.norm(cube - goal) < 0.012)
        if placed:
            action = np.array([0, 0, 0, 1.0])
        elif 0 < gripped <= 4:
            action = np.array([0, 0, 0, -1.0])
        else:
            way = field(tool, goal[:2], 0.03) if gripped else field(tool, cube[:2], cube[2])
            action = np.append(way, -0.4 if gripped else 0.4) / 0.4
        state, reward, over, _, info = env.step(np.clip(action, -1, 1))
        assert not over or not env.panda.near(env.movables[0].id)
        if over:
            break
    assert over and reward == 1.0 and info["success"] and not info["lost"]
    _, info = env.reset(seed=1)
    env.world.put(env.movables[0].id, info["goal"])
    env.panda.put(info["goal"])
    outcomes = [env.step([0, 0, 0, -1]) for _ in range(5)]  # in place and at rest, but in the hand
    assert env.panda.held(env.movables[0].id) and not any(over for _, _, over, _, _ in outcomes[1:])
    env.close()
