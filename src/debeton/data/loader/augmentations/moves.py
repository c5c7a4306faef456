"""Augmentations that only move pixels: mirrored images, and windows that are cropped from a padded image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from debeton.data.draws import FLIP_DRAWS, I64, PAD_DRAWS, RANDOM_CROP_DRAWS, U8, Keys, mix, uniform
from debeton.data.loader.augmentations.registry import register_augmentation, require_whole
from debeton.data.loader.pixels import BLACK, Ints32, Moves
from debeton.system.errors import DataError


@njit(parallel=True, nogil=True, cache=True)
def _mirror(images, chosen):
    """Mirror the chosen images of a batch left-right, in place."""
    height, width = images.shape[1], images.shape[2]
    for i in prange(images.shape[0]):
        if chosen[i]:
            for y in range(height):
                for x in range(width // 2):
                    for c in range(3):
                        left = images[i, y, x, c]
                        images[i, y, x, c] = images[i, y, width - 1 - x, c]
                        images[i, y, width - 1 - x, c] = left


def is_mirrored(keys: Keys) -> NDArray[np.bool_]:
    """Return whether `flip` mirrors each sample, bool [B]."""
    return (mix(keys, FLIP_DRAWS) & np.uint64(1)).astype(bool)


@register_augmentation("flip", "mirror left-right with probability 1/2")
@dataclass(frozen=True)
class Flip:
    """Augmentation that mirrors each image left-right with probability 1/2."""

    def __call__(self, images: U8, keys: Keys, rows: I64) -> U8:
        _mirror(images, is_mirrored(keys))
        return images

    def moves(self, keys: Keys, size: tuple[int, int]) -> Moves:
        """Return columns from right to left for the images that are mirrored."""
        unmoved = np.arange(size[1], dtype=np.int32)
        return Moves(columns=np.where(is_mirrored(keys)[:, None], unmoved[::-1], unmoved))


@register_augmentation("mirror", "mirror every image left-right")
@dataclass(frozen=True)
class Mirror:
    """Augmentation that mirrors every image left-right, as `flip` does half of the time."""

    def __call__(self, images: U8, keys: Keys, rows: I64) -> U8:
        return np.ascontiguousarray(images[:, :, ::-1])

    def moves(self, keys: Keys, size: tuple[int, int]) -> Moves:
        """Return columns from right to left."""
        return Moves(columns=np.broadcast_to(np.arange(size[1], dtype=np.int32)[::-1], (len(keys), size[1])))


@njit(parallel=True, nogil=True, cache=True)
def _move(images, rows, columns, out):
    """Copy pixel (rows[i, y], columns[i, x]) of each image i to (y, x) of `out`; black where one is BLACK."""
    height, width = images.shape[1], images.shape[2]
    for i in prange(images.shape[0]):
        for y in range(height):
            for x in range(width):
                from_y, from_x = rows[i, y], columns[i, x]
                for c in range(3):
                    out[i, y, x, c] = 0 if from_y < 0 or from_x < 0 else images[i, from_y, from_x, c]


def _shifted(keys: Keys, draw: int, pad: int, length: int) -> Ints32:
    """Return the rows (or columns) of a window that is moved by -pad to pad pixels, int32 [B, length]."""
    shift = (uniform(keys, draw) * (2 * pad + 1)).astype(np.int32) - np.int32(pad)
    return np.arange(length, dtype=np.int32) + shift[:, None]


def _padded_sources(keys: Keys, draw: int, pad: int, length: int) -> Ints32:
    """Return where the pixels of a moved window's rows (or columns) come from by reflection, int32 [B, length]."""
    index, last = _shifted(keys, draw, pad, length), np.int32(length - 1)
    np.abs(index, out=index)  # reflected at the first pixel, then at the last
    np.abs(np.subtract(last, index, out=index), out=index)
    return np.subtract(last, index, out=index)


@dataclass(frozen=True)
class _PaddedCrop(ABC):
    """Augmentation that pads `pad` pixels on every side and crops the old size at random."""

    pad: int = 4

    def __post_init__(self) -> None:
        require_whole("pad", self.pad, 0)

    def __call__(self, images: U8, keys: Keys, rows: I64) -> U8:
        moves, out = self.moves(keys, images.shape[1:3]), np.empty_like(images)
        _move(images, moves.rows, moves.columns, out)
        return out

    @abstractmethod
    def moves(self, keys: Keys, size: tuple[int, int]) -> Moves:
        """Return the rows and columns of the window."""


@register_augmentation("pad_crop", "pad_crop:P pads P pixels by reflection and crops back at random")
@dataclass(frozen=True)
class PadCrop(_PaddedCrop):
    """Augmentation that pads `pad` pixels on every side by reflection and crops the old size at random.

    The edge itself is not repeated. DataError if the image is not larger than `pad`.
    """

    def moves(self, keys: Keys, size: tuple[int, int]) -> Moves:
        """Return the rows and columns of the window."""
        if self.pad >= min(size):
            raise DataError(f"pad_crop:{self.pad} needs images larger than {self.pad} pixels, found {tuple(size)}")
        rows, columns = (_padded_sources(keys, PAD_DRAWS + k, self.pad, size[k]) for k in range(2))
        return Moves(rows=rows, columns=columns)


@register_augmentation("random_crop", "random_crop:P pads P black pixels and crops the old size at random")
@dataclass(frozen=True)
class RandomCrop(_PaddedCrop):
    """Augmentation that pads `pad` black pixels on every side and crops the old size at random.

    It is torchvision's RandomCrop(size, padding=pad) on images of that size, as in most CIFAR-10 recipes.
    """

    def moves(self, keys: Keys, size: tuple[int, int]) -> Moves:
        """Return the rows and columns of the window, BLACK outside the image."""
        rows, columns = (
            np.where((index >= 0) & (index < length), index, np.int32(BLACK))
            for k, length in enumerate(size)
            for index in (_shifted(keys, RANDOM_CROP_DRAWS + k, self.pad, length),)
        )
        return Moves(rows=rows, columns=columns)
