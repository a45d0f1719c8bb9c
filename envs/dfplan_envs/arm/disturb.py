"""When cameras are dark, when something is pushed and the arm is bumped: drawn once per episode."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK_S = 5.0
DARK_STEPS = 3000  # drawn ahead; then they repeat
PUSH_FROM_S, PUSH_UNTIL_S = 1.5, 11.0
BUMP_S, BUMP_SPEED = (0.2, 0.5), (0.03, 0.15)  # s, m/s
PUSH_SPEED, KNOCK_SPEED = (0.4, 0.8), (0.25, 0.5)  # m/s


def draw_dark(share: float, steps: int, control_hz: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw the steps in which cameras are dark.

    In every block of 5 s one window of ``share`` of the block is dark; where it lies in the block is drawn.

    Args:
        share: 0 to 0.9.
        steps: how many are drawn.
        control_hz: steps per second.
        rng: source of the draws; one per block, whatever the share.

    Returns:
        (steps + 1,) whether the observation before each step, and after the last, is dark; the first never is.
    """
    block = round(BLOCK_S * control_hz)
    window = round(share * block)
    dark = np.zeros(steps + 1 + block, dtype=np.bool_)
    for start in range(1, steps + 1, block):
        place = start + int(rng.random() * (block - window + 1))
        dark[place : place + window] = True
    return dark[: steps + 1]


def draw_bumps(rate_hz: float, steps: int, control_hz: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw how the arm is bumped: bursts of 0.2 to 0.5 s that begin at random, each with a velocity of its own.

    Args:
        rate_hz: bursts per second, 0 or more; none begins while another lasts.
        steps: how many are drawn.
        control_hz: steps per second.
        rng: source of the draws.

    Returns:
        (steps, 3) m/s, what is added to the tool's velocity in each step; (0, 3) for a rate of 0.
    """
    if rate_hz <= 0:
        return np.zeros((0, 3))
    found, step = np.zeros((steps, 3)), 0
    while True:
        step += 1 + int(rng.exponential(control_hz / rate_hz))
        if step >= steps:
            return found
        lasts = int(rng.integers(round(BUMP_S[0] * control_hz), round(BUMP_S[1] * control_hz) + 1))
        direction = rng.normal(size=3)
        speed = rng.uniform(*BUMP_SPEED)
        found[step : step + lasts] = speed * direction / np.linalg.norm(direction)
        step += lasts


def draw_push_steps(pushes: int, control_hz: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Draw the steps, in order, in which something is pushed: U(1.5 s, 11 s) each."""
    times = rng.uniform(PUSH_FROM_S, PUSH_UNTIL_S, pushes)
    return tuple(sorted(int(time * control_hz) for time in times))


def draw_push(rng: np.random.Generator, knocked: bool) -> tuple[float, float]:
    """Draw a push, or a knock out of the gripper: a velocity (vx, vy) in m/s, its direction uniform."""
    low, high = KNOCK_SPEED if knocked else PUSH_SPEED
    speed, angle = low + (high - low) * rng.random(), rng.uniform(-np.pi, np.pi)
    return float(speed * np.cos(angle)), float(speed * np.sin(angle))
