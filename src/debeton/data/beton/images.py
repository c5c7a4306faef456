"""One image on its way into a beton: a JPEG file that is kept, raw pixels, or a new JPEG."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from debeton.data.beton.ffcv_format import MAX_PAGE
from debeton.data.beton.image_decoding import (
    MAX_PIXELS,
    BadImage,
    Limits,
    array_to_rgb,
    decode_image,
    is_jpeg,
    open_image,
    read_bytes,
    scale_in_eighths,
    sound_jpeg,
)
from debeton.data.beton.treatment import AS_IT_IS, ENCODED, PIXELS, REPAIRED, Treatment
from debeton.data.spec import RawImage

MAX_SIDE = 65500  # libjpeg's limit; FFCV stores width and height as uint16
RAW_PIXELS = 256 * 256  # largest image that is stored as raw pixels without being asked: 192 KiB
QUALITY_OF_JPEGS, QUALITY_OF_OTHERS = 90, 95  # of a new JPEG, by its source
CHROMAS = {"4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420}
ORIENTATION = 0x0112  # EXIF


@dataclass(frozen=True)
class Encoded:
    """The bytes of an image as the beton holds them: a JPEG file, or raw RGB pixels."""

    data: bytes
    height: int
    width: int
    is_jpeg: bool
    treatment: Treatment


@dataclass(frozen=True)
class Picture:
    """A decoded source.

    pixels: uint8 [H, W, 3].
    source, changes: as in `Treatment`.
    chroma: of a JPEG that is made of it.
    """

    pixels: NDArray[np.uint8]
    source: str
    changes: tuple[str, ...] = ()
    chroma: str = "4:4:4"


def to_rgb(raw: RawImage) -> NDArray[np.uint8]:
    """Return an array, encoded bytes or an image file as pixels, uint8 [H, W, 3].

    Grey, palette, CMYK, 16-bit and transparent images are converted. Transparent parts become black.
    EXIF orientation is applied. An animation gives its first frame.
    16-bit grey is divided by 257 in every image, so that a value means the same in all images of a set.
    32-bit integers and floats must lie between 0 and 255.
    BadImage if the file is damaged, cut short, empty or implausibly large.
    """
    if isinstance(raw, np.ndarray):
        return array_to_rgb(raw)
    data = read_bytes(raw)
    with open_image(data) as image:
        return decode_image(image, data)


def encode(
    raw: RawImage,
    *,
    as_jpeg: bool | None,
    quality: int | None = None,
    chroma: str | None = None,
    max_resolution: int | None = None,
    max_pixels: int = MAX_PIXELS,
    raw_pixels: int = RAW_PIXELS,
) -> Encoded:
    """Return the bytes to store.

    A JPEG file that needs no change is stored as it is, without a second lossy encoding.
    Every JPEG that is returned was decoded by libjpeg-turbo without a complaint. BadImage if that fails.

    as_jpeg: store a JPEG, or else raw pixels. None stores JPEG files as JPEG, and others of up to `raw_pixels` raw.
    quality: of a new JPEG, 1 to 100. None is 90 if its source is a JPEG, and else 95.
    chroma: of a new JPEG, a key of CHROMAS. None is '4:2:0' if its source is a JPEG that has it, and else '4:4:4'.
    max_resolution: the longest side in pixels; None keeps the size.
    max_pixels: the bound on the pixels that are decoded.
    raw_pixels: the bound on the pixels of a raw image, if as_jpeg is None.
    """
    limits = Limits(max_resolution, max_pixels)
    picture = _own_bytes_or_pixels(raw, limits, keep_jpeg=as_jpeg is not False)
    if isinstance(picture, Encoded):
        return picture
    height, width = picture.pixels.shape[:2]
    if as_jpeg is None:
        as_jpeg = picture.source == "JPEG" or height * width > raw_pixels
    if not as_jpeg:
        treatment = Treatment(picture.source, PIXELS, picture.changes)
        return Encoded(_check_size(picture.pixels.tobytes()), height, width, False, treatment)
    return _new_jpeg(picture, quality, chroma or picture.chroma)


def _new_jpeg(picture: Picture, quality: int | None, chroma: str) -> Encoded:
    """Return a picture as a new JPEG."""
    from debeton.data.beton.turbojpeg import try_decode  # imports numba

    height, width = picture.pixels.shape[:2]
    if quality is None:
        quality = QUALITY_OF_JPEGS if picture.source == "JPEG" else QUALITY_OF_OTHERS
    data = encode_jpeg(picture.pixels, quality, chroma)
    _, problem = try_decode(data, height, width)
    if problem:
        raise BadImage(f"cannot be decoded once it is a JPEG (libjpeg: {problem}); use --mode raw")
    treatment = Treatment(picture.source, ENCODED, picture.changes, quality, chroma)
    return Encoded(_check_size(data), height, width, True, treatment)


def check_storable(raw: RawImage, max_resolution: int | None = None, max_pixels: int = MAX_PIXELS) -> None:
    """Raise BadImage if `encode` as JPEG would raise it because of the image itself. Nothing is encoded."""
    _own_bytes_or_pixels(raw, Limits(max_resolution, max_pixels), keep_jpeg=True)


def shrink(image: NDArray[np.uint8], max_resolution: int | None) -> NDArray[np.uint8]:
    """Return the image with its longer side at most max_resolution pixels (INTER_AREA, as FFCV's writer does)."""
    return _resized(image, *Limits(max_resolution).size(*image.shape[:2]))


def _resized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def encode_jpeg(image: NDArray[np.uint8], quality: int, chroma: str = "4:2:0") -> bytes:
    """Return an RGB image as JPEG bytes. FFCV's writer makes them with the chroma 4:2:0, half of each side."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, CHROMAS[chroma]]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [int(value) for value in settings])
    return data.tobytes()


def _own_bytes_or_pixels(raw: RawImage, limits: Limits, *, keep_jpeg: bool) -> Encoded | Picture:
    """Return the image as it is stored: its own bytes if it is a JPEG to keep, else its pixels."""
    if isinstance(raw, np.ndarray):
        pixels = array_to_rgb(raw)
        return _shrunk(Picture(pixels, "array"), pixels.shape[:2], limits)
    data = read_bytes(raw, limits.max_bytes)
    with open_image(data) as image:
        scale_in_eighths(image, limits)  # refuses too many pixels, before Pillow decodes a PNG to find its orientation
        changes = _changes(image)
        if keep_jpeg and is_jpeg(image) and not changes and _keeps_size(image, limits):
            return _kept(image, data)
        picture = Picture(decode_image(image, data, limits), _format(image), changes, _chroma(image))
        width, height = image.size
        return _shrunk(picture, (width, height) if _orientation(image) >= 5 else (height, width), limits)


def _kept(image: Image.Image, data: bytes) -> Encoded:
    """Return a JPEG file as it is, or with its harmless faults repaired. The loader makes RGB of grey."""
    height, width = image.height, image.width
    sound = sound_jpeg(data, height, width)
    stored = AS_IT_IS if sound is data else REPAIRED
    return Encoded(_check_size(sound), height, width, True, Treatment("JPEG", stored))


def _keeps_size(image: Image.Image, limits: Limits) -> bool:
    return max(image.size) <= min(limits.max_resolution or MAX_SIDE, MAX_SIDE)


def _format(image: Image.Image) -> str:
    return "JPEG" if is_jpeg(image) else image.format or "unknown format"


def _changes(image: Image.Image) -> tuple[str, ...]:
    """Return the ways in which the pixels differ from those in the file."""
    if is_jpeg(image):
        changes = [] if image.mode in ("RGB", "L") else [image.mode]
    else:
        deeper = image.mode[:1] in ("I", "F") or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
        changes = ["8 bits of more"] if deeper else []
        changes += ["transparency over black"] if image.has_transparency_data else []
    return (*changes, "turned upright") if _orientation(image) != 1 else tuple(changes)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8. Other values count as 1, as in Pillow."""
    value = image.getexif().get(ORIENTATION, 1)
    return int(value) if value in range(1, 9) else 1


def _chroma(image: Image.Image) -> str:
    """Return the chroma of a JPEG made of this file: half of each side only if the file has it."""
    return "4:2:0" if is_jpeg(image) and JpegImagePlugin.get_sampling(image) == 2 else "4:4:4"


def _shrunk(picture: Picture, size: tuple[int, ...], limits: Limits) -> Picture:
    """Return the picture with sides of at most `max_resolution`. BadImage if a side is longer than a beton allows.

    size: height and width of the source. Its pixels are fewer if they were decoded at a coarser scale.
    """
    height, width = limits.size(*size[:2])
    if max(height, width) > MAX_SIDE:
        raise BadImage(f"has {width} x {height} pixels; a beton holds at most {MAX_SIDE} a side, use --max-resolution")
    if (height, width) == tuple(size[:2]):
        return picture
    larger = f"larger than {limits.max_resolution}"
    return replace(picture, pixels=_resized(picture.pixels, height, width), changes=(*picture.changes, larger))


def _check_size(data: bytes) -> bytes:
    """Return the bytes. BadImage if they are more than a page of a beton can hold."""
    if len(data) > MAX_PAGE:
        raise BadImage(f"has {len(data)} bytes; a beton holds at most {MAX_PAGE} an image, use --max-resolution")
    return data
