"""`EpisodePolicy`: act on all that was seen and done since the episode began."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dfplan.episode.model import check_temperature
from dfplan.noise import normal_like
from dfplan.vision import frame_columns
from dfplan_policies.per_environment import PerEnvironmentPolicy, PolicyState
from dfplan_policies.plans import Telemetry
from dfplan_policies.protocol import FloatArray, Observation
from dfplan_policies.streams import stream

CAMERAS = ("scene", "hand")


@dataclass(frozen=True)
class EpisodeMemory:
    """Remember one environment's episode.

    Attributes:
        episode: Its number.
        past: What the network remembers, None before the first observation.
        chunk: (m, A), the actions of the block that is being executed; empty before the first.
        at: How many of them have been executed.
        draws: Random streams used so far.
        evaluations: Network calls.
        recent: Observations with their levels, and the chunks after them, of a layout that is not whole.
    """

    episode: int
    past: Any
    chunk: FloatArray
    at: int = 0
    draws: int = 0
    evaluations: int = 0
    recent: tuple[tuple[FloatArray, int, FloatArray], ...] = ()


class EpisodePolicy(PerEnvironmentPolicy[EpisodeMemory]):
    """Sample the next block of actions after the whole episode so far, execute it, sample again.

    An observation with missing columns (NaN) is filled in by the model, to fit what it remembers and the columns that
    are there, and remembered at a level above 0, which says that it is not to be trusted; with level K it is not looked
    at at all. Of a checkpoint with an image autoencoder observations are dicts of pictures and ``proprio``; a picture
    that is black all over counts as missing.

    Args:
        model: A `dfplan.episode.EpisodeModel`.
        seed: With the episode's number and a count, seeds every random draw.
        steps: Reverse steps per token; the model's if None.
        missing: What becomes of a missing observation: ``"predicted"`` as said above; ``"clean"`` takes 0 for what is
            missing (the data's mean) and trusts it, as if nobody had noticed.
        missing_level: The level, as a share of K in (0, 1], that it is labelled with.
        temperature: Of sampled actions; see `dfplan.episode.EpisodeModel.next_actions`.
        candidates: Blocks of actions that are sampled to choose the most usual one from.

    Raises:
        ValueError: If a choice is unknown or a number out of range.
    """

    accepts_missing = "partly"

    def __init__(
        self, model: Any, *, seed: int = 0, steps: int | None = None, missing: str = "predicted",
        missing_level: float = 0.05, temperature: float = 0.5, candidates: int = 16,
    ) -> None:  # fmt: skip
        if missing not in ("predicted", "clean"):
            raise ValueError(f"missing must be 'predicted' or 'clean', got {missing!r}")
        if not 0.0 < missing_level <= 1.0:
            raise ValueError(f"missing_level is a share of K and must lie in (0, 1], got {missing_level}")
        self.model = model if steps is None else type(model)(model.checkpoint, steps)
        self.seed, self.missing, self.steps = seed, missing, self.model.steps
        self.spaces = model.spaces
        check_temperature(temperature)
        if candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {candidates}")
        self.temperature, self.candidates = temperature, candidates
        self.level = max(1, round(missing_level * model.levels))

    @property
    def block(self) -> int:
        """Return how many actions are chosen at a time; only the observation before the first of them is used."""
        return int(self.model.spec.stride)

    def resolved(self) -> dict[str, Any]:
        """Return the settings, for the record of a run."""
        return {
            "missing": self.missing,
            "missing_level": self.level,
            "steps": self.steps,
            "temperature": self.temperature,
            "candidates": self.candidates,
        }

    def _columns(self, observation: Observation) -> tuple[Observation, bool | None]:
        """Turn observations into columns, pictures into latents; what is missing is NaN."""
        if self.model.encoder is None:
            return super()._columns(observation)
        columns, batched = picture_columns(self.model.encoder, observation, mark=self.missing == "predicted")
        return (columns if self.spaces is None else self.spaces.observation.pick(columns)), batched

    def begin(self, episode: int) -> EpisodeMemory:
        """Return an empty memory."""
        return EpisodeMemory(episode, None, np.zeros((0, self.model.spec.act_dim)))

    def telemetry(self, state: PolicyState[EpisodeMemory]) -> list[Telemetry]:
        """Return what acting has cost so far in each environment's current episode."""
        return [Telemetry() if m is None else Telemetry((), m.evaluations) for m in state.memories]

    def act(
        self, memory: EpisodeMemory, observation: FloatArray, goal: FloatArray | None
    ) -> tuple[FloatArray, EpisodeMemory]:
        """Act in one environment."""
        if memory.at == len(memory.chunk):
            memory = self._ask(memory, observation)
        action: FloatArray = memory.chunk[memory.at]
        return action, replace(memory, at=memory.at + 1)

    def _ask(self, memory: EpisodeMemory, observation: FloatArray) -> EpisodeMemory:
        """Remember the block that is over, and what is seen now; sample the next block."""
        if not self.model.spec.whole:
            return self._ask_anew(memory, observation)
        draw, past, evaluations = self._draw(memory), memory.past, memory.evaluations
        if len(memory.chunk):
            past = self.model.done(past, torch.as_tensor(memory.chunk[None]))
            evaluations += 1
        seen, k = observation, 0
        gaps = np.isnan(observation)
        if gaps.any():
            seen, k = self._filled(past, observation, gaps, draw)
            evaluations += self.steps if k and past is not None else 0
        past = self.model.seen(past, torch.as_tensor(seen[None]), k, draw)
        if self.model.full(past):
            raise ValueError(
                f"the episode is longer than the {self.model.spec.steps} steps of the model's memory; train with a "
                "larger horizon, or end episodes earlier"
            )
        chunk = self.limited(
            self.model.next_actions(past, draw, self.temperature, self.candidates)[0].double().cpu().numpy()
        )
        return replace(
            memory, past=past, chunk=chunk, at=0, draws=memory.draws + 1, evaluations=evaluations + 1 + self.steps
        )  # fmt: skip

    def _ask_anew(self, memory: EpisodeMemory, observation: FloatArray) -> EpisodeMemory:
        """Sample the next block after the last few only."""
        draw, past, blocks = self._draw(memory), None, self.model.spec.blocks
        for seen, k, chunk in memory.recent[-(blocks - 1) :] if blocks > 1 else ():
            past = self.model.seen(past, torch.as_tensor(seen[None]), k, draw)
            past = self.model.done(past, torch.as_tensor(chunk[None]))
        evaluations = memory.evaluations + (0 if past is None else past.next)
        gaps = np.isnan(observation)
        seen, k = self._filled(past, observation, gaps, draw) if gaps.any() else (observation, 0)
        evaluations += self.steps if k and past is not None else 0
        past = self.model.seen(past, torch.as_tensor(seen[None]), k, draw)
        chunk = self.limited(
            self.model.next_actions(past, draw, self.temperature, self.candidates)[0].double().cpu().numpy()
        )
        recent = (*memory.recent, (seen, k, chunk))[-max(1, blocks - 1) :]
        return replace(
            memory, chunk=chunk, at=0, draws=memory.draws + 1, evaluations=evaluations + 1 + self.steps, recent=recent
        )

    def _filled(self, past: Any, observation: FloatArray, gaps: Any, draw: Any) -> tuple[FloatArray, int]:
        """Fill in what is missing; returns the observation and its level."""
        if self.missing == "clean":
            return np.where(gaps, self.model.norm.obs_mean.double().numpy(), observation), 0
        if past is None:  # nothing to predict from
            return np.where(gaps, self.model.norm.obs_mean.double().numpy(), observation), self.model.levels
        known = torch.as_tensor(observation[None])
        filled = self.model.next_observation(past, draw, 0.0, known)[0].double().cpu().numpy()
        return filled, self.level

    def _draw(self, memory: EpisodeMemory) -> Any:
        return normal_like(stream(self.seed, memory.episode, memory.draws))


def picture_columns(encoder: Any, observation: Observation, *, mark: bool) -> tuple[FloatArray, bool]:
    """Turn a dict of pictures and the arm's own state into columns (B, O): ``proprio``, latents, estimates.

    Args:
        encoder: A `dfplan.vision.ImageAutoencoder` of two cameras.
        observation: ``scene`` and ``hand`` uint8 (B, S, S, 3) or (S, S, 3), ``proprio`` (B, P) or (P,).
        mark: Whether the latents of a picture that is black throughout become NaN, and with them all estimates.

    Returns:
        The columns, and whether there was a batch.

    Raises:
        ValueError: If an entry is missing.
    """
    if not isinstance(observation, Mapping) or not {*CAMERAS, "proprio"} <= set(observation):
        found = sorted(observation) if isinstance(observation, Mapping) else type(observation).__name__
        raise ValueError(
            f"this policy needs {', '.join(CAMERAS)} and proprio, got {found}; make the env with obs='image'"
        )
    pictures = [np.asarray(observation[camera]) for camera in CAMERAS]
    batched = pictures[0].ndim == 4
    frames: NDArray[np.uint8] = np.stack([p if batched else p[None] for p in pictures], axis=1)
    columns = frame_columns(encoder, frames).astype(np.float64)
    if mark:
        dark = frames.max(axis=(2, 3, 4)) == 0  # (B, cameras)
        gone = np.repeat(dark, encoder.latent_dim // len(CAMERAS), axis=1)
        rest = np.repeat(dark.any(1, keepdims=True), columns.shape[1] - gone.shape[1], axis=1)
        columns[np.concatenate([gone, rest], axis=1)] = np.nan
    return np.concatenate([np.atleast_2d(np.asarray(observation["proprio"], np.float64)), columns], axis=1), batched
