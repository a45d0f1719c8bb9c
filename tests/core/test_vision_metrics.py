"""PSNR and SSIM against closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfplan.vision import psnr, quality_curves, ssim

C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def flat(value: int, *lead: int) -> Any:
    return np.full((*lead, 16, 16, 3), value, dtype=np.uint8)


def test_psnr_of_a_known_difference() -> None:
    # Catches: differences that wrap round in uint8, a natural logarithm, 20 for 10, the mean taken over all frames.
    real = flat(10, 3)
    other = np.stack([flat(10), flat(0), flat(30)])
    found = psnr(real, other)
    assert found.shape == (3,) and found[0] == np.inf
    np.testing.assert_allclose(found[1:], [20 * np.log10(25.5), 20 * np.log10(255 / 20)])


def test_psnr_inside_a_mask() -> None:
    # Catches: a mask that divides by all pixels, or counts channels twice.
    real, other, mask = flat(100, 2), flat(100, 2), np.zeros((2, 16, 16), dtype=bool)
    other[:, :4], mask[:, :8] = 110, True
    np.testing.assert_allclose(psnr(real, other, mask=mask), 10 * np.log10(255**2 / 50))
    assert np.isnan(psnr(real, other, mask=np.zeros_like(mask))).all()
    with pytest.raises(ValueError, match=r"mask must be bool \(2, 16, 16\)"):
        psnr(real, other, mask=mask[0])


def test_ssim_of_flat_pictures_is_the_term_of_the_means() -> None:
    # Catches: C1 and C2 in the other's place, 0.01 * 255 not squared, a window that does not add up to 1.
    for a, b in ((100, 120), (0, 255), (3, 9)):
        expected = (2 * a * b + C1) / (a * a + b * b + C1)
        np.testing.assert_allclose(ssim(flat(a), flat(b)), expected, rtol=1e-9)


def test_ssim_of_one_window_is_the_formula_written_out() -> None:
    # Catches: another window or width, sample variances, a covariance that lacks the means.
    x, y = noise(11, 11, 3), noise(11, 11, 3, seed=1)
    at = np.arange(11) - 5
    w = np.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * 1.5**2))
    w = w / w.sum()
    values = []
    for c in range(3):
        a, b = x[..., c].astype(float), y[..., c].astype(float)
        ma, mb = (w * a).sum(), (w * b).sum()
        va, vb, cov = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum(), (w * (a - ma) * (b - mb)).sum()
        values.append((2 * ma * mb + C1) * (2 * cov + C2) / ((ma**2 + mb**2 + C1) * (va + vb + C2)))
    np.testing.assert_allclose(ssim(x, y), np.mean(values), rtol=1e-9)


def test_ssim_of_equal_and_of_inverted_pictures() -> None:
    # Catches: a value above 1, a lost sign of the covariance, the average over frames, pictures turned on their side.
    x = noise(2, 20, 14, 3)
    np.testing.assert_allclose(ssim(x, x), [1, 1], rtol=1e-12)
    found = ssim(x, 255 - x)
    assert found.shape == (2,) and (found < -0.5).all()
    np.testing.assert_allclose(ssim(x, 255 - x), ssim(x.swapaxes(1, 2), 255 - x.swapaxes(1, 2)), rtol=1e-9)


def test_curves_are_per_frame_and_average_cameras() -> None:
    # Catches: cameras taken for frames, an average over time.
    real, other = noise(4, 2, 16, 16, 3), noise(4, 2, 16, 16, 3, seed=1)
    other[0] = real[0]
    curves = quality_curves(real, other)
    assert set(curves) == {"psnr", "ssim"} and curves["psnr"].shape == curves["ssim"].shape == (4,)
    assert curves["psnr"][0] == np.inf and curves["ssim"][0] == pytest.approx(1)
    np.testing.assert_allclose(curves["psnr"][3], psnr(real[3], other[3]).mean())
    np.testing.assert_allclose(curves["ssim"][2], (ssim(real[2, 0], other[2, 0]) + ssim(real[2, 1], other[2, 1])) / 2)


def test_what_does_not_fit_is_refused() -> None:
    # Catches: pictures in [0, 1] measured as if they went to 255; shapes that broadcast.
    x = noise(3, 16, 16, 3)
    with pytest.raises(TypeError, match="other must be a uint8 array, got float64"):
        psnr(x, x / 255)
    with pytest.raises(ValueError, match=r"same shape, got \(3, 16, 16, 3\) and \(16, 16, 3\)"):
        psnr(x, x[0])
    with pytest.raises(ValueError, match=r"\(\.\.\., H, W, 3\)"):
        ssim(x[..., 0], x[..., 0])
    with pytest.raises(ValueError, match="at least 11 x 11 pixels"):
        ssim(x[:, :10], x[:, :10])
    with pytest.raises(ValueError, match="add an axis"):
        quality_curves(x[0], x[0])
    with pytest.raises(ValueError, match=r"unknown measure 'ssin'.*Did you mean 'ssim'"):
        quality_curves(x, x, measures=("ssin",))
