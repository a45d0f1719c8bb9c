"""A transformer laid out for sampling: the same function as `TransformerDenoiser`, with less work around the products.

What depends only on the level (the modulation of every block) is computed once for all K+1 levels, weights are cast
once, what depends only on which tokens are present (who looks at whom, positions) is kept for the next plan. It serves
calls without gradients in which all samples have the same tokens at the same levels, which is how plans are sampled.
It is made again whenever a parameter is replaced or changed in place; only a write to ``parameter.data``, which
torch does not count, goes unnoticed.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfplan.models.embedding import level_features, rotate, waves

if TYPE_CHECKING:
    from dfplan.models.keyvalues import KeyValues
    from dfplan.models.transformer import TransformerDenoiser

Pair = tuple[Tensor, Tensor]
KEPT_SCENES = 256  # enough for the rows of a few schedules; one is some kilobytes


@dataclass(frozen=True)
class Scene:
    """Hold what a call owes to nothing but the tokens that are present and their levels.

    Attributes:
        known: bool (n, D), the columns whose content counts.
        where: (n, C), the vectors of positions and mode.
        bias: (n, m + n), 0 where a token looks at another, minus infinity elsewhere; the remembered ones first.
        turn: Cosines and sines of rotary positions, or None.
    """

    known: Tensor
    where: Tensor
    bias: Tensor
    turn: Pair | None


@dataclass(frozen=True)
class Weights:
    """Hold the matrices of one block, cast."""

    qkv: Pair
    out: Pair
    up: Pair
    down: Pair


class Prepared:
    """Compute a transformer's raw output without gradients.

    Args:
        model: The network; its parameters are read now.
        dtype: What the products are computed in: autocast's, or that of the parameters.
    """

    def __init__(self, model: TransformerDenoiser, dtype: torch.dtype) -> None:
        self.dtype, self.heads, self.octaves = dtype, model.config.heads, model.config.octaves
        self.sources, self.layers = list(_sources(model)), list(_layers(model))
        with torch.no_grad():
            self.table = _modulations(model)
            self.where = (model.position + model.mode[:, None]).detach()
            self.content, self.head = self._cast(model.content), self._cast(model.head)
            self.blocks = [
                Weights(*(self._cast(getattr(block, name)) for name in ("qkv", "out", "up", "down")))
                for block in model.blocks
            ]
        self.scenes: OrderedDict[tuple[Any, ...], Scene] = OrderedDict()

    def _cast(self, layer: nn.Linear) -> Pair:
        return layer.weight.detach().to(self.dtype), layer.bias.detach().to(self.dtype)

    def fits(self, dtype: torch.dtype) -> bool:
        """Tell whether the parameters are the ones this was made of, unchanged, and so is the type."""
        return (
            dtype == self.dtype
            and all(
                held.get(name) is value and value._version == version and value.data_ptr() == address
                for held, name, value, version, address, _ in self.sources
            )
            and all(held.get(name) is layer for held, name, layer in self.layers)
        )

    def scene(
        self, model: TransformerDenoiser, k: Tensor, positions: Tensor, causal: bool, memory: KeyValues | None
    ) -> Scene:
        """Look up, or compute, what levels (n,) of tokens at ``positions`` (n,) and a memory make of a call."""
        if k.device.type != "cpu":
            return self._make_scene(model, k, positions, causal, memory)
        key: tuple[Any, ...] = (causal, _bytes(k < model.levels), _bytes(positions))
        if memory is not None:
            key += (_bytes(memory.positions), _bytes(memory.visible[0]))
        found = self.scenes.get(key)
        if found is None:
            found = self.scenes[key] = self._make_scene(model, k, positions, causal, memory)
            if len(self.scenes) > KEPT_SCENES:
                self.scenes.popitem(last=False)
        return found

    def _make_scene(
        self, model: TransformerDenoiser, k: Tensor, positions: Tensor, causal: bool, memory: KeyValues | None
    ) -> Scene:
        one = None if memory is None else replace(memory, visible=memory.visible[:1])
        seen = model.visible(positions, k[None], causal, one)[0, 0]
        bias = torch.zeros(seen.shape, dtype=self.dtype, device=k.device).masked_fill_(~seen, -math.inf)
        known = (k < model.levels).unsqueeze(-1) & model.columns(positions)
        where = self.where[int(causal)]
        return Scene(known, where if model.open_ended else where[positions], bias, model.turn_of(positions))

    def __call__(
        self, x: Tensor, k: Tensor, scene: Scene, memory: KeyValues | None
    ) -> tuple[Tensor, list[Pair]]:  # fmt: skip
        """Compute the raw output (B, n, D), and each block's keys and values of remembered and passed tokens.

        Args:
            x: (B, n, D).
            k: Levels (n,) of all samples.
            scene: What belongs to these tokens and levels.
            memory: What came before, or None.
        """
        x = torch.where(scene.known, x, torch.zeros_like(x))
        h = F.linear(waves(x, self.octaves).to(self.dtype), *self.content) + scene.where
        levels = self.table[k]  # (n, L, 4, C)
        kept = []
        for i, block in enumerate(self.blocks):
            past = None if memory is None else memory.layers[i]
            h, own = self._block(block, h, levels[:, i].unbind(1), scene, past)
            kept.append(own)
        return F.linear(F.layer_norm(h, h.shape[-1:]).to(self.dtype), *self.head), kept

    def _block(
        self, block: Weights, h: Tensor, level: tuple[Tensor, ...], scene: Scene, past: Pair | None
    ) -> tuple[Tensor, Pair]:
        """Update the residual stream (B, n, C) in place."""
        B, n, C = h.shape
        scale1, shift1, scale2, shift2 = level
        y = torch.addcmul(shift1, F.layer_norm(h, (C,)), scale1).to(self.dtype)
        q, key, value = F.linear(y, *block.qkv).view(B, n, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        if scene.turn is not None:
            q, key = rotate(q, scene.turn), rotate(key, scene.turn)
        if past is not None:
            key, value = torch.cat([past[0].to(key.dtype), key], 2), torch.cat([past[1].to(value.dtype), value], 2)
        mixed = attend_shared(q, key, value, scene.bias).transpose(1, 2).reshape(B, n, C)
        h.add_(F.linear(mixed, *block.out))
        y = torch.addcmul(shift2, F.layer_norm(h, (C,)), scale2).to(self.dtype)
        inner = F.linear(y, *block.up).relu_()
        h.add_(F.linear(inner.mul_(inner), *block.down))
        return h, (key, value)


def attend_shared(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Compute attention whose mask is the same for all samples and heads, without gradients.

    Args:
        q: (B, heads, n, c), and likewise ``k`` and ``v`` (B, heads, m, c).
        bias: (n, m), added to the logits.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    B, heads, n, c = q.shape
    keys = k.reshape(B * heads, -1, c).transpose(1, 2)
    logits = torch.baddbmm(bias, q.reshape(B * heads, n, c), keys, alpha=1 / math.sqrt(c))
    mixed = torch.bmm(logits.softmax(-1).to(v.dtype), v.reshape(B * heads, -1, c))
    return mixed.view(B, heads, n, c)


def prepared(model: TransformerDenoiser, old: Prepared | None) -> Prepared:
    """Return ``old`` if it still holds for the model in the present precision, else a new one."""
    kind = model.position.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.position.dtype
    return old if old is not None and old.fits(dtype) else Prepared(model, dtype)


def shared_levels(k: Tensor, memory: KeyValues | None) -> Tensor | None:
    """Return the levels (n,) if all samples are known to have the same ones (one sample, or an expanded row)."""

    def shared(rows: Tensor) -> bool:
        return len(rows) == 1 or rows.stride(0) == 0

    if not shared(k) or (memory is not None and not shared(memory.visible)):
        return None
    return k[0]


def _modulations(model: TransformerDenoiser) -> Tensor:
    """Compute 1 + scale and shift of both norms for every level and block, (K+1, L, 4, C)."""
    every = torch.arange(model.levels + 1, device=model.device)
    levels = model.level(level_features(every, model.levels, model.position.dtype))
    found = []
    for block in model.blocks:
        scale1, shift1, scale2, shift2 = block.modulation(levels).chunk(4, -1)  # type: ignore[operator]
        found.append(torch.stack([1 + scale1, shift1, 1 + scale2, shift2], 1))
    return torch.stack(found, 1).to(model.position.dtype)


def _sources(model: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor, int, int, Tensor]]:
    """List what the parameters are: where each is held, its name, itself, version, address, and an alias of its data.

    The alias keeps the memory, so that no other tensor can come to lie at the same address.
    """
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                yield module._parameters, name, value, value._version, value.data_ptr(), value.detach()


def _layers(model: nn.Module) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """List where each layer is held, its name and itself."""
    for module in model.modules():
        for name, layer in module._modules.items():
            yield module._modules, name, layer


def _bytes(values: Tensor) -> bytes:
    found: bytes = values.numpy().tobytes()
    return found
