"""A transformer that sees noisy tokens and their levels and predicts the clean ones, causally or with full attention.

Two properties hold by construction. A token at level K carries no information: its content is replaced by 0 and no
other token attends to it. And an output depends only on the tokens that the layout allows (`Layout.attention`).

Causally, tokens that no longer change can be left behind: their keys and values are kept in a `KeyValues` memory.
Without gradients, in evaluation mode, samples that share tokens and levels go through `dfplan.models.prepared`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfplan.errors import unknown_name
from dfplan.layout import Layout, is_open_ended
from dfplan.models.base import Cond
from dfplan.models.embedding import PREDICTIONS, check_sizes, distinct_levels, level_features, rotate, turns, waves
from dfplan.models.inverse import InverseHead
from dfplan.models.keyvalues import KeyValues
from dfplan.models.prepared import Prepared, prepared, shared_levels
from dfplan.noise import alpha_bar_table, check_levels, to_x0
from dfplan.tokens import TokenSpec

POSITIONS = ("learned", "rotary")
__all__ = ["POSITIONS", "PREDICTIONS", "KeyValues", "TransformerConfig", "TransformerDenoiser"]


@dataclass(frozen=True)
class TransformerConfig:
    """Size of the network and its noise levels.

    Attributes:
        width: Channels of the residual stream.
        layers: Blocks.
        heads: Attention heads; must divide ``width``.
        levels: K, noise levels.
        noise: Name of the alpha_bar table.
        prediction: What the head outputs: ``"v"``, ``"x0"`` or ``"eps"``; converted to x0_hat at the edge.
        positions: ``"learned"``: a vector per position of the layout; ``"rotary"``: relative positions, which an
            open-ended layout needs.
        octaves: Sines and cosines that each column is shown as besides its value, with periods 4, 2, 1, 1/2, ... of
            normalised columns; they tell apart what lies close together, such as the two sides of a wall.
        inverse: Channels of the exact head for actions between clean states (`dfplan.models.inverse`), 0 for none.
    """

    width: int = 192
    layers: int = 3
    heads: int = 4
    levels: int = 100
    noise: str = "cosine"
    prediction: str = "v"
    positions: str = "learned"
    octaves: int = 0
    inverse: int = 0

    def __post_init__(self) -> None:
        check_sizes(self, ("width", "layers", "heads", "levels"))
        if self.octaves < 0:
            raise ValueError(f"octaves must be at least 0, got {self.octaves}")
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, got {self.heads} heads and width {self.width}")
        if self.positions not in POSITIONS:
            raise unknown_name("kind of positions", self.positions, POSITIONS)
        if self.positions == "rotary" and self.width // self.heads % 2:
            raise ValueError(f"rotary positions need an even width per head, got {self.width // self.heads}")

        if self.inverse < 0:
            raise ValueError(f"inverse must be 0 (no such head) or its channels, got {self.inverse}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; without an inverse head or octaves, as they were before there were any."""
        return {name: value for name, value in asdict(self).items() if value or name not in ("inverse", "octaves")}


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Compute masked attention; written out on the CPU, where the fused bf16 backward pass is about seven times slower.

    Args:
        q: (B, heads, n, c), and likewise ``k`` and ``v`` (B, heads, m, c).
        mask: bool, broadcastable to (B, heads, n, m), True where a row may look at a column; no row is empty.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    logits = (q @ k.transpose(-1, -2)) * (1 / math.sqrt(q.shape[-1]))
    return logits.masked_fill(~mask, float("-inf")).softmax(-1).to(v.dtype) @ v


class Block(nn.Module):
    """One pre-norm block; scale and shift of both norms come from each token's own level."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 4 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        for layer in (self.out, self.down):
            nn.init.normal_(layer.weight, std=0.02 / math.sqrt(6))
            nn.init.zeros_(layer.bias)

    def forward(
        self, h: Tensor, levels: Tensor, one_hot: Tensor, mask: Tensor, turn: tuple[Tensor, Tensor] | None,
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:  # fmt: skip
        """Update the residual stream (B, n, C).

        Args:
            h: (B, n, C).
            levels: (U, C), the levels that occur, embedded.
            one_hot: (B, n, U), picks a level per token.
            mask: Who looks at whom, the remembered tokens first.
            turn: Cosines and sines of rotary positions, or None.
            past: Keys and values of the remembered tokens, or None.

        Returns:
            The stream, and the keys and values of the remembered tokens and those passed.
        """
        B, n, C = h.shape
        scale1, shift1, scale2, shift2 = (one_hot @ self.modulation(levels)).chunk(4, -1)
        y = F.layer_norm(h, (C,)) * (1 + scale1) + shift1
        q, key, value = self.qkv(y).reshape(B, n, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        if turn is not None:
            q, key = rotate(q, turn), rotate(key, turn)
        if past is not None:
            key, value = torch.cat([past[0].to(key.dtype), key], 2), torch.cat([past[1].to(value.dtype), value], 2)
        h = h + self.out(attend(q, key, value, mask).transpose(1, 2).reshape(B, n, C))
        y = F.layer_norm(h, (C,)) * (1 + scale2) + shift2
        mixed: Tensor = self.down(F.relu(self.up(y)).square())
        return h + mixed, (key, value)


class TransformerDenoiser(nn.Module):
    """Denoise the tokens of one layout; see the module's text for what is exact.

    Args:
        spec: The token layout (T positions, width D).
        config: The network's size and levels.

    Attributes:
        prepare: Whether sampling may use `dfplan.models.prepared`, which changes nothing but time.

    Raises:
        ValueError: If an open-ended layout is given learned positions.
    """

    alpha_bar: Tensor
    column_mask: Tensor
    allowed: Tensor
    order: Tensor
    prepare: bool
    _prepared: Prepared | None

    def __init__(self, spec: Layout, config: TransformerConfig) -> None:
        super().__init__()
        self.spec, self.config, self.open_ended = spec, config, is_open_ended(spec)
        self.prepare, self._prepared = True, None
        if self.open_ended and config.positions == "learned":
            raise ValueError("an open-ended sequence has no last position to learn; use positions='rotary'")
        C = config.width
        self.register_buffer("alpha_bar", alpha_bar_table(config.noise, config.levels), persistent=False)
        self.register_buffer("column_mask", spec.column_mask(), persistent=False)
        self.register_buffer("allowed", torch.stack([spec.attention(False), spec.attention(True)]), persistent=False)
        self.register_buffer("order", spec.order(), persistent=False)
        self.content = nn.Linear(spec.width * (1 + 2 * config.octaves), C)
        rows = 1 if self.open_ended else spec.tokens
        self.position = nn.Parameter(torch.randn(rows, C) * 0.02)
        self.mode = nn.Parameter(torch.randn(2, C) * 0.02)
        self.level = nn.Sequential(nn.Linear(64, C), nn.SiLU(), nn.Linear(C, C), nn.SiLU())
        self.blocks = nn.ModuleList(Block(C, config.heads) for _ in range(config.layers))
        self.head = nn.Linear(C, spec.width)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.inverse = _inverse_head(spec, config)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a file needs: not what is laid out for sampling."""
        return {**self.__dict__, "_prepared": None}

    @property
    def levels(self) -> int:
        """K, the number of noise levels."""
        return self.config.levels

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.position.device

    def columns(self, positions: Tensor) -> Tensor:
        """Return the bool (..., D) mask of the columns that tokens use."""
        used: Tensor = self.column_mask[torch.zeros_like(positions) if self.open_ended else positions]
        return used

    def may_see(self, rows: Tensor, columns: Tensor, causal: bool) -> Tensor:
        """Return bool (..., n, m): may the token at position ``rows`` (..., n) look at ``columns`` (..., m)?"""
        rows, columns = rows.unsqueeze(-1), columns.unsqueeze(-2)
        seen: Tensor
        if self.open_ended:
            seen = columns <= rows if causal else (columns >= 0) & (rows >= 0)
        else:
            seen = self.allowed[int(causal)][rows, columns]
        return seen

    def visible(self, positions: Tensor, k: Tensor, causal: bool, memory: KeyValues | None) -> Tensor:
        """Return bool (B, 1, n, m + n): the layout's rule, and nobody but itself looks at a token at level K."""
        n = k.shape[1]
        itself = torch.eye(n, dtype=torch.bool, device=k.device)
        seen = (self.may_see(positions, positions, causal) & (k < self.levels).unsqueeze(-2)) | itself
        if memory is not None:
            if bool(self.may_see(memory.positions, positions, True).any()):
                raise ValueError("a token lies before those that are remembered; pass tokens in causal order")
            past = self.may_see(positions, memory.positions, causal) & memory.visible.unsqueeze(-2)
            seen = torch.cat([past.expand(len(k), n, -1), seen.expand(len(k), n, n)], -1)
        return seen.unsqueeze(1)

    def turn_of(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the cosines and sines of rotary positions, or None."""
        if self.config.positions != "rotary":
            return None
        where = positions if self.open_ended else self.order[positions]
        return turns(where, self.config.width // self.config.heads, self.position.dtype)

    def _embed(self, x: Tensor, k: Tensor, positions: Tensor, causal: bool) -> Tensor:
        """Turn tokens into the residual stream (B, n, C)."""
        known = (k < self.levels).unsqueeze(-1) & self.columns(positions)
        where = self.position if self.open_ended else self.position[positions]
        seen = waves(torch.where(known, x, torch.zeros_like(x)), self.config.octaves)
        h: Tensor = self.content(seen) + where + self.mode[int(causal)]
        return h

    def _run(
        self, h: Tensor, k: Tensor, mask: Tensor, positions: Tensor, memory: KeyValues | None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Send the stream through all blocks; returns the raw output and each block's keys and values."""
        found, where = distinct_levels(k, self.levels)
        levels = self.level(level_features(found, self.levels, self.position.dtype))
        one_hot = F.one_hot(where, len(found)).to(h.dtype)  # a product is faster than a gather, forwards and backwards
        turn = self.turn_of(positions)
        kept = []
        for i, block in enumerate(self.blocks):
            h, own = block(h, levels, one_hot, mask, turn, None if memory is None else memory.layers[i])
            kept.append(own)
        output: Tensor = self.head(F.layer_norm(h, (h.shape[-1],)))
        return output, kept

    def positions_of(self, x: Tensor, cond: Cond) -> Tensor:
        """Return the positions int64 (n,) or (B, n) of the tokens that are passed.

        Raises:
            ValueError: If ``cond`` names another number of tokens, or has a memory without being causal.
        """
        if cond.memory is not None and not cond.causal:
            raise ValueError("a memory needs causal attention; what is remembered cannot look at later tokens")
        begin = 0 if cond.memory is None else cond.memory.next
        if cond.tokens is not None:
            positions = cond.tokens.to(x.device)
        elif self.open_ended:
            positions = begin + torch.arange(x.shape[1], device=x.device)
        elif cond.memory is not None:
            raise ValueError("after a memory name the tokens of this layout; pass cond.tokens")
        else:
            positions = torch.arange(self.spec.tokens, device=x.device)
        if x.shape[1] != positions.shape[-1]:
            raise ValueError(
                f"x holds {x.shape[1]} tokens but cond.tokens names {positions.shape[-1]}; name each token present"
            )
        return positions

    def network(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        """Return the raw head output (B, n, D) in the kind ``config.prediction``."""
        output, _ = self._output(x, k, self.positions_of(x, cond), cond)
        return output.to(x.dtype)

    def _output(
        self, x: Tensor, k: Tensor, positions: Tensor, cond: Cond
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Compute the raw output, and each block's keys and values of remembered and passed tokens."""
        usable = self.prepare and not (self.training or torch.is_grad_enabled() or self.position.is_inference())
        usable = usable and positions.ndim == 1
        levels = shared_levels(k, cond.memory) if usable else None
        if levels is None:
            mask = self.visible(positions, k, cond.causal, cond.memory)
            return self._run(self._embed(x, k, positions, cond.causal), k, mask, positions, cond.memory)
        ready = self._prepared = prepared(self, self._prepared)
        return ready(x, levels, ready.scene(self, levels, positions, cond.causal, cond.memory), cond.memory)

    def forced(self, x: Tensor, k: Tensor, clean: Tensor, clean_k: Tensor, cond: Cond) -> Tensor:
        """Return the raw output when every noisy token sees itself and the *clean* tokens before it: teacher forcing.

        Args:
            x: Noisy tokens (B, n, D) at levels ``k`` (B, n).
            k: int64 (B, n).
            clean: What the later tokens see instead (B, n, D).
            clean_k: int64 (B, n), 0, or K where a token is padding.
            cond: Which tokens are present.
        """
        positions, n = self.positions_of(x, cond), x.shape[1]
        both, levels = torch.cat([positions, positions], -1), torch.cat([clean_k, k], 1)
        itself = torch.eye(n, dtype=torch.bool, device=x.device)
        rule = self.may_see(positions, positions, True).expand(len(x), n, n)
        seen = rule & (clean_k < self.levels).unsqueeze(-2)
        before = seen & ~rule.transpose(-1, -2)  # one that sees this token knows what it is like without noise
        top = torch.cat([seen | itself, torch.zeros_like(seen)], -1)
        bottom = torch.cat([before, itself.expand_as(seen)], -1)
        h = self._embed(torch.cat([clean, x], 1), levels, both, True)
        output, _ = self._run(h, levels, torch.cat([top, bottom], 1).unsqueeze(1), both, None)
        return output[:, n:].to(x.dtype)

    def advance(self, x: Tensor, k: Tensor, cond: Cond, keep: int) -> tuple[Tensor, KeyValues]:
        """Predict the clean tokens and remember the first ``keep`` of them.

        Args:
            x: Noisy tokens (B, n, D).
            k: Levels int64 (B, n).
            cond: Which tokens are present (the same for all samples), and the memory so far.
            keep: 0..n; these must not look at the others.

        Raises:
            ValueError: If attention is not causal, or a token to be remembered looks at one that is not.
        """
        check_levels(k, x.shape[:2], self.levels)
        positions = self.positions_of(x, cond)
        if not cond.causal or positions.ndim != 1 or not 0 <= keep <= len(positions):
            raise ValueError("to be remembered, tokens need causal attention and the same positions in all samples")
        if keep and bool(self.may_see(positions[:keep], positions[keep:], True).any()):
            raise ValueError("a token to be remembered looks at one that is not; pass tokens in causal order")
        output, kept = self._output(x, k, positions, cond)
        x0_hat = self._clean(output, x, k, positions)
        remembered = keep if cond.memory is None else len(cond.memory) + keep
        layers = tuple((key[:, :, :remembered], value[:, :, :remembered]) for key, value in kept)
        shared = shared_levels(k, None)
        visible = k[:, :keep] < self.levels if shared is None else (shared[:keep] < self.levels).expand(len(k), -1)
        if cond.memory is None:
            return x0_hat, KeyValues(layers, positions[:keep], visible)
        return x0_hat, cond.memory.grown(layers, positions[:keep], visible)

    def forward(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        """Predict the clean tokens.

        Args:
            x: Noisy tokens (B, n, D).
            k: Levels int64 (B, n).
            cond: Which tokens are present, causal or full, and what came before.

        Returns:
            x0_hat (B, n, D), 0 in the columns that a token does not use.

        Raises:
            TypeError: If ``k`` is not an integer tensor.
            ValueError: If the shape or range of ``k`` is wrong, or ``x`` holds other tokens than ``cond`` names.
        """
        check_levels(k, x.shape[:2], self.levels)
        positions = self.positions_of(x, cond)
        if self.inverse is not None and cond.memory is None and positions.ndim == 1:
            shared = shared_levels(k, None)
            if shared is not None and self.inverse.answers_all(shared, positions):  # no need of the transformer
                return self.inverse.replace(x, x, shared, positions, self.alpha_bar)
        output, _ = self._output(x, k, positions, cond)
        return self._clean(output, x, k, positions)

    def _clean(self, output: Tensor, x: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        """Convert the raw output to x0_hat, 0 in the columns that a token does not use."""
        levels = shared_levels(k, None)
        k = k if levels is None else levels
        x0_hat = to_x0(self.config.prediction, output.to(x.dtype), x, k, self.alpha_bar) * self.columns(positions)
        return x0_hat if self.inverse is None else self.inverse.replace(x0_hat, x, k, positions, self.alpha_bar)


def _inverse_head(spec: Layout, config: TransformerConfig) -> InverseHead | None:
    if not config.inverse:
        return None
    if not isinstance(spec, TokenSpec):
        raise ValueError("an inverse head needs a layout of states and actions, got a plain sequence")
    return InverseHead(spec, config.inverse)
