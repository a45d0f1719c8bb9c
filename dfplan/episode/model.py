"""Act on, and imagine, a whole episode: what has been seen and done is remembered, what comes next is sampled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dfplan.episode.layout import EpisodeSpec
from dfplan.models.base import Cond, remember
from dfplan.noise import Draw, add_noise
from dfplan.sampler import sample
from dfplan.schedule import make_schedule

if TYPE_CHECKING:
    from dfplan.checkpoint import Checkpoint


@dataclass(frozen=True)
class Imagined:
    """Hold imagined futures of n blocks.

    Attributes:
        observations: (B, n, O), the observation after each block, environment units.
        actions: (B, n*F, A).
    """

    observations: Tensor
    actions: Tensor


class EpisodeModel:
    """Remember episodes and sample what comes next.

    A memory is what the network keeps of the tokens so far, None before the first; it is never changed, only extended.
    Observations and actions are in environment units, in columns.

    Args:
        checkpoint: A checkpoint of whole episodes.
        steps: Reverse steps per token.

    Raises:
        ValueError: If the checkpoint is of plans.
    """

    def __init__(self, checkpoint: Checkpoint, steps: int = 10) -> None:
        if not isinstance(checkpoint.spec, EpisodeSpec):
            raise ValueError(
                f"the checkpoint {checkpoint.name!r} holds {checkpoint.spec.kind} tokens, needed are whole episodes; "
                "use DFPlanner, or train with --tokens episode"
            )
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.checkpoint, self.spec, self.norm, self.steps = checkpoint, checkpoint.spec, checkpoint.norm, steps
        self.model: Any = checkpoint.model
        self.levels, self.spaces, self.device = self.model.levels, checkpoint.spaces, self.model.device
        self.encoder = checkpoint.encoder
        self._mask = self.spec.column_mask().float().to(self.device)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, device: str = "cpu", steps: int = 10) -> EpisodeModel:
        """Load a bundled checkpoint, a folder or a Hugging Face Hub id; see `dfplan.checkpoint.load_checkpoint`."""
        from dfplan.checkpoint import load_checkpoint

        return cls(load_checkpoint(source, device=device), steps)

    def seen(self, memory: Any, obs: Tensor, k: int = 0, draw: Draw | None = None) -> Any:
        """Append an observation.

        Args:
            memory: The episode so far; it must end with actions, or be None.
            obs: (B, O).
            k: The level that it is noised to and labelled with; 0 trusts it, K says that it is missing.
            draw: Source of noise, needed where 0 < k < K.

        Raises:
            ValueError: If a shape is wrong, or it is not an observation's turn.
        """
        self._check("obs", obs, memory, (self.spec.obs_dim,))
        token = torch.zeros(len(obs), 1, self.spec.width, device=self.device)
        token[:, 0, : self.spec.obs_dim] = self.norm.obs(obs.to(self.device).float())
        return self._append(memory, token, k, draw, 0)

    def done(self, memory: Any, actions: Tensor, k: int = 0, draw: Draw | None = None) -> Any:
        """Append the actions (B, F, A) of a block; see `seen`."""
        self._check("actions", actions, memory, (self.spec.stride, self.spec.act_dim))
        token = torch.zeros(len(actions), 1, self.spec.width, device=self.device)
        token[:, 0, self.spec.obs_dim :] = self.norm.act(actions.to(self.device).float()).flatten(1)
        return self._append(memory, token, k, draw, 1)

    def next_actions(self, memory: Any, draw: Draw, temperature: float = 1.0, candidates: int = 1) -> Tensor:
        """Sample the actions (B, F, A) of the next block.

        Of several candidates the one is taken that has others nearest, the mode as far as samples show it: a single
        sample may be an odd one, and between two things that could be done there is no candidate.

        Args:
            memory: The episode so far; it must end with an observation.
            draw: Source of noise.
            temperature: Standard deviation of the noise that sampling begins with, at least 0. 1 samples the data's
                law; less keeps to what is likely (low-temperature sampling; compare arXiv 2211.15657), and 0 gives the
                same actions whatever ``draw`` is.
            candidates: N, at least 1, sampled for each element of the batch.

        Raises:
            ValueError: If the temperature is below 0, there is no candidate, or it is an observation's turn.
        """
        check_temperature(temperature)
        if candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {candidates}")
        x = self._sample(memory, draw, 1, temperature, candidates)[:, 0, self.spec.obs_dim :]
        x = densest(x.reshape(-1, candidates, x.shape[1]))
        return self.norm.act_back(x.reshape(len(x), self.spec.stride, self.spec.act_dim))

    def next_observation(
        self, memory: Any, draw: Draw, temperature: float = 1.0, known: Tensor | None = None
    ) -> Tensor:
        """Sample the observation (B, O) after the actions that were appended last: the world model.

        Args:
            memory: The episode so far; it must end with actions.
            draw: Source of noise.
            temperature: As in `next_actions`.
            known: (B, O), what is known of it already, NaN where nothing is: the rest is sampled to fit. At every
                reverse step the known numbers are put in place, noised to the level of the token (imputation).

        Raises:
            ValueError: If a number or shape is wrong, or it is not an observation's turn.
        """
        check_temperature(temperature)
        if known is None:
            return self.norm.obs_back(self._sample(memory, draw, 0, temperature)[:, 0, : self.spec.obs_dim])
        self._check("known", known, memory, (self.spec.obs_dim,))
        return self._filled_in(memory, draw, temperature, known.to(self.device))

    def _filled_in(self, memory: Any, draw: Draw, temperature: float, known: Tensor) -> Tensor:
        position, told = self._position(memory, 0), ~torch.isnan(known)
        S = make_schedule("full_sequence", 1, self.levels, steps=self.steps)
        clean = torch.zeros(len(known), 1, self.spec.width, device=self.device)
        clean[:, 0, : self.spec.obs_dim] = self.norm.obs(torch.nan_to_num(known).float())
        given = torch.zeros_like(clean, dtype=torch.bool)
        given[:, 0, : self.spec.obs_dim] = told
        mask = self._mask[position : position + 1]
        noise = draw(torch.zeros_like(clean)) * mask
        x = noise * temperature
        for row in range(len(S) - 1):
            level = S[row].to(self.device).expand(len(x), 1)
            x = torch.where(given, add_noise(clean, level, noise, self.model.alpha_bar), x)
            x = sample(
                self.model, S[row : row + 2], x, alpha_bar=self.model.alpha_bar, tokens=torch.tensor([position]),
                order=torch.arange(1), causal=True, draw=draw, mask=mask, memory=memory, finish=row == len(S) - 2,
            ).x  # fmt: skip
        return torch.where(told, known, self.norm.obs_back(x[:, 0, : self.spec.obs_dim]).to(known))

    def imagine(
        self, memory: Any, blocks: int, draw: Draw, actions: Tensor | None = None, k_small: int = 0
    ) -> Imagined:
        """Sample a future, block by block.

        Args:
            memory: The episode so far; it must end with an observation.
            blocks: n, at least 1.
            draw: Source of noise.
            actions: (B, n*F, A) that are given; None lets the model choose them.
            k_small: Level at which what was imagined is remembered (arXiv 2407.01392, section 3.3); 0 trusts it.

        Raises:
            ValueError: If a number or shape is wrong, or the layout has no room for as many blocks.
        """
        if blocks < 1:
            raise ValueError(f"blocks must be at least 1, got {blocks}")
        if actions is not None and actions.shape[1] != blocks * self.spec.stride:
            raise ValueError(
                f"actions must have shape (B, {blocks * self.spec.stride}, {self.spec.act_dim}), got "
                f"{tuple(actions.shape)}; pass {self.spec.stride} per block"
            )
        F, observations, chosen = self.spec.stride, [], []
        for block in range(blocks):
            own = actions[:, block * F : (block + 1) * F] if actions is not None else self.next_actions(memory, draw)
            memory = self.done(memory, own, 0 if actions is not None else k_small, draw)
            observations.append(self.next_observation(memory, draw))
            chosen.append(own)
            memory = self.seen(memory, observations[-1], k_small, draw)
        return Imagined(torch.stack(observations, 1), torch.cat(chosen, 1))

    def full(self, memory: Any) -> bool:
        """Tell whether the layout has no room for another block."""
        return memory is not None and memory.next + 2 > self.spec.tokens

    def _check(self, name: str, values: Tensor, memory: Any, shape: tuple[int, ...]) -> None:
        rows = "B" if memory is None else _rows(memory)
        if values.ndim != 1 + len(shape) or tuple(values.shape[1:]) != shape or rows not in ("B", len(values)):
            wanted = ", ".join(str(n) for n in (rows, *shape))
            raise ValueError(f"{name} must have shape ({wanted}), got {tuple(values.shape)}")

    def _append(self, memory: Any, token: Tensor, k: int, draw: Draw | None, part: int) -> Any:
        position = self._position(memory, part)
        if not 0 <= k <= self.levels:
            raise ValueError(f"a level must lie in 0..{self.levels}, got {k}; 0 is clean, {self.levels} pure noise")
        if not bool(torch.isfinite(token).all()):
            raise ValueError("a token holds NaN or infinity; append what is missing as any number at level K")
        levels = torch.full((len(token), 1), k, dtype=torch.int64, device=self.device)
        if k > 0:
            if draw is None:
                raise ValueError(f"a token at level {k} needs a source of noise; pass draw")
            token = add_noise(token, levels, draw(token), self.model.alpha_bar) * self._mask[position]
        with torch.no_grad():
            return remember(self.model, token, levels, Cond(tokens=torch.tensor([position]), memory=memory))

    def _sample(self, memory: Any, draw: Draw, part: int, temperature: float = 1.0, repeats: int = 1) -> Tensor:
        position = self._position(memory, part)
        batch = repeats * (1 if memory is None else _rows(memory))
        memory = memory.repeat(repeats) if memory is not None and repeats > 1 else memory
        mask = self._mask[position : position + 1]
        x = draw(torch.zeros(batch, 1, self.spec.width, device=self.device)) * mask * temperature
        S = make_schedule("full_sequence", 1, self.levels, steps=self.steps)
        return sample(
            self.model, S, x, alpha_bar=self.model.alpha_bar, tokens=torch.tensor([position]), order=torch.arange(1),
            causal=True, draw=draw, mask=mask, memory=memory,
        ).x  # fmt: skip

    def _position(self, memory: Any, part: int) -> int:
        position = 0 if memory is None else int(memory.next)
        if position % 2 != part:
            what = ("an observation", "actions")[part]
            raise ValueError(f"{what} cannot follow here; observations and actions take turns")
        if position >= self.spec.tokens:
            raise ValueError(f"the layout ends after {self.spec.blocks} blocks; train with a larger horizon")
        return position


def densest(points: Tensor) -> Tensor:
    """Return, of points (B, N, D), those (B, D) whose nearest quarter of the others is nearest on average."""
    N = points.shape[1]
    if N == 1:
        return points[:, 0]
    near = torch.cdist(points, points).sort(-1).values[..., 1 : 1 + max(1, N // 4)].mean(-1)
    return points[torch.arange(len(points), device=points.device), near.argmin(-1)]


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not a number of at least 0."""
    if not 0.0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be at least 0, got {temperature}; 1 samples the data's law")


def _rows(memory: Any) -> int:
    return len(memory.state) if hasattr(memory, "state") else len(memory.layers[0][0])
