"""Corruptions at CIFAR-10's severities have their closed forms, or equal a plain form of the published rule."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import pytest
from PIL import Image

from debeton.data.raw import cifar_corruptions as cc
from debeton.data.sources.corrupted_cifar10 import TYPES

ALL = {name: function for kind in TYPES.values() for name, function in kind.items()}
GEOMETRIC = ("elastic", "pixelate", "gaussian blur", "defocus blur", "glass blur", "motion blur", "zoom blur", "jpeg")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def image():
    """Return a smooth image with all channels different."""
    rows, columns = np.mgrid[:32, :32]
    planes = (rows * 7 % 256, columns * 6 + 30, 128 + 60 * np.sin(rows / 5) * np.cos(columns / 4))
    return np.stack(planes, axis=2).astype(np.uint8)


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_corruption_is_a_function_of_image_severity_and_stream(name, image):
    before = image.copy()
    for severity in range(1, 6):
        first, again = (cc.corrupt(image, ALL[name], severity, rng(3)) for _ in range(2))
        assert first.shape == (32, 32, 3)
        assert first.dtype == np.uint8
        assert (first == again).all()
    assert (image == before).all()
    assert (first == image).all() == (name == "original")


@pytest.mark.parametrize("name", GEOMETRIC)
def test_a_plain_image_stays_plain_where_only_places_or_neighbours_mix(name):
    plain = np.full((32, 32, 3), 100, np.uint8)
    for severity in (1, 5):
        assert np.abs(ALL[name](plain, severity, rng()) - 100).max() < 1.01


@pytest.mark.parametrize(
    ("corruption", "deviation"),
    [
        (cc.gaussian_noise, lambda c: 255 * (0.04, 0.10)[c]),
        (cc.speckle_noise, lambda c: 128 * (0.06, 0.2)[c]),
        (cc.shot_noise, lambda c: 255 * np.sqrt(128 / 255 / (500, 50)[c])),
    ],
)
def test_noise_has_the_deviation_of_its_severity(corruption, deviation):
    grey = np.full((32, 32, 3), 128, np.uint8)
    for k, severity in enumerate((1, 5)):
        noise = np.concatenate([corruption(grey, severity, rng(seed)).ravel() - 128 for seed in range(10)])
        assert noise.std() == pytest.approx(deviation(k), rel=0.02)
        assert abs(noise.mean()) < 4 * noise.std() / np.sqrt(len(noise))


def test_impulse_noise_hits_seven_percent_of_the_values_half_of_them_white():
    grey = np.full((32, 32, 3), 128, np.uint8)
    noise = np.concatenate([cc.impulse_noise(grey, 5, rng(seed)).ravel() for seed in range(10)])
    n = len(noise)
    for value in (0, 255):
        assert abs((noise == value).mean() - 0.035) < 5 * np.sqrt(0.035 / n)


def test_contrast_shrinks_each_channel_around_its_mean(image):
    changed = cc.contrast(image, 5, rng())
    assert np.allclose(changed.mean((0, 1)), image.mean((0, 1)))
    assert np.allclose(changed.std((0, 1)), 0.15 * image.std((0, 1)))


@pytest.mark.parametrize(
    ("corruption", "change"),
    [
        (cc.brightness, lambda h, s, v: (h, s, min(v + 0.3, 1))),
        (cc.saturate, lambda h, s, v: (h, min(s * 2.5 + 0.2, 1), v)),
    ],
)
def test_brightness_and_saturation_change_one_channel_of_hsv(corruption, change, image):
    changed = corruption(image, 5, rng())
    for row, column in ((0, 0), (5, 17), (20, 31), (31, 4)):
        expected = colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*(image[row, column] / 255))))
        assert np.allclose(changed[row, column] / 255, expected, atol=2e-3)


def test_jpeg_is_what_pillow_writes_at_quality_40(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=40)
    assert (cc.jpeg(image, 5, rng()) == np.asarray(Image.open(buffer))).all()


def test_pixelate_shrinks_to_20_pixels_and_back_with_box_filters(image):
    small = Image.fromarray(image).resize((20, 20), Image.Resampling.BOX)
    assert (cc.pixelated(image, 5, rng()) == np.asarray(small.resize((32, 32), Image.Resampling.BOX))).all()


def test_fog_keeps_the_brightest_value_in_reach_and_adds_the_same_to_all_channels(image):
    changed = cc.fog(image, 3, rng())
    brightest = image.max() / 255
    mist = changed / 255 * (brightest + 0.75) / brightest - image / 255
    assert np.allclose(mist, mist[:, :, :1])
    assert (mist.min(), mist.max()) == (pytest.approx(0, abs=1e-9), pytest.approx(0.75))


def literal_plasma(stream: np.random.Generator, side: int, decay: float) -> np.ndarray:
    """Return the heights of `plasma`, cell by cell with wrapped neighbours."""
    heights = np.zeros((side, side))
    step, amplitude = side, 100.0

    def noise(n):
        return amplitude * stream.uniform(-amplitude, amplitude, (n, n))

    while step >= 2:
        half, n = step // 2, side // step
        for kind in ("middle", "top", "left"):
            added, old = noise(n), heights.copy()
            for i in range(n):
                for j in range(n):
                    r = i * step + (0 if kind == "top" else half)
                    c = j * step + (0 if kind == "left" else half)
                    d = half
                    around = (
                        [(r - d, c - d), (r - d, c + d), (r + d, c - d), (r + d, c + d)]
                        if kind == "middle"
                        else [(r - d, c), (r + d, c), (r, c - d), (r, c + d)]
                    )
                    heights[r, c] = sum(old[a % side, b % side] for a, b in around) / 4 + added[i, j]
        step, amplitude = half, amplitude / decay
    heights -= heights.min()
    return heights / heights.max()


@pytest.mark.parametrize("decay", [1.75, 3])
def test_plasma_is_midpoint_displacement_on_a_torus(decay):
    assert np.allclose(cc.plasma(rng(2), 16, decay), literal_plasma(rng(2), 16, decay))


def test_glass_blur_copies_neighbours_in_the_owners_order(image):
    moves = rng(1).integers(-1, 1, (2, 30, 30))  # severity 2 has one round
    blurred = cc._gaussian(image.astype(np.float64), 0.25).astype(np.uint8)
    for row in range(31, 1, -1):
        for column in range(31, 1, -1):
            up, left = moves[:, row - 2, column - 2]
            blurred[row, column] = blurred[row + up, column + left]
    expected = cc._gaussian(blurred.astype(np.float64), 0.25)
    assert np.allclose(cc.glass_blur(image, 2, rng(1)), expected)


def test_motion_blur_takes_half_a_gaussian_along_its_line():
    point = np.zeros((32, 32, 1), np.uint8)
    point[16, 16] = 255
    weights = np.exp(-(np.arange(13) ** 2) / (2 * 2**2))
    spread = np.rint(255 * weights / weights.sum())
    blurred = cc._blur_along(point, 6, 2, 0)
    assert blurred[16, 4:17, 0].tolist() == spread[::-1].tolist()
    assert blurred.sum() == spread.sum()
    assert cc._blur_along(point, 6, 2, 90)[4:17, 16, 0].tolist() == spread[::-1].tolist()


def test_frost_adds_a_piece_of_one_of_the_photos(image):
    photos = [np.full((40, 50, 3), value, np.uint8) for value in (40, 200)]
    drawn = {int(np.rint((cc.frost(photos)(image, 1, rng(seed)) - image).max())) for seed in range(20)}
    assert drawn == {8, 40}
    assert cc.frost(photos)(image, 5, rng())[3, 4] == pytest.approx(
        0.75 * image[3, 4] + 0.45 * photos[int(rng().integers(2))][0, 0]
    )


def test_mud_covers_parts_with_brown_and_water_only_brightens(image):
    grey = np.full((32, 32, 3), 200, np.uint8)
    mud = cc.spatter(grey, 5, rng(4))
    covered = mud[mud[:, :, 0] < 100]
    assert 10 < len(covered) < 512
    assert covered[:, 0].min() > 60
    assert (covered[:, 0] > covered[:, 2]).all()
    assert (cc.spatter(image, 1, rng(4)) >= image - 1e-9).all()


def test_snow_brightens_and_elastic_moves_less_than_three_pixels(image):
    assert cc.corrupt(image, cc.snow, 5, rng()).mean() > image.mean() + 10
    rows = np.repeat(np.arange(32)[:, None], 32, 1)
    ramp = np.stack([rows * 4] * 3, 2).astype(np.uint8)
    moved = np.abs(cc.elastic(ramp, 5, rng())[6:26, 6:26, 0] / 4 - rows[6:26, 6:26])
    assert 0.05 < moved.max() < 4.5
