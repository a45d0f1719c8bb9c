"""What finished candidates of a task without goals are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dfplan.tokens import Normalizer, TokenSpec, unpack_rewards

if TYPE_CHECKING:
    from dfplan.value.model import ValueModel


def worth(
    spec: TokenSpec, norm: Normalizer, value: ValueModel | None, x: Tensor, k: Tensor, tokens: Tensor, given: int
) -> Tensor | None:
    """Say what candidates are worth, in rewards per step: by the learned return, or else by the rewards they hold.

    Args:
        spec: The layout.
        norm: The statistics.
        value: The learned return, or None.
        x: Clean candidates (N, c + n, D), what was given first.
        k: Levels (c + n,).
        tokens: int64 (c + n,), positions.
        given: c.

    Returns:
        float64 (N,) on the CPU; None if there is neither a learned return nor a reward.
    """
    if value is not None:
        with torch.no_grad():
            found: Tensor = value(x.float(), k.to(x.device).expand(x.shape[:2]), tokens)
        return found.double().cpu()
    if not spec.rewards:
        return None
    return unpack_rewards(spec, norm, x[:, given:]).double().mean(-1).cpu()
