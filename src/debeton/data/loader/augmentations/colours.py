# mypy: disable-error-code="no-untyped-def"
"""Augmentations of colour: brightness, contrast, saturation and hue by chance, and greyscale.

Values are those of torchvision.transforms.v2 on uint8 images: computed in float32 and cut off to whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from debeton.data.draws import GREY_DRAWS, I64, JITTER_DRAWS, U8, Keys, uniform
from debeton.data.loader.augmentations.registry import register_augmentation, require_between

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
RED, GREEN, BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)  # shares of luminance, ITU-R 601
ONE, BYTE = np.float32(1), np.float32(255)
TO_BYTE = np.float32(255.999)  # torchvision's factor from [0, 1] to a byte


@njit(nogil=True, cache=True)
def as_byte(value):
    """Return a float32 as a byte: cut off to [0, 255] and to a whole number."""
    return np.uint8(min(max(value, np.float32(0)), BYTE))


@njit(nogil=True, cache=True)
def luminance(image, y, x):
    """Return the luminance of a pixel, float32."""
    r, g, b = np.float32(image[y, x, 0]), np.float32(image[y, x, 1]), np.float32(image[y, x, 2])
    return r * RED + g * GREEN + b * BLUE


@njit(nogil=True, cache=True)
def scale_brightness(image, factor):
    """Multiply all values of an image by `factor`, in place."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            for c in range(3):
                image[y, x, c] = as_byte(np.float32(image[y, x, c]) * factor)


@njit(nogil=True, cache=True)
def scale_contrast(image, factor):
    """Move all values away from the image's mean luminance by `factor`, in place."""
    total = 0.0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            total += np.floor(luminance(image, y, x))
    rest = np.float32(total / (image.shape[0] * image.shape[1])) * (ONE - factor)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            for c in range(3):
                image[y, x, c] = as_byte(np.float32(image[y, x, c]) * factor + rest)


@njit(nogil=True, cache=True)
def scale_saturation(image, factor):
    """Move the values of each pixel away from its luminance by `factor`, in place; 0 makes the image grey."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            rest = np.floor(luminance(image, y, x)) * (ONE - factor)
            for c in range(3):
                image[y, x, c] = as_byte(np.float32(image[y, x, c]) * factor + rest)


@njit(nogil=True, cache=True)
def turn_hue(image, turn):
    """Turn the hue of each pixel by `turn` of a full circle, in place."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            r, g, b = (np.float32(image[y, x, 0]) / BYTE, np.float32(image[y, x, 1]) / BYTE,
                       np.float32(image[y, x, 2]) / BYTE)  # fmt: skip
            value, lowest = max(r, g, b), min(r, g, b)
            chroma = value - lowest
            if chroma == 0:
                continue
            if value == r:
                hue = (g - b) / chroma
            elif value == g:
                hue = np.float32(2) + (b - r) / chroma
            else:
                hue = np.float32(4) + (r - g) / chroma
            hue = hue / np.float32(6) + turn
            sixth = (hue - np.floor(hue)) * np.float32(6)
            part = sixth - np.floor(sixth)
            saturation = chroma / value
            low, down = value * (ONE - saturation), value * (ONE - saturation * part)
            up = value * (ONE - saturation * (ONE - part))
            sector = int(np.floor(sixth)) % 6
            if sector == 0:
                r, g, b = value, up, low
            elif sector == 1:
                r, g, b = down, value, low
            elif sector == 2:
                r, g, b = low, value, up
            elif sector == 3:
                r, g, b = low, down, value
            elif sector == 4:
                r, g, b = up, low, value
            else:
                r, g, b = value, low, down
            image[y, x, 0], image[y, x, 1] = as_byte(r * TO_BYTE), as_byte(g * TO_BYTE)
            image[y, x, 2] = as_byte(b * TO_BYTE)


@njit(parallel=True, nogil=True, cache=True)
def jitter(images, orders, factors):
    """Change the colours of each image in place.

    orders: int64 [B, 4], the four changes in the sequence of their use.
    factors: float32 [B, 4] by change; 1 (hue: 0) changes nothing.
    """
    for i in prange(images.shape[0]):
        for k in range(4):
            change = orders[i, k]
            factor = factors[i, change]
            if change == BRIGHTNESS and factor != 1:
                scale_brightness(images[i], factor)
            elif change == CONTRAST and factor != 1:
                scale_contrast(images[i], factor)
            elif change == SATURATION and factor != 1:
                scale_saturation(images[i], factor)
            elif change == HUE and factor != 0:
                turn_hue(images[i], factor)


@register_augmentation("colour_jitter", "colour_jitter:B:C:S:H changes brightness, contrast, saturation and hue")
@dataclass(frozen=True)
class ColourJitter:
    """Augmentation that changes four properties of colour by random factors, in random order, in every image.

    It is torchvision's ColorJitter(B, C, S, H).

    brightness, contrast, saturation: the factor is drawn from [max(0, 1 - value), 1 + value].
    hue: the hue is turned by a part of the circle drawn from [-hue, hue]; at most 0.5.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            require_between(name, getattr(self, name), 0, 100)
        require_between("hue", self.hue, 0, 0.5)

    def draw(self, keys: Keys) -> tuple[I64, np.ndarray]:
        """Return the orders, int64 [B, 4], and the factors by change, float32 [B, 4]."""
        orders = np.argsort(uniform(keys[:, None], JITTER_DRAWS + np.arange(4)), axis=1)
        spread = np.array([self.brightness, self.contrast, self.saturation])
        low = np.append(np.maximum(0, 1 - spread), -self.hue)
        high = np.append(1 + spread, self.hue)
        factors = low + (high - low) * uniform(keys[:, None], JITTER_DRAWS + 4 + np.arange(4))
        return orders, factors.astype(np.float32)

    def __call__(self, images: U8, keys: Keys, rows: I64) -> U8:
        jitter(images, *self.draw(keys))
        return images


@njit(parallel=True, nogil=True, cache=True)
def _to_grey(images, chosen):
    """Replace the colours of the chosen images by their luminance, in place."""
    for i in prange(images.shape[0]):
        if chosen[i]:
            for y in range(images.shape[1]):
                for x in range(images.shape[2]):
                    grey = as_byte(luminance(images[i], y, x))
                    for c in range(3):
                        images[i, y, x, c] = grey


@register_augmentation("grayscale", "grayscale:P makes an image grey with probability P")
@dataclass(frozen=True)
class Grayscale:
    """Augmentation that makes a share of the images grey, in three equal channels.

    probability: share of the images, in [0, 1].
    """

    probability: float = 0.2

    def __post_init__(self) -> None:
        require_between("P", self.probability, 0, 1)

    def __call__(self, images: U8, keys: Keys, rows: I64) -> U8:
        _to_grey(images, uniform(keys, GREY_DRAWS) < self.probability)
        return images
