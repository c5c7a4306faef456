"""Synthetic images made worse on purpose, to measure how much FFR depends on the quality of its generator.

The order is pixelate, defocus blur, Gaussian noise, each at one severity from 1 to 5, as in the code of From Fake to
Real. The parameters are those of ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261), made for 224 pixels.
"""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from debeton.data.beton.images import to_rgb
from debeton.data.spec import Rows
from debeton.system.errors import UsageError
from debeton.system.seed import make_rng

PIXELATE = (0.6, 0.5, 0.4, 0.3, 0.25)  # share of the side
DEFOCUS = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))  # radius in pixels, blur of the disk's edge
NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)  # standard deviation, of values in [0, 1]


def corrupt_rows(rows: Rows, severity: int) -> Rows:
    """Return the same rows with corrupted images. The noise is a function of the row's name.

    severity: 1 to 5. UsageError for any other.
    """
    if not 1 <= severity <= len(PIXELATE):
        raise UsageError(
            f"--severity {severity} is out of range; it is 1 to {len(PIXELATE)}, or 0 for images as they are"
        )

    def read(row: int) -> NDArray[np.uint8]:
        return corrupt_image(to_rgb(rows.image(row)), severity, make_rng("corruption", rows.names[row]))

    return replace(rows, image=read)


def corrupt_image(image: NDArray[np.uint8], severity: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return one image, uint8 [H, W, 3], after all three corruptions."""
    values = defocus(pixelate(image, PIXELATE[severity - 1]), *DEFOCUS[severity - 1])
    noise = rng.normal(0, NOISE[severity - 1], image.shape)
    return np.rint(255 * np.clip(values / 255 + noise, 0, 1)).astype(np.uint8)


def pixelate(image: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """Shrink an image to a share of its sides by averaging, and enlarge it again by repeating pixels."""
    height, width = image.shape[:2]
    small = (max(1, int(width * share)), max(1, int(height * share)))
    shrunk = Image.fromarray(image).resize(small, Image.Resampling.BOX)
    return np.asarray(shrunk.resize((width, height), Image.Resampling.NEAREST))


def defocus(image: NDArray[np.uint8], radius: float, edge: float) -> NDArray[np.float64]:
    """Average an image over a disk, [H, W, 3] in [0, 255].

    The kernel reaches beyond the disk, so that a smoothed edge keeps the sum. ImageNet-C's kernel of 8 pixels makes
    images brighter.

    radius: of the disk, in pixels.
    edge: the standard deviation of the Gaussian that smooths the edge of the disk, in pixels.
    """
    reach = math.ceil(radius) + 3
    x, y = np.meshgrid(*[np.arange(-reach, reach + 1)] * 2)
    disk = (x**2 + y**2 <= radius**2).astype(np.float64)
    size = 3 if radius <= 8 else 5
    kernel = cv2.GaussianBlur(disk / disk.sum(), (size, size), sigmaX=edge)
    return np.clip(cv2.filter2D(image.astype(np.float64), -1, kernel), 0, 255)
