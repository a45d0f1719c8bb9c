"""How to fine-tune, and what of it a checkpoint decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from dfplan.checkpoint import Checkpoint
from dfplan.data.collecting import CollectConfig
from dfplan.objective import ObjectiveConfig
from dfplan.patterns import PatternConfig
from dfplan.training import TrainConfig

KEPT = ("weight_decay", "clip", "causal", "end_goal", "no_goal", "begin")  # of the checkpoint's own training
EVALUATION, TRAINING = 2**31, 2**31 + 1  # second words of the seeds; episodes have their numbers there


@dataclass(frozen=True)
class FinetuneConfig:
    """Say how to fine-tune.

    Attributes:
        rounds: Times that the policy collects and is trained.
        episodes: Episodes collected per round.
        steps: Optimiser steps per round.
        share: Share of the training windows that are cut out of the replay, in [0, 1].
        noise: Standard deviation of Gaussian noise on Box actions while collecting, in halves of their range.
        epsilon: Probability of a uniformly random action while collecting, in [0, 1].
        lr: Peak learning rate of each round; it rises over the first tenth of the steps and falls to 5 %.
        batch: Windows per step.
        ema: Decay of the averaged weights, which are what acts; it should forget within about a round.
        value_steps: Steps per round that the learned return goes on to be trained, if the checkpoint has one; 0 keeps
            it as it is.
        evaluate_episodes: Episodes without noise, the same starts every time, before the first round and after each;
            0: none.
        seed: Of starts, noise, windows and levels.
        precision: ``"auto"``, ``"fp32"`` or ``"bf16"``, of training.
        save_every: Steps between resumable states.
        policy: Arguments of `dfplan_policies.DFPolicy`, plain JSON values (``target_return``, ``samples`` ...).
    """

    rounds: int = 5
    episodes: int = 10
    steps: int = 500
    share: float = 0.5
    noise: float = 0.0
    epsilon: float = 0.0
    lr: float = 3e-4
    batch: int = 128
    ema: float = 0.995
    value_steps: int = 500
    evaluate_episodes: int = 10
    seed: int = 0
    precision: str = "auto"
    save_every: int = 100
    policy: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        least = {"rounds": 1, "episodes": 1, "steps": 1, "value_steps": 0, "evaluate_episodes": 0, "seed": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share must lie in [0, 1], got {self.share}")
        self.collecting()
        self._training({})

    def identity(self) -> dict[str, Any]:
        """Return what the results depend on, as plain JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "rounds"}  # more of them may follow

    def collecting(self) -> CollectConfig:
        """Return how episodes are collected."""
        return CollectConfig(self.seed, self.noise, self.epsilon)

    @property
    def evaluation_seed(self) -> int:
        """Seed of the evaluations, whose starts are none of those that are collected from."""
        return _derived(self.seed, EVALUATION)

    def round_seed(self, number: int) -> int:
        """Return the seed of the windows, levels and noise of a round's training."""
        return _derived(self.seed, TRAINING, number)

    def training(self, base: Checkpoint, number: int) -> TrainConfig:
        """Return how a round is trained: as the checkpoint was, but for what stands here."""
        known: Any = base.provenance.get("training")
        kept = dict(known) if isinstance(known, Mapping) else {}
        own: dict[str, Any] = {name: kept[name] for name in KEPT if name in kept}
        if isinstance(kept.get("objective"), Mapping):
            own["objective"] = _objective(kept["objective"])
        return self._training({**own, "model": base.model.config, "seed": self.round_seed(number)})

    def _training(self, own: Mapping[str, Any]) -> TrainConfig:
        return TrainConfig(
            steps=self.steps, batch=self.batch, lr=self.lr, warmup=self.steps // 10, ema=self.ema, holdout=0.0,
            precision=self.precision, save_every=self.save_every, **own,
        )  # fmt: skip


def _objective(values: Mapping[str, Any]) -> ObjectiveConfig:
    """Rebuild an objective from a checkpoint; entries of other versions are left out."""
    known = {f.name for f in fields(ObjectiveConfig)}
    own = {name: value for name, value in values.items() if name in known}
    if isinstance(own.get("patterns"), Mapping):
        own["patterns"] = PatternConfig(**own["patterns"])
    return ObjectiveConfig(**own)


def _derived(*words: int) -> int:
    return int(np.random.SeedSequence(list(words)).generate_state(1)[0])
