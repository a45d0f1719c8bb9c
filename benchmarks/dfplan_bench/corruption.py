"""Sensors that fail: a policy that sees only what is left of its observations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
STEPS = 4096  # failures are drawn for this many steps of an episode


@dataclass(frozen=True)
class Corruption:
    """Say how a sensor fails.

    Attributes:
        share: Share of the steps without an observation, in outages of ``outage`` steps on average; the first step is
            always seen.
        outage: Mean length of an outage, steps.
        noise: (O,) standard deviation of Gaussian noise, environment units; None is no noise.
        hold: Whether a missing observation is replaced by the last one that was seen, as if it were new; if not, it is
            all NaN.
        seed: With the episode's number, decides when the sensor fails and how.
    """

    share: float = 0.0
    outage: float = 25.0
    noise: FloatArray | None = None
    hold: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1 or self.outage < 1:
            raise ValueError(f"share must lie in [0, 1) and outage be at least 1, got {self.share} and {self.outage}")

    def gone(self, episode: int) -> NDArray[np.bool_]:
        """Return which steps of an episode have no observation: a two-state Markov chain."""
        u = np.random.default_rng([self.seed, episode, 0]).random(STEPS)
        end, begin = 1 / self.outage, self.share / ((1 - self.share) * self.outage)
        out = np.zeros(STEPS, dtype=bool)
        for t in range(1, STEPS):
            out[t] = u[t] >= end if out[t - 1] else u[t] < begin
        return out

    def noises(self, episode: int, width: int) -> FloatArray:
        """Return the noise (STEPS, O) of an episode."""
        scale = np.zeros(width) if self.noise is None else np.asarray(self.noise)
        return np.random.default_rng([self.seed, episode, 1]).normal(size=(STEPS, width)) * scale


@dataclass(frozen=True)
class Sensor:
    """Remember one environment's sensor.

    Attributes:
        episode: Number of the episode.
        step: Steps taken.
        last: (O,), what was seen last.
        gone: bool (STEPS,), when there is nothing to see.
        noise: (STEPS, O).
    """

    episode: int
    step: int
    last: FloatArray
    gone: NDArray[np.bool_]
    noise: FloatArray


@dataclass(frozen=True)
class CorruptedState:
    """Hold the sensors, and the state of the policy behind them."""

    inner: Any
    sensors: tuple[Sensor | None, ...]
    episodes: tuple[int, ...]


class CorruptedPolicy:
    """Show a policy a corrupted observation in place of the true one.

    Args:
        policy: A policy whose state counts episodes (`dfplan_policies.PerEnvironmentPolicy`).
        corruption: How the sensor fails; the same for every policy, step by step.
    """

    def __init__(self, policy: Any, corruption: Corruption) -> None:
        self.policy, self.corruption = policy, corruption

    def start(self, episodes: list[int]) -> CorruptedState:
        """Return the state for environments that are about to begin the given episodes."""
        inner = self.policy.start(episodes)
        return CorruptedState(inner, (None,) * len(episodes), tuple(episodes))

    def telemetry(self, state: CorruptedState) -> Any:
        """Return what acting has cost."""
        return self.policy.telemetry(state.inner)

    def predict(
        self, observation: Any, state: CorruptedState | None = None, episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[FloatArray, CorruptedState]:  # fmt: skip
        """Choose actions for a batch of environments from what their sensors show.

        Raises:
            ValueError: If no state is given; these policies are begun by ``start``.
        """
        if state is None:
            raise ValueError("a corrupted policy must be begun by start(episodes)")
        rows = np.asarray(observation["observation"], dtype=np.float64)
        begins = np.zeros(len(rows), dtype=bool) if episode_start is None else np.asarray(episode_start, dtype=bool)
        sensors, shown = [], []
        for i, (sensor, row) in enumerate(zip(state.sensors, rows, strict=True)):
            if sensor is None or (begins[i] and sensor.step > 0):
                number = state.episodes[i] if sensor is None else sensor.episode + 1
                c = self.corruption
                sensor = Sensor(number, 0, row, c.gone(number), c.noises(number, len(row)))
            sensor, seen = self._look(sensor, row)
            sensors.append(sensor)
            shown.append(seen)
        action, inner = self.policy.predict(
            {**observation, "observation": np.array(shown)}, state.inner, episode_start, deterministic
        )
        return action, CorruptedState(inner, tuple(sensors), state.episodes)

    def _look(self, sensor: Sensor, row: FloatArray) -> tuple[Sensor, FloatArray]:
        """Return the sensor one step later and what it shows."""
        t = sensor.step
        seen = row + sensor.noise[t]
        if sensor.gone[t]:
            return replace(sensor, step=t + 1), sensor.last if self.corruption.hold else np.full_like(row, np.nan)
        return replace(sensor, step=t + 1, last=seen), seen
