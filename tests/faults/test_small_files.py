"""Small files that would hang a program or fill its memory: each is one sentence, within seconds."""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from tests.faults.strange_files import (
    STRANGE,
    make_fifo,
    make_link_to_zeros,
    make_sparse,
    many_scans,
    png_of,
    segment,
    small_jpeg,
)

from debeton.data.beton import jpeg_bounds
from debeton.data.beton.image_decoding import MAX_IMAGE_BYTES, BadImage, Limits, open_image, read_bytes
from debeton.data.beton.images import encode, to_rgb
from debeton.data.beton.jpeg_segments import MAX_PIECES, split_jpeg
from debeton.data.beton.opened import OpenedFile
from debeton.data.beton.turbojpeg import try_decode
from debeton.data.beton.writer import WriteOptions, verify_rows, write_beton
from debeton.data.loader import pixels
from debeton.data.raw.arrow_tables import ArrowPart, read_parts
from debeton.data.raw.image_files import ImageTree, file_rows, zip_text
from debeton.data.raw.tables import read_fields, read_table
from debeton.data.raw.tar_shards import find_shards, read_samples
from debeton.data.raw.unpack import unpack
from debeton.data.sources.birdsnap import read_tabs
from debeton.data.sources.chexpert import read_sheet
from debeton.data.sources.mnist import read_idx
from debeton.data.spec import DatasetSpec
from debeton.data.triggers.patches import read_patches
from debeton.data.triggers.trigger import read_pattern
from debeton.nets.weight_files import read_weight_file
from debeton.system.array_files import map_npy, read_npz
from debeton.system.digests import file_digest
from debeton.system.errors import DataError
from debeton.system.packed_files import RATIO, BoundedReader, PackedBomb
from debeton.system.plain_files import load_plain
from debeton.system.regular_files import MAX_NOTE_BYTES, read_regular
from debeton.system.zip_checksums import check_zip
from debeton.tools.prediction import list_images

SECONDS = 5
NO_REGULAR_FILE = "not a regular file, and is not read"


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    start = time.process_time()  # of this process, however busy the machine is
    yield
    assert time.process_time() - start < SECONDS


# --- what is no regular file -------------------------------------------------------------------

Make = Callable[[Path], None]
Reader = Callable[[Path], object]


@pytest.mark.parametrize("make", STRANGE)
def test_an_image_that_is_no_regular_file_is_one_bad_image(make: Make, tmp_path: Path) -> None:
    make(tmp_path / "x.jpg")
    for read in (to_rgb, lambda file: encode(file, as_jpeg=None)):
        with pytest.raises(BadImage, match=f"^is a (pipe|device|socket).*, {NO_REGULAR_FILE}; put a copy"):
            read(tmp_path / "x.jpg")


def test_a_sparse_image_of_8_gigabytes_is_not_read(tmp_path: Path) -> None:
    make_sparse(tmp_path / "x.jpg")
    with pytest.raises(BadImage, match=f"^has 8,589,934,592 bytes, more than the {MAX_IMAGE_BYTES:,} that are read;"):
        to_rgb(tmp_path / "x.jpg")


def test_a_larger_bound_on_pixels_allows_larger_files(tmp_path: Path) -> None:
    assert Limits().max_bytes == Limits(max_pixels=1000).max_bytes == MAX_IMAGE_BYTES == 6 * 89_478_485
    assert Limits(max_pixels=1 << 30).max_bytes == 6 << 30
    (tmp_path / "x.jpg").write_bytes(bytes(101))
    for raw in (tmp_path / "x.jpg", bytes(101)):
        with pytest.raises(BadImage, match="has 101 bytes, more than the 100 that are read"):
            read_bytes(raw, 100)


READERS: dict[str, Reader] = {
    "x.csv": read_table,
    "x.txt": read_fields,
    "x.tar": lambda path: read_samples(find_shards(path.parent)),
    "x.tar.gz": lambda path: read_samples(find_shards(path.parent)),
    "x.parquet": lambda path: read_parts(path.parent),
    "x.pt": lambda path: load_plain(path, "a checkpoint"),
    "x.safetensors": read_weight_file,
    "x.beton": OpenedFile,
    "x-idx3-ubyte": read_idx,
    "x-idx3-ubyte.gz": read_idx,
    "x.png": read_patches,
    "species.txt": lambda path: read_tabs(path, ("id",)),
    "x.npy": file_digest,
}


@pytest.mark.parametrize("make", [make_fifo, make_link_to_zeros])
@pytest.mark.parametrize("name", READERS)
def test_every_reader_refuses_what_is_no_regular_file(name: str, make: Make, tmp_path: Path) -> None:
    make(tmp_path / name)
    with pytest.raises(DataError, match=rf"{re.escape(name)}.*[ (]is a (pipe|device).*, {NO_REGULAR_FILE}"):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("name", ["x.csv", "x.txt", "x-idx3-ubyte"])
def test_text_of_8_gigabytes_is_not_read(name: str, tmp_path: Path) -> None:
    make_sparse(tmp_path / name)
    with pytest.raises(DataError, match=f"{name} has 8,589,934,592 bytes, more than the [0-9,]+ that are read"):
        READERS[name](tmp_path / name)


def test_a_file_that_says_it_is_empty_is_still_read_up_to_the_bound() -> None:
    assert len(read_regular("/proc/self/maps", MAX_NOTE_BYTES)) > 100
    with pytest.raises(DataError, match="has 101 bytes, more than the 100"):
        read_regular("/proc/self/maps", 100)


def test_a_pipe_among_images_is_skipped_like_other_broken_images(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    make_fifo(tmp_path / "c.jpg")
    make_sparse(tmp_path / "d.jpg")
    (tmp_path / "e.jpg").write_bytes(many_scans(64, 400))
    rows = file_rows(
        ImageTree(tmp_path), [f"{name}" for name in ("a.png", "b.png", "c.jpg", "d.jpg", "e.jpg")], [0] * 5
    )
    problems = dict(verify_rows(rows))
    assert [*problems] == [2, 3, 4]
    assert problems[2].startswith("is a pipe (FIFO), not a regular file")
    sidecar = write_beton(tmp_path / "x.beton", rows, DatasetSpec("x", ("a",)), "train", WriteOptions(skip_bad=True))
    assert sidecar["skipped"] == ["c.jpg", "d.jpg", "e.jpg"]
    with pytest.raises(DataError, match=r"3 of 5 rows cannot be stored(.|\n)*row 2: c\.jpg is a pipe"):
        write_beton(tmp_path / "y.beton", rows, DatasetSpec("x", ("a",)), "train")


def test_a_folder_to_predict_lists_a_pipe_so_that_it_is_counted(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    make_fifo(tmp_path / "b.jpg")
    (tmp_path / "folder.jpg").mkdir()
    assert list_images(tmp_path).names == ["a.png", "b.jpg"]


# --- scans and segments of a JPEG --------------------------------------------------------------


@pytest.mark.parametrize("count", [101, 400, 4000])
def test_a_jpeg_of_many_scans_is_refused(count: int) -> None:
    file = many_scans(64, count)
    with pytest.raises(BadImage, match=f"^is a JPEG of {count} scans, more than the bound of 100 at this size; save"):
        encode(file, as_jpeg=None)


def test_a_large_picture_may_have_fewer_scans() -> None:
    assert [jpeg_bounds.max_scans(side, side) for side in (1, 1000, 4230, 6000, 9459, 65500)] == [
        100,
        100,
        100,
        49,
        20,
        20,
    ]
    with pytest.raises(BadImage, match="of 30 scans, more than the bound of 20 at this size"):
        to_rgb(many_scans(9400, 30))


def test_the_scans_of_common_encoders_are_far_below_the_bound() -> None:
    usual = small_jpeg(64, progressive=True)
    assert usual.count(b"\xff\xda") == 10
    assert encode(usual, as_jpeg=None).data == usual


def test_the_scans_of_previews_in_the_metadata_do_not_count() -> None:
    preview = small_jpeg(16)
    file = small_jpeg(32)
    with_previews = file[:2] + segment(0xEB, preview) * 150 + file[2:] + preview * 30
    assert with_previews.count(b"\xff\xda") > jpeg_bounds.MAX_SCANS
    assert encode(with_previews, as_jpeg=None).data == with_previews


@pytest.mark.skipif(not pixels.AVAILABLE, reason="no C compiler or libjpeg-turbo")
@pytest.mark.parametrize(("count", "status"), [(100, 0), (101, -1), (400, -1)])
def test_the_loader_gives_up_on_many_scans(count: int, status: int) -> None:
    # The scans after the first give each coefficient once, so that libjpeg has nothing to complain of but their number.
    one = many_scans(64, 2)
    scans = one[one.index(b"\xff\xda", one.index(b"\xff\xda") + 1) : -2]
    head, data = one[: one.index(scans)], scans.partition(segment(0xDA, b"\1\1\0\1\x3f\0"))[2]
    bands = [(k, bits) for bits in range(3, -1, -1) for k in range(1, 64)][: count - 1]
    headers = [bytes([1, 1, 0, k, k, bits if bits == 3 else (bits + 1) << 4 | bits]) for k, bits in bands]
    more = [segment(0xDA, b"\1\1\0\1\1\x10")] * (count - 1 - len(headers))
    file = head + b"".join(segment_ + data for segment_ in [*(segment(0xDA, h) for h in headers), *more]) + b"\xff\xd9"
    assert file.count(b"\xff\xda") == count
    source = np.frombuffer(file, np.uint8)
    out = np.zeros((1, 64, 64, 3), np.uint8)
    stored = [
        np.array([0], np.uint64),
        np.array([len(file)], np.uint64),
        np.array([pixels.JPG], np.uint8),
        np.array([64]),
        np.array([64]),
    ]
    found = pixels.write_images(
        out,
        pixels.BYTES,
        (64, 64),
        stored,
        np.array([[0, 0, 64, 64]]),
        source.ctypes.data,
        pixels.STILL,
        np.zeros((2, 3), np.float32),
    )
    assert found.tolist() == [status]


def test_the_way_without_pixels_c_gives_up_on_500_scans() -> None:
    _, problem = try_decode(many_scans(64, 600), 64, 64)
    assert problem


@pytest.mark.parametrize(
    "unit", [segment(0xE1, b"Exif\0\0"), segment(0xFE), b"\xff\xd9", b"\xff\xf3", segment(0xE2, b"MPF\0")]
)
@pytest.mark.parametrize("count", [2_000, 200_000])
def test_a_header_of_thousands_of_segments_is_refused(unit: bytes, count: int) -> None:
    file = small_jpeg()
    with pytest.raises(BadImage, match=r"^has more than 1000 segments before its first scan; save the image without"):
        to_rgb(file[:2] + unit * count + file[2:])


def test_a_header_with_millions_of_stray_bytes_is_refused() -> None:
    file = small_jpeg()
    for stray in (b"\xff", b"\0"):
        with pytest.raises(BadImage, match=r"^has more than 65536 stray bytes before its first scan"):
            to_rgb(file[:2] + stray * 5_000_000 + file[2:])


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("marker", [b"\xff\xd9", b"\xff\xd9" + bytes(8), b"\xff\xd8\xff\xd9", b"\xff\xd0"])
def test_end_markers_anywhere_cost_no_time(marker: bytes, progressive: bool) -> None:
    file = small_jpeg(64, progressive=progressive)
    for at in (2, file.index(b"\xff\xda"), len(file) // 2, len(file) - 2, len(file)):
        for count in (2_000, 20_000):
            try:
                encode(file[:at] + marker * count + file[at:], as_jpeg=None)
            except BadImage:
                assert at < len(file)


def test_a_file_of_too_many_pieces_is_not_taken_apart() -> None:
    file = small_jpeg()
    assert split_jpeg(file[:2] + segment(0xFE) * (MAX_PIECES - 20) + file[2:]) is not None
    assert split_jpeg(file[:2] + segment(0xFE) * MAX_PIECES + file[2:]) is None


MARKERS = [bytes([0xFF, kind]) for kind in (0xD0, 0xD8, 0xD9, 0xDA, 0xC4, 0xDD, 0xE1, 0xFE, 0xFF, 0x00)]


@settings(max_examples=60, deadline=SECONDS * 1000)
@given(
    progressive=st.booleans(),
    units=st.lists(
        st.tuples(
            st.sampled_from([*MARKERS, segment(0xDA, b"\1\1\0\1\x3f\0"), segment(0xDD, b"\0\1"), segment(0xFE)]),
            st.integers(1, 3000),
            st.floats(0, 1),
        ),
        max_size=4,
    ),
)
def test_no_sequence_of_markers_takes_seconds(progressive: bool, units: list[tuple[bytes, int, float]]) -> None:
    file = small_jpeg(32, progressive=progressive)
    for unit, count, where in units:
        at = 2 + int(where * (len(file) - 2))
        file = file[:at] + unit * count + file[at:]
    with contextlib.suppress(BadImage):
        assert encode(file, as_jpeg=None).height == 32


# --- other formats -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n",
        b"\xd7\xcd\xc6\x9a\0\0" + bytes(80),
        b"%PDF-1.4\n",
        b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0" + bytes(40),
        b"8BPS\0\1" + bytes(80),
    ],
    ids=["EPS", "WMF", "PDF", "ICO", "PSD"],
)
def test_formats_that_start_programs_or_hold_other_images_are_unknown(content: bytes, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("subprocess.Popen", None)
    for name in ("x.jpg", "x.png"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadImage, match="no image of a known format"):
            to_rgb(tmp_path / name)
        with pytest.raises(DataError, match="no image of a known format"):
            read_patches(tmp_path / name)


def test_nothing_opens_images_but_by_the_list_of_formats() -> None:
    sources = Path(jpeg_bounds.__file__).parents[2]
    opened = [
        (file.name, line.strip())
        for file in sources.rglob("*.py")
        for line in file.read_text().splitlines()
        if re.search(r"Image\.open\(|imread\(", line) and "formats=" not in line
    ]
    assert opened == []


@pytest.mark.parametrize("side", [65_500, 100_000])
def test_a_png_of_many_pixels_is_refused_before_it_is_decoded(side: int) -> None:
    for read in (to_rgb, lambda data: encode(data, as_jpeg=None, max_resolution=64)):
        with pytest.raises(BadImage, match=f"^has {side} x {side} pixels, more than the bound of 89478485; pass"):
            read(png_of(side, side))


def test_a_jpeg_of_many_pixels_is_refused() -> None:
    file = bytearray(small_jpeg())
    at = file.index(b"\xff\xc0")
    file[at + 5 : at + 9] = (65500).to_bytes(2, "big") * 2
    with pytest.raises(BadImage, match="has 65500 x 65500 pixels, more than the bound of 89478485"):
        encode(bytes(file), as_jpeg=None)


@pytest.mark.parametrize("name", [b"zTXt", b"iCCP", b"iTXt"])
def test_a_png_with_a_packed_chunk_of_zeros_costs_no_memory(name: bytes) -> None:
    zeros = zlib.compress(bytes(20_000_000), 1)
    content = b"x\0\1\0\0\0" + zeros if name == b"iTXt" else b"x\0\0" + zeros
    with pytest.raises(BadImage, match="cannot be decoded"):
        to_rgb(png_of(8, 8, (name, content)))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_only_the_first_of_many_frames_is_read(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.new("L", (8, 8), k % 256) for k in range(300)]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, kind, save_all=True, append_images=frames[1:], **({} if kind != "WEBP" else {"lossless": True})
    )
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "seek", None)
    np.testing.assert_array_equal(to_rgb(buffer.getvalue()), np.zeros((8, 8, 3), np.uint8))
    with open_image(buffer.getvalue()) as image:
        assert image.tell() == 0


# --- archives ----------------------------------------------------------------------------------


def zeros_zip(path: Path, size: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("set/a.bin", "w") as member:
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))
    return path


def zeros_tar(path: Path, size: int, kind: str) -> Path:
    how = {"preset": 0} if kind == "xz" else {"compresslevel": 1}
    with tarfile.open(path, f"w:{kind}", **how) as archive:
        member = tarfile.TarInfo("set/a.bin")
        member.size = size
        archive.addfile(member, io.BytesIO(bytes(size)))
    return path


BIG = 66 << 20


def bomb(path: Path) -> Path:
    return zeros_zip(path, BIG) if path.suffix == ".zip" else zeros_tar(path, BIG, path.suffix[1:])


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar.bz2", "x.tar.xz"])
def test_an_archive_of_zeros_is_not_unpacked(name: str, tmp_path: Path) -> None:
    path = bomb(tmp_path / name)
    assert RATIO * path.stat().st_size < BIG
    with pytest.raises(
        PackedBomb, match=f"{name} was not unpacked: it becomes [0-9,]+ bytes or more, and [0-9,]+ are allowed"
    ):
        unpack(path, tmp_path / "raw", "set")
    assert [entry.name for entry in (tmp_path / "raw").rglob("*")] == []


def test_an_archive_whose_hash_is_known_is_unpacked(tmp_path: Path) -> None:
    unpack(bomb(tmp_path / "x.zip"), tmp_path / "raw", "set", verified=True)
    assert (tmp_path / "raw/set/a.bin").stat().st_size == BIG


@pytest.mark.parametrize("name", ["inner.zip", "inner.tar.gz"])
def test_a_bomb_inside_an_archive_counts_by_the_size_of_the_outer_one(name: str, tmp_path: Path) -> None:
    bomb(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / name, f"set/{name}")
    with pytest.raises(PackedBomb, match=f"{name} was not unpacked"):
        unpack(tmp_path / "x.zip", tmp_path / "raw", "set", inside="set/inner*")
    assert [entry.name for entry in (tmp_path / "raw").rglob("*")] == []


def test_an_archive_that_claims_terabytes_is_refused_by_its_claim(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/a.bin", bytes(1000))
        archive.filelist[0].file_size = 1 << 42
    with pytest.raises(PackedBomb, match="becomes 4,398,046,511,104 bytes or more"):
        unpack(tmp_path / "x.zip", tmp_path / "raw", "set")


def test_an_ordinary_archive_of_a_higher_ratio_than_photos_is_unpacked(tmp_path: Path) -> None:
    unpack(zeros_zip(tmp_path / "x.zip", 32 << 20), tmp_path / "raw", "set")
    assert (tmp_path / "raw/set/a.bin").stat().st_size == 32 << 20


def test_a_packed_shard_of_zeros_is_not_unpacked(tmp_path: Path) -> None:
    zeros_tar(tmp_path / "x.tar.gz", BIG, "gz")
    with pytest.raises(PackedBomb, match=r"x\.tar\.gz was not unpacked"):
        read_samples(find_shards(tmp_path))


def test_a_value_of_a_shard_of_many_bytes_is_not_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        member = tarfile.TarInfo("a.json")
        member.size = 20_000_000
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(DataError, match=r"x\.tar: a\.json has 20,000,000 bytes; expected values of one image, at most"):
        read_samples(find_shards(tmp_path))


def test_an_image_of_a_zip_that_claims_gigabytes_is_one_bad_image(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.jpg", small_jpeg())
        archive.filelist[0].file_size = 5 << 30
    with pytest.raises(BadImage, match=r"^has 5,368,709,120 bytes, more than the"):
        ImageTree(tmp_path / "x.zip").read("a/b.jpg")


def test_a_gzip_of_zeros_is_no_idx_file(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(bytes(BIG))
    with pytest.raises(PackedBomb, match=r"ubyte\.gz was not unpacked"):
        read_idx(path)


def test_a_checkpoint_of_packed_zeros_is_not_read(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(4)}, tmp_path / "whole.pt")
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as whole,
        zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, bytes(BIG) if name.endswith("/data/0") else whole.read(name))
    with pytest.raises(PackedBomb, match=r"x\.pt was not unpacked"):
        load_plain(tmp_path / "x.pt", "a checkpoint")
    assert load_plain(tmp_path / "whole.pt", "a checkpoint")["w"].tolist() == [0] * 4


@given(st.lists(st.tuples(st.sampled_from(["read", "seek"]), st.integers(0, 3000)), max_size=20), st.booleans())
def test_a_bounded_reader_reads_as_its_stream_does(steps: list[tuple[str, int]], packed: bool) -> None:
    content = np.random.default_rng(0).integers(0, 256, 2000, np.uint8).tobytes()
    packed_stream = gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(content)))
    inner = packed_stream if packed else io.BufferedReader(io.BytesIO(content))
    reader, plain = BoundedReader(inner, Path("x"), 2000), io.BytesIO(content)
    for step, number in steps:
        if step == "read":
            assert reader.read(number) == plain.read(number)
        else:
            reader.seek(number)
            plain.seek(min(number, len(content)) if packed else number)


# --- arrays -------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [map_npy, read_pattern])
def test_an_array_that_is_a_pipe_or_claims_terabytes_is_not_read(read: Reader, tmp_path: Path) -> None:
    make_fifo(tmp_path / "x.npy")
    with pytest.raises(DataError, match=NO_REGULAR_FILE):
        read(tmp_path / "x.npy")
    with (tmp_path / "y.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": (3, 1 << 19, 1 << 19)}
        )
    with pytest.raises(ValueError, match=r"mmap length is greater than file size|its header says"):
        read(tmp_path / "y.npy")


# --- tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_table, read_fields])
def test_a_line_of_megabytes_is_no_table(read: Reader, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"path,label\n" + b"a" * 30_000_000)
    with pytest.raises(DataError, match=r"x\.csv has a line of more than 1,048,576 bytes, at byte 1,048,576; expected"):
        read(tmp_path / "x.csv")


# --- zips whose members claim less than they hold, sheets and parquet files -----------------------


def lying_zip(path: Path, name: str, method: int, size: int = 16 << 20) -> Path:
    """Write a zip with one member of `size` zeros that claims to have 1,000."""
    with zipfile.ZipFile(path, "w", method) as archive:
        with archive.open(name, "w") as member:
            for _ in range(size >> 20):
                member.write(bytes(1 << 20))
        archive.filelist[0].file_size = 1000
    return path


def memory_peak(read: Callable[[], object], error: type[Exception], words: str) -> int:
    """Return the bytes of Python's memory that a read takes at most, which ends with this error."""
    tracemalloc.start()
    try:
        with pytest.raises(error, match=words):
            read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_more_of_a_zip_is_unpacked_than_it_claims(tmp_path: Path) -> None:
    images = lying_zip(tmp_path / "x.zip", "a/b.jpg", zipfile.ZIP_DEFLATED)
    assert memory_peak(lambda: ImageTree(images).read("a/b.jpg"), BadImage, "Bad CRC-32") < 4 << 20
    table = lying_zip(tmp_path / "y.zip", "metadata.csv", zipfile.ZIP_DEFLATED)
    assert memory_peak(lambda: zip_text(table, "metadata.csv"), DataError, "Bad CRC-32") < 4 << 20


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
def test_members_of_a_zip_that_nothing_bounds_are_refused(method: int, tmp_path: Path) -> None:
    words = r"b\.(jpg|csv|npy) is packed by (bzip2|LZMA), which nothing bounds; pack the archive"
    images = lying_zip(tmp_path / "x.zip", "a/b.jpg", method, 4 << 20)
    assert memory_peak(lambda: ImageTree(images).read("a/b.jpg"), BadImage, words) < 1 << 20
    table = lying_zip(tmp_path / "y.zip", "b.csv", method, 4 << 20)
    assert memory_peak(lambda: zip_text(table, "b.csv"), DataError, words) < 1 << 20
    arrays = lying_zip(tmp_path / "z.npz", "b.npy", method, 4 << 20)
    assert memory_peak(lambda: read_npz(arrays), DataError, words) < 1 << 20
    assert memory_peak(lambda: unpack(images, tmp_path / "raw", "a"), DataError, words) < 1 << 20
    assert memory_peak(lambda: check_zip(images), DataError, "is not what was written there") < 1 << 20


def test_a_table_in_a_zip_becomes_no_more_than_its_own_bytes_allow(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.csv", bytes(1000))
        archive.writestr("a/b.jpg", np.random.default_rng(0).bytes(1_000_000))
        archive.filelist[0].file_size = BIG << 1
    with pytest.raises(PackedBomb, match=r"x\.zip: metadata\.csv was not unpacked: it becomes 138,412,032 bytes"):
        zip_text(tmp_path / "x.zip", "metadata.csv")


def sheet(path: Path, more: bytes) -> Path:
    """Write an .xlsx of one patient, with more XML behind the row."""
    book = openpyxl.Workbook()
    for row in (("PATIENT", "PRIMARY_RACE"), ("p1", "White")):
        book.active.append(row)
    book.save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(b"</sheetData>", more + b"</sheetData>"))
    return path


def test_a_sheet_with_a_cell_in_its_last_row_and_column_is_read_in_time(tmp_path: Path) -> None:
    last = b"<row r='1048576'><c r='XFD1048576'><v>1</v></c></row>"
    assert read_sheet(sheet(tmp_path / "x.xlsx", last)) == [("p1", "White")]


def test_a_sheet_of_packed_megabytes_is_not_read(tmp_path: Path) -> None:
    row = b"<row r='3'><c r='A3'><v>1</v></c></row>"
    with pytest.raises(PackedBomb, match=r"x\.xlsx was not unpacked: it becomes [0-9,]+ bytes or more, and 16,777,216"):
        read_sheet(sheet(tmp_path / "x.xlsx", row * 500_000))


def repeated(path: Path, count: int, **columns: list[Any]) -> ArrowPart:
    """Write a parquet file in which each column repeats one value, and return it as it is read."""
    places = pa.array(np.zeros(count, np.int32))
    table = {name: pa.DictionaryArray.from_arrays(places, pa.array(values)) for name, values in columns.items()}
    pq.write_table(pa.table(table), path, store_schema=False, dictionary_pagesize_limit=1 << 30, row_group_size=count)
    return read_parts(path)[0]


def test_an_image_that_all_rows_of_a_parquet_file_share_is_in_memory_once(tmp_path: Path) -> None:
    image = small_jpeg(128)
    part = repeated(tmp_path / "x.parquet", 200_000, image=[image])
    before = pa.total_allocated_bytes()
    assert part.image_at("image", 199_999) == image
    assert pa.total_allocated_bytes() - before < 4 << 20  # not 200,000 times the image, 5 GB


def test_a_text_that_all_rows_of_a_parquet_file_share_is_refused(tmp_path: Path) -> None:
    part = repeated(tmp_path / "x.parquet", 100_000, image=[b"x"], name=["y" * 10_000])
    with pytest.raises(PackedBomb, match=r"x\.parquet: name was not unpacked: it becomes 1,000,000,000 bytes or more"):
        part.read(["name"])
    short = repeated(tmp_path / "y.parquet", 1000, image=[b"x"], name=["yé"])
    assert short.read(["name"])["name"].to_pylist() == ["yé"] * 1000


def test_a_parquet_file_of_more_equal_rows_than_its_bytes_allow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackedBomb, match=r"x\.parquet was not unpacked: it becomes 80,000,000 bytes or more"):
        repeated(tmp_path / "x.parquet", 10_000_000, label=[1])


def test_an_idx_header_whose_product_overflows_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x-idx3-ubyte").write_bytes(b"\0\0\x08\x04" + (1 << 16).to_bytes(4, "big") * 4)
    with pytest.raises(DataError, match=r"holds 0 bytes, its header .* promises 18446744073709551616"):
        read_idx(tmp_path / "x-idx3-ubyte")


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
@pytest.mark.parametrize("column", ["plain", "dictionary"])
def test_compressed_arrow_files_are_refused_before_they_are_unpacked(tmp_path, compression, column):
    values = pa.array([b"x" * 1000] * 1000)
    table = pa.table({"a": values.dictionary_encode() if column == "dictionary" else values})
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(tmp_path / "data.arrow"), "wb") as file:
        with pa.ipc.new_stream(file, table.schema, options=options) as writer:
            writer.write_table(table)
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}], "_split": "train"}')
    if compression is None:
        assert read_parts(tmp_path)[0].num_rows == 1000
        return
    before = pa.total_allocated_bytes()
    with pytest.raises(DataError, match=r"data\.arrow has compressed buffers, which may fill the memory"):
        read_parts(tmp_path)
    assert pa.total_allocated_bytes() == before
