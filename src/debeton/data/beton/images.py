"""One image on its way into a beton: any file or array to RGB pixels, and RGB pixels to JPEG.

Pillow does not report damage in a JPEG; it paints the damaged parts grey. So libjpeg-turbo decodes every JPEG too, and
its complaints decide whether the file is sound (jpeg_repair.py).
"""

from __future__ import annotations

import errno
import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from debeton.data.beton.ffcv_format import MAX_PAGE
from debeton.data.beton.jpeg_repair import sound_jpeg
from debeton.data.spec import RawImage

MAX_PIXELS = 89_478_485  # Pillow's bound: 256 MiB as RGB
MAX_SIDE = 65500  # libjpeg's limit; FFCV stores width and height as uint16


class BadImage(ValueError):
    """An image that cannot become RGB pixels. The message gives the reason."""


@dataclass(frozen=True)
class Encoded:
    """The bytes of an image as the beton holds them: a JPEG file, or raw RGB pixels."""

    data: bytes
    height: int
    width: int
    is_jpeg: bool


def to_rgb(raw: RawImage) -> NDArray[np.uint8]:
    """Return an array, encoded bytes or an image file as pixels, uint8 [H, W, 3].

    Grey, palette, CMYK, 16-bit and transparent images are converted. Transparent parts become black.
    EXIF orientation is applied. An animation gives its first frame.
    16-bit grey is divided by 257 in every image, so that a value means the same in all images of a set.
    32-bit integers and floats must lie between 0 and 255.
    BadImage if the file is damaged, cut short, empty or implausibly large.
    """
    if isinstance(raw, np.ndarray):
        return _array_to_rgb(raw)
    data = _read_bytes(raw)
    with _open_image(data) as image:
        return _decode(image, data)


def encode(raw: RawImage, *, as_jpeg: bool, quality: int, max_resolution: int | None) -> Encoded:
    """Return the bytes to store.

    A JPEG file that needs no change is stored as it is, without a second lossy encoding.
    Every JPEG that is returned was decoded by libjpeg-turbo without a complaint. BadImage if that fails.

    as_jpeg: store a JPEG, else raw pixels.
    quality: of a new JPEG, 1 to 100.
    max_resolution: the longest side in pixels; None keeps the size.
    """
    image = _own_bytes_or_pixels(raw, max_resolution, keep_jpeg=as_jpeg)
    if isinstance(image, Encoded):
        return image
    height, width = image.shape[:2]
    if not as_jpeg:
        return Encoded(image.tobytes(), height, width, False)
    data = encode_jpeg(image, quality)
    _, problem = _try_decode(data, height, width)
    if problem:
        raise BadImage(f"cannot be decoded once it is a JPEG (libjpeg: {problem}); use --mode raw")
    return Encoded(data, height, width, True)


def check_storable(raw: RawImage) -> None:
    """Raise BadImage if `encode` as JPEG would raise it because of the image itself. Nothing is encoded."""
    _own_bytes_or_pixels(raw, None, keep_jpeg=True)


def shrink(image: NDArray[np.uint8], max_resolution: int | None) -> NDArray[np.uint8]:
    """Return the image with its longer side at most max_resolution pixels (INTER_AREA, as FFCV's writer does)."""
    height, width = image.shape[:2]
    if max_resolution is None or max(height, width) <= max_resolution:
        return image
    ratio = max_resolution / max(height, width)
    size = max(1, int(ratio * width)), max(1, int(ratio * height))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def encode_jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """Return an RGB image as JPEG bytes, 4:2:0, as FFCV's writer makes them."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [int(cv2.IMWRITE_JPEG_QUALITY), quality])
    return data.tobytes()


def _array_to_rgb(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise BadImage(f"array of {array.dtype}{list(array.shape)}; expected uint8 [H, W] or [H, W, 3]")
    if not array.size:
        raise BadImage(f"array without pixels, {list(array.shape)}")
    grey = array.ndim == 2 or array.shape[2] == 1
    return np.ascontiguousarray(np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2) if grey else array)


def _read_bytes(raw: bytes | Path) -> bytes:
    """Return the bytes of a file.

    A problem of this one file is a BadImage. An error of the disk is raised as it is.
    """
    if isinstance(raw, bytes):
        return raw
    try:
        return raw.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise BadImage("the file does not exist") from None
    except (IsADirectoryError, PermissionError) as error:
        raise BadImage(f"cannot be decoded ({error.strerror})") from None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise BadImage("the file does not exist") from None
        raise


@contextmanager
def _open_image(data: bytes) -> Iterator[Image.Image]:
    """Open encoded bytes with Pillow. Every error that Pillow raises on damaged files becomes a BadImage."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            # Pillow only warns above its bound, and warning filters are shared by all threads.
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(f"has {image.width} x {image.height} pixels; more than {MAX_PIXELS} are not plausible")
            yield image
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("cannot be decoded (it is no image of a known format)") from None
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        LookupError,
        TypeError,
        ArithmeticError,
        struct.error,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as e:
        raise BadImage(f"cannot be decoded ({str(e).rstrip('.') or type(e).__name__})") from None


def _decode(image: Image.Image, data: bytes) -> NDArray[np.uint8]:
    """Return the pixels of an opened file after the check by libjpeg-turbo."""
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L", "CMYK"):
        sound = _sound_jpeg(data, image.height, image.width, cmyk=image.mode == "CMYK")
        if sound is not data:
            with _open_image(sound) as repaired:
                return _pillow_to_rgb(repaired)
    return _pillow_to_rgb(image)


def _pillow_to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        grey = _grey_to_8_bits(np.asarray(upright), upright.mode)
        return np.repeat(grey[..., None], 3, axis=2)
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.array(upright.convert("RGB"))


def _grey_to_8_bits(values: NDArray[np.generic], mode: str) -> NDArray[np.uint8]:
    """Return grey values as uint8. Pillow's own conversion would clip them at 255."""
    grey = values.astype(np.float64)
    if mode.startswith("I;16"):
        grey /= 257
    elif not (grey.min() >= 0 and grey.max() <= 255):  # written so that NaN is refused
        kind = "float" if mode == "F" else "32-bit"
        raise BadImage(
            f"has {kind} values from {grey.min():g} to {grey.max():g}, and no rule says how bright these are; expected "
            "0 to 255: convert the files to 8 or 16 bits"
        )
    return grey.round().astype(np.uint8)


def _can_stay_as_it_is(image: Image.Image, max_resolution: int | None) -> bool:
    """Return True for an upright JPEG, colour or grey, of a size to keep. The loader makes RGB of grey."""
    return (
        image.format in ("JPEG", "MPO")
        and image.mode in ("RGB", "L")
        and max(image.size) <= min(max_resolution or MAX_SIDE, MAX_SIDE)
        and image.getexif().get(0x0112, 1) == 1
    )


def _try_decode(data: bytes, height: int, width: int, *, cmyk: bool = False) -> tuple[NDArray[np.uint8], str]:
    """Call `turbojpeg.try_decode`. Its import is delayed: numba takes half a second, and `--list` does not need it."""
    from debeton.data.beton.turbojpeg import try_decode

    return try_decode(data, height, width, cmyk=cmyk)


def _sound_jpeg(data: bytes, height: int, width: int, *, cmyk: bool = False) -> bytes:
    """Return the JPEG with its harmless faults repaired. BadImage if it is damaged."""
    sound, problem = sound_jpeg(data, partial(_try_decode, height=height, width=width, cmyk=cmyk))
    if problem:
        raise BadImage(f"cannot be decoded in full (libjpeg: {problem})")
    return sound


def _own_bytes_or_pixels(raw: RawImage, max_resolution: int | None, *, keep_jpeg: bool) -> Encoded | NDArray[np.uint8]:
    """Return the image as it is stored: its own bytes if it is a JPEG to keep, else its pixels."""
    if isinstance(raw, np.ndarray):
        return _shrink_to_fit(_array_to_rgb(raw), max_resolution)
    data = _read_bytes(raw)
    with _open_image(data) as image:
        if keep_jpeg and _can_stay_as_it_is(image, max_resolution):
            height, width = image.height, image.width
            return Encoded(_check_size(_sound_jpeg(data, height, width)), height, width, True)
        pixels = _decode(image, data)
    return _shrink_to_fit(pixels, max_resolution)


def _shrink_to_fit(pixels: NDArray[np.uint8], max_resolution: int | None) -> NDArray[np.uint8]:
    """Return the pixels with sides of at most `max_resolution`. BadImage if a side is longer than a beton allows."""
    image = shrink(pixels, max_resolution)
    height, width = image.shape[:2]
    if max(height, width) > MAX_SIDE:
        raise BadImage(f"has {width} x {height} pixels; a beton holds at most {MAX_SIDE} a side, use --max-resolution")
    return image


def _check_size(data: bytes) -> bytes:
    """Return the bytes. BadImage if they are more than a page of a beton can hold."""
    if len(data) > MAX_PAGE:
        raise BadImage(f"has {len(data)} bytes; a beton holds at most {MAX_PAGE} an image, use --max-resolution")
    return data
