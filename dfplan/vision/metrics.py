"""How like two pictures are: PSNR and SSIM, frame by frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan.errors import unknown_name

WINDOW, SIGMA = 11, 1.5  # of SSIM's Gaussian window, pixels
K1, K2 = 0.01, 0.03
PEAK = 255.0

Pictures = NDArray[np.uint8]
Values = NDArray[np.float64]


def psnr(real: Pictures, other: Pictures, *, mask: NDArray[np.bool_] | None = None) -> Values:
    """Compute the peak signal-to-noise ratio ``10 log10(255^2 / mean squared difference)``.

    Args:
        real: uint8 (..., H, W, 3).
        other: The same shape.
        mask: bool (..., H, W), the pixels that count; None for all.

    Returns:
        float64 (...,), dB; infinity for equal pictures, NaN where the mask is empty.

    Raises:
        TypeError: If pictures are not uint8.
        ValueError: If shapes do not fit.
    """
    _check(real, other)
    squared = ((real.astype(np.float64) - other) ** 2).mean(-1)
    if mask is None:
        error = squared.mean((-2, -1))
    else:
        if mask.shape != squared.shape or mask.dtype != np.bool_:
            raise ValueError(f"mask must be bool {squared.shape} (..., H, W), got {mask.dtype} {mask.shape}")
        with np.errstate(invalid="ignore"):
            error = (squared * mask).sum((-2, -1)) / mask.sum((-2, -1))
    with np.errstate(divide="ignore"):
        return np.asarray(10 * np.log10(PEAK**2 / error))


def ssim(real: Pictures, other: Pictures) -> Values:
    """Compute the structural similarity, averaged over places and channels.

    ``(2 m_x m_y + C1)(2 s_xy + C2) / ((m_x^2 + m_y^2 + C1)(s_x^2 + s_y^2 + C2))`` with means, variances and covariance
    under a Gaussian window of 11 pixels (standard deviation 1.5), at every place where it fits in the picture;
    ``C1 = (0.01 * 255)^2``, ``C2 = (0.03 * 255)^2``.

    Args:
        real: uint8 (..., H, W, 3), H and W at least 11.
        other: The same shape.

    Returns:
        float64 (...,), at most 1, which equal pictures have.

    Raises:
        TypeError: If pictures are not uint8.
        ValueError: If shapes do not fit, or pictures are smaller than the window.

    Source:
        Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity".
    """
    _check(real, other)
    if min(real.shape[-3:-1]) < WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {WINDOW} x {WINDOW} pixels, got {real.shape[-3:-1]}")
    x, y = real.astype(np.float64), other.astype(np.float64)
    mean_x, mean_y = _window(x), _window(y)
    var_x, var_y = _window(x * x) - mean_x**2, _window(y * y) - mean_y**2
    cov = _window(x * y) - mean_x * mean_y
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    value = top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return np.asarray(value.mean((-3, -2, -1)))


MEASURES = {"psnr": psnr, "ssim": ssim}


def quality_curves(real: Pictures, other: Pictures, *, measures: tuple[str, ...] = ("psnr", "ssim")) -> dict[str, Any]:
    """Measure a video frame by frame.

    Args:
        real: uint8 (T, ..., H, W, 3); what is between (cameras) is averaged.
        other: The same shape.
        measures: Names out of ``psnr`` and ``ssim``.

    Returns:
        For each name float64 (T,).

    Raises:
        TypeError: If pictures are not uint8.
        ValueError: If shapes do not fit, or a name is unknown.
    """
    if real.ndim < 4:
        raise ValueError(f"a video must have shape (T, ..., H, W, 3), got {real.shape}; add an axis for one picture")
    curves = {}
    for name in measures:
        if name not in MEASURES:
            raise unknown_name("measure", name, MEASURES)
        curves[name] = np.array([MEASURES[name](a, b).mean() for a, b in zip(real, other, strict=True)])
    return curves


def _window(values: Values) -> Values:
    """Average (..., H, W, 3) under the Gaussian window; (..., H - 10, W - 10, 3)."""
    place = np.arange(WINDOW) - WINDOW // 2
    weight = np.exp(-0.5 * (place / SIGMA) ** 2)
    weight /= weight.sum()
    for axis in (-3, -2):
        n = values.shape[axis] - WINDOW + 1
        values = sum(w * np.take(values, range(i, i + n), axis) for i, w in enumerate(weight))
    return values


def _check(real: Pictures, other: Pictures) -> None:
    for name, value in (("real", real), ("other", other)):
        if not isinstance(value, np.ndarray) or value.dtype != np.uint8:
            found = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
            raise TypeError(f"{name} must be a uint8 array, got {found}; scale pictures to 0..255 first")
    if real.shape != other.shape:
        raise ValueError(f"pictures must have the same shape, got {real.shape} and {other.shape}")
    if real.ndim < 3 or real.shape[-1] != 3:
        raise ValueError(f"pictures must have shape (..., H, W, 3), got {real.shape}")
