"""The result of an evaluation and the folder it is kept in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dfplan.evaluation.files import plain, to_json, write_json, write_npz
from dfplan.evaluation.metrics import episode_details
from dfplan.evaluation.rollout import EpisodeRecord

KEPT = 20  # episodes whose trajectories and plans are written


@dataclass(frozen=True)
class Report:
    """Hold an evaluation's numbers and records.

    Attributes:
        env_id: The environment.
        seed: Seed of the run.
        metrics: Nested plain values; ``score.strict.mean`` in the documentation is
            ``metrics["score"]["strict"]["mean"]``.
        records: One per episode.
    """

    env_id: str
    seed: int
    metrics: Mapping[str, Any]
    records: Sequence[EpisodeRecord]

    def to_json(self) -> str:
        """Return the metrics as JSON text, the same as ``metrics.json``."""
        return to_json(self.metrics)

    def save(self, folder: str | Path, config: Mapping[str, Any] | None = None) -> Path:
        """Write the run folder; every file appears whole or not at all, ``metrics.json`` last.

        ``config.json`` (the given configuration), ``episodes.json`` (numbers of each episode), ``actions.npz`` (all
        actions, for the policy ``replay``), ``trajectories.npz`` (states and plans of the first 20 episodes),
        ``metrics.json``.

        Args:
            folder: Made if it is not there; files of the same names are replaced.
            config: What the run was asked to do.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", config or {})
        write_json(folder / "episodes.json", episode_details(self.env_id, self.records))
        write_npz(folder / "actions.npz", self._actions())
        write_npz(folder / "trajectories.npz", self._trajectories())
        write_json(folder / "metrics.json", self.metrics)
        return folder

    def _actions(self) -> dict[str, Any]:
        return {
            "env": np.array(self.env_id),
            "seed": np.array(self.seed),
            "episodes": np.array([r.number for r in self.records]),
            "lengths": np.array([r.steps for r in self.records]),
            "actions": np.concatenate([r.actions for r in self.records]),
        }

    def _trajectories(self) -> dict[str, Any]:
        """Flatten the first episodes: states one after the other, plans one after the other with episode and step."""
        kept = self.records[:KEPT]
        plans = [(r.number, plan) for r in kept for plan in r.telemetry.plans]
        arrays = {
            "episodes": np.array([r.number for r in kept]),
            "lengths": np.array([len(r.observations) for r in kept]),
            "observations": np.concatenate([r.observations for r in kept]),
            "goals": np.stack([r.goal for r in kept]),
            "plan_episodes": np.array([number for number, _ in plans], dtype=np.int64),
            "plan_steps": np.array([plan.step for _, plan in plans], dtype=np.int64),
            "plan_arrival_steps": np.array([plan.arrival_steps for _, plan in plans], dtype=np.float64),
        }
        if plans:
            arrays["plans"] = np.stack([plan.states for _, plan in plans]).astype(np.float32)
        return arrays


def flatten(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested metrics to dotted keys, for example ``score.strict.mean``."""
    flat: dict[str, Any] = {}
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = plain(value)
    return flat
