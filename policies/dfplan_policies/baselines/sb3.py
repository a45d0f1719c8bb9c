"""The ``sb3`` policy: any algorithm that stable-baselines3 has saved."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan_policies.protocol import FloatArray, Observation
from dfplan_policies.sb3.package import stable_baselines3

# The archive names its policy class, not its algorithm; each algorithm is recognised by what only it saves.
_ALGORITHMS = ("PPO", "SAC", "TD3", "DDPG", "A2C", "DQN")


class SB3Policy:
    """Let a saved stable-baselines3 algorithm act; observations are cut down to what it was trained on.

    Args:
        path: The ``.zip`` file.
        algorithm: ``"PPO"``, ``"SAC"``, ``"TD3"``, ``"DDPG"``, ``"A2C"`` or ``"DQN"``; None recognises it from the
            file.
        device: Where its network runs.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If stable-baselines3 is not installed.
        ValueError: If the file is not an algorithm's.
    """

    def __init__(self, path: str | Path, *, algorithm: str | None = None, device: str = "cpu") -> None:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no stable-baselines3 file at {path}; pass the .zip that model.save() wrote")
        sb3 = stable_baselines3("the policy 'sb3:FILE'")
        name = algorithm or _recognise(path)
        self.model: Any = getattr(sb3, name).load(path, device=device)

    def predict(
        self,
        observation: Observation,
        state: Any | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[FloatArray, Any]:
        """Choose actions; see `Policy.predict`."""
        seen = _cut(observation, getattr(self.model.observation_space, "spaces", None))
        action, state = self.model.predict(seen, state=state, episode_start=episode_start, deterministic=deterministic)
        return np.asarray(action), state


def _cut(observation: Any, keys: Any) -> Any:
    """Take what a model was trained on out of an observation, single or a batch, as arrays of its own.

    Args:
        observation: An array, or a dict of arrays.
        keys: The model's own keys; None if it was trained on arrays.

    Raises:
        ValueError: If a key is missing.
    """
    found = observation if isinstance(observation, Mapping) else {}
    if keys is None and found is not observation:
        return _own(observation)
    missing = [key for key in (("observation",) if keys is None else keys) if key not in found]
    if missing:
        own = "the array 'observation'" if keys is None else sorted(keys)
        raise ValueError(f"the model was trained on {own}; {missing} missing from the observation")
    return _own(found["observation"]) if keys is None else {key: _own(found[key]) for key in keys}


def _own(values: Any) -> NDArray[Any]:
    """Copy an array into memory of its own, in the byte order of this machine: torch reads no other."""
    values = np.asarray(values)
    return np.array(values, dtype=values.dtype.newbyteorder("="))


def _recognise(path: Path) -> str:
    """Find out which algorithm saved the file from the settings in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read("data"))
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a file of stable-baselines3; pass the .zip that model.save() wrote") from error
    if "clip_range" in data:
        return "PPO"
    if "target_entropy" in data:
        return "SAC"
    if "exploration_fraction" in data:
        return "DQN"
    if "policy_delay" in data:
        return "TD3"
    if "rms_prop_eps" in data or "gae_lambda" in data:
        return "A2C"
    raise ValueError(
        f"cannot tell which algorithm saved {path}; build SB3Policy(path, "
        f"algorithm=...) with one of {', '.join(_ALGORITHMS)}"
    )
