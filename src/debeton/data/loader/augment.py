"""Augmentations: what is done to images of their final size, by kernels over a batch or on the way there (pixels.py).

Randomness is counter-based, as in pipelines.py. An augmentation that only moves pixels, or fills a patch at last, also
says so as `Moves`; a list of such needs no pass of its own.
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
    """An augmentation that is a `Moves` of each batch, for images of (height, width) pixels."""

    def moves(self, keys: Keys, size: tuple[int, int]) -> Moves: ...


@njit(parallel=True, nogil=True, cache=True)
def _mirror(images, chosen):
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
    """Whether `flip` mirrors each sample, bool [B]."""
    return (mix(keys, FLIP_DRAWS) & np.uint64(1)).astype(bool)


@OPS.register("flip", "mirror left-right with probability 1/2")
@dataclass(frozen=True)
class Flip:
    """Mirror each image left-right with probability 1/2."""

    def __call__(self, images: U8, keys: Keys, rows: I64) -> U8:
        _mirror(images, is_mirrored(keys))
        return images

    def moves(self, keys: Keys, size: tuple[int, int]) -> Moves:
        """Columns from right to left where an image is mirrored."""
        as_they_are = np.arange(size[1], dtype=np.int32)
        return Moves(columns=np.where(is_mirrored(keys)[:, None], as_they_are[::-1], as_they_are))


@OPS.register("mirror", "mirror every image left-right")
@dataclass(frozen=True)
class Mirror:
    """Mirror every image left-right: what `flip` shows half of the time."""

    def __call__(self, images: U8, keys: Keys, rows: I64) -> U8:
        return np.ascontiguousarray(images[:, :, ::-1])

    def moves(self, keys: Keys, size: tuple[int, int]) -> Moves:
        """Columns from right to left."""
        return Moves(columns=np.broadcast_to(np.arange(size[1], dtype=np.int32)[::-1], (len(keys), size[1])))


@njit(parallel=True, nogil=True, cache=True)
def _move(images, rows, columns, out):
    height, width = images.shape[1], images.shape[2]
    for i in prange(images.shape[0]):
        for y in range(height):
            for x in range(width):
                for c in range(3):
                    out[i, y, x, c] = images[i, rows[i, y], columns[i, x], c]


def _padded_sources(keys: Keys, draw: int, pad: int, length: int) -> Ints32:
    """int32 [B, length]: where pixels of a row (or column) of the window come from, which moves by -pad to pad."""
    shift = (uniform(keys, draw) * (2 * pad + 1)).astype(np.int32) - np.int32(pad)
    at, last = np.arange(length, dtype=np.int32) + shift[:, None], np.int32(length - 1)
    np.abs(at, out=at)  # reflected at the first pixel, then at the last
    np.abs(np.subtract(last, at, out=at), out=at)
    return np.subtract(last, at, out=at)


@OPS.register("pad_crop", "pad_crop:P pads P pixels by reflection and crops back at random")
@dataclass(frozen=True)
class PadCrop:
    """Pad `pad` pixels on every side by reflection (edge not repeated) and crop the old size at random."""

    pad: int = 4

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError("a negative pad")

    def __call__(self, images: U8, keys: Keys, rows: I64) -> U8:
        moves, out = self.moves(keys, images.shape[1:3]), np.empty_like(images)
        _move(images, moves.rows, moves.columns, out)
        return out

    def moves(self, keys: Keys, size: tuple[int, int]) -> Moves:
        """Rows and columns of the window."""
        if self.pad >= min(size):
            raise DataError(f"pad_crop:{self.pad} needs images larger than {self.pad} pixels, found {tuple(size)}")
        rows, columns = (_padded_sources(keys, PAD_DRAWS + k, self.pad, size[k]) for k in range(2))
        return Moves(rows=rows, columns=columns)


def _squares(keys: Keys, side: int, height: int, width: int) -> I64:
    """[B, 4] top, left, bottom, right; the centre is uniform over the image, so that a patch may stick out."""
    top, left = (
        (uniform(keys, CUTOUT_DRAWS + k) * length).astype(np.int64) - side // 2
        for k, length in enumerate((height, width))
    )
    edges = [top.clip(0), left.clip(0), (top + side).clip(max=height), (left + side).clip(max=width)]
    return np.stack(edges, axis=1)


@njit(parallel=True, nogil=True, cache=True)
def _fill(images, patches, fill):
    for i in prange(images.shape[0]):
        for y in range(patches[i, 0], patches[i, 2]):
            for x in range(patches[i, 1], patches[i, 3]):
                for c in range(3):
                    images[i, y, x, c] = fill


@OPS.register("cutout", "cutout:S greys out a square of S pixels at a random place")
@dataclass(frozen=True)
class Cutout:
    """Fill a square of side `side` with mid grey around a uniform centre (DeVries & Taylor 2017)."""

    side: int = 8
    grey = 127

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError("an empty square")

    def __call__(self, images: U8, keys: Keys, rows: I64) -> U8:
        moves = self.moves(keys, images.shape[1:3])
        _fill(images, moves.patches, np.uint8(moves.fill))
        return images

    def moves(self, keys: Keys, size: tuple[int, int]) -> Moves:
        """The square."""
        return Moves(patches=_squares(keys, self.side, *size), fill=self.grey)


def make_ops(text: str) -> list[Op]:
    """Operations from 'flip,pad_crop:4'; empty or 'none' for no augmentation. UsageError for an unknown name."""
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
    """The operations of a batch as one `Moves`; None where one of them is more, or follows the filling of a patch."""
    total = STILL
    for op in ops:
        if not isinstance(op, Mover) or total.patches is not None:
            return None
        step = op.moves(keys, size)
        rows, columns = _after(total.rows, step.rows), _after(total.columns, step.columns)
        total = replace(step, rows=rows, columns=columns)
    return total


def _after(first: Ints32 | None, second: Ints32 | None) -> Ints32 | None:
    """Where pixels come from that `second` takes from what `first` made."""
    if first is None or second is None:
        return second if first is None else first
    batch, length = first.shape
    at = second + np.arange(0, batch * length, length, dtype=np.int32)[:, None]
    return first.ravel().take(at, mode="clip")  # several times as fast as np.take_along_axis, and never clips
