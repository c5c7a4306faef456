"""Augmentations that fill a patch of each image: a grey square, or a black rectangle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from debeton.data.draws import CUTOUT_DRAWS, ERASE_DRAWS, I64, U8, Keys, uniform
from debeton.data.loader.augmentations.registry import register_augmentation, require_between, require_whole
from debeton.data.loader.pixels import Moves


def _squares(keys: Keys, side: int, height: int, width: int) -> I64:
    """Return squares [B, 4] as top, left, bottom, right, cut off at the image's edges.

    The centre is uniform over the image.
    """
    top, left = (
        (uniform(keys, CUTOUT_DRAWS + k) * length).astype(np.int64) - side // 2
        for k, length in enumerate((height, width))
    )
    edges = [top.clip(0), left.clip(0), (top + side).clip(max=height), (left + side).clip(max=width)]
    return np.stack(edges, axis=1)


@njit(parallel=True, nogil=True, cache=True)
def _fill(images, patches, fill):
    """Fill patch [top, left, bottom, right] of each image, in place."""
    for i in prange(images.shape[0]):
        for y in range(patches[i, 0], patches[i, 2]):
            for x in range(patches[i, 1], patches[i, 3]):
                for c in range(3):
                    images[i, y, x, c] = fill


@register_augmentation("cutout", "cutout:S fills a square of S pixels with grey at a random place")
@dataclass(frozen=True)
class Cutout:
    """Augmentation that fills a square of mid grey around a uniform centre (DeVries & Taylor 2017).

    side: side of the square in pixels; the part outside the image is cut off.
    """

    side: int = 8
    grey = 127

    def __post_init__(self) -> None:
        require_whole("side", self.side, 1)

    def __call__(self, images: U8, keys: Keys, rows: I64) -> U8:
        moves = self.moves(keys, images.shape[1:3])
        _fill(images, moves.patches, np.uint8(moves.fill))
        return images

    def moves(self, keys: Keys, size: tuple[int, int]) -> Moves:
        """Return the square as a patch."""
        return Moves(patches=_squares(keys, self.side, *size), fill=self.grey)


ERASED_SHARE, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)  # of the area; height / width. As torchvision's RandomErasing
ERASE_ATTEMPTS = 10


@register_augmentation("random_erasing", "random_erasing:P blackens a random rectangle with probability P")
@dataclass(frozen=True)
class RandomErasing:
    """Augmentation that fills a rectangle with black in a share of the images (Zhong et al. 2020).

    The rectangle covers 2 to 33 % of the image, with height / width from 0.3 to 3.3, evenly on a log scale. Of ten
    draws the first that fits is taken; if none fits, the image stays as it is. So does torchvision's RandomErasing.

    probability: share of the images, in [0, 1].
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        require_between("P", self.probability, 0, 1)

    def __call__(self, images: U8, keys: Keys, rows: I64) -> U8:
        _fill(images, self.patches(keys, images.shape[1:3]), np.uint8(0))
        return images

    def patches(self, keys: Keys, size: tuple[int, int]) -> I64:
        """Return the rectangles, int64 [B, 4] as top, left, bottom, right; empty in the other images."""
        draws = ERASE_DRAWS + 1 + 4 * np.arange(ERASE_ATTEMPTS)
        share, ratio, down, right = (uniform(keys[:, None], draws + k) for k in range(4))
        area = size[0] * size[1] * (ERASED_SHARE[0] + share * (ERASED_SHARE[1] - ERASED_SHARE[0]))
        low, high = np.log(ERASED_RATIO)
        ratio = np.exp(low + ratio * (high - low))
        height, width = (np.rint(np.sqrt(side)).astype(np.int64) for side in (area * ratio, area / ratio))
        fits = (height < size[0]) & (width < size[1])
        first = np.arange(len(keys)), fits.argmax(axis=1)
        chosen = (uniform(keys, ERASE_DRAWS) < self.probability) & fits.any(axis=1)
        height, width = (np.where(chosen, side[first], 0) for side in (height, width))
        top = (down[first] * (size[0] - height + 1)).astype(np.int64)
        left = (right[first] * (size[1] - width + 1)).astype(np.int64)
        return np.stack([top, left, top + height, left + width], axis=1)

    def moves(self, keys: Keys, size: tuple[int, int]) -> Moves:
        """Return the rectangles as patches."""
        return Moves(patches=self.patches(keys, size), fill=0)
