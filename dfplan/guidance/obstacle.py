"""Keep plans out of a disc, between tokens too."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dfplan.guidance.base import Numbers, check_not_negative, per_column


def between(points: Tensor, refine: int) -> Tensor:
    """Interpolate ``refine`` evenly spaced points inside every segment of (B, H+1, C): (B, H, refine, C)."""
    share = (torch.arange(refine, device=points.device, dtype=points.dtype) + 1) / (refine + 1)
    left, right = points[:, :-1, None], points[:, 1:, None]
    return left + share[:, None] * (right - left)


@dataclass(frozen=True)
class DiscObstacle:
    """Keep plans out of a disc (a ball in more than two columns).

    ``log c = -scale * sum_t (d(p_t)^2 + mean_j d(p_{t,j})^2)``, with the penetration
    ``d(p) = max(0, radius + margin - |p - center|)`` in environment units and p_{t,j} the ``refine`` points that divide
    the straight line from token t-1 to token t. A soft hinge: outside it is exactly 0, inside it grows with the square.
    The sum over tokens is a product of factors: what pushes one token does not depend on the horizon. The mean over j
    makes it independent of ``refine`` too, once the points are closer than the disc is wide.

    A hinge pushes only inside: a plan comes to rest at a small penetration, where the push and the model's own wish
    balance, so give ``margin`` the clearance you want. At the very centre there is no direction and no push.

    Attributes:
        center: (C,) or (B, C), environment units.
        radius: Of the forbidden disc, environment units.
        margin: Added to the radius, environment units.
        columns: Observation columns of the position.
        scale: Strength, 1 / (2 variance) of a Gaussian on the penetration.
        refine: Points between neighbouring tokens, so that a plan cannot jump over the disc; 0 looks at tokens alone.
    """

    center: Numbers
    radius: float
    margin: float = 0.0
    columns: tuple[int, ...] = (0, 1)
    scale: float = 50.0
    refine: int = 3

    def __post_init__(self) -> None:
        for name in ("radius", "margin", "scale"):
            check_not_negative(name, getattr(self, name))
        if self.refine < 0:
            raise ValueError(f"refine must be at least 0, got {self.refine}; it counts points between tokens")
        object.__setattr__(self, "center", per_column("center", self.center, self.columns))

    def penetration(self, points: Tensor) -> Tensor:
        """Compute how deep points (B, ..., C) lie inside the enlarged disc: (B, ...), 0 outside."""
        center = per_column("center", self.center, self.columns).to(points)
        center = center.reshape(-1, *[1] * (points.ndim - 2), len(self.columns))
        distance = ((points - center) ** 2).sum(-1).add(1e-12).sqrt()
        return (self.radius + self.margin - distance).clamp_min(0)

    def __call__(self, states: Tensor, k: Tensor) -> Tensor:
        """Return log c (B,) of states (B, H+1, O)."""
        points = states[..., list(self.columns)]
        value = (self.penetration(points[:, 1:]) ** 2).sum(-1)
        if self.refine:
            value = value + (self.penetration(between(points, self.refine)) ** 2).mean(-1).sum(-1)
        return -self.scale * value
