"""Corruptions of images of 32x32 pixels, with the parameters of CIFAR-10-C.

Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations" (arXiv
1903.12261); the parameters for CIFAR-10 are in github.com/hendrycks/robustness, make_cifar_c.py. Nam et al. 2020 use
them for Corrupted CIFAR-10. A corruption is a function of an image, its severity and a random stream.

Three details are the published ones, though they look like slips:
- glass blur copies a neighbour into a pixel instead of swapping both;
- the noise of fog grows with the square of its amplitude;
- frost uses the first five of its six photos.

Motion blur is that of ImageMagick: half a Gaussian along a line, one weight a pixel, edges repeated.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from debeton.data.raw.corruptions import defocus, pixelate

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Corruption = Callable[[Pixels, int, np.random.Generator], Floats]  # values in [0, 255], of severity 1 to 5

SEVERITIES = 5
SIDE = 32
GAUSSIAN_NOISE = (0.04, 0.06, 0.08, 0.09, 0.10)
SHOT_NOISE = (500, 250, 100, 75, 50)  # photons of a white pixel
IMPULSE_NOISE = (0.01, 0.02, 0.03, 0.05, 0.07)  # share of the values
SPECKLE_NOISE = (0.06, 0.1, 0.12, 0.16, 0.2)
GAUSSIAN_BLUR = (0.4, 0.6, 0.7, 0.8, 1)
GLASS_BLUR = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))  # blur, rounds
DEFOCUS_BLUR = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))  # radius, blur of the disk's edge
MOTION_BLUR = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))  # radius, sigma
ZOOM_BLUR = (6, 11, 16, 21, 26)  # number of factors 1, 1.01, 1.02, ...
FOG = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))  # strength, decay
FROST = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))  # weights of image and frost
SNOW = (  # mean, deviation, zoom, threshold, radius and sigma of the blur, weight of the image
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
)
SPATTER = (  # mean, deviation, blur, threshold, strength or blur of mud, mud
    (0.62, 0.1, 0.7, 0.7, 0.5, False),
    (0.65, 0.1, 0.8, 0.7, 0.5, False),
    (0.65, 0.3, 1, 0.69, 0.5, False),
    (0.65, 0.1, 0.7, 0.69, 0.6, True),
    (0.65, 0.1, 0.5, 0.68, 0.6, True),
)
CONTRAST = (0.75, 0.5, 0.4, 0.3, 0.15)
BRIGHTNESS = (0.05, 0.1, 0.15, 0.2, 0.3)
SATURATE = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))  # factor, summand
JPEG = (80, 65, 58, 50, 40)
PIXELATE = (0.95, 0.9, 0.85, 0.75, 0.65)
ELASTIC = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))  # shares of SIDE
WATER, MUD = np.array((175, 238, 238)) / 255, np.array((63, 42, 20)) / 255


def corrupt(image: Pixels, corruption: Corruption, severity: int, rng: np.random.Generator) -> Pixels:
    """Return an image, uint8 [32, 32, 3], after a corruption; values are cut to [0, 255] and rounded down."""
    return np.clip(corruption(image, severity, rng), 0, 255).astype(np.uint8)


# --- noise ---------------------------------------------------------------------------------------------------


def gaussian_noise(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    return 255 * np.clip(image / 255 + rng.normal(0, GAUSSIAN_NOISE[severity - 1], image.shape), 0, 1)


def shot_noise(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    photons = SHOT_NOISE[severity - 1]
    return 255 * np.clip(rng.poisson(image / 255 * photons) / photons, 0, 1)


def impulse_noise(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    hit = rng.random(image.shape) < IMPULSE_NOISE[severity - 1]
    return np.where(hit, 255.0 * (rng.random(image.shape) < 0.5), image)


def speckle_noise(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    values = image / 255
    return 255 * np.clip(values + values * rng.normal(0, SPECKLE_NOISE[severity - 1], image.shape), 0, 1)


# --- blur ----------------------------------------------------------------------------------------------------


def gaussian_blur(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    return _gaussian(image.astype(np.float64), GAUSSIAN_BLUR[severity - 1])


def defocus_blur(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    return defocus(image, *DEFOCUS_BLUR[severity - 1])


def glass_blur(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    """Copy a random neighbour above or to the left into each inner pixel, between two blurs."""
    sigma, rounds = GLASS_BLUR[severity - 1]
    values = _gaussian(image.astype(np.float64), sigma).astype(np.uint8)
    inner = np.arange(2, SIDE)
    for _ in range(rounds):
        up, left = rng.integers(-1, 1, (2, len(inner), len(inner)))
        # The owners go through the pixels from the last one on, so that no copied pixel is copied again in a round.
        values[2:, 2:] = values[inner[:, None] + up, inner[None, :] + left]
    return _gaussian(values.astype(np.float64), sigma)


def motion_blur(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    radius, sigma = MOTION_BLUR[severity - 1]
    return _blur_along(image, radius, sigma, rng.uniform(-45, 45))


def zoom_blur(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    values = image.astype(np.float64)
    zoomed = [_enlarge(values, 1 + k / 100) for k in range(ZOOM_BLUR[severity - 1])]
    return (values + np.sum(zoomed, axis=0)) / (len(zoomed) + 1)


# --- weather -------------------------------------------------------------------------------------------------


def fog(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    strength, decay = FOG[severity - 1]
    values = image / 255
    brightest = values.max()
    mist = strength * plasma(rng, SIDE, decay)[:, :, None]
    return 255 * (values + mist) * brightest / (brightest + strength)


def frost(photos: Sequence[Pixels]) -> Corruption:
    """Return the corruption that adds a piece of a photo of frost. photos: uint8 [H, W, 3], at least 33x33."""

    def corruption(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
        photo = photos[int(rng.integers(len(photos)))]
        top, left = rng.integers(0, photo.shape[0] - SIDE), rng.integers(0, photo.shape[1] - SIDE)
        own, ice = FROST[severity - 1]
        return own * image + ice * photo[top : top + SIDE, left : left + SIDE].astype(np.float64)

    return corruption


def drawn_frost(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    """Add a pattern of pale blue ice made of noise, for machines without the published photos."""
    own, ice = FROST[severity - 1]
    return own * image + ice * 255 * plasma(rng, SIDE, 1.5)[:, :, None] * (0.85, 0.95, 1.0)


def snow(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    mean, deviation, factor, threshold, radius, sigma, weight = SNOW[severity - 1]
    flakes = _enlarge(rng.normal(mean, deviation, (SIDE, SIDE, 1)), factor)
    flakes = np.where(flakes < threshold, 0, np.clip(flakes, 0, 1))
    layer = _blur_along((flakes * 255).astype(np.uint8), radius, sigma, rng.uniform(-135, -45))
    values = image.astype(np.float64)
    grey = (values @ (0.299, 0.587, 0.114))[:, :, None] * 1.5 + 127.5
    return weight * values + (1 - weight) * np.maximum(values, grey) + layer + np.rot90(layer, 2)


# --- other ---------------------------------------------------------------------------------------------------


def spatter(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    """Add drops of water (severity 1 to 3), or cover parts with mud (4 and 5)."""
    mean, deviation, sigma, threshold, strength, mud = SPATTER[severity - 1]
    liquid = _gaussian(rng.normal(mean, deviation, (SIDE, SIDE, 1)), sigma)[:, :, 0]
    liquid[liquid < threshold] = 0
    if mud:
        cover = _gaussian((liquid > threshold).astype(np.float64)[:, :, None], strength)
        cover[cover < 0.8] = 0
        return image * (1 - cover) + 255 * MUD * cover
    drops = _drops((liquid * 255).astype(np.uint8))
    highest = drops.max()
    shine = strength * drops / highest if highest > 0 else drops
    return image + 255 * shine[:, :, None] * WATER


def _drops(liquid: Pixels) -> Floats:
    """Return the brightness of drops: the amount of liquid, with light from one side on their edges."""
    distance = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    distance = np.minimum(distance, 20)
    levels = cv2.equalizeHist(cv2.blur(distance, (3, 3)).astype(np.uint8))
    relief = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)
    lit = cv2.blur(cv2.filter2D(levels, cv2.CV_8U, relief), (3, 3))
    return np.asarray(liquid.astype(np.float64) * lit)


def contrast(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    means = image.mean((0, 1), keepdims=True)
    return np.asarray((image - means) * CONTRAST[severity - 1] + means)


def brightness(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    return _in_hsv(image, 2, 1, BRIGHTNESS[severity - 1])


def saturate(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    return _in_hsv(image, 1, *SATURATE[severity - 1])


def jpeg(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG[severity - 1])
    return np.asarray(Image.open(buffer, formats=("JPEG",)), np.float64)


def pixelated(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    return pixelate(image, PIXELATE[severity - 1]).astype(np.float64)


def elastic(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    """Move three points of the image at random, and then every pixel by a smooth random field."""
    from scipy.ndimage import gaussian_filter, map_coordinates  # slow to import

    amount, sigma, shift = (SIDE * share for share in ELASTIC[severity - 1])
    middle, reach = SIDE // 2, SIDE // 3
    points = np.array([(1, 1), (1, -1), (-1, -1)], np.float32) * reach + middle
    moved = points + rng.uniform(-shift, shift, points.shape).astype(np.float32)
    matrix = cv2.getAffineTransform(points, moved)
    values = cv2.warpAffine(image.astype(np.float32), matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT_101)
    field = rng.uniform(-1, 1, (2, SIDE, SIDE))
    right, down = (gaussian_filter(part, sigma, mode="reflect", truncate=3) * amount for part in field)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    where = (rows + down, columns + right)
    return np.stack([map_coordinates(values[..., k], where, order=1, mode="reflect") for k in range(3)], axis=2)


def original(image: Pixels, severity: int, rng: np.random.Generator) -> Floats:
    return image.astype(np.float64)


# --- shared --------------------------------------------------------------------------------------------------


def plasma(rng: np.random.Generator, side: int, decay: float) -> Floats:
    """Return heights in [0, 1], [side, side], by midpoint displacement on a torus. side: a power of two.

    decay: the factor by which the amplitude falls from one step to the next.
    """
    heights = np.zeros((side, side))
    step, amplitude = side, 100.0
    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        pairs = corners + np.roll(corners, -1, 0)
        # Each noise below has the amplitude squared, as published.
        middles = (pairs + np.roll(pairs, -1, 1)) / 4 + amplitude * rng.uniform(-amplitude, amplitude, corners.shape)
        heights[half::step, half::step] = middles
        upper = middles + np.roll(middles, 1, 0) + corners + np.roll(corners, -1, 1)
        heights[::step, half::step] = upper / 4 + amplitude * rng.uniform(-amplitude, amplitude, corners.shape)
        left = middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 0)
        heights[half::step, ::step] = left / 4 + amplitude * rng.uniform(-amplitude, amplitude, corners.shape)
        step, amplitude = half, amplitude / decay
    heights -= heights.min()
    return heights / heights.max()


def _gaussian(values: Floats, sigma: float) -> Floats:
    """Blur [H, W, C] with a Gaussian of 4 sigma to each side; edges are repeated."""
    from scipy.ndimage import gaussian_filter  # slow to import

    return np.asarray(gaussian_filter(values, (sigma, sigma, 0), mode="nearest", truncate=4))


def _blur_along(image: Pixels, radius: int, sigma: float, angle: float) -> Floats:
    """Blur an image, uint8 [H, W, C], along a line as ImageMagick does. angle: in degrees."""
    width = 2 * radius + 1
    steps = np.arange(width)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    radians = np.deg2rad(angle)
    right = np.ceil(steps * np.cos(radians) - 0.5).astype(int)
    down = np.ceil(steps * np.sin(radians) - 0.5).astype(int)
    kernel = np.zeros((2 * width + 1, 2 * width + 1))
    np.add.at(kernel, (width + down, width + right), weights / weights.sum())
    blurred = cv2.filter2D(image.astype(np.float64), -1, kernel, borderType=cv2.BORDER_REPLICATE)
    return np.rint(blurred.reshape(image.shape))


def _enlarge(values: Floats, factor: float) -> Floats:
    """Enlarge the middle of [H, W, C] linearly and return its middle part of the same size."""
    from scipy.ndimage import zoom  # slow to import

    side = len(values)
    part = int(np.ceil(side / factor))
    first = (side - part) // 2
    enlarged = zoom(values[first : first + part, first : first + part], (factor, factor, 1), order=1)
    cut = (len(enlarged) - side) // 2
    return np.asarray(enlarged[cut : cut + side, cut : cut + side])


def _in_hsv(image: Pixels, channel: int, factor: float, summand: float) -> Floats:
    """Multiply a channel of hue, saturation and value (in [0, 1]), add to it and cut it to [0, 1]."""
    values = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    values[:, :, channel] = np.clip(values[:, :, channel] * factor + summand, 0, 1)
    return np.asarray(255 * cv2.cvtColor(values, cv2.COLOR_HSV2RGB), np.float64)
