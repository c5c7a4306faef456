"""images.py: every kind of picture becomes upright RGB pixels or one sentence, and JPEGs are not encoded twice."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from debeton.data.images import BadImage, Encoded, encode, encode_jpeg, shrink, to_rgb

Photo = Callable[..., np.ndarray]
Encoder = Callable[..., bytes]


def store(raw: Any, *, as_jpeg: bool = True, max_resolution: int | None = None) -> Encoded:
    return encode(raw, as_jpeg=as_jpeg, quality=90, max_resolution=max_resolution)


def as_pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


# --- every kind of picture -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 3)])
def test_arrays_become_three_channels(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    rgb = to_rgb(array)
    assert rgb.shape == (3, 4, 3)
    for channel in range(3):
        np.testing.assert_array_equal(
            rgb[..., channel], array.reshape(3, 4, -1)[..., channel % array.reshape(3, 4, -1).shape[2]]
        )


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "expected"),
    [
        ("1", 1, "PNG", (255, 255, 255)),
        ("L", 77, "PNG", (77, 77, 77)),
        ("RGB", (9, 8, 7), "PNG", (9, 8, 7)),
        ("RGBA", (200, 100, 50, 255), "PNG", (200, 100, 50)),
        ("RGBA", (200, 100, 50, 0), "PNG", (0, 0, 0)),
        ("RGBA", (200, 100, 50, 128), "PNG", (100, 50, 25)),
        ("LA", (200, 51), "PNG", (40, 40, 40)),
        ("CMYK", (0, 255, 255, 0), "TIFF", (255, 0, 0)),
        ("CMYK", (0, 0, 0, 255), "TIFF", (0, 0, 0)),
        ("I;16", 65535, "PNG", (255, 255, 255)),
        ("I;16", 32768, "PNG", (128, 128, 128)),
        ("I;16", 257 * 3, "PNG", (3, 3, 3)),
    ],
)
def test_a_solid_colour_of_any_mode_becomes_its_rgb(
    mode: str, colour: Any, kind: str, expected: tuple[int, ...], encoded: Encoder
) -> None:
    rgb = to_rgb(encoded(Image.new(mode, (5, 4), colour), kind))
    assert rgb.shape == (4, 5, 3)
    assert rgb.dtype == np.uint8
    np.testing.assert_allclose(rgb, np.broadcast_to(expected, rgb.shape), atol=1)


def test_a_palette_with_a_transparent_entry_lies_over_black(encoded: Encoder) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([250, 0, 0, 0, 250, 0])
    image.putpixel((1, 0), 1)
    assert to_rgb(encoded(image, "PNG", transparency=1)).tolist() == [[[250, 0, 0], [0, 0, 0]]]


# The eight EXIF orientations as what was done to an upright image before it was stored (EXIF 2.3, table 6).
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_undone(orientation: int, photo: Photo, encoded: Encoder) -> None:
    upright = photo(3, 20, 30)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(np.ascontiguousarray(STORED[orientation](upright)), "PNG", exif=exif)
    np.testing.assert_array_equal(to_rgb(file), upright)


def test_a_path_and_its_bytes_give_the_same_pixels(tmp_path: Path, photo: Photo, encoded: Encoder) -> None:
    data = encoded(photo(0), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    np.testing.assert_array_equal(to_rgb(tmp_path / "a.png"), to_rgb(data))
    np.testing.assert_array_equal(to_rgb(data), photo(0))


# --- damage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), r"float32\[4, 4, 3\]"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8\[4, 4, 4\]"),
        (np.zeros(4, np.uint8), r"uint8\[4\]"),
        (np.zeros((0, 4, 3), np.uint8), "without pixels"),
    ],
)
def test_an_array_that_is_no_image_is_refused(array: np.ndarray, words: str) -> None:
    with pytest.raises(BadImage, match=words):
        to_rgb(array)


def test_damaged_files_are_refused(tmp_path: Path, photo: Photo, encoded: Encoder) -> None:
    jpeg, png = encoded(photo(0, 80, 80)), encoded(photo(0, 80, 80), "PNG")
    damaged: dict[str, Any] = {
        "empty": b"",
        "text": b"<html>404</html>",
        "half a PNG": png[: len(png) // 2],
        "half a JPEG": jpeg[: len(jpeg) // 2],
        "a JPEG's header": jpeg[:20],
        "missing": tmp_path / "missing.jpg",
        "a folder": tmp_path,
    }
    for name, raw in damaged.items():
        with pytest.raises(BadImage) as error:
            to_rgb(raw)
        assert str(error.value).startswith(("cannot be decoded", "the file does not exist")), name
    with pytest.raises(BadImage, match="does not exist"):
        to_rgb(tmp_path / "missing.jpg")


def test_a_jpeg_cut_short_but_properly_ended_is_refused(photo: Photo, encoded: Encoder) -> None:
    jpeg = encoded(photo(0, 80, 80))
    cut = jpeg[: len(jpeg) * 2 // 3] + b"\xff\xd9"
    assert as_pixels(cut).shape == (80, 80, 3)  # Pillow paints the rest grey without a word
    with pytest.raises(BadImage, match="damaged"):
        to_rgb(cut)


def test_a_decompression_bomb_is_refused(encoded: Encoder) -> None:
    bomb = encoded(Image.new("1", (10_000, 10_000)), "PNG")
    assert len(bomb) < 20_000
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(BadImage, match="10000 x 10000 pixels"):
        to_rgb(bomb)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow on damaged TIFF tags
@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4),
    keep=st.floats(0.1, 1),
)
def test_any_file_gives_rgb_pixels_or_bad_image(kind: str, changes: list[tuple[int, int]], keep: float) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if kind in ("GIF", "BMP") else {"exif": exif}
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 10, 3), dtype=np.uint8)).save(
        buffer, kind, **options
    )
    data = bytearray(buffer.getvalue())
    for position, value in changes:
        data[position % len(data)] = value
    for read in (to_rgb, store):
        try:
            result = read(bytes(data[: max(1, int(keep * len(data)))]))
        except BadImage:
            continue
        if isinstance(result, np.ndarray):
            assert result.dtype == np.uint8
            assert result.ndim == 3
            assert result.shape[2] == 3
            assert result.size


# --- size ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), limit=st.integers(1, 320))
def test_shrink_bounds_the_longer_side_and_keeps_the_aspect(height: int, width: int, limit: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    small = shrink(image, limit)
    if max(height, width) <= limit:
        assert small is image
        return
    ratio = limit / max(height, width)
    assert max(small.shape[:2]) in (limit, limit - 1)  # FFCV truncates, and 0.29 * 100 is 28.999...
    assert abs(small.shape[0] - ratio * height) <= 1
    assert abs(small.shape[1] - ratio * width) <= 1


def test_shrink_by_two_averages_blocks_of_four_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    blocks = image.reshape(4, 2, 6, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(shrink(image, 6), blocks, atol=0.5)


@pytest.mark.parametrize("as_jpeg", [True, False])
def test_a_side_that_the_format_cannot_hold_is_refused_with_the_way_out(*, as_jpeg: bool) -> None:
    wide = np.zeros((1, 65_501, 3), np.uint8)
    with pytest.raises(BadImage, match=r"65501 x 1 pixels.*65500.*--max-resolution"):
        store(wide, as_jpeg=as_jpeg)
    assert store(wide, as_jpeg=as_jpeg, max_resolution=100).width == 100
    assert store(wide[:, :65_500], as_jpeg=as_jpeg).width == 65_500


# --- encoding --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}], ids=str)
def test_a_jpeg_that_needs_no_change_is_stored_byte_for_byte(options: dict, photo: Photo, encoded: Encoder) -> None:
    file = encoded(photo(0, 40, 60), **options)
    stored = store(file, max_resolution=60)
    assert stored.data == file
    assert (stored.height, stored.width, stored.is_jpeg) == (40, 60, True)


def test_a_jpeg_is_encoded_anew_when_it_is_rotated_too_large_grey_or_cmyk(photo: Photo, encoded: Encoder) -> None:
    image = photo(0, 40, 60)
    grey = Image.fromarray(image).convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6
    cases = {
        "rotated": (encoded(image, quality=95, exif=exif), None, np.rot90(image, -1)),
        "too large": (encoded(image, quality=95), 30, image.reshape(20, 2, 30, 2, 3).mean(axis=(1, 3))),
        "grey": (encoded(grey, quality=95), None, np.asarray(grey.convert("RGB"))),
        "cmyk": (encoded(Image.fromarray(image).convert("CMYK"), quality=95), None, image),
    }  # fmt: skip
    for name, (file, max_resolution, expected) in cases.items():
        stored = store(file, max_resolution=max_resolution)
        decoded = as_pixels(stored.data)
        assert stored.data != file, name
        assert Image.open(io.BytesIO(stored.data)).mode == "RGB", name
        assert decoded.shape == expected.shape == (stored.height, stored.width, 3), name
        assert np.abs(decoded.astype(float) - expected).mean() < 8, (
            name
        )  # 4:2:0 blurs the colours of a picture this small


def test_a_png_is_stored_as_jpeg_or_as_exact_pixels(photo: Photo, encoded: Encoder) -> None:
    image = photo(2)
    file = encoded(image, "PNG")
    assert store(file, as_jpeg=False).data == image.tobytes()
    jpeg = store(file)
    assert jpeg.is_jpeg
    assert np.abs(as_pixels(jpeg.data).astype(float) - image).mean() < 3


def test_a_higher_quality_is_closer_and_larger(photo: Photo) -> None:
    image = photo(4, 64, 64)
    low, high = encode_jpeg(image, 30), encode_jpeg(image, 95)
    errors = [np.abs(as_pixels(data).astype(float) - image).mean() for data in (low, high)]
    assert len(low) < len(high)
    assert errors[1] < errors[0] / 2
