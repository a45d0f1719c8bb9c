"""Score composition: several histories in one call, as in classifier-free and history guidance.

A *history* says at which level each context token is shown to the model: 0 keeps it, K drops it, anything in between
shows it fractionally noised. The composed prediction is

``x0_hat = x0_none + sum_i w_i (x0_i - x0_none)``

with x0_i the model's prediction under history i and x0_none the one with all these context tokens dropped. Composition
is meant for scores, ``s = s_none + sum_i w_i (s_i - s_none)``. For one and the same noisy token x at level k the score
is ``-(x - sqrt(abar_k) x0_hat) / (1 - abar_k)``, hence affine in x0_hat, and the coefficients ``1 - sum_i w_i`` and
``w_i`` sum to 1: composing x0_hat, eps_hat, v_hat or the score is the same thing.

Source: arXiv 2502.06764, Eq. 5 (history guidance); arXiv 2207.12598 (classifier-free guidance).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dfplan.models.base import Cond, Denoiser
from dfplan.noise import Draw, check_levels, noise_further


@dataclass(frozen=True)
class ComposedDenoiser:
    """Combine a denoiser's predictions under several histories; itself a denoiser, one call of the model per call.

    Tokens at level 0 are known and pass through bit for bit; all others are composed. A context token that the sampler
    already labels above a history's level stays as noisy as it is, one that is absent stays absent (that is the same as
    level K). Histories whose coefficient is 0 are not evaluated.

    Attributes:
        model: The denoiser, which must know each of the histories (context tokens noised or absent in training).
        tokens: int64 (c,), positions in the layout of the context tokens that histories speak about. Other context
            stays as it is in all of them.
        histories: int64 (h, c), the level 0..K of every such token in every history.
        weights: h weights; they need not sum to 1.
        alpha_bar: Table (K+1,) of the model.
        noise: (1 or B, c, D) standard normal noise for levels between 0 and K, the same in every call so that all rows
            of one sampling run see the same history; `with_noise` draws it. If the batch is n times as large (futures
            of Monte Carlo Guidance), n rows in a row share it.
    """

    model: Denoiser
    tokens: Tensor
    histories: Tensor
    weights: tuple[float, ...]
    alpha_bar: Tensor
    noise: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(float(w) for w in self.weights))
        if self.tokens.ndim != 1 or len(set(self.tokens.tolist())) != len(self.tokens) or len(self.tokens) == 0:
            raise ValueError(f"tokens must name different positions, int64 (c,), got {self.tokens.tolist()}")
        check_levels(self.histories, (len(self.weights), len(self.tokens)), self.levels)
        if not all(abs(w) < float("inf") for w in self.weights):
            raise ValueError(f"weights must be finite, got {self.weights}")

    @property
    def levels(self) -> int:
        """K."""
        return len(self.alpha_bar) - 1

    def with_noise(self, like: Tensor, draw: Draw, mask: Tensor | None = None) -> ComposedDenoiser:
        """Return the same composition with noise drawn for one sampling run.

        Args:
            like: (B, n, D), the tokens that will be sampled; gives B, D, dtype and device.
            draw: Source of noise, for example ``normal_like(generator)``.
            mask: (c, D), 1 in the columns that each context token uses; noise is kept out of the others.
        """
        noise = draw(like[:, :1].expand(-1, len(self.tokens), -1))
        return replace(self, noise=noise if mask is None else noise * mask.to(noise))

    def __call__(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        """Return the composed x0_hat (B, n, D) of tokens x (B, n, D) at levels k (B, n).

        Raises:
            ValueError: If a history needs noise and there is none, or its batch does not fit.
        """
        if getattr(cond, "memory", None) is not None:
            raise ValueError("composition must see the context itself, not a memory of it; sample with cache=False")
        slot = self._slots(x, cond)
        rest = 1 - sum(self.weights)
        shown = torch.cat([self.histories, torch.full((1, len(self.tokens)), self.levels)])
        branches = [(w, row) for w, row in zip((*self.weights, rest), shown, strict=True) if w != 0]
        parts = [self._show(x, k, slot, row) for _, row in branches]
        tokens = cond.tokens
        if tokens is not None and tokens.ndim == 2:
            tokens = tokens.repeat(len(parts), 1)
        x0_hat = self.model(
            torch.cat([part for part, _ in parts]), torch.cat([k for _, k in parts]), replace(cond, tokens=tokens)
        )
        weight = torch.tensor([w for w, _ in branches], dtype=x0_hat.dtype, device=x0_hat.device)
        composed = (weight[:, None, None, None] * x0_hat.reshape(len(parts), *x.shape)).sum(0)
        return torch.where((k == 0).unsqueeze(-1), x, composed)

    def _slots(self, x: Tensor, cond: Cond) -> Tensor:
        """Find for every token present (n,) or (B, n) its place in ``tokens``, or -1."""
        present = torch.arange(x.shape[1]) if cond.tokens is None else cond.tokens.cpu()
        match = present.unsqueeze(-1) == self.tokens.cpu()
        return torch.where(match.any(-1), match.to(torch.int64).argmax(-1), torch.full_like(present, -1)).to(x.device)

    def _show(self, x: Tensor, k: Tensor, slot: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """Noise the context tokens to a history's levels (c,); returns tokens and levels."""
        padded = torch.cat([history.to(k), k.new_zeros(1)])  # slot -1 takes the last entry: leave it as it is
        shown = torch.maximum(k, padded[slot].expand(k.shape))
        if bool(((shown > k) & (shown < self.levels)).any()) and self.noise is None:
            raise ValueError("a history between levels 0 and K needs noise; use with_noise(x, normal_like(generator))")
        noise = torch.zeros_like(x)
        if self.noise is not None:
            if len(x) % len(self.noise):
                raise ValueError(
                    f"noise must have batch 1 or {len(x)}, or a divisor of it, got {len(self.noise)}; "
                    "draw it for this batch"
                )
            table = torch.cat([self.noise.to(x), torch.zeros_like(self.noise[:, :1]).to(x)], 1)
            table = table.repeat_interleave(len(x) // len(self.noise), 0)
            index = slot.expand(k.shape) % table.shape[1]
            noise = table.gather(1, index.unsqueeze(-1).expand(x.shape))
        moved = noise_further(x, k, shown, noise, self.alpha_bar)
        return torch.where((shown > k).unsqueeze(-1), moved, x), shown


def classifier_free(model: Denoiser, tokens: Sequence[int], weight: float, alpha_bar: Tensor) -> ComposedDenoiser:
    """Follow context tokens, for example the goal, more (weight > 1) or less (< 1) closely than the model does.

    ``x0_hat = x0_without + weight (x0_with - x0_without)``: 1 is the model itself, 0 the model without these tokens.

    Args:
        model: The denoiser.
        tokens: Positions of the context tokens in the layout.
        weight: Guidance weight.
        alpha_bar: Table (K+1,).

    Source:
        arXiv 2207.12598, Eq. 6, with weight = 1 + w.
    """
    where = torch.tensor(list(tokens))
    return ComposedDenoiser(model, where, torch.zeros(1, len(where), dtype=torch.int64), (weight,), alpha_bar)


def history_guidance(
    model: Denoiser,
    tokens: Sequence[int],
    windows: Sequence[int],
    weights: Sequence[float],
    alpha_bar: Tensor,
    *,
    level: int | Sequence[int] = 0,
) -> ComposedDenoiser:
    """Compose the last few context tokens with different reach: history i shows the newest ``windows[i]`` of them.

    Args:
        model: The denoiser.
        tokens: Positions of the context tokens in the layout, oldest first.
        windows: How many of the newest tokens each history shows, 0 to their number.
        weights: One per history.
        alpha_bar: Table (K+1,).
        level: Level at which each history shows them, one for all or one each; above 0 is fractional masking and needs
            `ComposedDenoiser.with_noise`.

    Raises:
        ValueError: If the numbers do not match.

    Source:
        arXiv 2502.06764, section 4 (temporal and fractional history guidance).
    """
    levels = [level] * len(windows) if isinstance(level, int) else list(level)
    if not len(windows) == len(weights) == len(levels) > 0:
        raise ValueError(
            f"windows, weights and levels must be equally many, got {len(windows)}, {len(weights)}, {len(levels)}"
        )
    where, K = torch.tensor(list(tokens)), len(alpha_bar) - 1
    if not all(0 <= window <= len(where) for window in windows):
        raise ValueError(f"windows must lie in 0..{len(where)}, the number of context tokens, got {list(windows)}")
    age = torch.arange(len(where)).flip(0)
    rows = [torch.where(age < window, shown, K) for window, shown in zip(windows, levels, strict=True)]
    return ComposedDenoiser(model, where, torch.stack(rows), tuple(weights), alpha_bar)


def stabilised(model: Denoiser, tokens: Sequence[int], level: int, alpha_bar: Tensor) -> ComposedDenoiser:
    """Show context tokens slightly noised, as if they were less certain than they look (roll-outs on own samples).

    Args:
        model: The denoiser.
        tokens: Positions of the context tokens in the layout.
        level: A small level, 0 to K.
        alpha_bar: Table (K+1,).

    Source:
        arXiv 2407.01392, section 3.3 (stable roll-outs).
    """
    where = torch.tensor(list(tokens))
    return ComposedDenoiser(model, where, torch.full((1, len(where)), level), (1.0,), alpha_bar)
