"""Decoders and FFCV's kernels: the part of each image that is kept, decoding, resizing and normalisation.

Augmentations lie between decoding and normalisation (augment.py). pixels.c does all of it in one pass.
Kernels are cached on disk and release the GIL. Randomness is counter-based (data/draws.py), because the generators
that numba keeps for each thread depend on the number of workers and on earlier work.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numba import get_thread_id, njit, prange
from numpy.typing import NDArray

from debeton.data.beton.ffcv_format import JPG, RAW
from debeton.data.beton.turbojpeg import decode_jpeg, decode_jpeg_by_ffcv, resize_box
from debeton.data.draws import CROP_DRAWS, I64, U8, Keys, uniform
from debeton.system.errors import UsageError

# --- decoding ----------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def _neighbours(x, size, count):
    """Return the two source pixels of pixel x, and the weight of the second one.

    The axis grows from `size` to `count` pixels.
    """
    centre = min(max((x + 0.5) * size / count - 0.5, 0.0), size - 1.0)
    first = int(centre)
    return first, min(first + 1, size - 1), np.float32(centre - first)


@njit(nogil=True, cache=True)
def _enlarge(image, out):
    """Interpolate `image` [h, w, 3] into `out` [H, W, 3] as pixels.c does it, both uint8.

    H >= h and W >= w.
    """
    height, width = out.shape[0], out.shape[1]
    for y in range(height):
        above, below, down = _neighbours(y, image.shape[0], height)
        for x in range(width):
            left, right, across = _neighbours(x, image.shape[1], width)
            for c in range(3):
                upper = (1 - across) * image[above, left, c] + across * image[above, right, c]
                lower = (1 - across) * image[below, left, c] + across * image[below, right, c]
                out[y, x, c] = np.uint8(np.rint((1 - down) * upper + down * lower))


@njit(parallel=True, nogil=True, cache=True)
def decode_batch(
    decode_address, resize_address, handles, base, offsets, sizes, modes, heights, widths, boxes, scratch, out, status
):
    """Decode B images, crop box (top, left, height, width) of each, and resize it into `out` [B, H, W, 3].

    Axes that shrink come first, by FFCV's function. Those that grow follow.

    handles: [threads], decompressors of libjpeg-turbo; 0 without TURBOJPEG.
    base: address of the bytes that offsets [B] and sizes [B] point into.
    modes: [B], JPG or RAW.
    scratch: [threads, bytes of the largest image].
    status: [B], set to 0, or to -1 if a JPEG is damaged.
    """
    to_height, to_width = out.shape[1], out.shape[2]
    for i in prange(len(offsets)):
        height, width = heights[i], widths[i]
        source = base + offsets[i]
        top, left, box_height, box_width = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
        whole = box_height == height and box_width == width and height == to_height and width == to_width
        status[i] = 0
        if modes[i] == JPG:
            decoded = out[i].ctypes.data if whole else scratch[get_thread_id()].ctypes.data
            handle = handles[get_thread_id()]
            if handle:
                status[i] = decode_jpeg(decode_address, handle, source, sizes[i], height, width, decoded)
            else:
                status[i] = decode_jpeg_by_ffcv(decode_address, source, sizes[i], height, width, decoded)
            source = decoded
        if not whole or modes[i] == RAW:
            small_height, small_width = min(box_height, to_height), min(box_width, to_width)
            grows = small_height < to_height or small_width < to_width
            small = np.empty((small_height, small_width, 3), np.uint8) if grows else out[i]
            resize_box(
                resize_address,
                source,
                height,
                width,
                top,
                top + box_height,
                left,
                left + box_width,
                small.ctypes.data,
                small_height,
                small_width,
            )
            if grows:
                _enlarge(small, out[i])


def _random_resized_boxes(
    keys: Keys, heights: I64, widths: I64, scale: tuple[float, float], log_ratio: tuple[float, float]
) -> I64:
    """Draw a random box of each image, int64 [B, 4]; the largest box if none of ten draws fits.

    scale: range of the box's share of the area. log_ratio: range of the logarithm of width / height.
    """
    boxes = _largest_boxes(heights, widths, log_ratio)
    without_box = np.arange(len(keys))
    for attempt in range(10):
        key, height, width = keys[without_box], heights[without_box], widths[without_box]
        draw = CROP_DRAWS + 4 * attempt
        area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform(key, draw))
        ratio = np.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * uniform(key, draw + 1))
        w, h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        top = uniform(key, draw + 2) * (height - h + 1)
        left = uniform(key, draw + 3) * (width - w + 1)
        boxes[without_box[fits]] = np.stack([top, left, h, w], axis=1)[fits]  # rounded towards 0
        without_box = without_box[~fits]
        if not len(without_box):
            break
    return boxes


def _largest_boxes(heights: I64, widths: I64, log_ratio: tuple[float, float]) -> I64:
    """Return the largest centred box of each image whose aspect ratio is in the range, int64 [B, 4]."""
    narrow, wide = math.exp(log_ratio[0]), math.exp(log_ratio[1])
    h = np.where(widths < heights * narrow, np.maximum(1, np.rint(widths / narrow)), heights).astype(np.int64)
    w = np.where(widths > heights * wide, np.maximum(1, np.rint(heights * wide)), widths).astype(np.int64)
    return np.stack([(heights - h) // 2, (widths - w) // 2, h, w], axis=1)


class Decoder(Protocol):
    """The rule for the part of each image that is kept.

    fixed_size: images keep their stored size instead of the resolution.
    still: the part is the same in every epoch.
    """

    @property
    def fixed_size(self) -> bool: ...
    @property
    def still(self) -> bool: ...

    def boxes(self, keys: Keys, heights: I64, widths: I64) -> I64:
        """Return boxes int64 [B, 4]: top, left, height, width in pixels of the stored image."""
        ...


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random box, drawn as torchvision's RandomResizedCrop draws it.

    scale: range of the box's share of the area. ratio: range of width / height.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    fixed_size: bool = False
    still: bool = False

    def boxes(self, keys: Keys, heights: I64, widths: I64) -> I64:
        log_ratio = math.log(self.ratio[0]), math.log(self.ratio[1])
        return _random_resized_boxes(keys, heights, widths, self.scale, log_ratio)


@dataclass(frozen=True)
class CenterCrop:
    """The centred square whose side is `ratio` of the shorter side (FFCV's CenterCropRGBImageDecoder)."""

    ratio: float
    fixed_size: bool = False
    still: bool = True

    def boxes(self, keys: Keys, heights: I64, widths: I64) -> I64:
        side = np.maximum(1, (self.ratio * np.minimum(heights, widths)).astype(np.int64))
        return np.stack([(heights - side) // 2, (widths - side) // 2, side, side], axis=1)


@dataclass(frozen=True)
class WholeImage:
    """The whole image: squashed to the resolution ('resized'), or at its stored size ('simple')."""

    fixed_size: bool = False
    still: bool = True

    def boxes(self, keys: Keys, heights: I64, widths: I64) -> I64:
        zero = np.zeros_like(heights)
        return np.stack([zero, zero, heights, widths], axis=1)


_CENTER = re.compile(r"center_crop_(\d+(?:\.\d+)?)(?:_(\d+(?:\.\d+)?))?")
DECODER_NAMES = ("random_resized_crop", "center_crop_R (R a ratio such as 0.875, or A_B for A/B)", "resized", "simple")


def make_decoder(name: str) -> Decoder:
    """Return the decoder called `name`. UsageError lists the known names."""
    fixed: dict[str, Decoder] = {
        "random_resized_crop": RandomResizedCrop(),
        "resized": WholeImage(),
        "simple": WholeImage(fixed_size=True),
    }
    if name in fixed:
        return fixed[name]
    match = _CENTER.fullmatch(name)
    if match and 0 < float(match[1]) <= float(match[2] or 1):
        return CenterCrop(float(match[1]) / float(match[2] or 1))
    raise UsageError(f"unknown decoder '{name}'; known: {', '.join(DECODER_NAMES)}; a ratio lies in (0, 1]")


# --- normalisation -----------------------------------------------------------------------------


@njit(parallel=True, nogil=True, cache=True)
def _normalise_channels_last(images, scale, shift, out):
    """Write images * scale + shift into `out` [B, H, W, 3]."""
    height, length = images.shape[1], 3 * images.shape[2]
    # Scale and shift for every value of a row, so that one flat loop is vectorised; a loop over pixels takes 2.5 times
    # as long.
    row_scale, row_shift = np.empty(length, np.float32), np.empty(length, np.float32)
    for k in range(length):
        row_scale[k], row_shift[k] = scale[k % 3], shift[k % 3]
    for i in prange(images.shape[0]):
        image, result = images[i].reshape(height, length), out[i].reshape(height, length)
        for y in range(height):
            for k in range(length):
                result[y, k] = image[y, k] * row_scale[k] + row_shift[k]


@njit(parallel=True, nogil=True, cache=True)
def _normalise_channels_first(images, scale, shift, out):
    """Write images * scale + shift into `out` [B, 3, H, W]."""
    height, width = images.shape[1], images.shape[2]
    for i in prange(images.shape[0]):
        for c in range(3):
            s, t = scale[c], shift[c]
            for y in range(height):
                for x in range(width):
                    out[i, c, y, x] = images[i, y, x, c] * s + t


def scale_and_shift(mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Return float32 [2, 3] such that (pixel / 255 - mean) / std is pixel * scale + shift."""
    of_mean, of_std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    return np.stack([1 / (255 * of_std), -of_mean / of_std]).astype(np.float32)


def normalise(
    images: U8, mean: Sequence[float], std: Sequence[float], out: NDArray[np.float32], *, channels_last: bool
) -> None:
    """Write (images / 255 - mean) / std into `out`, float32; mean and std are of images in [0, 1].

    out: [B, H, W, 3] with channels_last, else [B, 3, H, W].
    """
    scale, shift = scale_and_shift(mean, std)
    kernel = _normalise_channels_last if channels_last else _normalise_channels_first
    kernel(np.ascontiguousarray(images), scale, shift, out)
