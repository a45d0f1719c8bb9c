"""Where positions lie on a drawn maze."""

from __future__ import annotations

import numpy as np
import pytest

from dfplan.plotting import MazeMap


def test_positions_of_both_frames_lie_in_their_cells() -> None:
    """Catches axes that are swapped, and an offset that is scaled with the cell."""
    d4rl = MazeMap(["####", "#OO#", "####"])
    assert d4rl.to_axes([1.0, 2.0]).tolist() == pytest.approx([2.7, 1.7])
    big = MazeMap(["####", "#OO#", "####"], offset=1.5, unit=4.0, x_right=True)
    assert big.to_axes([0.0, 0.0]).tolist() == [1.5, 1.5]  # OGBench's cell (1, 1)
    assert big.to_axes(np.array([[4.0, 0.0], [0.0, 8.0]])).tolist() == [[2.5, 1.5], [1.5, 3.5]]
