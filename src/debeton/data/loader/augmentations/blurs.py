# mypy: disable-error-code="no-untyped-def"
"""An augmentation that blurs images by a Gaussian filter, as SimCLR does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from debeton.data.draws import BLUR_DRAWS, I64, U8, Keys, uniform
from debeton.data.loader.augmentations.registry import register_augmentation, require_between

SIGMAS = (0.1, 2.0)  # pixels, drawn evenly


@njit(nogil=True, cache=True)
def _reflected(index, length):
    """Return the pixel that stands for `index` beyond an edge; the edge itself is not repeated."""
    index = abs(index)
    return index if index < length else 2 * (length - 1) - index


@njit(parallel=True, nogil=True, cache=True)
def blur(images, sigmas, taps):
    """Filter each image by a Gaussian in place, rounded to whole numbers; sigma 0 leaves an image as it is.

    sigmas: float64 [B], standard deviations in pixels.
    taps: width of the filter in pixels, odd, less than twice the shorter side.
    """
    height, width, half = images.shape[1], images.shape[2], taps // 2
    for i in prange(images.shape[0]):
        if sigmas[i] == 0:
            continue
        weights = np.exp(-0.5 * ((np.arange(taps) - half) / sigmas[i]) ** 2)
        weights = (weights / weights.sum()).astype(np.float32)
        across = np.zeros((height, 3 * width), np.float32)
        padded = np.empty(3 * (width + 2 * half), np.float32)
        line = np.empty(3 * width, np.float32)
        for y in range(height):
            for x in range(width + 2 * half):
                source = _reflected(x - half, width)
                for c in range(3):
                    padded[3 * x + c] = images[i, y, source, c]
            for t in range(taps):  # the inner loop over a line is the one that a processor does in few steps
                for k in range(3 * width):
                    across[y, k] += weights[t] * padded[3 * t + k]
        for y in range(height):
            line[:] = 0
            for t in range(taps):
                source = _reflected(y + t - half, height)
                for k in range(3 * width):
                    line[k] += weights[t] * across[source, k]
            for x in range(width):
                for c in range(3):
                    images[i, y, x, c] = np.uint8(np.rint(line[3 * x + c]))


def filter_width(size: tuple[int, int]) -> int:
    """Return the width of the filter: a tenth of the shorter side of the images, odd, 3 or more."""
    return max(3, min(size) // 10 // 2 * 2 + 1)


@register_augmentation("blur", "blur:P blurs an image with probability P, by up to 2 pixels")
@dataclass(frozen=True)
class Blur:
    """Augmentation that blurs a share of the images by a Gaussian of 0.1 to 2 pixels.

    So does SimCLR (Chen et al. 2020).

    probability: share of the images, in [0, 1].
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        require_between("P", self.probability, 0, 1)

    def draw(self, keys: Keys) -> np.ndarray:
        """Return the standard deviations in pixels, float64 [B]; 0 for the images that stay as they are."""
        sigmas = SIGMAS[0] + (SIGMAS[1] - SIGMAS[0]) * uniform(keys, BLUR_DRAWS + 1)
        return np.where(uniform(keys, BLUR_DRAWS) < self.probability, sigmas, 0.0)

    def __call__(self, images: U8, keys: Keys, rows: I64) -> U8:
        if min(images.shape[1:3]) > 1:
            blur(images, self.draw(keys), filter_width(images.shape[1:3]))
        return images
