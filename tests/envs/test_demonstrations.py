"""Demonstrations of the fruit swap by number, and the bumps of the arm in them."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest

pytest.importorskip("pybullet", reason="needs pybullet")

import dfplan_envs  # noqa: F401
from dfplan_envs.arm import demonstrations
from dfplan_envs.arm.demonstrations import Demonstrations, demonstrate
from dfplan_envs.arm.disturb import BUMP_SPEED, draw_bumps
from dfplan_envs.arm.expert import SwapExpert

BUMPY = Demonstrations(seed=4, pushed=0.5, options=(("bumps", 0.8),))


def same(one: Any, two: Any) -> bool:
    return (
        all(np.array_equal(one.observations[name], two.observations[name]) for name in one.observations)
        and np.array_equal(one.actions, two.actions)
        and np.array_equal(one.rewards, two.rewards)
    )


# ---- demonstrations


def test_an_episode_is_the_same_bits_wherever_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an environment that remembers the episode before, draws that count on, a seed or number left out."""
    monkeypatch.setattr(demonstrations, "MAX_STEPS", 25)
    fresh = demonstrate(BUMPY, 2)
    env = BUMPY.make(BUMPY.is_pushed(2))
    for number in (0, 4):
        demonstrate(BUMPY, number, env)
    again = demonstrate(BUMPY, 2, env)
    assert same(again, fresh) and len(again) == 25 and not again.ended
    assert not same(demonstrate(BUMPY, 4, env), fresh)
    other = Demonstrations(seed=5, pushed=0.5, options=BUMPY.options)
    assert not same(demonstrate(other, 2, env), fresh)
    env.close()


def test_what_is_kept_is_what_happened() -> None:
    """Catches an observation or a reward of the wrong step, actions that were not executed, a push that is none."""
    number = 3
    assert BUMPY.is_pushed(number) and BUMPY.first(number) == "orange"
    found = demonstrate(BUMPY, number)
    assert found.success and found.ended and found.stage == 3 and found.pushes == 1
    seen = found.observations["state"]
    assert len(seen) == len(found) + 1 and found.actions.shape == (len(found), 4)
    assert (seen.dtype, found.actions.dtype, found.rewards.dtype) == (np.float32,) * 3
    assert found.rewards[-1] == 1.0 and not found.rewards[:-1].any()
    env = BUMPY.make(number)
    start = int(np.random.SeedSequence([BUMPY.seed, number]).generate_state(2)[0])
    rows = [env.reset(seed=start)[0], *(env.step(action)[0] for action in found.actions)]
    np.testing.assert_array_equal(np.stack(rows), seen)
    env.close()


def test_orders_and_pushes_are_shared_out() -> None:
    """Catches an order that is drawn instead of balanced, pushes that come late or in one order only."""
    plain = Demonstrations()
    assert [plain.first(n) for n in range(4)] == ["apple", "orange", "apple", "orange"]
    assert {Demonstrations(order="orange").first(n) for n in range(4)} == {"orange"}
    for share in (0.0, 0.25, 0.3, 1.0):
        each = np.array([Demonstrations(pushed=share).is_pushed(n) for n in range(200)])
        for first in (0, 1):
            pushed = np.cumsum(each[first::2])
            assert np.all(np.abs(pushed - share * np.arange(1, 101)) < 1 + 1e-9)
    calm, rough = Demonstrations(pushed=1.0).make(), Demonstrations(pushed=1.0).make(0)
    assert (calm.options.push, rough.options.push) == (0, 1)
    calm.close()
    rough.close()


def test_distractors_are_shared_out_whatever_else_happens() -> None:
    """Catches another share, distractors with a push only (or never), for one order only, and as many as by default."""
    what = Demonstrations(pushed=0.5, pushes=3, distracted=0.5, distractors=2)
    each = np.array([(n % 2, what.is_pushed(n), what.is_distracted(n)) for n in range(400)])
    for order in (0, 1):
        for pushed in (0, 1):
            rows = each[(each[:, 0] == order) & (each[:, 1] == pushed)]
            assert 0.45 <= rows[:, 2].mean() <= 0.55
    assert {plain.is_distracted(n) for plain in (Demonstrations(),) for n in range(50)} == {False}
    number = next(n for n in range(20) if what.is_distracted(n) and what.is_pushed(n))
    kinds = {what.kind(n) for n in range(40)}
    assert len(kinds) == 4 and what.kind(number) == (("push", 3), ("distractors", 2))
    env = what.make(number)
    assert (env.options.push, env.options.distractors) == (3, 2)
    env.close()


def test_every_entry_of_the_observations_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches pictures or numbers that are lost, and one array for all steps."""
    monkeypatch.setattr(demonstrations, "MAX_STEPS", 2)
    found = demonstrate(Demonstrations(options=(("obs", "both"), ("image_size", 32))), 0)
    shapes = {name: value.shape for name, value in found.observations.items()}
    assert shapes == {"scene": (3, 32, 32, 3), "hand": (3, 32, 32, 3), "proprio": (3, 17), "state": (3, 31)}
    assert not np.array_equal(found.observations["state"][0], found.observations["state"][2])


@pytest.mark.parametrize(("options", "text"), [
    ({"seed": -1}, "seed must be at least 0"), ({"order": "both"}, "order must be 'balanced', 'apple' or 'orange'"),
    ({"pushed": 1.5}, r"a share in \[0, 1\], got 1.5"),
    ({"distracted": -0.1}, "distracted must be a share"),
])  # fmt: skip
def test_wrong_choices_are_refused(options: Any, text: str) -> None:
    """Catches a choice that fails after hours, or never."""
    with pytest.raises(ValueError, match=text):
        Demonstrations(**options)


@pytest.mark.slow
def test_the_expert_copes_with_bumps() -> None:
    """Catches bumps, or a change of the expert, that spoil the data that a policy learns corrections from."""
    what = Demonstrations(options=(("bumps", 0.8),))
    env = what.make()
    won = [demonstrate(what, number, env).success for number in range(30)]
    env.close()
    assert sum(won) >= 29


# ---- bumps


@pytest.mark.parametrize(("rate_hz", "control_hz"), [(0.8, 10), (2.0, 20)])
def test_bumps_come_at_their_rate_and_last_as_long_as_they_should(rate_hz: float, control_hz: int) -> None:
    """Catches bursts that run into each other, a velocity drawn in every step, a rate per step, a fixed direction."""
    steps = 100_000
    bumps = draw_bumps(rate_hz, steps, control_hz, np.random.default_rng(0))
    assert bumps.shape == (steps, 3)
    hit = (bumps != 0).any(1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], hit.astype(int), [0]])))
    starts, ends = edges[::2], edges[1::2]
    lasts = (ends - starts)[:-1]
    assert set(lasts) == set(range(round(0.2 * control_hz), round(0.5 * control_hz) + 1))
    for start, end in zip(starts[:200], ends[:200], strict=True):
        assert (bumps[start:end] == bumps[start]).all()
    speeds = np.linalg.norm(bumps[starts], axis=1)
    assert BUMP_SPEED[0] <= speeds.min() < 0.032 and 0.148 < speeds.max() <= BUMP_SPEED[1] + 1e-12
    assert np.abs((bumps[starts] / speeds[:, None]).mean(0)).max() < 0.05  # no direction is preferred
    rest = 1 + 1 / np.expm1(rate_hz / control_hz)  # steps, the mean of 1 + floor(Exp)
    assert len(starts) == pytest.approx(steps / (rest + lasts.mean()), rel=0.05)
    assert starts[0] >= 1


def test_bumps_are_drawn_from_the_generator_alone() -> None:
    """Catches a global generator, and bumps where there are none."""
    one, two = (draw_bumps(1.0, 300, 10, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, draw_bumps(1.0, 300, 10, np.random.default_rng(4)))
    assert draw_bumps(0.0, 300, 10, np.random.default_rng(3)).shape == (0, 3)


def test_a_bump_moves_the_arm_and_nothing_else_that_is_drawn() -> None:
    """Catches a start that depends on the bumps, a bump in units of a step, one that a saved state forgets."""
    calm, bumpy = (
        gymnasium.make("fruit-swap-v0", disable_env_checker=True, bumps=rate).unwrapped for rate in (0.0, 2.0)
    )
    starts: Any = [env.reset(seed=5)[0] for env in (calm, bumpy)]
    np.testing.assert_array_equal(*starts)
    still, target = [0.0, 0.0, 0.0, 1.0], bumpy.panda.tool_target.copy()
    bumps = bumpy._live["bumps"]
    first = int(np.flatnonzero(bumps.any(1))[0])
    for step in range(first + 2):
        if step == first:
            saved = pickle.loads(pickle.dumps(bumpy.save_state()))
        rows = [env.step(still)[0] for env in (calm, bumpy)]
        assert np.array_equal(*rows) == (step < first)
    np.testing.assert_allclose(bumpy.panda.tool_target - target, bumps[: first + 2].sum(0) / 10, atol=1e-9)
    assert not calm._live["bumps"].size
    bumpy.restore_state(saved)
    for _ in range(2):
        again = bumpy.step(still)[0]
    np.testing.assert_array_equal(again, rows[1])
    for env in (calm, bumpy):
        env.close()
    with pytest.raises(ValueError, match=r"bumps must be from 0\.0 to 2\.0, got 3\.0"):
        gymnasium.make("fruit-swap-v0", bumps=3.0)


def test_a_miss_closes_on_nothing_beside_the_fruit_and_is_followed_by_another_try() -> None:
    """Catches misses that hit, that are never drawn, or after which the expert goes on as if it held the fruit."""
    what = Demonstrations(seed=3, noise=0.0, misses=0.6)
    found = [demonstrate(what, number) for number in range(3)]
    shut = [demo.observations["state"][:, 16] < 0.005 for demo in found]
    assert sum(int((own[1:] & ~own[:-1]).sum()) for own in shut) >= 2 and any(demo.success for demo in found)
    for demo, own in zip(found, shut, strict=True):
        seen = demo.observations["state"][own]
        if len(seen):
            away = [np.linalg.norm(seen[:, c : c + 2] - seen[:, 7:9], axis=1) for c in (17, 24)]
            assert np.min(away) > 0.03
    assert not any(
        (demo.observations["state"][:, 16] < 0.005).any()
        for demo in (demonstrate(Demonstrations(seed=3, noise=0.0), number) for number in range(2))
    )
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match="misses must be a probability"):
            Demonstrations(misses=wrong)
        with pytest.raises(ValueError, match="misses must be a probability"):
            SwapExpert(0, misses=wrong)
