"""decoders.py, augment.py and decoding.py: every kernel against an independent reference."""

from __future__ import annotations

import io
import math
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torchvision import transforms

from debeton.data.beton.reading import Beton
from debeton.data.draws import CROP_DRAWS, CUTOUT_DRAWS, FLIP_DRAWS, PAD_DRAWS, mix, sample_keys, uniform
from debeton.data.loader import pixels
from debeton.data.loader.augment import make_ops
from debeton.data.loader.decoders import RandomResizedCrop, WholeImage, make_decoder, normalise
from debeton.data.loader.decoding import ImageReader
from debeton.system.errors import DataError, UsageError
from debeton.system.seed import derive_seed

MASK = (1 << 64) - 1
ROWS = np.zeros(0, np.int64)  # the augmentations do not look at row numbers


def splitmix64(key: int, k: int) -> int:
    """Return draw k of SplitMix64 seeded with `key`, in Python's integers (Steele, Lea & Flood 2014, fig. 16)."""
    z = (key + (k + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def reference_uniform(key: int, k: int) -> float:
    return (splitmix64(key, k) >> 11) / 2**53


def keys_of(n: int, seed: int = 0) -> np.ndarray:
    return sample_keys(seed, 0, np.arange(n))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# --- random numbers --------------------------------------------------------------------------------------------


def test_mix_gives_the_published_stream() -> None:
    # Seed 1234567 of the reference implementation, https://prng.di.unimi.it/splitmix64.c
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [int(mix(np.uint64(1234567), k)) for k in range(5)] == published


@settings(max_examples=300, deadline=None)
@given(key=st.integers(0, MASK), k=st.integers(0, 2**40))
def test_mix_and_uniform_equal_a_pure_python_splitmix64(key: int, k: int) -> None:
    assert int(mix(np.uint64(key), np.int64(k))) == splitmix64(key, k)
    value = uniform(np.uint64(key), np.int64(k))
    assert value == reference_uniform(key, k)
    assert 0 <= value < 1


def test_uniform_never_reaches_one() -> None:
    assert (MASK >> 11) / 2**53 == 1 - 2**-53  # the largest value there is


@pytest.mark.parametrize("stream", ["draws of a sample", "samples of an epoch", "epochs"])
def test_uniform_is_uniform_along_every_axis(stream: str) -> None:
    n = 20_000
    if stream == "draws of a sample":
        values = [uniform(np.uint64(derive_seed("a sample")), np.int64(k)) for k in range(n)]
    elif stream == "samples of an epoch":
        values = [uniform(key, np.int64(CROP_DRAWS)) for key in sample_keys(3, 5, np.arange(n))]
    else:
        values = [uniform(sample_keys(3, epoch, np.array([7]))[0], np.int64(FLIP_DRAWS)) for epoch in range(4000)]
    assert stats.kstest(values, "uniform").pvalue > 0.001
    counts = np.bincount((np.asarray(values) * 64).astype(int), minlength=64)
    assert stats.chisquare(counts).pvalue > 0.001
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 4 / math.sqrt(len(values))


def test_keys_depend_on_seed_epoch_and_position_alone() -> None:
    keys = sample_keys(1, 2, np.arange(1000))
    assert len(set(keys.tolist())) == 1000
    np.testing.assert_array_equal(keys[[5, 900]], sample_keys(1, 2, np.array([5, 900])))
    assert not np.isin(keys, sample_keys(1, 3, np.arange(1000))).any()
    assert not np.isin(keys, sample_keys(2, 2, np.arange(1000))).any()
    base = derive_seed(1, "pixels", 2)
    assert keys.tolist() == [splitmix64(base, k) for k in range(1000)]


# --- boxes -----------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(height=st.integers(1, 700), width=st.integers(1, 700), seed=st.integers(0, 1000))
def test_random_resized_boxes_lie_inside_and_keep_area_and_ratio(height: int, width: int, seed: int) -> None:
    n = 50
    boxes = RandomResizedCrop().boxes(keys_of(n, seed), np.full(n, height), np.full(n, width))
    top, left, h, w = boxes.T
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] >= 1).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    fallback = ((top == (height - h) // 2) & (left == (width - w) // 2)) & ((h == height) | (w == width))
    # Rounding moves either side by at most half a pixel.
    largest, smallest = (h + 0.5) * (w + 0.5), (h - 0.5) * (w - 0.5)
    assert (fallback | ((largest >= 0.08 * height * width) & (smallest <= height * width))).all()
    assert (fallback | (((w + 0.5) / (h - 0.5) >= 3 / 4) & ((w - 0.5) / (h + 0.5) <= 4 / 3))).all()


@pytest.mark.parametrize(("height", "width"), [(120, 160), (64, 64), (40, 300), (300, 40)])
def test_random_resized_boxes_are_distributed_as_torchvisions(height: int, width: int) -> None:
    n = 4000
    ours = RandomResizedCrop().boxes(keys_of(n, seed=11), np.full(n, height), np.full(n, width))
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([transforms.RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(n)])
    columns = [np.c_[b, b[:, 2] * b[:, 3], b[:, 3] / b[:, 2]].T for b in (ours, theirs)]
    for name, a, b in zip(["top", "left", "height", "width", "area", "ratio"], *columns, strict=True):
        assert stats.ks_2samp(a, b).pvalue > 0.001, name


@pytest.mark.parametrize(("height", "width"), [(10, 400), (400, 10)])
def test_an_image_too_long_for_any_box_gets_torchvisions_fallback_box(height: int, width: int) -> None:
    decoder = RandomResizedCrop(scale=(0.9, 1.0))
    boxes = decoder.boxes(keys_of(20), np.full(20, height), np.full(20, width))
    expected = transforms.RandomResizedCrop.get_params(torch.empty(3, height, width), [0.9, 1.0], [3 / 4, 4 / 3])
    assert {tuple(box) for box in boxes.tolist()} == {tuple(expected)}


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(1, 65_500),
    width=st.integers(1, 65_500),
    ratio=st.sampled_from([224 / 256, 0.875, 1.0, 0.5, 1 / 3]),
)
def test_centre_boxes_follow_ffcvs_rule(height: int, width: int, ratio: float) -> None:
    from ffcv.fields.rgb_image import get_center_crop

    (box,) = make_decoder(f"center_crop_{ratio}").boxes(keys_of(1), np.array([height]), np.array([width])).tolist()
    expected = list(get_center_crop(height, width, None, ratio))
    if expected[2] == 0:  # FFCV would resize an empty box
        assert box[2:] == [1, 1]
        assert 0 <= box[0] < height
        assert 0 <= box[1] < width
    else:
        assert box == expected


def test_decoder_names_with_a_fraction_mean_their_quotient() -> None:
    size = np.array([256])
    for name in ("center_crop_224_256", "center_crop_0.875"):
        assert make_decoder(name).boxes(keys_of(1), size, size).tolist() == [[16, 16, 224, 224]]
    assert not make_decoder("resized").fixed_size
    assert make_decoder("simple").fixed_size


@pytest.mark.parametrize(
    "name",
    [
        "",
        "centre_crop_0.5",
        "center_crop_",
        "center_crop_256",
        "center_crop_0",
        "center_crop_1_0",
        "center_crop_3_2",
        "rrc",
    ],
)
def test_an_unknown_decoder_is_a_usage_error_that_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError) as error:
        make_decoder(name)
    for known in (f"'{name}'", "random_resized_crop", "center_crop_R", "resized", "simple"):
        assert known in str(error.value)


# --- decoding --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def read() -> Any:
    """Return read(beton, rows, boxes, size): pixels by both ways of reading.

    Both must agree, and FFCV's pixels must nearly agree.
    """

    def run(beton: Beton, rows: np.ndarray, boxes: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
        results = []
        for os_cache in (True, False):
            columns = (beton.offsets, beton.sizes, beton.modes, beton.heights, beton.widths)
            reader = ImageReader(beton.path, *columns, os_cache=os_cache)
            results.append(reader.read(rows, reader.whole_boxes(rows) if boxes is None else boxes, size))
            reader.close()
        np.testing.assert_array_equal(results[0], results[1])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pixels, "AVAILABLE", False)
            reader = ImageReader(beton.path, *columns)
            theirs = reader.read(rows, reader.whole_boxes(rows) if boxes is None else boxes, size)
        assert np.abs(results[0].astype(int) - theirs).max() <= 1
        return results[0]

    return run


def test_a_whole_raw_image_is_exact(read: Any, raw_beton: Beton, pixels: list[np.ndarray]) -> None:
    rows = np.array([69, 0, 3, 3])
    np.testing.assert_array_equal(read(raw_beton, rows, None, (24, 32)), np.stack(pixels)[rows])


def test_a_whole_jpeg_is_what_pillow_decodes(read: Any, jpg_beton: Beton, jpegs: list[bytes]) -> None:
    for row in (0, 35, 69):
        size = int(jpg_beton.heights[row]), int(jpg_beton.widths[row])
        ours = read(jpg_beton, np.array([row]), None, size)[0]
        difference = np.abs(ours.astype(int) - np.asarray(Image.open(io.BytesIO(jpegs[row]))))
        assert difference.max() <= 1


def by_opencv(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to float32: axes that shrink by INTER_AREA, then axes that grow by INTER_LINEAR."""
    small = [min(sides) for sides in zip(image.shape, size)]
    averaged = cv2.resize(image.astype(np.float32), small[::-1], interpolation=cv2.INTER_AREA)
    return cv2.resize(averaged, size[::-1], interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize("size", [(7, 9), (16, 16), (24, 32), (60, 41)], ids=str)
def test_a_crop_is_resized_as_by_opencv(
    read: Any, raw_beton: Beton, pixels: list[np.ndarray], size: tuple[int, int]
) -> None:
    rows = np.arange(70)
    boxes = RandomResizedCrop().boxes(keys_of(70), raw_beton.heights, raw_beton.widths)
    ours = read(raw_beton, rows, boxes, size)
    for row, (top, left, height, width) in enumerate(boxes):
        crop = pixels[row][top : top + height, left : left + width]
        assert np.abs(ours[row] - by_opencv(crop, size)).max() <= 0.5 + 1e-3


def test_a_jpeg_crop_is_the_resized_crop_of_pillows_pixels(read: Any, jpg_beton: Beton, jpegs: list[bytes]) -> None:
    rows = np.arange(0, 70, 3)
    boxes = make_decoder("random_resized_crop").boxes(
        keys_of(len(rows)), jpg_beton.heights[rows], jpg_beton.widths[rows]
    )
    ours = read(jpg_beton, rows, boxes, (32, 32))
    for k, (top, left, height, width) in enumerate(boxes):
        crop = np.asarray(Image.open(io.BytesIO(jpegs[rows[k]])))[top : top + height, left : left + width]
        assert np.abs(ours[k] - by_opencv(crop, (32, 32))).max() <= 1


def test_large_outputs_are_right_too(read: Any, jpg_beton: Beton, jpegs: list[bytes]) -> None:
    # From some 100 000 pixels on OpenCV splits a resize over threads, inside our own parallel loop.
    rows = np.arange(40, 56)
    ours = read(jpg_beton, rows, None, (500, 420))
    for k, row in enumerate(rows):
        expected = by_opencv(np.asarray(Image.open(io.BytesIO(jpegs[row]))), (500, 420))
        assert np.abs(ours[k] - expected).max() <= 1


def test_whole_image_boxes_squash_to_the_resolution(read: Any, raw_beton: Beton, pixels: list[np.ndarray]) -> None:
    rows = np.arange(4)
    boxes = WholeImage().boxes(keys_of(4), raw_beton.heights[rows], raw_beton.widths[rows])
    ours = read(raw_beton, rows, boxes, (12, 16))
    blocks = np.stack(pixels)[rows].reshape(4, 12, 2, 16, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(ours, blocks, atol=0.51)


# --- augmentation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 31, 32])
def test_flip_mirrors_about_half_of_the_rows_exactly(width: int) -> None:
    images, keys = noise(1000, 5, width, 3), keys_of(1000)
    (flip,) = make_ops("flip")
    result = flip(images.copy(), keys, ROWS)
    mirrored = np.array([splitmix64(int(key), FLIP_DRAWS) & 1 for key in keys], bool)
    np.testing.assert_array_equal(result[mirrored], images[mirrored][:, :, ::-1])
    np.testing.assert_array_equal(result[~mirrored], images[~mirrored])
    assert abs(mirrored.sum() - 500) < 4 * math.sqrt(250)


@settings(max_examples=40, deadline=None)
@given(pad=st.integers(0, 6), height=st.integers(7, 20), width=st.integers(7, 20), seed=st.integers(0, 99))
def test_pad_crop_equals_numpys_reflection(pad: int, height: int, width: int, seed: int) -> None:
    images, keys = noise(8, height, width, 3, seed=seed), keys_of(8, seed)
    (op,) = make_ops(f"pad_crop:{pad}")
    result = op(images.copy(), keys, ROWS)
    for image, key, ours in zip(images, keys, result, strict=True):
        top, left = (int(reference_uniform(int(key), PAD_DRAWS + k) * (2 * pad + 1)) for k in range(2))
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
        np.testing.assert_array_equal(ours, padded[top : top + height, left : left + width])


def test_pad_crop_uses_every_shift_equally_often() -> None:
    marker = np.zeros((5000, 9, 9, 3), np.uint8)
    marker[:, 4, 4] = 255
    (op,) = make_ops("pad_crop:2")
    _, y, x, _ = np.nonzero(op(marker, keys_of(5000), ROWS)[..., :1])
    assert stats.chisquare(np.bincount(5 * (y - 2) + (x - 2), minlength=25)).pvalue > 0.001


def test_a_pad_larger_than_the_image_gives_one_sentence() -> None:
    (op,) = make_ops("pad_crop:8")
    with pytest.raises(DataError, match=r"pad_crop:8 needs images larger than 8 pixels"):
        op(noise(2, 8, 32, 3), keys_of(2), ROWS)


@pytest.mark.parametrize("size", [1, 4, 7, 30])
def test_cutout_greys_out_one_square_around_a_uniform_centre(size: int) -> None:
    images, keys = noise(200, 16, 20, 3) // 2, keys_of(200)
    (op,) = make_ops(f"cutout:{size}")
    result = op(images.copy(), keys, ROWS)
    for image, key, ours in zip(images, keys, result, strict=True):
        top = int(reference_uniform(int(key), CUTOUT_DRAWS) * 16) - size // 2
        left = int(reference_uniform(int(key), CUTOUT_DRAWS + 1) * 20) - size // 2
        expected = image.copy()
        expected[max(0, top) : max(0, top + size), max(0, left) : max(0, left + size)] = 127
        np.testing.assert_array_equal(ours, expected)


def test_ops_run_in_the_order_given() -> None:
    images, keys = noise(16, 12, 12, 3), keys_of(16)
    result = images.copy()
    for op in [*make_ops("pad_crop:3"), *make_ops("flip"), *make_ops("cutout:4")]:
        result = op(result, keys, ROWS)
    chained = images.copy()
    for op in make_ops(" pad_crop:3, flip ,cutout:4"):
        chained = op(chained, keys, ROWS)
    np.testing.assert_array_equal(chained, result)
    assert make_ops("") == make_ops("none") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("flop", "unknown augmentation 'flop'; did you mean 'flip'"),
        ("flip,rotate", "unknown augmentation 'rotate'; known: "),
        ("flip:3", "'flip:3' is malformed"),
        ("pad_crop:x", "'pad_crop:x' is malformed"),
        ("pad_crop:-4", "'pad_crop:-4' is malformed"),
        ("cutout:0", "'cutout:0' is malformed"),
        ("pad_crop:1:2", "malformed"),
    ],
)
def test_bad_augmentations_are_usage_errors(text: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        make_ops(text)
    assert words in str(error.value)


# --- normalisation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    ("mean", "std"), [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.0, 0.5, 1.0), (1.0, 0.01, 10.0))]
)
def test_normalise_equals_torchvisions(mean: tuple[float, ...], std: tuple[float, ...], *, channels_last: bool) -> None:
    images = np.concatenate([noise(5, 7, 9, 3), np.zeros((1, 7, 9, 3), np.uint8), np.full((1, 7, 9, 3), 255, np.uint8)])
    out = np.empty(images.shape if channels_last else (7, 3, 7, 9), np.float32)
    normalise(images, mean, std, out, channels_last=channels_last)
    reference = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    expected = torch.stack([reference(image) for image in images]).numpy()
    ours = out.transpose(0, 3, 1, 2) if channels_last else out
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_normalise_takes_images_that_are_not_contiguous() -> None:
    images = noise(4, 6, 16, 3)[:, :, ::2]
    outs = [np.empty(images.shape, np.float32) for _ in range(2)]
    normalise(images, (0.5,) * 3, (0.5,) * 3, outs[0], channels_last=True)
    normalise(images.copy(), (0.5,) * 3, (0.5,) * 3, outs[1], channels_last=True)
    np.testing.assert_array_equal(outs[0], outs[1])
