# mypy: disable-error-code="no-untyped-def"
"""RandAugment and TrivialAugment: operations that are drawn for each image from a list of fourteen.

Operations, magnitudes and values are those of torchvision.transforms.v2 on uint8 images, with nearest neighbours and
black outside the image: RandAugment (Cubuk et al. 2020) and TrivialAugmentWide (Müller and Hutter 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from debeton.data.draws import I64, RAND_AUGMENT_DRAWS, TRIVIAL_AUGMENT_DRAWS, U8, Keys, uniform
from debeton.data.loader.augmentations.colours import as_byte, scale_brightness, scale_contrast, scale_saturation
from debeton.data.loader.augmentations.registry import register_augmentation, require_between, require_whole

FIRST_DRAWS = {"rand_augment": RAND_AUGMENT_DRAWS, "trivial_augment": TRIVIAL_AUGMENT_DRAWS}
BINS = 31  # magnitudes of an operation
NAMES = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast",
    "sharpness", "posterize", "solarize", "auto_contrast", "equalize",
)  # fmt: skip
SIGNED = np.array([0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0], bool)  # half of the magnitudes are negative
(IDENTITY, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE, BRIGHTNESS, COLOUR, CONTRAST, SHARPNESS, POSTERIZE,
 SOLARIZE, AUTO_CONTRAST, EQUALIZE) = range(14)  # fmt: skip
TRANSLATED = 150 / 331  # of a side, RandAugment's largest translation
# The largest shear, translation in pixels (None: TRANSLATED), rotation in degrees, change of a factor, and the
# magnitudes in which one bit is lost.
RANGES: Mapping[str, tuple[float, float | None, float, float, float]] = {
    "rand_augment": (0.3, None, 30.0, 0.9, 4.0),
    "trivial_augment": (0.99, 32.0, 135.0, 0.99, 6.0),
}


def magnitudes(policy: str, size: tuple[int, int]) -> np.ndarray:
    """Return the magnitude of each operation by bin, float64 [14, BINS].

    Shears are tangents, translations pixels, rotations degrees; factors are distances from 1; posterize has bits that
    stay and solarize the lowest value that is inverted.

    policy: a key of RANGES.
    size: (height, width) of the images, in pixels.
    """
    shear, translation, rotation, factor, lost = RANGES[policy]
    table, up = np.zeros((len(NAMES), BINS)), np.linspace(0, 1, BINS)
    table[[SHEAR_X, SHEAR_Y]] = shear * up
    for operation, side in ((TRANSLATE_X, size[1]), (TRANSLATE_Y, size[0])):
        table[operation] = np.trunc((TRANSLATED * side if translation is None else translation) * up)
    table[ROTATE] = rotation * up
    table[BRIGHTNESS : SHARPNESS + 1] = factor * up
    table[POSTERIZE] = 8 - np.rint(np.arange(BINS) / ((BINS - 1) / lost))
    table[SOLARIZE] = 255 * (1 - up)
    return table


@njit(nogil=True, cache=True)
def _map(image, xx, xy, x0, yx, yy, y0):
    """Take each pixel from the nearest one to its source, black outside the image, in place.

    The source of (x, y) is (xx x + xy y + x0, yx x + yy y + y0).
    """
    source = image.copy()
    height, width = image.shape[0], image.shape[1]
    for y in range(height):
        for x in range(width):
            from_x, from_y = int(np.rint(xx * x + xy * y + x0)), int(np.rint(yx * x + yy * y + y0))
            inside = 0 <= from_x < width and 0 <= from_y < height
            for c in range(3):
                image[y, x, c] = source[from_y, from_x, c] if inside else 0


@njit(nogil=True, cache=True)
def _sharpen(image, factor):
    """Move the pixels inside the border away from a blurred image by `factor`, in place."""
    source, rest = image.copy(), np.float32(1) - factor
    for y in range(1, image.shape[0] - 1):
        for x in range(1, image.shape[1] - 1):
            for c in range(3):
                total = 4 * int(source[y, x, c])
                for dy in range(-1, 2):
                    for dx in range(-1, 2):
                        total += int(source[y + dy, x + dx, c])
                blurred = np.float32(np.rint(total / 13.0))
                value = np.float32(source[y, x, c])
                image[y, x, c] = as_byte(value + (blurred - value) * rest)


@njit(nogil=True, cache=True)
def _stretch(image):
    """Scale each channel so that its values reach from 0 to 255, in place."""
    for c in range(3):
        low, high = int(image[:, :, c].min()), int(image[:, :, c].max())
        if low == high:
            continue
        step = np.float32(high - low) * (np.float32(1) / np.float32(255))
        for y in range(image.shape[0]):
            for x in range(image.shape[1]):
                image[y, x, c] = as_byte(np.float32(int(image[y, x, c]) - low) / step)


@njit(nogil=True, cache=True)
def _equalize(image):
    """Make the values of each channel about equally frequent, in place."""
    for c in range(3):
        counts = np.zeros(256, np.int64)
        for y in range(image.shape[0]):
            for x in range(image.shape[1]):
                counts[image[y, x, c]] += 1
        last = 255
        while counts[last] == 0:
            last -= 1
        step = (counts.sum() - counts[last]) // 255
        if step == 0:
            continue
        table, below = np.zeros(256, np.uint8), step // 2
        for value in range(256):
            table[value] = min(below // step, 255)
            below += counts[value]
        for y in range(image.shape[0]):
            for x in range(image.shape[1]):
                image[y, x, c] = table[image[y, x, c]]


@njit(nogil=True, cache=True)
def _move_or_turn(image, operation, amount):
    """Shear, translate or rotate an image in place. amount: tangent, pixels, or degrees against the clock."""
    height, width = image.shape[0], image.shape[1]
    if operation == SHEAR_X:
        _map(image, 1.0, amount, 0.5 * amount, 0.0, 1.0, 0.0)
    elif operation == SHEAR_Y:
        _map(image, 1.0, 0.0, 0.0, amount, 1.0, 0.5 * amount)
    elif operation == TRANSLATE_X:
        _map(image, 1.0, 0.0, -amount, 0.0, 1.0, 0.0)
    elif operation == TRANSLATE_Y:
        _map(image, 1.0, 0.0, 0.0, 0.0, 1.0, -amount)
    else:
        cosine, sine = np.cos(np.radians(amount)), np.sin(np.radians(amount))
        x, y = (width - 1) / 2, (height - 1) / 2
        _map(image, cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y)


@njit(parallel=True, nogil=True, cache=True)
def apply_operations(images, operations, amounts):
    """Apply operations to each image, one after another, in place.

    operations: int64 [B, N], numbers as in NAMES.
    amounts: float64 [B, N], signed magnitudes as `magnitudes` describes them.
    """
    for i in prange(images.shape[0]):
        image = images[i]
        for k in range(operations.shape[1]):
            operation, amount = operations[i, k], amounts[i, k]
            factor = np.float32(1 + amount)
            if SHEAR_X <= operation <= ROTATE:
                _move_or_turn(image, operation, amount)
            elif operation == BRIGHTNESS:
                scale_brightness(image, factor)
            elif operation == COLOUR:
                scale_saturation(image, factor)
            elif operation == CONTRAST:
                scale_contrast(image, factor)
            elif operation == SHARPNESS:
                _sharpen(image, factor)
            elif operation == POSTERIZE:
                mask = np.uint8(256 - (1 << (8 - int(amount))))
                for y in range(image.shape[0]):
                    for x in range(image.shape[1]):
                        for c in range(3):
                            image[y, x, c] &= mask
            elif operation == SOLARIZE:
                for y in range(image.shape[0]):
                    for x in range(image.shape[1]):
                        for c in range(3):
                            if image[y, x, c] >= amount:
                                image[y, x, c] = 255 - image[y, x, c]
            elif operation == AUTO_CONTRAST:
                _stretch(image)
            elif operation == EQUALIZE:
                _equalize(image)


def draw_operations(
    policy: str, keys: Keys, count: int, magnitude: int | None, size: tuple[int, int]
) -> tuple[I64, np.ndarray]:
    """Return the operations of each image, int64 [B, count], and their signed magnitudes, float64 [B, count].

    magnitude: the bin of all magnitudes; None draws one for each operation.
    """
    draws = FIRST_DRAWS[policy] + 3 * np.arange(count)
    chosen, negative, bins = (uniform(keys[:, None], draws + k) for k in range(3))
    operations = (chosen * len(NAMES)).astype(np.int64)
    levels = (bins * BINS).astype(np.int64) if magnitude is None else np.full(operations.shape, magnitude)
    amounts = magnitudes(policy, size)[operations, levels]
    return operations, np.where(SIGNED[operations] & (negative < 0.5), -amounts, amounts)


@register_augmentation("rand_augment", "rand_augment:N:M applies N random operations of magnitude M, 0 to 30")
@dataclass(frozen=True)
class RandAugment:
    """Augmentation that applies random operations of one magnitude to every image.

    count: number of operations, drawn with repeats.
    magnitude: from 0 to 30.
    """

    count: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        require_whole("N", self.count, 0)
        require_whole("M", self.magnitude, 0)
        require_between("M", self.magnitude, 0, BINS - 1)

    def __call__(self, images: U8, keys: Keys, rows: I64) -> U8:
        size = images.shape[1:3]
        apply_operations(images, *draw_operations("rand_augment", keys, int(self.count), int(self.magnitude), size))
        return images


@register_augmentation("trivial_augment", "one random operation of random magnitude")
@dataclass(frozen=True)
class TrivialAugment:
    """Augmentation that applies one random operation of random magnitude, from wide ranges, to every image."""

    def __call__(self, images: U8, keys: Keys, rows: I64) -> U8:
        apply_operations(images, *draw_operations("trivial_augment", keys, 1, None, images.shape[1:3]))
        return images
