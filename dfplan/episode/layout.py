"""The layout of a whole episode: what was seen and what was done, in turn, from its first moment on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

KIND = "episode"


@dataclass(frozen=True)
class EpisodeSpec:
    """Describe an episode as tokens ``o_0, a_1, o_1, a_2, o_2, ...``.

    Block ``i`` (from 1) is ``stride`` environment steps: ``a_i`` holds their actions, ``o_i`` the observation after
    them. The causal order is the position, so that causally ``a_{i+1}`` given all before it is a policy with the whole
    episode as its memory, and ``o_i`` a world model. Every token has a level of its own.

    Attributes:
        obs_dim: O, width of an observation.
        act_dim: A, width of an action.
        stride: F, environment steps per block.
        blocks: N, blocks of the longest episode, or of the part of it that is remembered.
        dt_s: Seconds per environment step.
        whole: Whether the sequence begins where the episode does. If not, it begins anywhere, and a policy remembers
            the last N - 1 blocks only: with one block nothing but what it sees.
    """

    obs_dim: int
    act_dim: int
    stride: int
    blocks: int
    dt_s: float = 0.1
    whole: bool = True

    kind: ClassVar[str] = KIND
    returns: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("obs_dim", "act_dim", "stride", "blocks"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")

    @property
    def tokens(self) -> int:
        """T: the first observation, and two tokens per block."""
        return 1 + 2 * self.blocks

    @property
    def steps(self) -> int:
        """Environment steps of the longest episode."""
        return self.blocks * self.stride

    @property
    def act_columns(self) -> int:
        """Columns that hold the ``stride`` actions of a block, the first action first."""
        return self.act_dim * self.stride

    @property
    def width(self) -> int:
        """D: observations, then actions."""
        return self.obs_dim + self.act_columns

    def column_mask(self) -> Tensor:
        """Build the bool (T, D) mask of the columns that each token uses; the others are always 0."""
        seen = torch.arange(self.width) < self.obs_dim
        rows = (torch.arange(self.tokens) % 2 == 0).unsqueeze(1)
        return torch.where(rows, seen, ~seen)

    def order(self) -> Tensor:
        """Build the int64 (T,) causal order, the position."""
        return torch.arange(self.tokens)

    def attention(self, causal: bool) -> Tensor:
        """Build the bool (T, T) mask: all, or all at or before."""
        everything = torch.ones(self.tokens, self.tokens, dtype=torch.bool)
        return everything.tril() if causal else everything

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"kind": KIND, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EpisodeSpec:
        """Rebuild from ``to_dict``."""
        return cls(**{name: value for name, value in values.items() if name != "kind"})
