"""coarse_jpeg.py: a photo above the bound on pixels is decoded at a coarser scale, and looks the same afterwards."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from debeton.data.beton.coarse_jpeg import average_areas, coarse_scale, scaled
from debeton.data.beton.images import BadImage, Encoded, check_storable, encode

Encoder = Callable[..., bytes]
NOISE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
TURNED = Image.Exif()
TURNED[0x0112] = 6


def pixels(raw: bytes, max_resolution: int | None, max_pixels: int = 10**6) -> np.ndarray:
    stored = encode(raw, as_jpeg=False, max_resolution=max_resolution, max_pixels=max_pixels)
    return np.frombuffer(stored.data, np.uint8).reshape(stored.height, stored.width, 3).astype(int)


@pytest.mark.parametrize("wanted", [(30, 40), (17, 31), (90, 120), (1, 1), (89, 7)])
def test_averages_of_areas_are_those_of_opencv(wanted: tuple[int, int]) -> None:
    found = average_areas(NOISE, (90, 120), wanted).astype(int)
    assert np.abs(found - cv2.resize(NOISE, wanted[::-1], interpolation=cv2.INTER_AREA)).max() <= 1


def test_the_last_pixels_count_by_the_part_that_lies_in_the_picture() -> None:
    image = np.repeat(np.array([[10, 30, 50]], np.uint8), 2, axis=0)[..., None].repeat(3, axis=2)
    found = average_areas(image, (1.5, 2.5), (1, 2))
    assert found[0, :, 0].tolist() == [14, 38]  # (10 + 30 / 4) / 1.25 and (0.75 * 30 + 50 / 2) / 1.25


@pytest.mark.parametrize(
    ("size", "wanted", "max_pixels", "eighths"),
    [
        ((8000, 8000), (100, 100), 10**9, 1),
        ((8000, 8000), (334, 334), 10**9, 2),  # three times as fine
        ((8000, 8000), (1000, 1000), 10**9, 3),
        ((8000, 8000), (1000, 1000), 5_000_000, 2),  # the finest that the bound allows
        ((8000, 8000), (1000, 1000), 10**6, 1),
        ((8000, 8000), (1001, 1001), 10**6, None),
        ((8001, 801), (1001, 101), 10**9, 4),  # rounded up
    ],
)
def test_the_scale_is_three_times_as_fine_as_the_result_or_as_fine_as_the_bound_allows(
    size: tuple[int, int], wanted: tuple[int, int], max_pixels: int, eighths: int | None
) -> None:
    assert coarse_scale(size, wanted, max_pixels) == eighths
    assert [scaled(801, n) for n in (1, 4, 8)] == [101, 401, 801]


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"subsampling": "4:4:4"}),
        ("RGB", {"progressive": True}),
        ("RGB", {"exif": TURNED}),
        ("L", {}),
        ("CMYK", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
@pytest.mark.parametrize("max_resolution", [40, 150, 300])
def test_a_coarse_decoding_agrees_with_a_whole_one(
    mode: str, options: dict[str, Any], max_resolution: int, encoded: Encoder
) -> None:
    image = Image.fromarray(NOISE // 2 + 64).resize((1201, 801), Image.Resampling.BICUBIC).convert(mode)
    file = encoded(image, quality=92, **options)
    whole, coarse = pixels(file, max_resolution), pixels(file, max_resolution, 400_000)
    assert whole.shape == coarse.shape
    assert max(coarse.shape) == max_resolution
    difference = np.abs(whole - coarse)
    assert difference.mean() < 1.2  # of noise; of photos 0.2
    assert difference.max() <= 6


def test_a_photo_above_the_bound_is_stored_with_a_maximum_and_else_refused_with_both_remedies(
    encoded: Encoder,
) -> None:
    photo = encoded(Image.new("L", (10_000, 9_000), 77))
    stored = encode(photo, as_jpeg=None, max_resolution=512)
    assert (stored.height, stored.width, stored.treatment.changes) == (460, 512, ("larger than 512",))
    assert set(np.asarray(Image.open(io.BytesIO(stored.data))).flatten()) == {77}
    check_storable(photo, 512)
    sentence = (
        r"has 10000 x 9000 pixels, more than the bound of 89478485; pass --max-pixels 90000000 to decode it whole, or "
        r"--max-resolution to decode it at a coarser scale"
    )
    for refuse in (lambda: encode(photo, as_jpeg=None), lambda: check_storable(photo)):
        with pytest.raises(BadImage, match=sentence):
            refuse()


def test_a_higher_bound_keeps_a_jpeg_as_it_is_and_decodes_other_files(encoded: Encoder) -> None:
    for kind, stored in (("JPEG", "as it is"), ("PNG", "encoded")):
        file = encoded(Image.new("L", (400, 300), 9), kind)
        remedy = "pass --max-pixels 120000 to decode it whole"
        with pytest.raises(BadImage, match=remedy):
            encode(file, as_jpeg=None, max_pixels=119_999)
        found: Encoded = encode(file, as_jpeg=None, max_pixels=120_000)
        assert (found.height, found.width, found.treatment.stored) == (300, 400, stored)
    with pytest.raises(BadImage, match=f"{remedy}$"):  # a PNG is always decoded whole
        encode(file, as_jpeg=None, max_pixels=119_999, max_resolution=30)


def test_the_bound_of_pillow_does_not_matter(encoded: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [encoded(Image.fromarray(NOISE), kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP")]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with ThreadPoolExecutor(4) as pool:
        assert [found.shape for found in pool.map(lambda file: pixels(file, None), files * 4)] == [(90, 120, 3)] * 20
    assert Image.MAX_IMAGE_PIXELS == 10


def test_a_large_progressive_jpeg_is_refused_because_it_is_held_whole(encoded: Encoder) -> None:
    file = encoded(Image.new("L", (400, 300)), progressive=True)
    assert encode(file, as_jpeg=None, max_pixels=30_000, max_resolution=40).width == 40
    with pytest.raises(BadImage, match="--max-pixels 120000"):
        encode(file, as_jpeg=None, max_pixels=29_999, max_resolution=40)


def test_damage_is_noticed_at_a_coarser_scale(encoded: Encoder) -> None:
    file = encoded(Image.fromarray(NOISE))
    with pytest.raises(BadImage, match="premature end of data segment"):
        encode(file[: len(file) // 2] + b"\xff\xd9", as_jpeg=None, max_pixels=5000, max_resolution=20)
