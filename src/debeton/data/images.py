"""One image on its way into a beton: any file or array to RGB pixels, and RGB pixels to JPEG."""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from debeton.data.native import is_sound_jpeg
from debeton.data.spec import RawImage

MAX_PIXELS = 89_478_485  # Pillow's bound: 256 MiB as RGB
MAX_SIDE = 65500  # libjpeg's limit; FFCV stores width and height as uint16


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

    Grey, palette, CMYK, 16-bit and transparent images are converted (transparency over black), EXIF
    orientation is applied. BadImage when the file is damaged, truncated, empty or implausibly large.
    """
    if isinstance(raw, np.ndarray):
        if raw.dtype != np.uint8 or raw.ndim not in (2, 3) or (raw.ndim == 3 and raw.shape[2] not in (1, 3)):
            raise BadImage(f"array of {raw.dtype}{list(raw.shape)}; expected uint8 [H, W] or [H, W, 3]")
        if not raw.size:
            raise BadImage(f"array without pixels, {list(raw.shape)}")
        grey = raw.ndim == 2 or raw.shape[2] == 1
        return np.ascontiguousarray(np.repeat(raw.reshape(*raw.shape[:2], 1), 3, axis=2) if grey else raw)
    try:
        data = raw if isinstance(raw, bytes) else raw.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            # Pillow only warns from here on, and warning filters are no thread's own.
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(f"has {image.width} x {image.height} pixels; more than {MAX_PIXELS} are not plausible")
            pixels = _pillow_to_rgb(image)
            _check_jpeg(image, data)
            return pixels
    except FileNotFoundError:
        raise BadImage("the file does not exist") from None
    except BadImage:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as e:
        raise BadImage(f"cannot be decoded ({str(e).rstrip('.') or type(e).__name__})") from None


def _check_jpeg(image: Image.Image, data: bytes) -> None:
    """BadImage for damage that Pillow paints grey without a word, and the loader would refuse."""
    if (
        image.format in ("JPEG", "MPO")
        and image.mode in ("RGB", "L")
        and not is_sound_jpeg(data, image.height, image.width)
    ):
        raise BadImage("cannot be decoded in full (its JPEG data is damaged, or of a kind libjpeg-turbo cannot read)")


def _pillow_to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        # 16-bit grey: keep the high byte; Pillow's own conversion clips at 255 instead.
        values = np.asarray(upright).astype(np.float64)
        grey = np.clip(values / 257 if values.max(initial=0) > 255 else values, 0, 255).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.array(upright.convert("RGB"))


def shrink(image: NDArray[np.uint8], max_resolution: int | None) -> NDArray[np.uint8]:
    """The image with its longer side at most max_resolution pixels (INTER_AREA, as FFCV's writer)."""
    height, width = image.shape[:2]
    if max_resolution is None or max(height, width) <= max_resolution:
        return image
    ratio = max_resolution / max(height, width)
    size = max(1, int(ratio * width)), max(1, int(ratio * height))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def stored_pixels(raw: RawImage, max_resolution: int | None) -> NDArray[np.uint8]:
    """The RGB pixels that a beton holds of `raw`, before any JPEG encoding; BadImage where that cannot be."""
    image = shrink(to_rgb(raw), max_resolution)
    height, width = image.shape[:2]
    if max(height, width) > MAX_SIDE:
        raise BadImage(f"has {width} x {height} pixels; a beton holds at most {MAX_SIDE} a side, use --max-resolution")
    return image


def encode_jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """JPEG bytes of an RGB image, 4:2:0, as FFCV's writer makes them."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [int(cv2.IMWRITE_JPEG_QUALITY), quality])
    return data.tobytes()


def encode(raw: RawImage, *, as_jpeg: bool, quality: int, max_resolution: int | None) -> Encoded:
    """The bytes to store. A JPEG file that needs no change is stored as it is, without a second lossy encode."""
    if as_jpeg and not isinstance(raw, np.ndarray):
        unchanged = _as_stored(raw, max_resolution)
        if unchanged is not None:
            return unchanged
    image = stored_pixels(raw, max_resolution)
    height, width = image.shape[:2]
    return Encoded(encode_jpeg(image, quality) if as_jpeg else image.tobytes(), height, width, as_jpeg)


def _as_stored(raw: RawImage, max_resolution: int | None) -> Encoded | None:
    """The file's own bytes where it is a plain upright RGB JPEG of a size we keep, else None."""
    data = raw if isinstance(raw, bytes) else raw.read_bytes()  # type: ignore[union-attr]
    try:
        with Image.open(io.BytesIO(data)) as image:
            upright = image.getexif().get(0x0112, 1) == 1
            fits = max(image.size) <= min(max_resolution or MAX_SIDE, MAX_SIDE)
            if image.format == "JPEG" and image.mode == "RGB" and upright and fits:
                return Encoded(data, image.height, image.width, True)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        pass  # to_rgb says what is wrong with it
    return None
