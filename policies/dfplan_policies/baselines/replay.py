"""The ``replay`` policy: the recorded actions of an evaluation run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dfplan_policies.per_environment import PerEnvironmentPolicy
from dfplan_policies.protocol import FloatArray

ACTIONS_FILE = "actions.npz"
KEYS = ("episodes", "lengths", "actions", "env", "seed")


class ReplayPolicy(PerEnvironmentPolicy[tuple[int, int]]):
    """Repeat the actions of a run, episode by episode.

    Args:
        path: A run folder, or its ``actions.npz`` with ``episodes`` (E,), ``lengths`` (E,), ``actions`` (sum of
            lengths, A), ``env`` and ``seed``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file does not hold a run's actions.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.path = path / ACTIONS_FILE if path.is_dir() else path
        if not self.path.is_file():
            raise FileNotFoundError(
                f"no recorded actions at {self.path}; pass a run folder of `dfplan eval` or its {ACTIONS_FILE}"
            )
        with np.load(self.path, allow_pickle=False) as file:
            missing = [key for key in KEYS if key not in file]
            if missing:
                raise ValueError(
                    f"{self.path} must hold {', '.join(KEYS)}; {', '.join(missing)} missing: is it a run's file?"
                )
            lengths, actions = file["lengths"], file["actions"]
            if actions.ndim != 2 or int(lengths.sum()) != len(actions) or len(file["episodes"]) != len(lengths):
                raise ValueError(
                    f"{self.path} is damaged: {len(actions)} actions for lengths that add up to {int(lengths.sum())}"
                )
            parts = np.split(actions, np.cumsum(lengths)[:-1])
            self.actions = {int(n): part for n, part in zip(file["episodes"], parts, strict=True)}
            self.env, self.run_seed = str(file["env"]), int(file["seed"])

    def begin(self, episode: int) -> tuple[int, int]:
        """Go to the first action of an episode."""
        if episode not in self.actions:
            known = f"0..{max(self.actions)}" if self.actions else "none"
            raise ValueError(
                f"{self.path} holds no episode {episode} (it has {len(self.actions)}: {known}); ask for fewer episodes"
            )
        return (episode, 0)

    def act(
        self, memory: tuple[int, int], observation: FloatArray, goal: FloatArray | None
    ) -> tuple[FloatArray, tuple[int, int]]:
        """Return the next recorded action."""
        episode, step = memory
        recorded = self.actions[episode]
        if step >= len(recorded):
            raise ValueError(
                f"{self.path} holds {len(recorded)} actions of episode {episode}, step {step} asked for one more"
            )
        return recorded[step], (episode, step + 1)
