"""Any image file or array to upright RGB pixels.

Pillow decodes. It does not report damage in a JPEG; it paints the damaged parts grey. So libjpeg-turbo decodes every
JPEG too, and its complaints decide whether the file is sound (jpeg_repair.py).
"""

from __future__ import annotations

import errno
import importlib.util
import io
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from debeton.data.beton.coarse_jpeg import WHOLE, average_areas, coarse_scale, scaled
from debeton.data.beton.jpeg_bounds import first_scan, scan_problem
from debeton.system.regular_files import UnfitFile, read_regular

MAX_PIXELS = 89_478_485  # Pillow's bound: 256 MiB as RGB
# A progressive JPEG is held in memory whole, at any scale: up to 6 bytes a pixel. Its bound is this times the other.
PROGRESSIVE_FACTOR = 4
BYTES_PER_PIXEL = 6  # of an uncompressed file of 16 bits and three channels; no format of images needs more
MAX_IMAGE_BYTES = BYTES_PER_PIXEL * MAX_PIXELS  # of an image file, 512 MiB
# The only formats that Pillow is asked for. Among its others are some that start a program (EPS), that hold a second
# image of any size (ICO, ICNS), or that have no signature.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "DIB", "TGA")


class BadImage(ValueError):
    """An image that cannot become RGB pixels. The message gives the reason."""


@dataclass(frozen=True)
class Limits:
    """The sizes that decide the scale at which a file is decoded.

    max_resolution: the longest side of the result in pixels; None keeps the size.
    max_pixels: pixels that are decoded. A JPEG with more is decoded at a coarser scale if there is a max_resolution.
    """

    max_resolution: int | None = None
    max_pixels: int = MAX_PIXELS

    @property
    def max_bytes(self) -> int:
        """Return the bound on the bytes of a file."""
        return max(MAX_IMAGE_BYTES, BYTES_PER_PIXEL * self.max_pixels)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of an image after it was shrunk. FFCV's writer rounds in the same way."""
        if self.max_resolution is None or max(height, width) <= self.max_resolution:
            return height, width
        ratio = self.max_resolution / max(height, width)
        return max(1, int(ratio * height)), max(1, int(ratio * width))


def array_to_rgb(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a uint8 array [H, W], [H, W, 1] or [H, W, 3] as [H, W, 3], or raise BadImage."""
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise BadImage(f"array of {array.dtype}{list(array.shape)}; expected uint8 [H, W] or [H, W, 3]")
    if not array.size:
        raise BadImage(f"array without pixels, {list(array.shape)}")
    grey = array.ndim == 2 or array.shape[2] == 1
    return np.ascontiguousarray(np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2) if grey else array)


def read_bytes(raw: bytes | Path, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
    """Return the bytes of an image file, at most `max_bytes`.

    A problem of this one file is a BadImage, also if it is a pipe or a device. An error of the disk is raised as it is.
    """
    if isinstance(raw, bytes):
        if len(raw) > max_bytes:
            raise BadImage(f"has {len(raw):,} bytes, more than the {max_bytes:,} that are read of an image")
        return raw
    try:
        return read_regular(raw, max_bytes)
    except UnfitFile as error:
        if raw.is_dir():
            raise BadImage(f"cannot be decoded ({os.strerror(errno.EISDIR)})") from None
        raise BadImage(error.reason) from None
    except (FileNotFoundError, NotADirectoryError):
        raise BadImage("the file does not exist") from None
    except PermissionError as error:
        raise BadImage(f"cannot be decoded ({error.strerror})") from None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise BadImage("the file does not exist") from None
        if error.errno == errno.ENXIO:
            raise BadImage("is no regular file, and is not read; put a copy of the file there") from None
        raise


@contextmanager
def open_image(data: bytes) -> Iterator[Image.Image]:
    """Open encoded bytes of one of FORMATS with Pillow.

    Every error that Pillow raises on damaged files becomes a BadImage. So does a JPEG of too many segments or scans.
    """
    try:
        scan, problem = first_scan(data) if data[:2] == b"\xff\xd8" else (0, "")
        if problem:
            raise BadImage(problem)
        with _LIFTED, Image.open(io.BytesIO(data), formats=known_formats()) as image:
            if is_jpeg(image):
                _refuse_many_scans(image, data, scan)
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
    ) as e:
        raise BadImage(f"cannot be decoded ({str(e).rstrip('.') or type(e).__name__})") from None


@lru_cache
def known_formats() -> tuple[str, ...]:
    """Return those of FORMATS that the installed Pillow has. Versions before 11.3 have no AVIF."""
    return tuple(name for name in FORMATS if name != "AVIF" or importlib.util.find_spec("PIL.AvifImagePlugin"))


def _refuse_many_scans(image: Image.Image, data: bytes, first: int) -> None:
    """Raise BadImage for a JPEG with more scans than its size allows. first: the position of its first scan."""
    components = int(getattr(image, "layers", 0))
    progressive = bool(image.info.get("progressive"))
    if problem := scan_problem(data, first, (image.height, image.width), components, progressive=progressive):
        raise BadImage(problem)


class _PillowsBound:
    """Pillow's bound on pixels, which is lifted while any thread is inside; the bound here is that of `Limits`.

    Pillow keeps its bound in one variable for all threads. Some of its formats look at it when pixels are decoded.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._bound = threading.Lock(), 0, Image.MAX_IMAGE_PIXELS

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._bound, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                Image.MAX_IMAGE_PIXELS = self._bound


_LIFTED = _PillowsBound()


def is_jpeg(image: Image.Image) -> bool:
    """Return True for a JPEG file, also for one of several pictures (MPO)."""
    return image.format in ("JPEG", "MPO")


def scale_in_eighths(image: Image.Image, limits: Limits) -> int:
    """Return the scale at which an opened file is decoded: 8 eighths, or fewer for a JPEG above `max_pixels`.

    BadImage if the file has too many pixels.
    """
    width, height = image.size
    if width * height <= limits.max_pixels:
        return WHOLE
    scalable = is_jpeg(image) and _libjpeg_scales()
    progressive = bool(image.info.get("progressive"))
    if (
        scalable
        and limits.max_resolution is not None
        and not (progressive and width * height > PROGRESSIVE_FACTOR * limits.max_pixels)
    ):
        eighths = coarse_scale((height, width), limits.size(height, width), limits.max_pixels)
        if eighths is not None:
            return eighths
    remedy = f"pass --max-pixels {width * height} to decode it whole" + (
        ", or --max-resolution to decode it at a coarser scale" if scalable and limits.max_resolution is None else ""
    )
    raise BadImage(f"has {width} x {height} pixels, more than the bound of {limits.max_pixels}; {remedy}")


def _libjpeg_scales() -> bool:
    from debeton.data.beton import turbojpeg

    return turbojpeg.TURBOJPEG


def sound_jpeg(data: bytes, height: int, width: int, *, cmyk: bool = False, eighths: int = WHOLE) -> bytes:
    """Return the JPEG with its harmless faults repaired. BadImage if it is damaged.

    height, width: pixels of the whole JPEG.
    cmyk: the JPEG is CMYK or YCCK.
    eighths: the scale at which it is decoded for this check.
    """
    from debeton.data.beton.jpeg_repair import sound_jpeg as repaired
    from debeton.data.beton.turbojpeg import try_decode  # imports numba, half a second, which `--list` does not need

    decode = partial(try_decode, height=scaled(height, eighths), width=scaled(width, eighths), cmyk=cmyk)
    sound, problem = repaired(data, decode)
    if problem:
        raise BadImage(f"cannot be decoded in full (libjpeg: {problem})")
    return sound


def decode_image(image: Image.Image, data: bytes, limits: Limits = Limits()) -> NDArray[np.uint8]:
    """Return the pixels of an opened file, after the check by libjpeg-turbo.

    A JPEG of more than `max_pixels` is decoded at a coarser scale and shrunk to `max_resolution`.
    """
    eighths = scale_in_eighths(image, limits)
    if not (is_jpeg(image) and image.mode in ("RGB", "L", "CMYK")):
        return _pillow_to_rgb(image)
    sound = sound_jpeg(data, image.height, image.width, cmyk=image.mode == "CMYK", eighths=eighths)
    if eighths < WHOLE:
        return _decode_coarsely(image, sound, eighths, limits)
    if sound is data:
        return _pillow_to_rgb(image)
    with open_image(sound) as repaired:
        return _pillow_to_rgb(repaired)


def _decode_coarsely(image: Image.Image, data: bytes, eighths: int, limits: Limits) -> NDArray[np.uint8]:
    """Return the upright RGB pixels of a sound JPEG, decoded at a scale in eighths and shrunk to the limits."""
    from debeton.data.beton.turbojpeg import try_decode

    size, cmyk = (image.height, image.width), image.mode == "CMYK"
    pixels, _ = try_decode(data, scaled(size[0], eighths), scaled(size[1], eighths), cmyk=cmyk)
    if cmyk:
        pixels = np.asarray(Image.fromarray(255 - pixels, "CMYK").convert("RGB"))
    extent = size[0] * eighths / WHOLE, size[1] * eighths / WHOLE
    small = Image.fromarray(average_areas(pixels, extent, limits.size(*size)))
    small.info = dict(image.info)  # with the orientation
    return _pillow_to_rgb(small)


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
