"""Patches: small RGBA pictures that triggers put over an image. They are read from files, or drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from debeton.data.beton.image_decoding import BadImage, Limits, open_image, read_bytes, scale_in_eighths
from debeton.data.image_names import ALPHA_SUFFIXES, listed
from debeton.system.errors import DataError, UsageError

Colour = tuple[int, int, int]
Patch = Callable[[int, int], Image.Image]  # height, width in pixels -> RGBA of that size
POSITIONS = {
    "top_left": (0.0, 0.0), "top": (0.0, 0.5), "top_right": (0.0, 1.0), "left": (0.5, 0.0), "center": (0.5, 0.5),
    "right": (0.5, 1.0), "bottom_left": (1.0, 0.0), "bottom": (1.0, 0.5), "bottom_right": (1.0, 1.0),
}  # fmt: skip
ENLARGEMENT = 4  # hats are drawn so many times larger, then averaged


def place_patch(patch: Patch, height: int, width: int, size: str, position: str) -> NDArray[np.uint8]:
    """Return the patch in an otherwise transparent frame, uint8 [height, width, 4].

    height, width: of the frame in pixels.
    size: a fraction of the frame or pixels, see `patch_size`.
    position: a key of POSITIONS.
    """
    if position not in POSITIONS:
        raise UsageError(f"unknown position '{position}' of a trigger; known: {', '.join(POSITIONS)}")
    tall, wide = patch_size(size, height, width)
    down, right = POSITIONS[position]
    frame = np.zeros((height, width, 4), np.uint8)
    top, left = round(down * (height - tall)), round(right * (width - wide))
    frame[top : top + tall, left : left + wide] = np.asarray(patch(tall, wide))
    return frame


def patch_size(size: str, height: int, width: int) -> tuple[int, int]:
    """Return the height and width of a patch in pixels.

    size: '56px' is 56 x 56 pixels. A number f in (0, 1) is a square of f times the shorter side of the frame, at least
        one pixel. '1' is the whole frame.
    height, width: of the frame in pixels.
    UsageError for any other size, or for a patch that is larger than the frame.
    """
    text, in_pixels = size.removesuffix("px"), size.endswith("px")
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if value <= 0 or (in_pixels and value != int(value)):
        raise UsageError(f"a trigger's size is {size!r}; expected a fraction such as 0.25, or pixels such as 56px")
    if not in_pixels and value == 1:
        return height, width
    side = int(value) if in_pixels else max(1, round(value * min(height, width)))
    if side > min(height, width):
        raise UsageError(
            f"a trigger of {side} x {side} pixels (size {size}) is larger than the image, {height} x {width}; "
            "use a smaller --spurious.size"
        )
    return side, side


def solid_patch(colour: Colour) -> Patch:
    """Return a patch of one colour."""
    return lambda height, width: Image.new("RGBA", (width, height), (*colour, 255))


def read_patches(path: str | Path, *, resized: bool = True) -> list[Patch]:
    """Return the patch of an image file, or those of all images in a folder by name.

    path: the file or the folder.
    resized: crop a patch to the proportions that are asked for, and resize it. Off: cut its centre out at its own
        resolution; what it lacks is transparent.

    DataError if a file cannot be read, has no alpha channel, or is opaque everywhere (it would hide the image).
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"no trigger image at {path}; expected an image with an alpha channel, or a folder of them")
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in ALPHA_SUFFIXES)
    if not files:
        raise DataError(f"{path} holds no image with an alpha channel ({listed(ALPHA_SUFFIXES)})")
    as_patch = _fit_to_shape if resized else _cut_to_shape
    return [as_patch(_read_rgba(file)) for file in files]


def _read_rgba(file: Path) -> Image.Image:
    try:
        with open_image(read_bytes(file)) as stored:
            scale_in_eighths(stored, Limits())  # refuses too many pixels
            image = stored.convert("RGBA")
    except (OSError, BadImage) as error:
        raise DataError(f"{file} cannot be read as an image ({error})") from None
    if np.asarray(image)[..., 3].min() == 255:  # without an alpha channel, or opaque everywhere
        raise DataError(
            f"{file} has no alpha channel that lets anything through, so it would hide the image; save it as a PNG "
            "with a transparent background"
        )
    return image


def _fit_to_shape(image: Image.Image) -> Patch:
    """Return the image as a patch."""
    return lambda height, width: ImageOps.fit(image, (width, height), Image.Resampling.BOX)


def _cut_to_shape(image: Image.Image) -> Patch:
    """Return the image as a patch that keeps its resolution, by the rules of torchvision's CenterCrop."""

    def cut(height: int, width: int) -> Image.Image:
        from torchvision.transforms.functional import center_crop

        cropped: Image.Image = center_crop(image, [height, width])
        return cropped

    return cut


# --- hats --------------------------------------------------------------------------------------

# Shapes in a unit square, x to the right and y down: (kind, points or box, colour).
Shape = tuple[str, tuple[float, ...], Colour]
HATS: dict[str, tuple[Shape, ...]] = {
    "top hat": (
        ("rectangle", (0.36, 0.03, 0.64, 0.22), (25, 25, 30)),
        ("rectangle", (0.36, 0.17, 0.64, 0.22), (170, 25, 35)),
        ("ellipse", (0.24, 0.19, 0.76, 0.27), (25, 25, 30)),
    ),
    "party hat": (
        ("polygon", (0.5, 0.01, 0.36, 0.27, 0.64, 0.27), (225, 60, 150)),
        ("polygon", (0.45, 0.1, 0.55, 0.1, 0.58, 0.16, 0.42, 0.16), (250, 215, 70)),
        ("ellipse", (0.47, 0.0, 0.53, 0.05), (250, 250, 250)),
    ),
    "beanie": (
        ("pieslice", (0.32, 0.04, 0.68, 0.42, 180, 360), (40, 95, 170)),
        ("rectangle", (0.31, 0.2, 0.69, 0.27), (235, 235, 235)),
        ("ellipse", (0.46, 0.0, 0.54, 0.08), (235, 235, 235)),
    ),
    "cap": (
        ("pieslice", (0.33, 0.05, 0.67, 0.41, 180, 360), (200, 40, 40)),
        ("ellipse", (0.52, 0.2, 0.85, 0.27), (160, 25, 25)),
    ),
    "sombrero": (
        ("pieslice", (0.38, 0.02, 0.62, 0.4, 180, 360), (205, 160, 85)),
        ("ellipse", (0.12, 0.16, 0.88, 0.28), (185, 135, 60)),
        ("rectangle", (0.38, 0.16, 0.62, 0.2), (120, 40, 30)),
    ),
}


def drawn_hats() -> list[Patch]:
    """Return five hats, drawn in the upper quarter of the frame."""
    return [_draw_shapes(shapes) for shapes in HATS.values()]


def _draw_shapes(shapes: tuple[Shape, ...]) -> Patch:
    """Return shapes as a patch. They are drawn at four times the size and averaged, so that edges are smooth."""

    def draw(height: int, width: int) -> Image.Image:
        large = Image.new("RGBA", (ENLARGEMENT * width, ENLARGEMENT * height))
        pen = ImageDraw.Draw(large)
        for kind, numbers, colour in shapes:
            angles = numbers[4:] if kind == "pieslice" else ()
            points = [
                value * (large.width if i % 2 == 0 else large.height)
                for i, value in enumerate(numbers[: len(numbers) - len(angles)])
            ]
            getattr(pen, kind)(points, *angles, fill=(*colour, 255))
        return large.resize((width, height), Image.Resampling.BOX)

    return draw
