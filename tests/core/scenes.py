"""Pictures drawn by numpy: a coloured square, and a table with plates, two discs and an arm."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]
TABLE, PLATES = (150, 120, 90), ((90, 110, 160), (110, 150, 100), (170, 160, 90))
DISCS, ARM = ((200, 40, 30), (240, 140, 20)), (130, 130, 135)


def squares(n: int, rng: np.random.Generator, *, size: int = 32, cameras: int = 1, side: int = 5) -> Any:
    """Draw a red square at a random place on grey; the cameras see the same.

    Returns:
        frames uint8 (n, cameras, size, size, 3) and the squares' centres (n, 2) in pixels, x and y.
    """
    corner = rng.integers(2, size - side - 1, (n, 2))
    frames = np.full((n, cameras, size, size, 3), 90, dtype=np.uint8)
    for frame, (x, y) in zip(frames, corner, strict=True):
        frame[:, y : y + side, x : x + side] = (220, 40, 40)
    return frames, corner + (side - 1) / 2


def tables(
    n: int, rng: np.random.Generator, *, size: int = 64
) -> tuple[Pictures, NDArray[np.float64], NDArray[np.bool_]]:
    """Draw a table with three plates, a red and an orange disc, and a grey bar as an arm, seen by two cameras.

    The second camera sees the scene mirrored and at 3/2 of the size, cut at the borders.

    Returns:
        frames uint8 (n, 2, size, size, 3); the discs' places in the first picture (n, 2, 2) in pixels; where discs are
        to be seen, bool (n, 2, size, size).
    """
    place = np.stack([rng.uniform(0.15, 0.85, (n, 2)), rng.uniform(0.3, 0.85, (n, 2))], -1)
    hand = np.stack([rng.uniform(0.15, 0.85, n), rng.uniform(0.1, 0.6, n)], -1)
    frames = np.zeros((n, 2, size, size, 3), dtype=np.uint8)
    seen = np.zeros((n, 2, size, size), dtype=bool)
    for i in range(n):
        for camera in range(2):
            frames[i, camera], seen[i, camera] = _table(place[i], hand[i], camera, size)
    return frames, place * size - 0.5, seen


def _table(place: Any, hand: Any, camera: int, size: int) -> tuple[Pictures, NDArray[np.bool_]]:
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    if camera:
        x, y = 0.5 - (x - 0.5) / 1.5, 0.6 + (y - 0.5) / 1.5
    picture = np.empty((size, size, 3), dtype=np.uint8)
    picture[:] = TABLE
    picture[y < 0.2] = (200, 205, 210)
    for j, colour in enumerate(PLATES):
        picture[(x - 0.25 * (j + 1)) ** 2 + (y - 0.6) ** 2 < 0.1**2] = colour
    seen = np.zeros((size, size), dtype=bool)
    for centre, radius, colour in zip(place, (0.05, 0.042), DISCS, strict=True):
        inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
        picture[inside], seen = colour, seen | inside
    arm = (abs(x - hand[0]) < 0.025) & (y < hand[1])
    picture[arm] = ARM
    return picture, seen & ~arm
