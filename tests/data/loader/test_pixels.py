"""pixels.c: one pass gives the values of separate passes, and each of these is compared with its own reference."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from debeton.data.beton.ffcv_format import JPG, RAW
from debeton.data.beton.reading import open_beton
from debeton.data.draws import sample_keys
from debeton.data.loader import pixels
from debeton.data.loader.augment import are_moves, as_moves, make_ops
from debeton.data.loader.decoders import RandomResizedCrop, normalise, scale_and_shift
from debeton.data.loader.loader import make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.loader.pixels import BYTES, STILL, Moves, layout_of, write_images
from debeton.data.views.view import View

pytestmark = pytest.mark.skipif(not pixels.AVAILABLE, reason=f"pixels.c is not compiled: {pixels.MISSING}")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALES = scale_and_shift(MEAN, STD)
SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Make smooth colours with edges and some noise, so that a JPEG of them is like one of a photo."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 32
    waves = [np.sin(x * a + b) * np.cos(y * c) for a, b, c in rng.uniform(0.2, 2, (3, 3))]
    image = 128 + 90 * np.stack(waves, 2) + rng.normal(0, 4, (height, width, 3))
    image[height // 3 : height // 2, width // 4 : width // 2] = rng.integers(0, 256, 3)
    return image.clip(0, 255).astype(np.uint8)


def as_jpeg(image: np.ndarray, *, subsampling: str = "4:2:0", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=90, subsampling=SUBSAMPLINGS[subsampling], **options)
    return stream.getvalue()


def write(
    files: list[bytes],
    shapes: list[tuple[int, int]],
    boxes: Any,
    size: tuple[int, int],
    *,
    mode: int = JPG,
    moves: Moves = STILL,
    form: str = "bytes",
    threads: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the batch and its statuses; the memory is poisoned before."""
    n, base = len(files), np.frombuffer(b"".join(files), np.uint8)
    sizes = np.array([len(file) for file in files], np.uint64)
    stored = (
        np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.uint64),
        sizes,
        np.full(n, mode, np.uint8),
        *np.array(shapes, np.int64).T,
    )
    out = {
        "bytes": lambda: np.full((n, *size, 3), 77, np.uint8),
        "last": lambda: np.full((n, *size, 3), np.nan, np.float32),
        "first": lambda: np.full((n, 3, *size), np.nan, np.float32),
    }[form]()
    kind = layout_of(out, channels_first=form == "first")
    boxes = np.asarray(boxes, np.int64)
    status = write_images(out, kind, size, stored, boxes, base.ctypes.data, moves, SCALES, threads)
    return out, status


def read(*args: Any, **options: Any) -> np.ndarray:
    out, status = write(*args, **options)
    assert not status.any()
    return out


def whole(image: np.ndarray) -> list[list[int]]:
    return [[0, 0, *image.shape[:2]]]


# --- resizing ----------------------------------------------------------------------------------------------------


def area_average(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Compute each pixel, float64, as the average of the area that it covers, axis by axis."""
    result = image.astype(np.float64)
    for axis, count in enumerate(size):
        length = image.shape[axis]
        edges = np.linspace(0, length, count + 1)
        weights = np.zeros((count, length))
        for k in range(count):
            for s in range(length):
                weights[k, s] = max(0.0, min(edges[k + 1], s + 1) - max(edges[k], s))
        result = np.moveaxis(np.tensordot(weights / weights.sum(1, keepdims=True), result, (1, axis)), 0, axis)
    return result


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), data=st.data())
def test_shrinking_is_the_average_of_the_area(height, width, data):
    size = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    image = np.random.default_rng(height * 41 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ours = read([image.tobytes()], [(height, width)], whole(image), size, mode=RAW)[0]
    assert np.abs(ours - area_average(image, size)).max() <= 0.5 + 1e-3


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 20), width=st.integers(1, 20), data=st.data())
def test_enlarging_is_opencvs_bilinear_interpolation(height, width, data):
    size = data.draw(st.integers(height, 50)), data.draw(st.integers(width + 1, 50))
    image = np.random.default_rng(height * 41 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ours = read([image.tobytes()], [(height, width)], whole(image), size, mode=RAW)[0]
    theirs = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.abs(ours.astype(int) - theirs).max() <= 1  # OpenCV's weights have 11 bits
    exact = cv2.resize(image.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.abs(ours - exact).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("factor", [2, 3, 4, 7])
def test_enlarging_by_a_whole_factor_is_bilinear_and_not_the_nearest_pixel(factor):
    image = np.array([0, 80, 240], np.uint8)[None, :, None].repeat(3, 2)
    ours = read([image.tobytes()], [(1, 3)], whole(image), (factor, 3 * factor), mode=RAW)[0]
    assert (ours == ours[:1]).all()
    centres = np.clip((np.arange(3 * factor) + 0.5) / factor - 0.5, 0, 2)
    expected = np.interp(centres, [0, 1, 2], [0, 80, 240])
    assert np.abs(ours[0, :, 0] - expected).max() <= 0.5 + 1e-3
    assert len(set(ours[0, :, 0].tolist())) > 3


@settings(max_examples=60, deadline=None)
@given(height=st.integers(2, 40), width=st.integers(1, 40), turned=st.booleans(), data=st.data())
def test_if_one_axis_shrinks_and_one_grows_each_follows_its_own_rule(height, width, turned, data):
    size = data.draw(st.integers(1, height - 1)), data.draw(st.integers(width + 1, 90))
    image = np.random.default_rng(height * 41 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    averaged = area_average(image, (size[0], width)).astype(np.float32)
    expected = cv2.resize(averaged, size[::-1], interpolation=cv2.INTER_LINEAR)
    if turned:
        image, expected, size = image.swapaxes(0, 1), expected.swapaxes(0, 1), size[::-1]
    ours = read([image.tobytes()], [image.shape[:2]], whole(image), size, mode=RAW)[0]
    assert np.abs(ours - expected).max() <= 0.5 + 1e-3


def test_the_average_of_a_constant_image_is_that_constant():
    image = np.full((3, 2999, 3), 255, np.uint8)
    for width in (1, 7, 1000, 2001, 2998):
        assert (read([image.tobytes()], [(3, 2999)], whole(image), (2, width), mode=RAW) == 255).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), data=st.data())
def test_a_box_is_resized_as_the_image_that_it_is(seed, data):
    image = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    height, width = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 40))
    top, left = data.draw(st.integers(0, 30 - height)), data.draw(st.integers(0, 40 - width))
    size = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 50))
    part = np.ascontiguousarray(image[top : top + height, left : left + width])
    ours = read([image.tobytes()], [(30, 40)], [[top, left, height, width]], size, mode=RAW)
    np.testing.assert_array_equal(ours, read([part.tobytes()], [(height, width)], whole(part), size, mode=RAW))


# --- JPEGs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("progressive", [False, True])
def test_decoding_the_part_that_a_box_needs_gives_the_pixels_of_the_whole(subsampling, progressive):
    image = photo(150, 201)
    file = as_jpeg(image, subsampling=subsampling, progressive=progressive)
    everything = read([file], [(150, 201)], whole(image), (150, 201))[0]
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width = rng.integers(1, 151), rng.integers(1, 202)
        top, left = rng.integers(0, 151 - height), rng.integers(0, 202 - width)
        ours = read([file], [(150, 201)], [[top, left, height, width]], (int(height), int(width)))[0]
        np.testing.assert_array_equal(ours, everything[top : top + height, left : left + width])


def test_a_grey_jpeg_has_three_equal_channels():
    file = as_jpeg(photo(40, 50)[:, :, 0])
    ours = read([file], [(40, 50)], [[0, 0, 40, 50]], (40, 50))[0]
    assert (ours == ours[:, :, :1]).all()
    assert np.abs(ours[:, :, 0].astype(int) - np.asarray(Image.open(io.BytesIO(file)))).max() <= 1


@pytest.mark.parametrize(("side", "factor"), [(400, 2), (800, 4), (1600, 8)])
def test_a_much_smaller_result_is_the_average_of_the_whole(side, factor):
    image = photo(side, side + 50)
    file, size = as_jpeg(image), (side // factor - 3, side // factor)
    ours = read([file], [(side, side + 50)], whole(image), size)[0]
    everything = np.asarray(Image.open(io.BytesIO(file)))
    expected = cv2.resize(everything.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(ours - expected).max() <= 1


def test_damage_is_a_status_and_leaves_the_others_alone():
    image = photo(64, 64)
    good = as_jpeg(image)
    cut, noise, small = good[: len(good) // 2], b"\xff\xd8" + bytes(500), as_jpeg(photo(32, 32))
    out, status = write([good, cut, noise, small, good], [(64, 64)] * 5, whole(image) * 5, (64, 64))
    assert status.tolist() == [0, -1, -1, -1, 0]
    np.testing.assert_array_equal(out[0], out[4])


# --- one pass ----------------------------------------------------------------------------------------------------

OPERATIONS = [
    "",
    "flip",
    "mirror",
    "pad_crop:3",
    "flip,pad_crop:4",
    "pad_crop:2,flip,mirror",
    "flip,pad_crop:4,cutout:8",
    "random_crop:5,flip",
    "flip,random_crop:4,pad_crop:2,random_erasing:0.7",
]


@pytest.mark.parametrize("ops", OPERATIONS)
@pytest.mark.parametrize("form", ["bytes", "last", "first"])
@pytest.mark.parametrize("mode", [JPG, RAW])
@pytest.mark.parametrize("size", [(24, 30), (96, 80), (17, 96)])
def test_one_pass_gives_the_same_values_as_a_pass_for_each_step(ops, form, mode, size):
    shapes = [(60 + 5 * k, 90 - 4 * k) for k in range(6)]
    images = [photo(*shape, seed=k) for k, shape in enumerate(shapes)]
    files = [as_jpeg(image) if mode == JPG else image.tobytes() for image in images]
    keys = sample_keys(3, 1, np.arange(6))
    boxes = RandomResizedCrop().boxes(keys, *np.array(shapes, np.int64).T)
    moves = as_moves(make_ops(ops), keys, size)
    assert moves is not None
    expected = read(files, shapes, boxes, size, mode=mode)
    for op in make_ops(ops):
        expected = op(expected, keys, np.arange(6))
    if form != "bytes":
        values = np.empty((6, *size, 3) if form == "last" else (6, 3, *size), np.float32)
        normalise(expected, MEAN, STD, values, channels_last=form == "last")
        expected = values
    np.testing.assert_array_equal(read(files, shapes, boxes, size, mode=mode, moves=moves, form=form), expected)


@pytest.mark.parametrize("options", [{"channels_last": False}, {"dtype": torch.bfloat16}, {"normalise": False}])
def test_a_loader_gives_the_same_batches_in_one_pass_as_without_it(toy_betons, options):
    view = View.whole(open_beton(toy_betons / "toy_val.beton"))
    found = []
    for available in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pixels, "AVAILABLE", available)
            loader = make_loader(view, 50, options=LoaderOptions(ops="flip,pad_crop:2,cutout:3", **options))
            found.append([batch.image for batch in loader.epoch(1)])
    assert [image.shape[0] for image in found[0]] == [50, 50, 28]
    for ours, theirs in zip(*found, strict=True):
        assert ours.stride() == theirs.stride()
        assert torch.equal(ours, theirs)


def test_any_number_of_threads_gives_the_same_batch():
    shapes = [(40 + k, 50) for k in range(13)]
    files = [as_jpeg(photo(*shape, seed=k)) for k, shape in enumerate(shapes)]
    boxes = [[0, 0, *shape] for shape in shapes]
    expected = read(files, shapes, boxes, (32, 32))
    for threads in (2, 3, 16):
        np.testing.assert_array_equal(read(files, shapes, boxes, (32, 32), threads=threads), expected)


def test_augmentations_after_a_patch_or_that_are_no_moves_do_not_fuse():
    keys = sample_keys(0, 0, np.arange(2))
    for ops in (make_ops("cutout:4,flip"), [lambda images, keys, rows: images]):
        assert as_moves(ops, keys, (16, 16)) is None
        assert not are_moves(ops, (16, 16))
    assert are_moves(make_ops("flip,cutout:4"), (16, 16))


# --- the library -------------------------------------------------------------------------------------------------

ROOT = Path(pixels.__file__).parents[4]


def python(code: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
    )
    return done.stdout.strip()


def test_without_a_compiler_images_go_through_ffcvs_functions_and_differ_by_one_at_most(tmp_path):
    code = f"""
import numpy as np
from debeton.data.loader import pixels
from debeton.data.loader.decoding import ImageReader
image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
open("raw", "wb").write(image.tobytes())
one = np.zeros(1, np.uint64)
columns = one, one + 1800, np.full(1, {RAW}, np.uint8), np.array([20]), np.array([30])
found = ImageReader("raw", *columns).read(np.array([0]), np.array([[2, 3, 11, 17]]), (24, 24))
np.save("ours" if pixels.AVAILABLE else "ffcv", found)
print(pixels.MISSING)
"""
    assert python(code, tmp_path) == ""
    assert python(code, tmp_path, DEBETON_PIXELS="ffcv") == "DEBETON_PIXELS=ffcv switches it off"
    ours, theirs = (np.load(tmp_path / f"{name}.npy").astype(int) for name in ("ours", "ffcv"))
    assert np.abs(ours - theirs).max() <= 1


def test_a_compiler_that_fails_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", f"{sys.executable} -c 'import sys; sys.exit(\"x.c: error: no such header\")'")
    monkeypatch.setattr(pixels, "SOURCE", tmp_path / "pixels.c")
    (tmp_path / "pixels.c").write_text("int debeton_images(void) { return 0; }")
    with pytest.raises(OSError, match="error: no such header"):
        pixels.library()
    assert not list(tmp_path.rglob("*.so"))


def test_a_changed_source_gives_another_library(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "SOURCE", tmp_path / "pixels.c")
    found = []
    for text in ("int debeton_images(void) { return 0; }", "int debeton_images(void) { return 1; }"):
        (tmp_path / "pixels.c").write_text(text)
        found.append(pixels.library())
        assert pixels.library() == found[-1]
    assert found[0] != found[1]
    assert [path.parent for path in found] == [tmp_path / "__pycache__"] * 2


def test_bytes_of_a_batch_stay_within_it():
    image = photo(50, 50)
    room = np.full((3, 20, 20, 3), 7, np.uint8)
    stored = (
        np.zeros(1, np.uint64),
        np.array([image.size], np.uint64),
        np.full(1, RAW, np.uint8),
        *np.full((2, 1), 50),
    )
    write_images(room[1:2], BYTES, (20, 20), stored, np.array([[0, 0, 50, 50]]), image.ctypes.data, STILL, SCALES)
    assert (room[[0, 2]] == 7).all()
    values = np.full((3, 20, 20, 3), 7, np.float32)
    form = layout_of(values, channels_first=False)
    write_images(values[1:2], form, (20, 20), stored, np.array([[0, 0, 50, 50]]), image.ctypes.data, STILL, SCALES)
    assert (values[[0, 2]] == 7).all()
