"""treatment.py and the mode auto: lossless images stay lossless, and sidecar and printed line say what was done."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from debeton.data.beton.ffcv_format import JPG, RAW
from debeton.data.beton.images import RAW_PIXELS, Encoded, encode
from debeton.data.beton.merge import merge_betons
from debeton.data.beton.reading import Beton, open_beton
from debeton.data.beton.sidecar import image_options_of, sidecar_path
from debeton.data.beton.treatment import describe_treatments
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.spec import DatasetSpec, Rows

Photo = Callable[..., np.ndarray]
Encoder = Callable[..., bytes]
TURNED = Image.Exif()
TURNED[0x0112] = 6


def store(raw: Any, **options: Any) -> Encoded:
    return encode(raw, **{"as_jpeg": None, **options})


def sampling(data: bytes) -> int:
    """Return the sampling factors of a JPEG's luma, 0x11 (4:4:4) or 0x22 (4:2:0)."""
    frame = data.index(b"\xff\xc0")
    return data[frame + 11]


@pytest.fixture
def write(tmp_path: Path, spec: DatasetSpec, make_rows: Callable[..., Rows]) -> Callable[..., Beton]:
    """Return write(images, name, options of WriteOptions): a beton."""

    def run(images: list[Any], name: str = "a", **options: Any) -> Beton:
        rows = make_rows(images, names=[f"{name}/{k}" for k in range(len(images))])
        write_beton(tmp_path / f"{name}.beton", rows, spec, "train", WriteOptions(**options))
        return open_beton(tmp_path / f"{name}.beton")

    return run


def told(beton: Beton) -> str:
    return describe_treatments(beton.sidecar["image"]["stored"])


# --- what is stored --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["array", "PNG", "TIFF", "BMP", "WEBP", "PPM"])
def test_an_image_without_loss_keeps_every_pixel(kind: str, encoded: Encoder) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    raw = noise if kind == "array" else encoded(noise, kind, **({"lossless": True} if kind == "WEBP" else {}))
    stored = store(raw)
    assert (stored.is_jpeg, stored.data) == (False, noise.tobytes())
    assert (stored.treatment.source, stored.treatment.stored) == (kind, "raw pixels")


def test_coloured_ink_keeps_its_colour_and_lost_20_of_255_as_jpeg_with_half_of_the_chroma() -> None:
    digit = np.zeros((28, 28, 3), np.uint8)
    digit[6:22, 12:15] = (220, 30, 40)
    digit[12:14, 6:22] = (220, 30, 40)
    errors = {}
    for name, options in (
        ("auto", {}),
        ("4:2:0", {"as_jpeg": True, "quality": 90, "chroma": "4:2:0"}),
        ("4:4:4", {"as_jpeg": True, "quality": 90}),
        ("default", {"as_jpeg": True}),
    ):
        stored = store(digit, **options)
        pixels = (
            np.asarray(Image.open(io.BytesIO(stored.data)))
            if stored.is_jpeg
            else np.frombuffer(stored.data, np.uint8).reshape(digit.shape)
        )
        errors[name] = np.abs(pixels.astype(int) - digit)[digit[..., 0] > 0].mean()
    assert errors["auto"] == 0
    assert errors["4:2:0"] > 3 * errors["4:4:4"] > 3 * errors["default"]


def test_images_of_more_than_256_by_256_pixels_become_jpegs_of_quality_95_with_whole_chroma(photo: Photo) -> None:
    assert RAW_PIXELS == 65_536
    assert store(photo(0, 256, 256)).data == photo(0, 256, 256).tobytes()
    larger = store(photo(0, 257, 256))
    assert larger.is_jpeg
    assert (larger.treatment.quality, larger.treatment.chroma, sampling(larger.data)) == (95, "4:4:4", 0x11)
    pixels = np.asarray(Image.open(io.BytesIO(larger.data))).astype(int)
    assert np.abs(pixels - photo(0, 257, 256)).mean() < 1
    assert store(photo(0, 257, 256), raw_pixels=257 * 256).data == photo(0, 257, 256).tobytes()
    assert store(photo(0, 8, 8), raw_pixels=0).is_jpeg


@pytest.mark.parametrize(("subsampling", "chroma"), [("4:2:0", "4:2:0"), ("4:4:4", "4:4:4"), ("4:2:2", "4:4:4")])
def test_a_jpeg_that_must_change_keeps_the_chroma_it_has(
    subsampling: str, chroma: str, photo: Photo, encoded: Encoder
) -> None:
    stored = store(encoded(photo(0), subsampling=subsampling), max_resolution=20)
    assert (stored.treatment.chroma, sampling(stored.data)) == (chroma, {"4:2:0": 0x22, "4:4:4": 0x11}[chroma])
    assert (stored.treatment.quality, stored.treatment.changes) == (90, ("larger than 20",))


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_a_jpeg_whose_orientation_turns_nothing_is_stored_as_it_is(
    orientation: int, photo: Photo, encoded: Encoder
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(photo(0), exif=exif)
    assert store(file).data == file


def test_every_change_to_a_picture_is_named(photo: Photo, encoded: Encoder) -> None:
    image = Image.fromarray(photo(0))
    transparent = image.convert("RGBA")
    transparent.putpixel((0, 0), (1, 2, 3, 4))
    deep = Image.fromarray(np.full((9, 9), 40_000, np.uint16))
    for raw, changes in (
        (encoded(image, exif=TURNED), ("turned upright",)),
        (encoded(image.convert("CMYK")), ("CMYK",)),
        (encoded(image.convert("CMYK"), exif=TURNED), ("CMYK", "turned upright", "larger than 30")),
        (encoded(image, "PNG"), ("larger than 30",)),
        (encoded(transparent, "PNG"), ("transparency over black", "larger than 30")),
        (encoded(deep, "PNG"), ("8 bits of more",)),
        (photo(0, 31, 2), ("larger than 30",)),
        (photo(0, 30, 2), ()),
    ):
        found = store(raw, max_resolution=30 if "larger than 30" in changes or not changes else None)
        assert found.treatment.changes == changes


# --- what is said ----------------------------------------------------------------------------------------------


def test_the_sidecar_and_the_line_count_what_was_encoded_and_no_more(
    write: Callable[..., Beton], photo: Photo, encoded: Encoder
) -> None:
    jpegs = [encoded(photo(k)) for k in range(5)]
    broken = jpegs[0][:-2]
    turned = encoded(photo(6), exif=TURNED)
    cmyk = encoded(Image.fromarray(photo(7)).convert("CMYK"))
    large = [photo(8, 300, 300), encoded(photo(9, 300, 301), "PNG")]
    beton = write([*jpegs, broken, turned, cmyk, *large, photo(1), encoded(photo(2), "PNG"), encoded(photo(3), "PNG")])
    assert told(beton) == (
        "5 JPEGs as they are, 1 JPEG with repaired headers and the same pixels, 3 as raw pixels (2 PNG, 1 array), "
        "1 re-encoded at quality 90, chroma 4:4:4 (CMYK), "
        "1 re-encoded at quality 90, chroma 4:2:0 (turned upright), "
        "2 re-encoded at quality 95, chroma 4:4:4 (1 PNG, 1 array)"
    )
    assert beton.modes.tolist() == [JPG] * 10 + [RAW] * 3
    assert sum(entry["images"] for entry in beton.sidecar["image"]["stored"]) == len(beton) == 13


def test_a_quality_that_changed_nothing_is_not_claimed(
    write: Callable[..., Beton], photo: Photo, encoded: Encoder
) -> None:
    beton = write([encoded(photo(k)) for k in range(3)], quality=50)
    assert told(beton) == "3 JPEGs as they are"
    image = beton.sidecar["image"]
    assert "quality" not in image
    assert [entry["quality"] for entry in image["stored"]] == [None]


def test_skipped_images_are_not_counted(write: Callable[..., Beton], photo: Photo) -> None:
    assert told(write([photo(0), b"x", photo(1)], skip_bad=True)) == "2 as raw pixels (array)"


def test_the_options_in_the_sidecar_store_an_image_in_the_same_way(write: Callable[..., Beton], photo: Photo) -> None:
    options = {"mode": "jpg", "quality": 40, "chroma": "4:2:0", "max_resolution": 33}
    beton = write([photo(0)], **options)
    again = write([photo(0)], "b", **(image_options_of(beton.sidecar) or {}))
    assert again.path.read_bytes() == beton.path.read_bytes()


# --- merging ---------------------------------------------------------------------------------------------------


def merged(*betons: Beton) -> Beton:
    path = betons[0].path.with_name("merged.beton")
    merge_betons([beton.path for beton in betons], path, "train")
    return open_beton(path)


def test_a_merged_beton_adds_up_what_was_done_to_its_inputs(
    write: Callable[..., Beton], photo: Photo, encoded: Encoder
) -> None:
    first = write([encoded(photo(0)), photo(1)], "first")
    second = write([encoded(photo(2)), photo(3)], "second", mode="jpg", quality=70)
    found = merged(first, second)
    assert told(found) == (
        "2 JPEGs as they are, 1 as raw pixels (array), 1 re-encoded at quality 70, chroma 4:4:4 (array)"
    )
    assert found.sidecar["image"]["mode"] == "mixed"
    assert image_options_of(found.sidecar) is None
    assert image_options_of(merged(first, write([photo(5)], "third")).sidecar) == image_options_of(first.sidecar)


def test_betons_of_an_earlier_version_are_merged_without_a_claim(write: Callable[..., Beton], photo: Photo) -> None:
    old, new = write([photo(0), photo(1)], "old", mode="jpg", quality=90), write([photo(2)], "new")
    sidecar = json.loads(sidecar_path(old.path).read_text())
    del sidecar["image_options"], sidecar["image"]["stored"], sidecar["sidecar_hash"]
    sidecar["image"]["quality"] = 90
    sidecar_path(old.path).write_text(json.dumps(sidecar))
    assert image_options_of(sidecar) == {"mode": "jpg", "quality": 90, "max_resolution": None, "chroma": "4:2:0"}
    assert told(merged(new, old)) == "1 as raw pixels (array), 2 of unknown treatment"
