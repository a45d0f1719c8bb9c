"""Episodes as an environment gave them, in its own spaces: what collecting makes and Minari stores."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Space
from numpy.typing import NDArray

from dfplan.data.episodes import Episodes
from dfplan.spaces import GOAL_KEYS, ActionCodec, ObservationCodec, Spaces

Array = NDArray[Any]
Observations = Array | dict[str, Array]
OBSERVATION_KEY = "observation"
SAMPLE_ROWS = 1000  # observations that decide where in them the achieved goal stands


@dataclass(frozen=True)
class Trajectories:
    """Hold E episodes end to end, as `Episodes` does, in the environment's own numbers.

    Args:
        observations: (sum(T_i + 1), *shape), or a dict of such arrays.
        actions: (sum(T_i), *shape).
        rewards: (sum(T_i),) float64.
        lengths: (E,) int64, T_i >= 1.
        terminated: (E,) bool, True where the environment ended the episode.
        observation_space: of the environment.
        action_space: of the environment.
    """

    observations: Observations
    actions: Array
    rewards: NDArray[np.float64]
    lengths: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    observation_space: Space[Any]
    action_space: Space[Any]

    def __len__(self) -> int:
        """Return the number of episodes."""
        return int(self.lengths.size)

    def pieces(self) -> Iterator[tuple[Observations, Array, NDArray[np.float64], bool]]:
        """Yield each episode as (observations of T + 1 rows, actions, rewards, terminated)."""
        row = begin = 0
        for length, ended in zip(self.lengths.tolist(), self.terminated.tolist(), strict=True):
            seen = rows_of(self.observations, slice(row, row + length + 1))
            yield seen, self.actions[begin : begin + length], self.rewards[begin : begin + length], ended
            row, begin = row + length + 1, begin + length

    def to_episodes(self, meta: Mapping[str, Any] | None = None, codecs: Spaces | None = None) -> Episodes:
        """Return the same episodes as float columns (`dfplan.spaces`).

        Bounded Box actions are scaled to [-1, 1] and a Discrete becomes one column per value; of a goal Dict the
        columns are `observation`, and the achieved goal behind it unless columns of `observation` always equal it.

        Args:
            meta: of the episodes; "spaces" is added, and "observation_key" where one part of a Dict was taken.
            codecs: how columns are made; None reads the spaces and, of goals, the first observations.

        Raises:
            ValueError: for a space that is not served; says what is and what to do.
        """
        observations, space, key = self.observations, self.observation_space, only_key(self.observation_space)
        named = (meta or {}).get("observation_key")
        if key is None and isinstance(space, Dict) and named in space.spaces:
            key = named
        if key is None and codecs is not None and codecs.observation.kind != "goal" and isinstance(observations, dict):
            key = OBSERVATION_KEY  # a goal that those who chose the columns have no use for
        if key is not None and isinstance(space, Dict) and isinstance(observations, dict):
            observations, space = observations[key], space.spaces[key]
        if codecs is None:
            codecs = Spaces(_observation_codec(space, observations), ActionCodec.from_space(self.action_space))
        about = {**(meta or {}), "spaces": _plain(codecs), **({"observation_key": key} if key else {})}
        seen, taken = codecs.observation.encode(observations), codecs.action.encode(self.actions)
        seen32, taken32, rewards32 = (array.astype(np.float32) for array in (seen, taken, self.rewards))
        return Episodes(seen32, taken32, rewards32, self.lengths, about, self.terminated)


def _observation_codec(space: Space[Any], observations: Observations) -> ObservationCodec:
    samples = rows_of(observations, slice(0, SAMPLE_ROWS))
    return ObservationCodec.from_space(space, samples if isinstance(samples, dict) else None)


def rows_of(observations: Any, rows: slice) -> Any:
    """Cut rows out of an array, or out of each array of a (nested) dict."""
    if isinstance(observations, dict):
        return {key: rows_of(array, rows) for key, array in observations.items()}
    return observations[rows]


def join(parts: list[Any]) -> Any:
    """Join arrays, or (nested) dicts of arrays, end to end."""
    if isinstance(parts[0], Mapping):
        return {key: join([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)


def only_key(space: Space[Any]) -> str | None:
    """Return "observation" for a Dict of which only that part can be used: one that is no goal Dict of vectors."""
    if not isinstance(space, Dict) or not isinstance(space.spaces.get(OBSERVATION_KEY), Box):
        return None
    goals = all(isinstance(space.spaces.get(key), Box) for key in GOAL_KEYS)
    return None if goals else OBSERVATION_KEY


def check_spaces(observation_space: Space[Any], action_space: Space[Any]) -> None:
    """Refuse spaces that cannot become columns, before any work.

    Raises:
        ValueError: names the space, what is served and what to do.
    """
    key = only_key(observation_space)
    part = observation_space.spaces[key] if key and isinstance(observation_space, Dict) else observation_space
    ObservationCodec.from_space(part)
    ActionCodec.from_space(action_space)


def vector_spaces(observation_width: int, action_width: int) -> dict[str, Any]:
    """Describe data whose columns are the environment's own: plain vectors, actions within [-1, 1]."""
    observation = Box(-math.inf, math.inf, (observation_width,))
    action = Box(-1.0, 1.0, (action_width,), np.float32)
    return _plain(Spaces(ObservationCodec.from_space(observation), ActionCodec.from_space(action)))


def _plain(codecs: Spaces) -> dict[str, Any]:
    """Return what JSON would give back, lists in place of tuples."""
    found: dict[str, Any] = json.loads(json.dumps(codecs.to_dict()))
    return found
