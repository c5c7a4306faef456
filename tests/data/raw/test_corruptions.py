"""Corruptions of synthetic images, compared with closed forms. Only synthetic rows get them."""

from __future__ import annotations

import numpy as np
import pytest

from debeton.data.raw.corruptions import DEFOCUS, NOISE, PIXELATE, corrupt_image, corrupt_rows, defocus, pixelate
from debeton.data.spec import Rows
from debeton.system.errors import UsageError


def photo(seed: int = 0, size: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def test_pixelate_makes_blocks_of_the_mean():
    image = photo()
    found = pixelate(image, 0.25)
    blocks = image.reshape(16, 4, 16, 4, 3).mean((1, 3))
    np.testing.assert_allclose(found, np.repeat(np.repeat(blocks, 4, 0), 4, 1), atol=1)


@pytest.mark.parametrize(("radius", "edge"), DEFOCUS)
def test_defocus_keeps_the_mean_and_is_the_disk_of_a_point(radius, edge):
    point = np.zeros((41, 41, 3))
    point[20, 20] = 255
    spread = defocus(point.astype(np.uint8), radius, edge)
    assert spread[..., 0].sum() == pytest.approx(255, rel=1e-3)
    y, x = np.mgrid[-20:21, -20:21]
    inside, outside = x**2 + y**2 <= (radius - 2) ** 2, x**2 + y**2 > (radius + 2) ** 2
    area = (x**2 + y**2 <= radius**2).sum()
    np.testing.assert_allclose(spread[inside][:, 0], 255 / area, rtol=1e-3)
    assert spread[outside].max() < 1e-3
    np.testing.assert_allclose(defocus(np.full((20, 20, 3), 77, np.uint8), radius, edge), 77, atol=1e-6)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_noise_has_the_deviation_of_its_severity(severity):
    grey = np.full((120, 120, 3), 128, np.uint8)
    values = corrupt_image(grey, severity, np.random.default_rng(0)) / 255
    limit = np.clip(np.random.default_rng(1).normal(128 / 255, NOISE[severity - 1], 10**6), 0, 1).std()
    assert values.std() == pytest.approx(limit, rel=0.02)


def test_a_higher_severity_is_further_from_the_image():
    smooth = np.asarray(np.add.outer(np.arange(64), np.arange(64)) * 2 % 256, np.uint8)[..., None].repeat(3, 2)
    errors = [
        np.abs(corrupt_image(smooth, s, np.random.default_rng(0)).astype(int) - smooth).mean() for s in range(1, 6)
    ]
    assert errors == sorted(errors)
    assert len(PIXELATE) == len(DEFOCUS) == len(NOISE) == 5


def test_corruption_happens_on_reading_and_depends_on_the_name_alone():
    rows = Rows(np.zeros(3, int), np.zeros(3, int), photo, ["a", "b", "a2"], source=np.ones(3, int))
    worse = corrupt_rows(rows, 2)
    np.testing.assert_array_equal(worse.image(1), worse.image(1))
    assert (worse.image(1) != rows.image(1)).mean() > 0.9
    renamed = corrupt_rows(Rows(rows.label, rows.attribute, lambda row: photo(0), ["a", "b", "c"]), 2)
    assert (renamed.image(0) != renamed.image(1)).any()
    for severity in (0, 6):
        with pytest.raises(UsageError, match=f"--severity {severity} is out of range"):
            corrupt_rows(rows, severity)
