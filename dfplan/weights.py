"""Weights of the training loss, per token and level.

A weight is defined on the squared error of x0_hat and converted exactly to the kind of output that is trained: the
same x0_hat gets the same weighted loss from an x0, an eps or a v head. ``"uniform"`` alone is defined on the raw output
whatever its kind. ``SNR_k = abar_k / (1 - abar_k)`` is infinite at level 0 and 0 at level K.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dfplan.errors import unknown_name

Fuse = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""From S (B, n), order (B, n), leaf (B, n) and decay to the fused signal (B, n)."""


def loss_weights(
    name: str,
    k: Tensor,
    order: Tensor,
    alpha_bar: Tensor,
    prediction: str,
    *,
    gamma: float = 5.0,
    decay: float = 0.9,
    leaf: Tensor | None = None,
) -> Tensor:
    """Compute what multiplies each token's squared error of the raw output.

    With ``S = min(SNR, gamma) / gamma`` the weight on ``|x0_hat - x0|^2`` is ``gamma S`` for ``"min_snr"``. The fused
    weights put ``1 - (1 - S_t)(1 - Sbar_{t-1})`` in the place of S, with ``Sbar_t = g Sbar_{t-1} + (1 - g) S_t`` over
    the causal order: a token counts also for what the tokens before it tell about it.
    ``"fused_snr_bidirectional"`` has one more factor ``1 - Sbar_{t+1}``, accumulated from the other end.

    Nothing is known before the first token (``Sbar = 0``), so that ``decay=1`` is min-SNR. Tokens that share a place
    count as one, of the clearest among them.

    Args:
        name: A key of ``WEIGHTINGS``.
        k: Levels int64 (B, n), 0..K.
        order: Causal order, int64 (n,) or (B, n).
        alpha_bar: Table (K+1,).
        prediction: ``"x0"``, ``"eps"`` or ``"v"``; what the raw output stands for.
        gamma: SNR above which a clearer token counts no more, positive.
        decay: g in [0, 1]; 0 remembers the neighbour alone.
        leaf: bool (n,) or (B, n), True for tokens that no other token sees; None if there are none.

    Returns:
        float64 (B, n), finite. A v or eps output at level 0 has weight 0, because x0_hat does not depend on it, and so
        has an eps output at level K.

    Raises:
        ValueError: If a name is unknown, or gamma or decay is out of range.

    Source:
        min-SNR: arXiv 2303.09556. Fused: arXiv 2407.01392, appendix B.1.
    """
    if name not in WEIGHTINGS:
        raise unknown_name("weighting", name, WEIGHTINGS)
    if gamma <= 0:
        raise ValueError(f"gamma must be positive, got {gamma}; 5 is usual")
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"decay must lie in [0, 1], got {decay}; 1 remembers nothing of the other tokens")
    fuse = WEIGHTINGS[name]
    if fuse is None:
        return torch.ones(k.shape, dtype=torch.float64, device=k.device)
    per_level = _conversion(prediction, alpha_bar.to(k.device).double())
    place = order.to(k.device).expand(k.shape)
    leaves = torch.zeros_like(k, dtype=torch.bool) if leaf is None else leaf.to(k.device).expand(k.shape)
    return gamma * fuse(_signal(k, alpha_bar, gamma), place, leaves, decay) * per_level[k]


def _signal(k: Tensor, alpha_bar: Tensor, gamma: float) -> Tensor:
    """Compute ``S = min(SNR, gamma) / gamma`` (B, n); 1 at level 0, 0 at level K."""
    a = alpha_bar.to(k.device).double()
    return (a / (gamma * (1 - a)).clamp_min(1e-300)).clamp_max(1.0)[k]


def _conversion(prediction: str, a: Tensor) -> Tensor:
    """Compute ``|x0_hat - x0|^2 / |output - target|^2`` for every level (K+1,); 0 where x0_hat ignores the output.

    ``(1 - abar)`` for v, which is ``1 / (1 + SNR)``; ``(1 - abar) / abar`` for eps, which is ``1 / SNR``.
    """
    if prediction == "x0":
        return torch.ones_like(a)
    if prediction == "v":
        return 1 - a
    if prediction == "eps":
        return torch.where(a > 0, (1 - a) / a.clamp_min(1e-300), torch.zeros_like(a))
    raise unknown_name("prediction", prediction, ("x0", "eps", "v"))


def _before(signal: Tensor, order: Tensor, leaf: Tensor, decay: float) -> Tensor:
    """Compute Sbar over the places before each token's own, (B, n).

    Unrolled, ``Sbar = (1 - g) sum_p g^(places between p and the token) S_p``.
    """
    n = order.shape[-1]
    rows, columns = order.unsqueeze(-1), order.unsqueeze(-2)
    shared = (rows == columns) & ~leaf.unsqueeze(-2)
    of_place = torch.where(shared, signal.unsqueeze(-2), torch.zeros_like(signal).unsqueeze(-2)).amax(-1)
    index = torch.arange(n, device=order.device)
    first = torch.where(shared, index, n).amin(-1) == index  # one token stands for its place
    earlier = (columns < rows) & first.unsqueeze(-2)
    rank = earlier.sum(-1)
    distance = (rank.unsqueeze(-1) - 1 - rank.unsqueeze(-2)).clamp_min(0).to(signal.dtype)
    weight = torch.where(earlier, (1 - decay) * decay**distance, torch.zeros_like(distance))
    return (weight @ of_place.unsqueeze(-1)).squeeze(-1)


def _min_snr(signal: Tensor, order: Tensor, leaf: Tensor, decay: float) -> Tensor:
    return signal


def _fused(signal: Tensor, order: Tensor, leaf: Tensor, decay: float) -> Tensor:
    return 1 - (1 - signal) * (1 - _before(signal, order, leaf, decay))


def _fused_bidirectional(signal: Tensor, order: Tensor, leaf: Tensor, decay: float) -> Tensor:
    before, after = _before(signal, order, leaf, decay), _before(signal, -order, leaf, decay)
    return 1 - (1 - signal) * (1 - before) * (1 - after)


WEIGHTINGS: dict[str, Fuse | None] = {
    "uniform": None,
    "min_snr": _min_snr,
    "fused_snr": _fused,
    "fused_snr_bidirectional": _fused_bidirectional,
}
