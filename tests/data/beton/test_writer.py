"""A beton holds exactly the given rows, in FFCV's format, and a failure leaves no file."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from debeton.data.beton import file as beton_file
from debeton.data.beton import turbojpeg
from debeton.data.beton.ffcv_format import ALLOCATION, HEADER, JPG, RAW
from debeton.data.beton.images import to_rgb
from debeton.data.beton.reading import Beton, open_beton
from debeton.data.beton.sidecar import columns_path, sidecar_path
from debeton.data.beton.writer import WriteOptions, verify_rows, write_beton
from debeton.data.loader.decoding import ImageReader
from debeton.data.spec import DatasetSpec, RawImage, Rows
from debeton.system.errors import DataError, UsageError

Photo = Callable[..., np.ndarray]
Encoder = Callable[..., bytes]
MakeRows = Callable[..., Rows]


def stored_bytes(beton: Beton) -> list[bytes]:
    """Return the bytes of every image, by the beton's own tables."""
    file = beton.path.read_bytes()
    return [file[int(o) : int(o) + int(s)] for o, s in zip(beton.offsets, beton.sizes)]


def stored_images(beton: Beton) -> list[np.ndarray]:
    """Return every image as Pillow and NumPy read it, without our code."""
    images = []
    for k, data in enumerate(stored_bytes(beton)):
        if beton.modes[k] == JPG:
            images.append(np.asarray(Image.open(io.BytesIO(data))))
        else:
            images.append(np.frombuffer(data, np.uint8).reshape(beton.heights[k], beton.widths[k], 3))
    return images


def contents(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


@pytest.fixture
def write(tmp_path: Path, spec: DatasetSpec, make_rows: MakeRows) -> Callable[..., Beton]:
    """Return write(images, mode='raw', ...): a beton in a folder of its own."""

    def run(images: Sequence[RawImage] | Rows, name: str = "a", **options: Any) -> Beton:
        rows = images if isinstance(images, Rows) else make_rows(images)
        write_beton(tmp_path / f"{name}.beton", rows, spec, "train", WriteOptions(**options))
        return open_beton(tmp_path / f"{name}.beton")

    return run


# --- round trips -----------------------------------------------------------------------------------------------


def test_raw_images_come_back_exactly(write: Callable[..., Beton], photo: Photo) -> None:
    images = [photo(k, 20 + k, 50 - k) for k in range(9)]
    beton = write(images, mode="raw")
    assert set(beton.modes) == {RAW}
    for image, stored in zip(images, stored_images(beton), strict=True):
        np.testing.assert_array_equal(stored, image)


def test_jpg_images_come_back_within_a_few_grey_levels(write: Callable[..., Beton], photo: Photo) -> None:
    images = [photo(k, 60 + k, 80 - k) for k in range(9)]
    beton = write(images, mode="jpg", quality=95)
    assert set(beton.modes) == {JPG}
    errors = [np.abs(stored.astype(float) - image).mean() for image, stored in zip(images, stored_images(beton))]
    assert 0 < max(errors) < 3


def test_jpeg_files_are_kept_and_other_files_encoded(
    write: Callable[..., Beton], photo: Photo, encoded: Encoder
) -> None:
    jpeg, png = encoded(photo(0)), encoded(photo(1), "PNG")
    first, second = stored_bytes(write([jpeg, png], mode="jpg"))
    assert first == jpeg
    assert second[:2] == b"\xff\xd8"
    assert second != png


def test_proportion_stores_the_seeded_share_as_jpeg(write: Callable[..., Beton], photo: Photo) -> None:
    images = [photo(k, 8, 8) for k in range(400)]
    beton = write(images, mode="proportion", compress_probability=0.3)
    share = np.mean(beton.modes == JPG)
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 400)
    assert beton.sidecar["image"]["jpeg_share"] == share
    for k in np.flatnonzero(beton.modes == RAW):
        np.testing.assert_array_equal(stored_images(beton)[k], images[k])
        break
    np.testing.assert_array_equal(write(images, "b", mode="proportion", compress_probability=0.3).modes, beton.modes)


@pytest.mark.parametrize("mode", ["jpg", "raw", "proportion"])
def test_the_same_rows_give_the_same_bytes_for_any_number_of_workers(
    write: Callable[..., Beton], photo: Photo, mode: str
) -> None:
    images = [photo(k, 30 + k % 7, 40) for k in range(60)]
    betons = [write(images, f"w{workers}", mode=mode, num_workers=workers) for workers in (1, 2, 5)]
    assert len({b.path.read_bytes() for b in betons}) == 1
    assert len({sidecar_path(b.path).read_bytes() for b in betons}) == 1
    assert len({columns_path(b.path).read_bytes() for b in betons}) == 1


def test_max_resolution_bounds_the_longer_side(write: Callable[..., Beton], photo: Photo) -> None:
    beton = write([photo(0, 100, 200), photo(1, 300, 60), photo(2, 30, 20)], mode="raw", max_resolution=50)
    assert list(zip(beton.heights, beton.widths)) == [(25, 50), (50, 10), (30, 20)]
    assert beton.sidecar["image"]["height"] == [25, 50]


def test_columns_names_and_counts_equal_those_of_the_rows(
    write: Callable[..., Beton], grouped_rows: MakeRows, pixels: list[np.ndarray], group_sizes: tuple[int, ...]
) -> None:
    rows = grouped_rows(pixels)
    beton = write(rows, mode="raw")
    for name in ("label", "attribute", "source"):
        np.testing.assert_array_equal(getattr(beton, name), getattr(rows, name))
    np.testing.assert_array_equal(beton.group, rows.label * 3 + rows.attribute)
    assert beton.extra["path"].tolist() == list(rows.names)
    np.testing.assert_array_equal(beton.extra["weight_g"], np.arange(70) * 0.5)
    assert list(beton.sidecar["group_counts"].values()) == list(group_sizes)
    assert list(beton.sidecar["group_counts"]) == ["cat, left", "cat, right", "cat, top", "dog, left", "dog, right"]
    assert (beton.sidecar["n"], beton.sidecar["skipped"], beton.split) == (70, [], "train")


def test_the_row_hash_changes_with_rows_and_not_with_storage(
    write: Callable[..., Beton], make_rows: MakeRows, photo: Photo
) -> None:
    images = [photo(k) for k in range(4)]
    raw, jpg = write(images, "raw", mode="raw"), write(images, "jpg", mode="jpg")
    other = write(make_rows(images, label=np.array([0, 1, 1, 1])), "other", mode="raw")
    assert raw.sidecar["row_hash"] == jpg.sidecar["row_hash"] != other.sidecar["row_hash"]


# --- one pass --------------------------------------------------------------------------------------------------


def test_every_image_is_read_once(write: Callable[..., Beton], make_rows: MakeRows, photo: Photo) -> None:
    reads: list[int] = []

    def image(row: int) -> np.ndarray:
        reads.append(row)
        return photo(row)

    write(make_rows([b""] * 50, image=image), skip_bad=True)
    assert sorted(reads) == list(range(50))


@pytest.mark.parametrize("options", [{}, {"mode": "jpg"}], ids=["as it is", "encoded"])
def test_a_jpeg_file_is_decoded_once_before_and_never_after_it_is_stored(
    options: dict[str, Any],
    write: Callable[..., Beton],
    photo: Photo,
    encoded: Encoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded: list[bytes] = []
    real = turbojpeg.try_decode

    def try_decode(data: bytes, *arguments: Any, **keywords: Any) -> Any:
        decoded.append(data)
        return real(data, *arguments, **keywords)

    monkeypatch.setattr(turbojpeg, "try_decode", try_decode)
    sources = [encoded(photo(k), "PNG" if options else "JPEG") for k in range(9)]
    beton = write(sources, num_workers=1, **options)
    assert decoded == stored_bytes(beton)  # so reading back only has to compare bytes


def test_rows_without_their_file_are_all_listed_before_any_image_is_read(
    tmp_path: Path, spec: DatasetSpec, make_rows: MakeRows, photo: Photo
) -> None:
    def image(row: int) -> np.ndarray:
        raise AssertionError("read although rows are missing")

    rows = make_rows([b""] * 9, image=image, absent=lambda: np.array([7, 2]))
    with pytest.raises(DataError) as error:
        write_beton(tmp_path / "out" / "a.beton", rows, spec, "train")
    assert "2 of 9 rows cannot be stored" in str(error.value)
    assert str(error.value).endswith("\n  row 2: r2 the file does not exist\n  row 7: r7 the file does not exist")
    assert list(tmp_path.iterdir()) == []


def test_skip_bad_leaves_out_absent_and_undecodable_rows_in_row_order(
    write: Callable[..., Beton], make_rows: MakeRows, photo: Photo
) -> None:
    images = [photo(0), b"broken", photo(2), b"not read", photo(4)]
    beton = write(make_rows(images, absent=lambda: np.array([3])), mode="raw", skip_bad=True)
    assert beton.sidecar["skipped"] == ["r1", "r3"]
    for row, stored in zip([0, 2, 4], stored_images(beton), strict=True):
        np.testing.assert_array_equal(stored, images[row])


def test_verifying_does_not_read_absent_rows(make_rows: MakeRows, photo: Photo) -> None:
    rows = make_rows([photo(0), photo(1), b"x"], absent=lambda: np.array([1]))
    assert verify_rows(rows) == [
        (1, "the file does not exist"),
        (2, "cannot be decoded (it is no image of a known format)"),
    ]


def test_bad_rows_at_both_ends_are_all_listed(
    tmp_path: Path, spec: DatasetSpec, make_rows: MakeRows, photo: Photo
) -> None:
    images = [b"x", *(photo(k) for k in range(198)), b"y"]
    with pytest.raises(DataError, match=r"2 of 200 rows.*\n  row 0: r0 .*\n  row 199: r199 "):
        write_beton(tmp_path / "a.beton", make_rows(images), spec, "train")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_a_failed_write_made_are_gone_and_others_stay(
    tmp_path: Path, spec: DatasetSpec, make_rows: MakeRows
) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(DataError):
        write_beton(tmp_path / "old" / "new" / "newer" / "a.beton", make_rows([b"x"]), spec, "train")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["old"]


# --- the format ------------------------------------------------------------------------------------------------


def test_the_stock_ffcv_loader_reads_our_betons(
    write: Callable[..., Beton], grouped_rows: MakeRows, photo: Photo, encoded: Encoder
) -> None:
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    images = [photo(k, 40, 48) for k in range(70)]
    grey = {k: encoded(Image.fromarray(images[k]).convert("L")) for k in range(0, 70, 5)}
    rows = grouped_rows([grey.get(k, image) for k, image in enumerate(images)])
    images = [to_rgb(grey[k]) if k in grey else image for k, image in enumerate(images)]
    beton = write(rows, mode="proportion")
    threads = torch.get_num_threads()
    try:
        loader = Loader(
            str(beton.path),
            16,
            num_workers=1,
            order=OrderOption.SEQUENTIAL,
            drop_last=False,
            pipelines={
                "image": [SimpleRGBImageDecoder()],
                "label": [IntDecoder()],
                "group": [IntDecoder()],
                "attribute": None,
                "source": None,
                "index": [IntDecoder()],
            },
        )
        batches = [[np.array(part) for part in batch] for batch in loader]
    finally:
        torch.set_num_threads(threads)
    image, label, group, index = (np.concatenate(parts) for parts in zip(*batches))
    np.testing.assert_array_equal(label.ravel(), rows.label)
    np.testing.assert_array_equal(group.ravel(), rows.label * 3 + rows.attribute)
    np.testing.assert_array_equal(index.ravel(), np.arange(70))
    raw = beton.modes == RAW
    assert 20 < raw.sum() < 50
    np.testing.assert_array_equal(image[raw], np.stack(images)[raw])
    assert np.abs(image[~raw].astype(float) - np.stack(images)[~raw]).mean() < 5
    assert any(data in grey.values() for data in stored_bytes(beton))  # grey JPEGs as they are


@pytest.mark.parametrize(("sides", "count"), [((300, 333), 40), ((100, 99), 150), ((900, 1000), 2)], ids=str)
def test_no_image_crosses_a_page(write: Callable[..., Beton], sides: tuple[int, int], count: int) -> None:
    beton = write([np.full((*sides, 3), k, np.uint8) for k in range(count)], mode="raw")
    page = int(np.fromfile(beton.path, HEADER, count=1)["page_size"][0])
    assert page & (page - 1) == 0
    assert max(2 << 20, sides[0] * sides[1] * 3) <= page <= 1 << 31
    first, last = beton.offsets // page, (beton.offsets + beton.sizes - 1) // page
    np.testing.assert_array_equal(first, last)
    assert first.min() >= 1  # page 0 is the header's
    total = count * sides[0] * sides[1] * 3
    assert first.max() == 1 + total // (page // int(beton.sizes[0]) * int(beton.sizes[0]))  # and pages are filled


def test_a_jpeg_with_more_bytes_than_pixels_gets_a_page_of_its_size(
    write: Callable[..., Beton], photo: Photo, encoded: Encoder
) -> None:
    bulky = encoded(photo(0)) + bytes(3_000_000)  # a preview or a profile behind the picture
    beton = write([encoded(photo(1)), bulky])
    page = int(np.fromfile(beton.path, HEADER, count=1)["page_size"][0])
    assert page >= len(bulky)
    np.testing.assert_array_equal(beton.offsets // page, (beton.offsets + beton.sizes - 1) // page)
    assert stored_bytes(beton)[1] == bulky


def test_a_page_grows_with_the_largest_image_and_stock_ffcv_reads_it_in_every_way(
    write: Callable[..., Beton], make_rows: MakeRows
) -> None:
    from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder
    from ffcv.loader import Loader, OrderOption

    side = {200: 20, 201: 1800}
    images = [np.full((side.get(k, 60), side.get(k, 60), 3), k, np.uint8) for k in range(250)]
    beton = write(images, mode="raw")
    page = int(np.fromfile(beton.path, HEADER, count=1)["page_size"][0])
    assert page == 64 << 20  # 1800 * 1800 * 3 bytes need 16 MiB, and eight of them up to 64
    first, last = beton.offsets // page, (beton.offsets + beton.sizes - 1) // page
    np.testing.assert_array_equal(first, last)
    assert first[0] == 0  # written while pages were small, in the page of the header
    assert first[201] == 1
    for k, stored in enumerate(stored_images(beton)):
        np.testing.assert_array_equal(stored, images[k])
    threads = torch.get_num_threads()
    for order, cached in ((OrderOption.SEQUENTIAL, True), (OrderOption.QUASI_RANDOM, False)):
        loader = Loader(
            str(beton.path),
            25,
            num_workers=1,
            order=order,
            os_cache=cached,
            indices=np.arange(200),
            pipelines={
                "image": [CenterCropRGBImageDecoder((8, 8), 1)],
                "index": [IntDecoder()],
                "label": None,
                "group": None,
                "attribute": None,
                "source": None,
            },
        )
        torch.set_num_threads(threads)
        seen = []
        for image, index in loader:
            np.testing.assert_array_equal(image[:, 0, 0, 0], index.ravel())
            seen += index.ravel().tolist()
        assert sorted(seen) == list(range(200))


def test_a_grey_jpeg_is_stored_as_it_is_and_read_as_rgb(
    write: Callable[..., Beton], photo: Photo, encoded: Encoder
) -> None:
    grey = [np.asarray(Image.fromarray(photo(k, 64, 64)).convert("L")) for k in range(8)]
    beton = write([encoded(Image.fromarray(image), quality=95) for image in grey])
    assert [Image.open(io.BytesIO(data)).mode for data in stored_bytes(beton)] == ["L"] * 8
    expected = np.repeat(np.stack(grey)[..., None], 3, axis=3)
    reader = ImageReader(beton.path, beton.offsets, beton.sizes, beton.modes, beton.heights, beton.widths)
    rows = np.arange(8)
    assert np.abs(reader.read(rows, reader.whole_boxes(rows), (64, 64)).astype(float) - expected).mean() < 3


def test_images_lie_in_row_order_without_overlap(jpg_beton: Beton, jpegs: list[bytes]) -> None:
    ends = beton_ends = jpg_beton.offsets + jpg_beton.sizes
    assert (jpg_beton.offsets[1:] >= ends[:-1]).all()
    table = np.fromfile(jpg_beton.path, HEADER, count=1)["alloc_table_ptr"][0]
    assert beton_ends[-1] <= table
    assert jpg_beton.path.stat().st_size == table + 70 * ALLOCATION.itemsize
    assert stored_bytes(jpg_beton) == jpegs


# --- memory ----------------------------------------------------------------------------------------------------

GROWTH = """
import resource, sys
from pathlib import Path
import numpy as np
from debeton.data.spec import DatasetSpec, Rows
from debeton.data.beton.writer import WriteOptions, write_beton

def write(n, side):
    zeros, pixels = np.zeros(n, np.int64), np.zeros((side, side, 3), np.uint8)
    names = [f"train/n{row:08}/n{row:08}_{row}.JPEG" for row in range(n)]
    rows = Rows(zeros, zeros, lambda row: pixels.copy(), names)
    write_beton(Path(sys.argv[1]), rows, DatasetSpec("s", ("a",)), "train", WriteOptions(mode="raw", num_workers=2))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = write(40, int(sys.argv[3]))
print((write(int(sys.argv[2]), int(sys.argv[3])) - before) / 1024)
"""


@pytest.mark.parametrize(
    ("rows", "side", "mebibytes"),
    [(60_000, 1, 60), (150, 600, 40)],  # 1.3 million rows in 1.3 GiB; 150 MB of images
    ids=["many rows", "large images"],
)
def test_memory_grows_by_a_kilobyte_a_row_and_not_with_the_images(
    rows: int, side: int, mebibytes: int, tmp_path: Path, run_python: Callable[..., str]
) -> None:
    assert float(run_python(GROWTH, tmp_path / "a.beton", rows, side)) < mebibytes


# --- refusals --------------------------------------------------------------------------------------------------


def broken_files(folder: Path, photo: Photo, encoded: Encoder) -> dict[str, Path]:
    jpeg, png = encoded(photo(0, 80, 80)), encoded(photo(0, 80, 80), "PNG")
    contents = {
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "truncated.png": png[: len(png) // 2],
        "cut_and_ended.jpg": jpeg[: len(jpeg) // 2] + b"\xff\xd9",
        "empty.jpg": b"",
        "page.jpg": b"<html>not found</html>",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in [*contents, "missing.jpg"]}


@pytest.mark.parametrize(
    "name", ["truncated.jpg", "truncated.png", "cut_and_ended.jpg", "empty.jpg", "page.jpg", "missing.jpg", "no pixels"]
)
@pytest.mark.parametrize("mode", ["jpg", "raw"])
def test_a_bad_image_is_named_by_row_and_file_and_nothing_is_written(
    name: str, mode: str, tmp_path: Path, spec: DatasetSpec, make_rows: MakeRows, photo: Photo, encoded: Encoder
) -> None:
    bad: RawImage = np.zeros((0, 0, 3), np.uint8)
    if name != "no pixels":
        bad = broken_files(tmp_path, photo, encoded)[name]
    rows = make_rows([photo(0), photo(1), bad, photo(3)], names=["a", "b", f"images/{name}", "d"])
    out = tmp_path / "out"
    with pytest.raises(DataError) as error:
        write_beton(out / "a.beton", rows, spec, "train", WriteOptions(mode=mode))
    for words in ("pets/train", "1 of 4 rows", f"row 2: images/{name}", "--skip-bad"):
        assert words in str(error.value)
    assert not out.exists()


def test_only_the_first_ten_bad_rows_are_listed(tmp_path: Path, spec: DatasetSpec, make_rows: MakeRows) -> None:
    with pytest.raises(DataError, match="25 of 25 rows") as error:
        write_beton(tmp_path / "a.beton", make_rows([b"x"] * 25), spec, "train")
    assert str(error.value).count("\n  row ") == 10
    assert "and 15 more" in str(error.value)


def test_skip_bad_leaves_exactly_the_bad_rows_out(
    write: Callable[..., Beton], make_rows: MakeRows, photo: Photo
) -> None:
    images: list[RawImage] = [photo(k) for k in range(6)]
    images[1], images[4] = b"broken", b""
    rows = make_rows(images, attribute=np.array([0, 1, 2, 0, 1, 1]), columns={"id": np.arange(10, 16)})
    beton = write(rows, mode="raw", skip_bad=True)
    kept = [0, 2, 3, 5]
    assert beton.sidecar["skipped"] == ["r1", "r4"]
    assert beton.sidecar["n"] == len(beton) == 4
    np.testing.assert_array_equal(beton.attribute, rows.attribute[kept])
    assert beton.extra["id"].tolist() == [10, 12, 13, 15]
    assert beton.extra["path"].tolist() == ["r0", "r2", "r3", "r5"]
    for k, stored in zip(kept, stored_images(beton), strict=True):
        np.testing.assert_array_equal(stored, images[k])


def test_skip_bad_with_nothing_left_is_an_error(write: Callable[..., Beton]) -> None:
    with pytest.raises(DataError, match="none of the 2 rows"):
        write([b"x", b"y"], skip_bad=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": ["a", "b", "a"]}, ["'a'", "twice"]),
        ({"label": np.array([0, 1, 2])}, ["label 2 of row 2", "0 to 1"]),
        ({"label": np.array([0, -1, 1])}, ["label -1 of row 1"]),
        ({"attribute": np.array([0, 3, 0])}, ["attribute 3 of row 1", "0 to 2"]),
        ({"attribute": np.array([0, 1])}, ["'attribute' has 2 values for 3 rows"]),
        ({"names": ["a", "b"]}, ["'names' has 2 values for 3 rows"]),
        ({"source": np.array([0, 1])}, ["'source' has 2 values for 3 rows"]),
        ({"columns": {"split": [1, 2, 3, 4]}}, ["'split' has 4 values for 3 rows"]),
        ({"columns": {"path": [1, 2, 3]}}, ["cannot be called 'path'"]),
        ({"columns": {"a#b": [1, 2, 3]}}, ["cannot be called 'a#b'", "without '#'"]),
        ({"columns": {"a\0b": [1, 2, 3]}}, [r"cannot be called 'a\x00b'", "can be printed"]),
        ({"columns": {"note": [None, "x", "y"]}}, ["'note' mixes types"]),
        ({"columns": {"note": ["1", 2, 3]}}, ["'note' mixes types", "every value must be text"]),
        ({"columns": {"note": np.zeros((3, 2))}}, ["'note' mixes types"]),
        ({"names": ["a", "b", "\udcff"]}, ["the name of the row '\\udcff' is not UTF-8"]),
    ],
)
def test_inconsistent_rows_are_refused_before_any_file_appears(
    changes: dict[str, Any], words: list[str], tmp_path: Path, spec: DatasetSpec, make_rows: MakeRows, photo: Photo
) -> None:
    with pytest.raises(DataError) as error:
        write_beton(tmp_path / "a.beton", make_rows([photo(0)] * 3, **changes), spec, "train")
    for word in words:
        assert word in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_split_is_refused(tmp_path: Path, spec: DatasetSpec, make_rows: MakeRows) -> None:
    with pytest.raises(DataError, match="pets/test has no row"):
        write_beton(tmp_path / "a.beton", make_rows([]), spec, "test")


HUES = {"hue": ("red", "green", "blue")}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, ["names the column 'hue'", "have no such column"]),
        ({"hue": [0, 1, 3]}, ["'hue' has the code 3 in row 2 (r2)", "3 values (0 to 2) and 1 such rows"]),
        ({"hue": [0, -1, -2]}, ["'hue' has the code -2 in row 2 (r2)", "1 such rows"]),
        ({"hue": ["red", "red", "red"]}, ["'hue' must hold whole numbers, the codes of red, green, blue"]),
        ({"hue": [0.0, 1.0, 2.0]}, ["must hold whole numbers"]),
    ],
)
def test_a_column_that_the_spec_names_must_be_there_and_hold_its_codes(
    columns: dict[str, Any], words: list[str], tmp_path: Path, spec: DatasetSpec, make_rows: MakeRows, photo: Photo
) -> None:
    named = replace(spec, columns=HUES)
    with pytest.raises(DataError) as error:
        write_beton(tmp_path / "a.beton", make_rows([photo(0)] * 3, columns=columns), named, "train")
    for word in words:
        assert word in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", [None, np.array([0, 1, 1])])
def test_rows_may_have_an_unknown_value_in_a_named_column(
    source: np.ndarray | None, tmp_path: Path, spec: DatasetSpec, make_rows: MakeRows, photo: Photo
) -> None:
    rows = make_rows([photo(0)] * 3, columns={"hue": [2, -1, 0]}, source=source)
    write_beton(tmp_path / "a.beton", rows, replace(spec, columns=HUES), "train")
    beton = open_beton(tmp_path / "a.beton")
    assert beton.extra["hue"].tolist() == [2, -1, 0]
    assert beton.spec.columns == HUES


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "png"}, "unknown image mode 'png'; known: auto, jpg, raw, proportion"),
        ({"quality": 0}, "quality 0"),
        ({"quality": 101}, "quality 101"),
        ({"chroma": "4:2:2"}, "unknown chroma '4:2:2'; known: 4:4:4, 4:2:0"),
        ({"max_pixels": 0}, "max pixels 0"),
        ({"max_pixels": 1 << 29}, "max pixels 536870912 does not lie between 1 and 268435456"),
        ({"raw_pixels": -1}, "raw pixels -1"),
        ({"max_resolution": 0}, "max resolution 0"),
        ({"compress_probability": 1.5}, "1.5 does not lie between 0 and 1"),
        ({"num_workers": -1}, "-1 encoding threads"),
    ],
)
def test_options_out_of_range_are_usage_errors(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        WriteOptions(**options)


def test_verify_rows_lists_the_problems_without_writing(make_rows: MakeRows, photo: Photo) -> None:
    bad = verify_rows(make_rows([photo(0), b"x", photo(2), b""]), num_workers=2)
    assert [row for row, _ in bad] == [1, 3]
    assert all("cannot be decoded" in problem for _, problem in bad)


# --- failures while writing ------------------------------------------------------------------------------------


class FullDisk:
    """Path.open whose files fail with `number` (ENOSPC) at the given write call, counted over all files."""

    def __init__(self, fail_at: int, number: int = errno.ENOSPC):
        self.left, self.number, self.failed = fail_at, number, False
        self.real = Path.open

    def open(self, path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if "w" not in mode:
            return self.real(path, mode, *arguments, **options)
        disk = self

        class Limited(io.FileIO):
            def write(self, data: Any) -> int:
                disk.left -= 1
                if disk.left < 0:
                    disk.failed = True
                    raise OSError(disk.number, os.strerror(disk.number))
                return super().write(data)

        file = Limited(path, "w+b" if "b" in mode else "w")
        return file if "b" in mode else io.TextIOWrapper(file)


def test_a_full_disk_at_any_write_is_one_sentence_and_the_older_beton_survives(
    tmp_path: Path, spec: DatasetSpec, make_rows: MakeRows, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_beton(tmp_path / "a.beton", make_rows([photo(9)]), spec, "train", WriteOptions(num_workers=1))
    before = contents(tmp_path)
    rows, failures = make_rows([photo(0), photo(1)]), 0
    for fail_at in range(200):
        disk = FullDisk(fail_at)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", lambda path, *a, _disk=disk, **k: _disk.open(path, *a, **k))
            try:
                write_beton(tmp_path / "a.beton", rows, spec, "train", WriteOptions(num_workers=1))
            except DataError as error:
                assert f"the disk under {tmp_path} is full" in str(error)  # noqa: PT017
                assert "\n" not in str(error)  # noqa: PT017
        if not disk.failed:
            break
        failures += 1
        assert contents(tmp_path) == before, f"after failing at write {fail_at}"
    assert failures >= 10  # header, columns, two images, tables, sidecar, and the parts of the .npz
    assert contents(tmp_path) != before
    assert len(open_beton(tmp_path / "a.beton")) == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_only_at_fsync_is_noticed(
    tmp_path: Path, spec: DatasetSpec, make_rows: MakeRows, photo: Photo, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DataError, match="is full"):
        write_beton(tmp_path / "a.beton", make_rows([photo(0)]), spec, "train")
    assert list(tmp_path.iterdir()) == []


def test_another_disk_error_names_the_files_and_leaves_nothing(
    tmp_path: Path, spec: DatasetSpec, make_rows: MakeRows, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(2, errno.EIO)
    monkeypatch.setattr(Path, "open", lambda path, *a, **k: disk.open(path, *a, **k))
    with pytest.raises(DataError, match=rf"a\.beton could not be written to .* \({os.strerror(errno.EIO)}\)"):
        write_beton(tmp_path / "a.beton", make_rows([photo(0)] * 3), spec, "train")
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_is_no_bad_image_stops_the_writer_and_leaves_nothing(
    tmp_path: Path, spec: DatasetSpec, make_rows: MakeRows, photo: Photo
) -> None:
    def image(row: int) -> np.ndarray:
        if row == 60:
            raise RuntimeError("the archive went away")
        return photo(row)

    with pytest.raises(RuntimeError, match="went away"):
        write_beton(tmp_path / "a.beton", make_rows([b""] * 80, image=image), spec, "train")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("row", [0, 3, 69])
def test_bytes_that_do_not_read_back_are_noticed(
    row: int, tmp_path: Path, spec: DatasetSpec, make_rows: MakeRows, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "a.beton", beton_file.BetonFile.write_tables

    def write_tables(file: beton_file.BetonFile, *arguments: Any) -> Any:
        tables = real(file, *arguments)
        (partial,) = tmp_path.glob("a.beton.*.partial")
        with partial.open("r+b") as written:  # a disk that does not store what it was given
            written.seek(int(tables.metadata["f0"]["data_ptr"][row]) + 50)
            byte = written.read(1)
            written.seek(-1, os.SEEK_CUR)
            written.write(bytes([byte[0] ^ 1]))
        return tables

    monkeypatch.setattr(beton_file.BetonFile, "write_tables", write_tables)
    with pytest.raises(DataError, match=f"row {row} read back differs"):
        write_beton(path, make_rows([photo(k) for k in range(70)]), spec, "train", WriteOptions(mode="raw"))
    assert list(tmp_path.iterdir()) == []


def test_a_beton_cut_while_it_is_read_back_is_noticed(
    tmp_path: Path, spec: DatasetSpec, make_rows: MakeRows, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        for partial in tmp_path.glob("a.beton.*.partial"):
            os.truncate(partial, (16 << 20) + 2_000_000)  # in the second image

    monkeypatch.setattr(os, "fsync", fsync)
    rows = make_rows([np.zeros((600, 600, 3), np.uint8)] * 3)
    with pytest.raises(DataError, match=f"ends at byte {(16 << 20) + 2_000_000}, before its last image"):
        write_beton(tmp_path / "a.beton", rows, spec, "train", WriteOptions(mode="raw"))
    assert list(tmp_path.iterdir()) == []


def test_an_older_beton_beside_a_newer_sidecar_is_refused(
    tmp_path: Path, spec: DatasetSpec, make_rows: MakeRows, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.beton"
    write_beton(path, make_rows([photo(0)]), spec, "train")
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(target) == path:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_beton(path, make_rows([photo(1), photo(2)]), spec, "train")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        p.name for p in (path, sidecar_path(path), columns_path(path))
    )
    with pytest.raises(DataError, match="write it again"):
        open_beton(path)


def test_the_sidecar_is_readable_json_with_the_options_of_the_data_set(
    tmp_path: Path, spec: DatasetSpec, make_rows: MakeRows, photo: Photo
) -> None:
    options = {"spurious_strength": 0.95, "seed": 3}
    returned = write_beton(tmp_path / "a.beton", make_rows([photo(0)]), spec, "val", dataset_options=options)
    stored = json.loads(sidecar_path(tmp_path / "a.beton").read_text())
    assert stored == json.loads(json.dumps(returned))
    assert stored["dataset_options"] == options
    assert (stored["dataset"], stored["split"], stored["file_size"]) == (
        "pets",
        "val",
        (tmp_path / "a.beton").stat().st_size,
    )
