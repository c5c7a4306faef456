"""Augmentations of images at their final size, as kernels over a batch or fused into the decoding (pixels.py).

Their randomness is counter-based, as in data/draws.py. An augmentation that only moves pixels, or fills a patch as its
last act, can also be expressed as `Moves`. A list of such augmentations needs no pass of its own over the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from debeton.data.draws import CUTOUT_DRAWS, FLIP_DRAWS, I64, PAD_DRAWS, U8, Keys, mix, uniform
from debeton.data.loader.pixels import STILL, Ints32, Moves
from debeton.system.errors import DataError, UsageError
from debeton.system.registry import Registry

# images uint8 [B, H, W, 3] (may be changed in place), keys uint64 [B], rows int64 [B] of the beton -> images
Op = Callable[[U8, Keys, I64], U8]
OPS: Registry[Callable[..., Op]] = Registry("augmentation")
A = TypeVar("A", bound=Callable[..., Any])


def register_augmentation(name: str, summary: str) -> Callable[[type[A]], type[A]]:
    """Return a decorator that registers an augmentation: a class whose instances are called on a batch.

    name: as --training.augment takes it; the numbers of 'name:1:2' are the arguments of the class, in order.
    summary: the line that `debeton list augmentations` prints.
    An instance is called with images uint8 [B, H, W, 3] (which it may change), keys uint64 [B] to draw from
    (`debeton.data.draws.uniform`), and rows int64 [B] of the beton; it returns the images.
    """

    def decorate(kind: type[A]) -> type[A]:
        OPS.add(name, kind, summary)
        return kind

    return decorate


@runtime_checkable
class Mover(Protocol):
    """An augmentation that can be expressed as `Moves` of a batch, for images of (height, width) pixels."""

    def moves(self, keys: Keys, size: tuple[int, int]) -> Moves: ...


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


@OPS.register("flip", "mirror left-right with probability 1/2")
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


@OPS.register("mirror", "mirror every image left-right")
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
    """Copy pixel (rows[i, y], columns[i, x]) of each image i to (y, x) of `out`."""
    height, width = images.shape[1], images.shape[2]
    for i in prange(images.shape[0]):
        for y in range(height):
            for x in range(width):
                for c in range(3):
                    out[i, y, x, c] = images[i, rows[i, y], columns[i, x], c]


def _padded_sources(keys: Keys, draw: int, pad: int, length: int) -> Ints32:
    """Return where the pixels of a window's rows (or columns) come from, int32 [B, length].

    The window is moved by a random number of pixels from -pad to pad.
    """
    shift = (uniform(keys, draw) * (2 * pad + 1)).astype(np.int32) - np.int32(pad)
    index, last = np.arange(length, dtype=np.int32) + shift[:, None], np.int32(length - 1)
    np.abs(index, out=index)  # reflected at the first pixel, then at the last
    np.abs(np.subtract(last, index, out=index), out=index)
    return np.subtract(last, index, out=index)


@OPS.register("pad_crop", "pad_crop:P pads P pixels by reflection and crops back at random")
@dataclass(frozen=True)
class PadCrop:
    """Augmentation that pads `pad` pixels on every side by reflection and crops the old size at random.

    The edge itself is not repeated. DataError if the image is not larger than `pad`.
    """

    pad: int = 4

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError("pad is negative")

    def __call__(self, images: U8, keys: Keys, rows: I64) -> U8:
        moves, out = self.moves(keys, images.shape[1:3]), np.empty_like(images)
        _move(images, moves.rows, moves.columns, out)
        return out

    def moves(self, keys: Keys, size: tuple[int, int]) -> Moves:
        """Return the rows and columns of the window."""
        if self.pad >= min(size):
            raise DataError(f"pad_crop:{self.pad} needs images larger than {self.pad} pixels, found {tuple(size)}")
        rows, columns = (_padded_sources(keys, PAD_DRAWS + k, self.pad, size[k]) for k in range(2))
        return Moves(rows=rows, columns=columns)


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


@OPS.register("cutout", "cutout:S fills a square of S pixels with grey at a random place")
@dataclass(frozen=True)
class Cutout:
    """Augmentation that fills a square of mid grey around a uniform centre (DeVries & Taylor 2017).

    side: side of the square in pixels; the part outside the image is cut off.
    """

    side: int = 8
    grey = 127

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError("side is less than 1")

    def __call__(self, images: U8, keys: Keys, rows: I64) -> U8:
        moves = self.moves(keys, images.shape[1:3])
        _fill(images, moves.patches, np.uint8(moves.fill))
        return images

    def moves(self, keys: Keys, size: tuple[int, int]) -> Moves:
        """Return the square as a patch."""
        return Moves(patches=_squares(keys, self.side, *size), fill=self.grey)


def make_ops(text: str) -> list[Op]:
    """Return the augmentations of a text such as 'flip,pad_crop:4'; none for '' or 'none'.

    UsageError for an unknown name or a malformed argument.
    """
    ops = []
    for part in text.split(","):
        name, _, argument = part.strip().partition(":")
        if name in ("", "none"):
            continue
        factory = OPS.get(name)
        try:
            ops.append(factory(*(int(value) for value in argument.split(":") if value)))
        except (TypeError, ValueError):
            raise UsageError(
                f"augmentation '{part.strip()}' is malformed; write it like 'pad_crop:4' or 'flip'"
            ) from None
    return ops


def as_moves(ops: Sequence[Op], keys: Keys, size: tuple[int, int]) -> Moves | None:
    """Fuse the augmentations of a batch into one `Moves`.

    Return None if one of them is not a `Mover`, or follows one that fills a patch.
    """
    fused = STILL
    for op in ops:
        if not isinstance(op, Mover) or fused.patches is not None:
            return None
        step = op.moves(keys, size)
        rows, columns = _compose(fused.rows, step.rows), _compose(fused.columns, step.columns)
        fused = replace(step, rows=rows, columns=columns)
    return fused


def are_moves(ops: Sequence[Op], size: tuple[int, int]) -> bool:
    """Return whether `as_moves` fuses these augmentations, for images of (height, width) pixels."""
    return as_moves(ops, np.zeros(1, np.uint64), size) is not None


def _compose(first: Ints32 | None, second: Ints32 | None) -> Ints32 | None:
    """Compose two index maps [B, length], first `first`, then `second`. None stands for no move."""
    if first is None or second is None:
        return second if first is None else first
    batch, length = first.shape
    flat_index = second + np.arange(0, batch * length, length, dtype=np.int32)[:, None]
    # Several times as fast as np.take_along_axis. No index is out of range, so "clip" only skips a check.
    return first.ravel().take(flat_index, mode="clip")
