"""Whole episodes as training batches, cut into blocks and padded at their end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dfplan.episode.layout import EpisodeSpec
from dfplan.normalizer import Normalizer
from dfplan.windows import EpisodeArrays

NEAR = 4  # a batch is drawn out of so many batches of episodes that are about as long
SHIFTED = 0.5  # share of batches that stand somewhere in the layout instead of at its beginning


@dataclass(frozen=True)
class EpisodeBatch:
    """Hold normalised tokens of whole episodes and what counts in the loss.

    Attributes:
        x0: (B, n, D) clean tokens, n at most T.
        weight: (B, n, D), 1 where an entry counts in the loss, 0 where it is padding or not to be imitated.
        valid: bool (B, n), False for tokens behind the end.
        first: Position of the first token in the layout.
    """

    x0: Tensor
    weight: Tensor
    valid: Tensor
    first: int


class EpisodeWindows:
    """Draw random episodes as normalised tokens, each from its beginning, or from a random block if they are not whole.

    With ``phases`` above 1 a whole episode begins at one of its first steps, so that its blocks are cut elsewhere every
    time. An episode that is longer than the layout is cut. The actions of a last block that is not full count, the
    observation after it does not. Actions that are not to be imitated (`Episodes.imitated`) are part of the past, and
    do not count.

    Args:
        episodes: The data.
        spec: The layout.
        norm: The statistics.
        phases: First steps that a whole episode is cut from, 1 to the layout's stride; 1 for pictures that are taken at
            the beginning of a block only.

    Raises:
        ValueError: If the data's widths do not fit the layout, there is no episode of a step, or ``phases`` is out of
            range.
    """

    def __init__(self, episodes: EpisodeArrays, spec: EpisodeSpec, norm: Normalizer, phases: int = 1) -> None:
        if not 1 <= phases <= spec.stride:
            raise ValueError(f"phases must lie in 1..{spec.stride}, the steps of a block, got {phases}")
        for name, array, width in (
            ("observations", episodes.observations, spec.obs_dim),
            ("actions", episodes.actions, spec.act_dim),
        ):
            if array.ndim != 2 or array.shape[1] != width:
                raise ValueError(
                    f"{name} must have shape (n, {width}), got {array.shape}; the layout and the data differ"
                )
        self.spec, self.norm, self.episodes, self.phases = spec, norm, episodes, phases
        told = getattr(episodes, "imitated", None)
        self._imitated = np.ones(len(episodes.actions), dtype=bool) if told is None else told
        lengths = np.asarray(episodes.lengths, dtype=np.int64)
        if lengths.max(initial=0) < 1:
            raise ValueError("the data hold no episode of at least one step")
        ends = np.cumsum(lengths)
        rows = [(b + i, b, e) for i, (b, e) in enumerate(zip(ends - lengths, ends, strict=True)) if e > b]
        self._rows = sorted(rows, key=lambda row: row[2] - row[1])  # neighbours need little padding

    def __len__(self) -> int:
        """Count the episodes."""
        return len(self._rows)

    def _cut(self, row: tuple[int, int, int], start: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cut an episode, which begins at these rows of observations and actions, from a step on."""
        first, begin, end = row
        seen = self.episodes.observations[first + start : first + end - begin + 1]
        return self._tokens(
            seen, self.episodes.actions[begin + start : end], self._imitated[begin + start : end], self.norm
        )

    def _tokens(
        self, obs: NDArray[np.float32], act: NDArray[np.float32], imitated: NDArray[np.bool_], norm: Normalizer
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cut one episode: tokens (n, D), weights (n, D), valid (n,)."""
        spec = self.spec
        obs, act = obs[: spec.steps + 1], act[: spec.steps]
        blocks, F = -(-len(act) // spec.stride), spec.stride
        seen = norm.obs(torch.from_numpy(np.ascontiguousarray(obs[::F])))
        done = norm.act(torch.from_numpy(np.ascontiguousarray(act))).flatten()
        x0 = torch.zeros(1 + 2 * blocks, spec.width)
        weight, valid = torch.zeros_like(x0), torch.zeros(len(x0), dtype=torch.bool)
        rows = 2 * torch.arange(len(seen))
        x0[rows, : spec.obs_dim], weight[rows, : spec.obs_dim], valid[rows] = seen, 1.0, True
        flat = torch.zeros(blocks * spec.act_columns)
        flat[: len(done)] = done
        counts = torch.zeros(len(flat))
        counts[: len(done)] = torch.from_numpy(np.repeat(imitated[: spec.steps], spec.act_dim)).float()
        x0[1::2, spec.obs_dim :] = flat.reshape(blocks, -1)
        weight[1::2, spec.obs_dim :] = counts.reshape(blocks, -1)
        valid[1::2] = True
        return x0, weight, valid

    def draw(self, batch: int, rng: np.random.Generator) -> EpisodeBatch:
        """Draw ``batch`` episodes of about the same length, all equally likely; the same state gives the same ones.

        Half of the batches stand somewhere in the layout instead of at its beginning, so that a policy which takes
        longer than the data's longest episode meets no position that was never trained.
        """
        near = min(len(self), NEAR * batch)
        which = (int(rng.integers(0, len(self))) + rng.integers(0, near, batch)) % len(self)
        rows, F = [self._rows[i] for i in which], self.spec.stride
        if not self.spec.whole:  # a picture may be taken at the beginning of a block only
            starts = [F * int(rng.integers(0, -(-(row[2] - row[1]) // F))) for row in rows]
        elif self.phases > 1:
            starts = [int(rng.integers(0, min(self.phases, row[2] - row[1]))) for row in rows]
        else:
            starts = [0] * batch
        chosen = [self._cut(row, start) for row, start in zip(rows, starts, strict=True)]
        n = max(len(x0) for x0, _, _ in chosen)
        shift, share = int(rng.integers(0, (self.spec.tokens - n) // 2 + 1)), float(rng.random())

        def padded(values: Tensor) -> Tensor:
            return torch.cat([values, values.new_zeros(n - len(values), *values.shape[1:])])

        x0, weight, valid = (torch.stack([padded(parts[i]) for parts in chosen]) for i in range(3))
        return EpisodeBatch(x0, weight, valid, 2 * shift if share < SHIFTED else 0)
