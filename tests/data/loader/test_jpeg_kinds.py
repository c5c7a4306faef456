"""JPEGs of every kind: both ways of decoding against Pillow's full decode and an average of the area."""

from __future__ import annotations

import ctypes
import io
import itertools
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from benchmarks.jpeg_kinds import KINDS, JpegKind, encode_kind
from PIL import Image, ImageDraw

from debeton.data.beton import turbojpeg
from debeton.data.beton.ffcv_format import JPG
from debeton.data.beton.images import BadImage, encode
from debeton.data.beton.reading import open_beton
from debeton.data.beton.turbojpeg import try_decode
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.loader import decoding, pixels
from debeton.data.loader.decoding import ImageReader
from debeton.data.loader.loader import make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.spec import DatasetSpec, Rows
from debeton.data.views.view import View
from debeton.system.errors import DataError

WAYS = ["pixels.c", "FFCV's kernels"]


@pytest.fixture(params=WAYS)
def read(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return read(files, shapes, boxes, size): uint8 [B, H, W, 3], by one of the two ways."""
    if request.param == WAYS[1]:
        monkeypatch.setattr(pixels, "AVAILABLE", False)
    elif not pixels.AVAILABLE:
        pytest.skip(f"pixels.c is not compiled: {pixels.MISSING}")

    def run(files: list[bytes], shapes: Any, boxes: Any, size: tuple[int, int]) -> np.ndarray:
        sizes = np.array([len(file) for file in files], np.uint64)
        offsets = (np.cumsum(sizes) - sizes).astype(np.uint64)
        columns = offsets, sizes, np.full(len(files), JPG, np.uint8), *np.array(shapes, np.int64).T.copy()
        reader = ImageReader(
            Path(os.devnull), *columns, content=np.frombuffer(b"".join(files), np.uint8), num_workers=1
        )
        return reader.read(np.arange(len(files)), np.array(boxes, np.int64), size)

    return run


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Make saturated colours in hard-edged areas over smooth waves, so that misplaced chroma shows."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    image = 128 + 100 * np.stack([np.sin(x / a + y / b) for a, b in rng.uniform(3, 30, (3, 2))], 2)
    areas = rng.integers(0, 256, (height // 7 + 1, width // 5 + 1, 3)).repeat(7, 0).repeat(5, 1)[:height, :width]
    return np.where(((x // 10 + y // 9) % 2)[..., None], image, areas).clip(0, 255).astype(np.uint8)


def pillow(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def at_each_edge(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """List boxes of one pixel, a third, nearly all and all of each side, at both ends and between."""
    sides = []
    for side in (height, width):
        lengths = {1, -(-side // 3), max(1, side - 1), side}
        sides.append(sorted({(start, n) for n in lengths for start in (0, (side - n) // 2, side - n)}))
    return [(top, left, h, w) for (top, h), (left, w) in itertools.product(*sides)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_crop_of_every_kind_is_that_of_pillows_whole_image(read: Any, kind: str) -> None:
    for k, (height, width) in enumerate([(1, 1), (1, 17), (18, 1), (2, 3), (7, 9), (16, 16), (33, 17), (41, 70)]):
        file = encode_kind(photo(height, width, k), KINDS[kind])
        everything = pillow(file).astype(int)
        boxes = at_each_edge(height, width)
        for size, alike in itertools.groupby(sorted(boxes, key=lambda box: box[2:]), key=lambda box: box[2:]):
            some = list(alike)
            ours = read([file] * len(some), [(height, width)] * len(some), some, size)
            for crop, (top, left, h, w) in zip(ours, some, strict=True):
                assert np.abs(crop - everything[top : top + h, left : left + w]).max() <= 1, (height, width, top, left)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_at_any_smaller_size_is_the_average_of_pillows_pixels(read: Any, kind: str) -> None:
    height, width = 67, 101
    file = encode_kind(photo(height, width), KINDS[kind])
    everything = pillow(file).astype(np.float32)
    for factor, (top, left, h, w) in itertools.product((1.3, 2, 3, 4, 8, 16), at_each_edge(height, width)[::5]):
        size = max(1, int(h / factor)), max(1, int(w / factor))
        crop = everything[top : top + h, left : left + w]
        expected = cv2.resize(crop, size[::-1], interpolation=cv2.INTER_AREA)
        ours = read([file], [(height, width)], [(top, left, h, w)], size)[0]
        assert np.abs(ours - expected.reshape(ours.shape)).max() <= 1


def drawing(side: int, seed: int) -> np.ndarray:
    """Draw thin white strokes on black, as digits are drawn."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side))
    pen = ImageDraw.Draw(image)
    for _ in range(4):
        pen.line([tuple(p) for p in rng.integers(0, side, (4, 2)).tolist()], "white", 2, joint="curve")
    return np.asarray(image)


@pytest.mark.parametrize("quality", [75, 95, 100])
def test_drawings_have_the_pixels_of_the_accurate_dct(read: Any, quality: int) -> None:
    files = [encode(drawing(28, k), as_jpeg=True, quality=quality, max_resolution=None).data for k in range(20)]
    expected = np.stack([pillow(file) for file in files]).astype(int)
    ours = read(files, [(28, 28)] * 20, [(0, 0, 28, 28)] * 20, (28, 28))
    checked = np.stack([try_decode(file, 28, 28)[0] for file in files])
    for found in (ours, checked):
        assert np.abs(found - expected).mean() <= 0.05
        assert np.abs(found - expected).max() <= 1
    if quality == 100:
        source = np.stack([drawing(28, k) for k in range(20)]).astype(int)
        assert np.abs(ours - source).mean() <= 0.5  # the fast DCT's error is 1.5 and more


@pytest.mark.parametrize("seed", range(3))
def test_patterns_finer_than_the_result_average_to_their_mean(read: Any, seed: int) -> None:
    """A coarser scale of the DCT is wrong by 14 grey levels on such stripes."""
    y, x = np.mgrid[0:301, 0:333]
    image = np.where([x // 3 % 2, y // 3 % 2, (x // 2 + y // 7) % 2][seed], 255, 0).astype(np.uint8)
    file = encode(np.repeat(image[..., None], 3, 2), as_jpeg=True, quality=100, max_resolution=None).data
    everything = pillow(file).astype(np.float32)
    for size in [(37, 37), (18, 20), (9, 10)]:
        expected = cv2.resize(everything, size[::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(read([file], [(301, 333)], [(0, 0, 301, 333)], size)[0] - expected).max() <= 1


def test_arithmetic_coding_is_read_as_pillow_reads_it(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _arithmetic(photo(41, 70), monkeypatch)
    everything = pillow(file).astype(int)
    for top, left, h, w in at_each_edge(41, 70)[::3]:
        ours = read([file], [(41, 70)], [(top, left, h, w)], (h, w))[0]
        assert np.abs(ours - everything[top : top + h, left : left + w]).max() <= 1


def _arithmetic(image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return a 4:2:0 JPEG with arithmetic coding, which libjpeg-turbo writes if an environment variable asks for it."""
    if not turbojpeg.TURBOJPEG:
        pytest.skip("FFCV's library does not offer libjpeg-turbo, which writes the file")
    monkeypatch.setenv("TJ_ARITHMETIC", "1")
    library = turbojpeg._LIBRARY
    library.tjInitCompress.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(library.tjInitCompress())
    data, size = ctypes.c_void_p(), ctypes.c_ulong()
    status = library.tjCompress2(
        handle,
        ctypes.c_void_p(image.ctypes.data),
        image.shape[1],
        0,
        image.shape[0],
        0,
        ctypes.byref(data),
        ctypes.byref(size),
        2,
        90,
        0,
    )
    assert status == 0
    assert data.value is not None
    file = ctypes.string_at(data.value, size.value)
    library.tjFree(data)
    library.tjDestroy(handle)
    if b"\xff\xc9" not in file:
        pytest.skip("this libjpeg-turbo was built without arithmetic coding")
    return file


@pytest.mark.parametrize(
    "kind",
    [JpegKind(precision=12), JpegKind(((3, 1), (2, 1), (1, 1))), JpegKind(((1, 3), (1, 2), (1, 2)))],
    ids=["12 bits", "luma 3, chroma 2", "luma 1x3, chroma 1x2"],
)
def test_a_kind_that_libjpeg_cannot_read_is_refused_by_the_writer_and_the_loader(read: Any, kind: JpegKind) -> None:
    file = encode_kind(photo(20, 30), kind)
    with pytest.raises(BadImage, match="cannot be decoded"):
        encode(file, as_jpeg=True, quality=90, max_resolution=None)
    with pytest.raises(DataError, match="the image of row 0 is damaged and cannot be decoded"):
        read([file], [(20, 30)], [(0, 0, 20, 30)], (20, 30))


def test_a_beton_of_all_kinds_is_stored_as_it_is_and_shown_as_pillow_decodes_it(tmp_path: Path) -> None:
    files = [encode_kind(photo(30 + k, 60 - k, k), kind) for k, kind in enumerate(KINDS.values())]
    zeros = np.zeros(len(files), np.int64)
    rows = Rows(zeros, zeros, files.__getitem__, list(KINDS))
    write_beton(tmp_path / "kinds.beton", rows, DatasetSpec("kinds", ("one",)), "train", WriteOptions(mode="jpg"))
    beton = open_beton(tmp_path / "kinds.beton")
    assert beton.sizes.tolist() == [len(file) for file in files]
    options = LoaderOptions(decoder="resized", resolution=16, normalise=False)
    shown = 0
    for batch in make_loader(View.whole(beton), 50, options=options).epoch(0):
        for row, image in zip(batch.row.tolist(), batch.image.permute(0, 2, 3, 1).numpy(), strict=True):
            expected = cv2.resize(pillow(files[row]).astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA)
            assert np.abs(image - expected).max() <= 1
            shown += 1
    assert shown == len(KINDS)


@pytest.mark.parametrize("kind", ["4:4:4", "RGB", "4:2:0", "4:2:0, progressive"])
def test_the_encoder_of_these_tests_keeps_smooth_images(kind: str) -> None:
    y, x = np.mgrid[0:40, 0:50]
    image = np.stack([100 + x, 60 + 2 * y, 150 - x], 2).astype(np.uint8)
    assert np.abs(pillow(encode_kind(image, KINDS[kind], 100)) - image.astype(int)).mean() < 1


def test_without_libjpeg_turbos_functions_ffcvs_decoder_is_used_and_a_warning_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pixels, "AVAILABLE", False)
    monkeypatch.setattr(decoding, "TURBOJPEG", False)
    monkeypatch.setattr(decoding, "DECODE_ADDRESS", turbojpeg._address(turbojpeg._LIBRARY.imdecode))
    decoding._warn_of_the_fast_dct.cache_clear()
    file = encode(photo(40, 50), as_jpeg=True, quality=75, max_resolution=None).data
    one = np.zeros(1, np.uint64)
    columns = one, one + np.uint64(len(file)), np.full(1, JPG, np.uint8), np.array([40]), np.array([50])
    with caplog.at_level("WARNING"):
        for _ in range(2):
            reader = ImageReader(Path(os.devnull), *columns, content=np.frombuffer(file, np.uint8), num_workers=1)
            ours = reader.read(np.zeros(1, np.int64), np.array([[0, 0, 40, 50]]), (40, 50))[0]
    assert np.abs(ours - pillow(file).astype(int)).mean() < 1
    assert caplog.text.count("JPEGs are decoded with the fast DCT") == 1
