"""The paper's network: a latent that every noisy token updates, ``z_t = f(z_{t-1}, x_t^k, k)``.

At level 0 the latent is the posterior after seeing the token, at level K the prior before it (only time has passed);
in between it is a bit of both. The prediction for a token comes from the latent that it has just updated.

Source:
    arXiv 2407.01392, section 3.2 and appendix C.7.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dfplan.layout import Layout, is_open_ended
from dfplan.models.base import Cond
from dfplan.models.embedding import check_sizes, distinct_levels, level_features
from dfplan.noise import alpha_bar_table, check_levels, to_x0


@dataclass(frozen=True)
class RecurrentConfig:
    """Size of the network and its noise levels.

    Attributes:
        width: Channels of the latent.
        levels: K, noise levels.
        noise: Name of the alpha_bar table.
        prediction: What the head outputs: ``"v"``, ``"x0"`` or ``"eps"``; converted to x0_hat at the edge.
    """

    width: int = 256
    levels: int = 100
    noise: str = "cosine"
    prediction: str = "v"

    def __post_init__(self) -> None:
        check_sizes(self, ("width", "levels"))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Latent:
    """Remember everything before by one vector.

    Attributes:
        state: (B, C).
        next: Place in the causal chain of the token that comes next.
    """

    state: Tensor
    next: int

    def repeat(self, n: int) -> Latent:
        """Return the memory of a batch in which every sample is repeated ``n`` times in a row."""
        return Latent(self.state.repeat_interleave(n, 0), self.next)

    def detach(self) -> Latent:
        """Return the memory cut off from gradients."""
        return Latent(self.state.detach(), self.next)

    def last(self, tokens: int) -> Latent:
        """Return the memory as it is: its size does not grow."""
        return self


class RecurrentDenoiser(nn.Module):
    """Denoise the tokens of one layout from left to right with a gated recurrent unit.

    Tokens that nobody looks at (leaves, such as the action tokens of the kind ``path``) branch off the chain. A token
    of the chain that is absent is stepped over as one at level K.

    Args:
        spec: The token layout (T positions, width D).
        config: The network's size and levels.
    """

    alpha_bar: Tensor
    column_mask: Tensor
    place: Tensor
    leaf: Tensor
    chain: Tensor

    def __init__(self, spec: Layout, config: RecurrentConfig) -> None:
        super().__init__()
        self.spec, self.config, self.open_ended = spec, config, is_open_ended(spec)
        C = config.width
        self.register_buffer("alpha_bar", alpha_bar_table(config.noise, config.levels), persistent=False)
        self.register_buffer("column_mask", spec.column_mask(), persistent=False)
        seen = spec.attention(True) & ~torch.eye(spec.tokens, dtype=torch.bool)
        order, leaf = spec.order(), ~seen.any(0) & (spec.order() < spec.order().max()) & seen.any(1)
        chain = sorted((int(order[p]), p) for p in range(spec.tokens) if not leaf[p])
        place = torch.tensor([sum(o <= int(order[p]) for o, _ in chain) for p in range(spec.tokens)])
        for i, (_, p) in enumerate(chain):
            place[p] = i  # of a chain token: its place; of a leaf: how many chain tokens it sees
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("leaf", leaf, persistent=False)
        self.register_buffer("chain", torch.tensor([p for _, p in chain]), persistent=False)
        self.content = nn.Linear(spec.width, C)
        self.position = nn.Parameter(torch.randn(1 if self.open_ended else spec.tokens, C) * 0.02)
        self.level = nn.Sequential(nn.Linear(64, C), nn.SiLU(), nn.Linear(C, 2 * C))
        self.mix = nn.Linear(C, C)
        self.cell = nn.GRU(C, C, batch_first=True)
        self.head = nn.Sequential(nn.Linear(2 * C, 2 * C), nn.SiLU(), nn.Linear(2 * C, C), nn.SiLU())
        self.out = nn.Linear(C, spec.width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @property
    def levels(self) -> int:
        """K, the number of noise levels."""
        return self.config.levels

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.position.device

    def _columns(self, positions: Tensor) -> Tensor:
        return self.column_mask[torch.zeros_like(positions) if self.open_ended else positions]

    def _places(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return places in the chain and which tokens are leaves, both shaped like ``positions``."""
        if self.open_ended:
            return positions, torch.zeros_like(positions, dtype=torch.bool)
        return self.place[positions], self.leaf[positions]

    def _encode(self, x: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        """Embed tokens, levels and positions, (B, n, C); content at level K is left out."""
        known = (k < self.levels).unsqueeze(-1) & self._columns(positions)
        where = self.position if self.open_ended else self.position[positions]
        found, at = distinct_levels(k, self.levels)
        scale, shift = self.level(level_features(found, self.levels, self.position.dtype))[at].chunk(2, -1)
        h = self.content(torch.where(known, x, torch.zeros_like(x))) + where
        mixed: Tensor = self.mix(nn.functional.silu(h * (1 + scale) + shift))
        return mixed

    def _trail(self, x: Tensor, k: Tensor, positions: Tensor, memory: Latent | None) -> tuple[Tensor, int]:
        """Walk the chain up to the last token that matters; returns all latents (B, L+1, C) and the first place."""
        places, leaf = self._places(positions)
        begin = 0 if memory is None else memory.next
        if bool((places < begin).any()):
            raise ValueError("a token lies before those that are remembered; pass tokens in causal order")
        end = int(torch.where(leaf, places, places + 1).max())
        B, L = len(x), max(0, end - begin)
        first = x.new_zeros(B, 1, self.config.width) if memory is None else memory.state.unsqueeze(1).to(x)
        if L == 0:
            return first, begin
        at = torch.arange(begin, end, device=x.device)
        chain = at if self.open_ended else self.chain[at]
        full_x, full_k = x.new_zeros(B, L, x.shape[2]), k.new_full((B, L), self.levels)
        rows = torch.arange(B, device=x.device)[:, None].expand(B, x.shape[1])
        slot = torch.where(leaf, L, places - begin).expand(B, -1)
        full_x = torch.cat([full_x, full_x[:, :1]], 1).index_put((rows, slot), x)[:, :L]
        full_k = torch.cat([full_k, full_k[:, :1]], 1).index_put((rows, slot), k)[:, :L]
        after, _ = self.cell(self._encode(full_x, full_k, chain), first.transpose(0, 1).contiguous())
        return torch.cat([first, after], 1), begin

    def _predict(self, before: Tensor, code: Tensor) -> Tensor:
        """Return the raw output of tokens with codes (B, n, C) from the latents (B, n, C) before them."""
        B, n, C = code.shape
        z, _ = self.cell(code.reshape(B * n, 1, C), before.reshape(1, B * n, C).contiguous())
        output: Tensor = self.out(self.head(torch.cat([z.reshape(B, n, C), code], -1)))
        return output

    def _positions(self, x: Tensor, cond: Cond) -> Tensor:
        if not cond.causal:
            raise ValueError("the recurrent denoiser is causal; use attention='causal', or the transformer")
        if cond.tokens is not None:
            positions = cond.tokens.to(x.device)
        elif self.open_ended:
            positions = (0 if cond.memory is None else cond.memory.next) + torch.arange(x.shape[1], device=x.device)
        elif cond.memory is not None:
            raise ValueError("after a memory name the tokens of this layout; pass cond.tokens")
        else:
            positions = torch.arange(self.spec.tokens, device=x.device)
        if positions.shape[-1] != x.shape[1]:
            raise ValueError(
                f"x holds {x.shape[1]} tokens but cond.tokens names {positions.shape[-1]}; name each token present"
            )
        return positions

    def _outputs(self, x: Tensor, k: Tensor, cond: Cond) -> tuple[Tensor, Tensor, int]:
        """Return raw outputs (B, n, D), the latents along the chain and the chain's first place."""
        positions = self._positions(x, cond)
        trail, begin = self._trail(x, k, positions, cond.memory)
        places, _ = self._places(positions)
        rows = torch.arange(len(x), device=x.device)[:, None]
        before = trail[rows, (places - begin).expand(len(x), -1)]
        return self._predict(before, self._encode(x, k, positions)).to(x.dtype), trail, begin

    def network(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        """Return the raw head output (B, n, D) in the kind ``config.prediction``."""
        return self._outputs(x, k, cond)[0]

    def forced(self, x: Tensor, k: Tensor, clean: Tensor, clean_k: Tensor, cond: Cond) -> Tensor:
        """Return the raw output when every noisy token sees itself and the *clean* tokens before it: teacher forcing.

        Args:
            x: Noisy tokens (B, n, D) at levels ``k`` (B, n).
            k: int64 (B, n).
            clean: What the later tokens see instead (B, n, D).
            clean_k: int64 (B, n), 0, or K where a token is padding.
            cond: Which tokens are present.
        """
        positions = self._positions(x, cond)
        trail, begin = self._trail(clean, clean_k, positions, cond.memory)
        places, _ = self._places(positions)
        rows = torch.arange(len(x), device=x.device)[:, None]
        before = trail[rows, (places - begin).expand(len(x), -1)]
        return self._predict(before, self._encode(x, k, positions)).to(x.dtype)

    def advance(self, x: Tensor, k: Tensor, cond: Cond, keep: int) -> tuple[Tensor, Latent]:
        """Predict the clean tokens and remember the first ``keep`` of them, in one pass.

        Raises:
            ValueError: If the tokens to be remembered are not the first of the chain.
        """
        check_levels(k, x.shape[:2], self.levels)
        positions = self._positions(x, cond)
        output, trail, begin = self._outputs(x, k, cond)
        x0_hat = to_x0(self.config.prediction, output, x, k, self.alpha_bar) * self._columns(positions)
        places, leaf = self._places(positions)
        kept = places[:keep][~leaf[:keep]]
        end = int(kept.max()) + 1 if len(kept) else begin
        if bool((places[keep:][~leaf[keep:]] < end).any()):
            raise ValueError("a token to be remembered comes after one that is not; pass tokens in causal order")
        return x0_hat, Latent(trail[:, end - begin], end)

    def forward(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        """Predict the clean tokens.

        Args:
            x: Noisy tokens (B, n, D).
            k: Levels int64 (B, n).
            cond: Which tokens are present and what came before; ``causal`` must be True.

        Returns:
            x0_hat (B, n, D), 0 in the columns that a token does not use.

        Raises:
            TypeError: If ``k`` is not an integer tensor.
            ValueError: If ``cond`` is not causal, or a shape or level is wrong.
        """
        check_levels(k, x.shape[:2], self.levels)
        x0_hat = to_x0(self.config.prediction, self.network(x, k, cond), x, k, self.alpha_bar)
        return x0_hat * self._columns(self._positions(x, cond))
