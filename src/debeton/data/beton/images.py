"""One image on its way into a beton: any file or array to RGB pixels, and RGB pixels to JPEG.

What libjpeg-turbo says against a JPEG counts, because Pillow paints damaged parts grey without a word. One complaint
may be harmless: "N extraneous bytes before marker 0xd9". Some cameras pad the picture's data, and nothing is lost
without the padding. But a JPEG damaged in its middle says the same when the damage decodes to fewer blocks than
there were: the rest of the picture is shifted and its last blocks are left over. Up to 8 bytes, or any number of one
value, count as padding and are left out; anything else is damage.
"""

from __future__ import annotations

import errno
import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from debeton.data.beton.ffcv_format import MAX_PAGE
from debeton.data.spec import RawImage

MAX_PIXELS = 89_478_485  # Pillow's bound: 256 MiB as RGB
MAX_SIDE = 65500  # libjpeg's limit; FFCV stores width and height as uint16
MAX_PADDING = 8  # bytes of several values before a JPEG's end that can be padding
PADDED = re.compile(r"(\d+) extraneous bytes before marker 0xd9")


class BadImage(ValueError):
    """An image that cannot become RGB pixels; the message says why."""


@dataclass(frozen=True)
class Encoded:
    """Bytes as they lie in the beton: a JPEG file, or raw RGB pixels."""

    data: bytes
    height: int
    width: int
    is_jpeg: bool


def to_rgb(raw: RawImage) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of an array, encoded bytes or a file.

    Grey, palette, CMYK, 16-bit and transparent images are converted (transparency over black), EXIF orientation is
    applied, an animation gives its first frame. 16-bit grey is divided by 257, whatever the image's range; 32-bit
    integers and floats must lie between 0 and 255. So a value means the same in every image of a set.
    BadImage when the file is damaged, truncated, empty or implausibly large.
    """
    if isinstance(raw, np.ndarray):
        return _array_to_rgb(raw)
    data = _bytes_of(raw)
    with _opened(data) as image:
        return _decoded(image, data)


def encode(raw: RawImage, *, as_jpeg: bool, quality: int, max_resolution: int | None) -> Encoded:
    """The bytes to store. A JPEG file that needs no change is stored as it is, without a second lossy encode.

    Every JPEG that is returned was decoded by libjpeg-turbo without a complaint. BadImage where there is none.
    """
    stored = _as_it_is_or_pixels(raw, max_resolution, keep_jpeg=as_jpeg)
    if isinstance(stored, Encoded):
        return stored
    height, width = stored.shape[:2]
    if not as_jpeg:
        return Encoded(stored.tobytes(), height, width, False)
    data = encode_jpeg(stored, quality)
    _, problem = _try_decode(data, height, width)
    if problem:
        raise BadImage(f"cannot be decoded once it is a JPEG (libjpeg: {problem}); use --mode raw")
    return Encoded(data, height, width, True)


def check(raw: RawImage) -> None:
    """BadImage where `encode` as JPEG would raise it for what the image is; nothing is encoded."""
    _as_it_is_or_pixels(raw, None, keep_jpeg=True)


def shrink(image: NDArray[np.uint8], max_resolution: int | None) -> NDArray[np.uint8]:
    """The image with its longer side at most max_resolution pixels (INTER_AREA, as FFCV's writer)."""
    height, width = image.shape[:2]
    if max_resolution is None or max(height, width) <= max_resolution:
        return image
    ratio = max_resolution / max(height, width)
    size = max(1, int(ratio * width)), max(1, int(ratio * height))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def encode_jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """JPEG bytes of an RGB image, 4:2:0, as FFCV's writer makes them."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [int(cv2.IMWRITE_JPEG_QUALITY), quality])
    return data.tobytes()


def _array_to_rgb(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise BadImage(f"array of {array.dtype}{list(array.shape)}; expected uint8 [H, W] or [H, W, 3]")
    if not array.size:
        raise BadImage(f"array without pixels, {list(array.shape)}")
    grey = array.ndim == 2 or array.shape[2] == 1
    return np.ascontiguousarray(np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2) if grey else array)


def _bytes_of(raw: bytes | Path) -> bytes:
    """The file's bytes. Only what is wrong with this one file is a BadImage; a disk that fails is not."""
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
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The file as Pillow opens it; whatever Pillow raises on damaged files in the block becomes a BadImage."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            # Pillow only warns from here on, and warning filters are no thread's own.
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


def _decoded(image: Image.Image, data: bytes) -> NDArray[np.uint8]:
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L", "CMYK"):
        _sound_jpeg(data, image.height, image.width, cmyk=image.mode == "CMYK")
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
    """Pillow's own conversion clips at 255 instead."""
    grey = values.astype(np.float64)
    if mode.startswith("I;16"):
        grey /= 257
    elif not (grey.min() >= 0 and grey.max() <= 255):  # so that NaN is refused
        kind = "float" if mode == "F" else "32-bit"
        raise BadImage(
            f"has {kind} values from {grey.min():g} to {grey.max():g}, and no rule says how bright these are; "
            "convert the files to 8 or 16 bits"
        )
    return grey.round().astype(np.uint8)


def _is_kept(image: Image.Image, max_resolution: int | None) -> bool:
    """Whether the file is an upright JPEG, colour or grey, of a size we keep. The loader makes RGB of grey."""
    return (
        image.format in ("JPEG", "MPO")
        and image.mode in ("RGB", "L")
        and max(image.size) <= min(max_resolution or MAX_SIDE, MAX_SIDE)
        and image.getexif().get(0x0112, 1) == 1
    )


def _try_decode(data: bytes, height: int, width: int, *, cmyk: bool = False) -> tuple[NDArray[np.uint8], str]:
    """`native.try_decode`, imported when first used: numba takes half a second, which --list need not wait."""
    from debeton.data.beton.turbojpeg import try_decode

    return try_decode(data, height, width, cmyk=cmyk)


def _sound_jpeg(data: bytes, height: int, width: int, *, cmyk: bool = False) -> bytes:
    """The JPEG, without its padding where libjpeg-turbo complains of that; BadImage of any other complaint."""
    pixels, problem = _try_decode(data, height, width, cmyk=cmyk)
    if not problem:
        return data
    padded = PADDED.search(problem)
    mended = _without_padding(data, pixels, int(padded[1]), cmyk=cmyk) if padded else None
    if mended is None:
        raise BadImage(f"cannot be decoded in full (libjpeg: {problem})")
    return mended


def _without_padding(data: bytes, pixels: NDArray[np.uint8], count: int, *, cmyk: bool) -> bytes | None:
    """The JPEG without `count` bytes before its end marker; None unless they are padding and cost no pixel.

    libjpeg counts a stuffed 0xff 0x00 as one byte or as two, hence the search for how many there really are.
    """
    height, width = pixels.shape[:2]
    for found in re.finditer(b"\xff\xd9", data):
        end = found.start()
        if count > MAX_PADDING and len(set(data[max(0, end - count) : end])) > 1:
            continue
        for start in range(end - count, max(0, end - count - MAX_PADDING), -1):
            again, problem = _try_decode(data[:start] + data[end:], height, width, cmyk=cmyk)
            if not problem and np.array_equal(again, pixels):
                return data[:start] + data[end:]
    return None


def _as_it_is_or_pixels(raw: RawImage, max_resolution: int | None, *, keep_jpeg: bool) -> Encoded | NDArray[np.uint8]:
    """The image as it is stored: its own bytes where it is a JPEG to keep, else its pixels."""
    if isinstance(raw, np.ndarray):
        return _fitting(_array_to_rgb(raw), max_resolution)
    data = _bytes_of(raw)
    with _opened(data) as image:
        if keep_jpeg and _is_kept(image, max_resolution):
            height, width = image.height, image.width
            return Encoded(_limited(_sound_jpeg(data, height, width)), height, width, True)
        pixels = _decoded(image, data)
    return _fitting(pixels, max_resolution)


def _fitting(pixels: NDArray[np.uint8], max_resolution: int | None) -> NDArray[np.uint8]:
    image = shrink(pixels, max_resolution)
    height, width = image.shape[:2]
    if max(height, width) > MAX_SIDE:
        raise BadImage(f"has {width} x {height} pixels; a beton holds at most {MAX_SIDE} a side, use --max-resolution")
    return image


def _limited(data: bytes) -> bytes:
    if len(data) > MAX_PAGE:
        raise BadImage(f"has {len(data)} bytes; a beton holds at most {MAX_PAGE} an image, use --max-resolution")
    return data
