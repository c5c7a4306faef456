"""Every kind of picture becomes upright RGB pixels or one sentence, and JPEGs are not encoded twice."""

from __future__ import annotations

import base64
import errno
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from debeton.data.beton import turbojpeg as native
from debeton.data.beton.images import BadImage, Encoded, check_storable, encode, encode_jpeg, shrink, to_rgb
from debeton.data.beton.turbojpeg import try_decode
from debeton.system import regular_files

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
        ("I;16", 255, "PNG", (1, 1, 1)),  # dark among 16-bit values, whatever the rest of the image holds
        ("I;16B", 32768, "TIFF", (128, 128, 128)),
        ("I", 200, "TIFF", (200, 200, 200)),
        ("F", 99.6, "TIFF", (100, 100, 100)),
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


# For each of the eight EXIF orientations the change of the upright image when it was stored (EXIF 2.3, table 6).
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
        for read in (to_rgb, store, check_storable):
            with pytest.raises(BadImage) as error:
                read(raw)
            assert str(error.value).startswith(("cannot be decoded", "the file does not exist")), name
            assert ("libjpeg: Premature end of JPEG file" in str(error.value)) == (name == "half a JPEG")
    with pytest.raises(BadImage, match="does not exist"):
        to_rgb(tmp_path / "missing.jpg")


def test_a_jpeg_cut_short_but_properly_ended_is_refused_in_libjpegs_words(photo: Photo, encoded: Encoder) -> None:
    jpeg = encoded(photo(0, 80, 80))
    cut = jpeg[: len(jpeg) * 2 // 3] + b"\xff\xd9"
    assert as_pixels(cut).shape == (80, 80, 3)  # Pillow paints the rest grey and reports nothing
    for read in (to_rgb, store):
        with pytest.raises(BadImage, match=r"in full \(libjpeg: Corrupt JPEG data: premature end of data segment\)"):
            read(cut)


@pytest.mark.parametrize("value", [-1, 256, 70_000])
def test_32_bit_values_outside_of_0_to_255_are_refused(value: int, encoded: Encoder) -> None:
    image = Image.fromarray(np.array([[0, value]], np.int32))
    with pytest.raises(BadImage, match=rf"32-bit values from .*{max(0, value)}.* 8 or 16 bits"):
        to_rgb(encoded(image, "TIFF"))


def test_float_values_that_are_no_number_are_refused(encoded: Encoder) -> None:
    with pytest.raises(BadImage, match="float values"):
        to_rgb(encoded(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF"))


def test_a_disk_that_fails_is_no_bad_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "a.jpg").touch()
    monkeypatch.setattr(regular_files, "_opened", lambda path, max_bytes: (Failing(), 0))
    with pytest.raises(OSError, match=f"{os.strerror(errno.EIO)}: '{tmp_path / 'a.jpg'}'"):
        store(tmp_path / "a.jpg")


def test_a_decompression_bomb_is_refused(encoded: Encoder) -> None:
    bomb = encoded(Image.new("1", (10_000, 10_000)), "PNG")
    assert len(bomb) < 20_000
    with pytest.raises(BadImage, match="10000 x 10000 pixels, more than the bound of 89478485; pass --max-pixels"):
        to_rgb(bomb)


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
    for read in (to_rgb, store, check_storable):
        try:
            result = read(bytes(data[: max(1, int(keep * len(data)))]))
        except BadImage:
            continue
        if isinstance(result, Encoded) and result.is_jpeg:
            assert try_decode(result.data, result.height, result.width)[1] == ""
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
def test_a_side_that_the_format_cannot_hold_is_refused_with_a_remedy(*, as_jpeg: bool) -> None:
    wide = np.zeros((1, 65_501, 3), np.uint8)
    with pytest.raises(BadImage, match=r"65501 x 1 pixels.*65500.*--max-resolution"):
        store(wide, as_jpeg=as_jpeg)
    assert store(wide, as_jpeg=as_jpeg, max_resolution=100).width == 100
    assert store(wide[:, :65_500], as_jpeg=as_jpeg).width == 65_500


# --- encoding --------------------------------------------------------------------------------------------------


# 32 x 24 pixels of three gradients, coded arithmetically (T.81, SOF9) as few programs write them.
ARITHMETIC = base64.b85decode(
    "|JeWF01!$>Nk#wx0RR9200961|JwjV01XKW3knDg3knMk4h;_zAQcl55)&sJ9v2`kDKRiEDJ?8BI!Zn>HbyrrEkIX6ModmpQ&KWMT47pHU`kO^"
    "PygEhLjevB4iga*CKVMXPc<zyPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPf!2J01*fP7yuvx0U`hb5di}c"
    "0sqVZ3IGrg1pyEd1^?Or3<CiG0ucid06zf#0Fc;dhc-7@n)fsLbiYSP;M3(Z9_#pACLR!3_uhOtH4cp7%jXy2<M%7QbYX*U3HP{<5%aH5|Je"
)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"subsampling": "4:1:1"},
        {"quality": 30},
        {"restart_marker_blocks": 2},
        {"keep_rgb": True},
        {"comment": b"x" * 999},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_that_needs_no_change_is_stored_byte_for_byte(
    options: dict, mode: str, photo: Photo, encoded: Encoder
) -> None:
    file = encoded(Image.fromarray(photo(0, 40, 60)).convert(mode), **options)
    stored = store(file, max_resolution=60)
    assert stored.data == file
    assert (stored.height, stored.width, stored.is_jpeg) == (40, 60, True)


def test_an_arithmetically_coded_jpeg_is_stored_byte_for_byte_where_libjpeg_turbo_reads_it() -> None:
    stored = store(ARITHMETIC)
    assert stored.data == ARITHMETIC
    rows, columns = np.mgrid[:24, :32]
    assert np.abs(as_pixels(stored.data) - np.stack([8 * rows, 7 * columns, 4 * (rows + columns)], -1)).mean() < 4


def test_a_jpeg_is_encoded_anew_when_it_is_rotated_too_large_or_cmyk(photo: Photo, encoded: Encoder) -> None:
    image = photo(0, 40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6
    cases = {
        "rotated": (encoded(image, quality=95, exif=exif), None, np.rot90(image, -1)),
        "too large": (encoded(image, quality=95), 30, image.reshape(20, 2, 30, 2, 3).mean(axis=(1, 3))),
        "cmyk": (encoded(Image.fromarray(image).convert("CMYK"), quality=95), None, image),
        "ycck": (as_ycck(encoded, image), None, image),
    }
    for name, (file, max_resolution, expected) in cases.items():
        stored = store(file, max_resolution=max_resolution)
        decoded = as_pixels(stored.data)
        assert stored.data != file, name
        assert Image.open(io.BytesIO(stored.data)).mode == "RGB", name
        assert decoded.shape == expected.shape == (stored.height, stored.width, 3), name
        difference = np.abs(decoded.astype(float) - expected).mean()
        assert difference < 8, name  # 4:2:0 blurs the colours of a picture this small


def as_ycck(encoded: Encoder, image: np.ndarray) -> bytes:
    """Return a CMYK JPEG with luma and chroma in its first three channels.

    Photoshop writes such files (Adobe's transform 2).
    """
    ycc = np.asarray(Image.fromarray(255 - image).convert("YCbCr"))  # libjpeg inverts C, M and Y
    stored = np.concatenate([255 - ycc, np.zeros_like(ycc[..., :1])], axis=2)  # Pillow inverts when it saves
    file = encoded(Image.fromarray(np.ascontiguousarray(stored), "CMYK"), quality=95)
    marker = file.index(b"Adobe")
    return file[: marker + 11] + b"\x02" + file[marker + 12 :]


def test_damage_in_a_cmyk_jpeg_is_noticed(photo: Photo, encoded: Encoder) -> None:
    file = encoded(Image.fromarray(photo(0, 80, 80)).convert("CMYK"))
    with pytest.raises(BadImage, match="premature end of data segment"):
        store(file[: len(file) * 2 // 3] + b"\xff\xd9")


def test_the_bytes_decide_the_format_and_not_the_file_name(tmp_path: Path, photo: Photo, encoded: Encoder) -> None:
    (tmp_path / "a.JPEG").write_bytes(encoded(photo(2), "PNG"))  # ImageNet has one
    stored = store(tmp_path / "a.JPEG")
    assert stored.data[:2] == b"\xff\xd8"
    assert np.abs(as_pixels(stored.data).astype(float) - photo(2)).mean() < 3


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(kind: str, encoded: Encoder) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    file = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(file)).n_frames == 3
    np.testing.assert_array_equal(to_rgb(file), np.broadcast_to([255, 0, 0], (6, 8, 3)))


def test_a_jpeg_with_several_pictures_gives_the_first(photo: Photo, encoded: Encoder) -> None:
    first, second = (Image.fromarray(photo(k)) for k in range(2))
    file = encoded(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert Image.open(io.BytesIO(file)).format == "MPO"
    stored = store(file)
    assert stored.data == file
    pixels, problem = try_decode(stored.data, stored.height, stored.width)
    assert problem == ""
    assert np.abs(pixels.astype(float) - photo(0)).mean() < 3
    assert np.abs(to_rgb(file).astype(float) - photo(0)).mean() < 3


def test_16_bit_colours_lose_their_low_byte() -> None:
    values = np.array([[[0, 256, 65535], [32768, 1000, 40000]]], np.uint16)
    file = cv2.imencode(".png", values[..., ::-1])[1].tobytes()
    assert file[24] == 16  # bit depth
    np.testing.assert_allclose(to_rgb(file), values / 257, atol=1)


# --- padding and damage in JPEGs -------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    padding=st.one_of(
        st.binary(min_size=0, max_size=8).filter(lambda junk: b"\xff" not in junk),
        st.integers(1, 3000).map(bytes),
        st.integers(1, 300).map(lambda n: b"\xff" * n),
        st.integers(1, 4).map(lambda n: b"\xff\x00" * n),
    ),
    options=st.sampled_from([{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"subsampling": 0}]),
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
    behind=st.sampled_from([b"", b"\xff\xd9", b"a preview \xff\xd8 \xff\xd9 more", bytes(100)]),
)
def test_padding_before_the_end_of_a_jpeg_costs_nothing_and_the_loader_never_sees_it(
    padding: bytes, options: dict, mode: str, behind: bytes
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, "JPEG", **options)
    jpeg = buffer.getvalue()
    padded = jpeg[:-2] + padding + jpeg[-2:] + behind
    np.testing.assert_array_equal(to_rgb(padded), to_rgb(jpeg))
    stored = store(padded)
    pixels, problem = try_decode(stored.data, 24, 40)
    assert problem == ""
    if mode != "CMYK":  # not encoded a second time
        np.testing.assert_array_equal(pixels, try_decode(jpeg, 24, 40)[0])
        assert len(stored.data) <= len(padded)


def test_libjpeg_turbo_complains_of_padding(photo: Photo, encoded: Encoder) -> None:
    jpeg = encoded(photo(0))
    padded = jpeg[:-2] + bytes(40) + jpeg[-2:]
    assert "extraneous bytes before marker 0xd9" in try_decode(padded, 40, 48)[1]  # the test above relies on this
    assert try_decode(jpeg, 40, 48)[1] == ""


# Damage that decodes to fewer blocks shifts the rest of the picture. libjpeg reports extraneous bytes.
def test_blocks_left_over_by_damage_are_not_taken_for_padding(encoded: Encoder) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    jpeg = encoded(Image.fromarray(noise).resize((96, 80)))
    rng, said = np.random.default_rng(1), []
    for _ in range(60):
        damaged = bytearray(jpeg)
        middle = int(rng.integers(len(jpeg) // 2, len(jpeg) * 3 // 4))
        damaged[middle : middle + 20] = rng.integers(0, 255, 20, dtype=np.uint8).tobytes()
        try:
            store(bytes(damaged))
        except BadImage as error:
            said.append(str(error))
    shifted = [
        text for text in said if "in full (libjpeg: Corrupt JPEG data: " in text and "before marker 0xd9" in text
    ]
    assert len(shifted) > 40


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_without_turbojpegs_functions_damage_is_still_refused(
    options: dict, photo: Photo, encoded: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "TURBOJPEG", False)
    jpeg = encoded(photo(0, 80, 80), **options)
    assert store(jpeg).data == jpeg
    with pytest.raises(BadImage, match=r"in full \(libjpeg"):
        store(jpeg[: len(jpeg) // 2] + b"\xff\xd9")


def test_every_thread_has_a_decompressor_of_its_own(photo: Photo, encoded: Encoder) -> None:
    files = [encoded(photo(k, 30 + k, 90 - k)) for k in range(24)] * 4
    alone = [try_decode(file, 30 + k % 24, 90 - k % 24)[0] for k, file in enumerate(files)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda k: try_decode(files[k], 30 + k % 24, 90 - k % 24), range(len(files))))
    for (pixels, problem), expected in zip(together, alone, strict=True):
        assert problem == ""
        np.testing.assert_array_equal(pixels, expected)


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
