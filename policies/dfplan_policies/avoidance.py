"""Push plans away from places that the ball has run up against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dfplan_policies.protocol import FloatArray

RADIUS = (
    0.6  # of the discs that plans are pushed out of, in cells: about half of a wall, seen from where it was touched
)


def away_from(blocked: Sequence[FloatArray]) -> Any:
    """Build guidance for `dfplan.DFPlanner.plan` that keeps plans out of discs around blocked places.

    Args:
        blocked: Places (2,); at least one.
    """
    from dfplan.guidance import DiscObstacle, all_of

    discs = [DiscObstacle([float(v) for v in place], RADIUS) for place in blocked]
    return all_of(*discs) if len(discs) > 1 else discs[0]
