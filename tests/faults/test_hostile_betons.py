"""A beton made to harm is refused in one sentence. Nothing is read outside of a row."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.faults.forged_tables import copy_beton, outcome, seal, shown, write_tables
from tests.toy import TOY_SPEC, toy_rows

from debeton.data.beton.ffcv_format import HEADER, IMAGE, JPG, RAW, Room, read_own
from debeton.data.beton.images import encode_jpeg
from debeton.data.beton.places import check_images
from debeton.data.beton.reading import open_beton
from debeton.data.beton.sidecar import sidecar_path
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.loader.decoding import ImageReader
from debeton.data.loader.frames import frame_sides
from debeton.system.errors import DataError

ROOT = Path(__file__).parents[2]
N = 40
FORGED = 40


@pytest.fixture(scope="module")
def betons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A raw beton and one of JPEGs, by mode."""
    paths = {mode: tmp_path_factory.mktemp(mode) / f"{mode}_train.beton" for mode in ("raw", "jpg")}
    for mode, path in paths.items():
        write_beton(path, toy_rows(N, 0.5, 0, size=24), TOY_SPEC, "train", WriteOptions(mode=mode))
    return paths


@pytest.fixture(params=["raw", "jpg"])
def beton(request: pytest.FixtureRequest, betons: dict[str, Path]) -> Path:
    return betons[request.param]


@pytest.mark.parametrize("way", ["pixels.c", "ffcv"])
def test_made_up_tables_never_end_the_process_and_never_show_other_images(
    betons: dict[str, Path], tmp_path: Path, way: str
) -> None:
    paths = [str(copy_beton(beton, tmp_path / beton.name)) for beton in betons.values()]
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.faults.forged_tables", "7", str(FORGED), *paths],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "DEBETON_PIXELS": way},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    outcomes = [line.split()[:2] for line in done.stdout.splitlines()]
    assert len(outcomes) == 2 * FORGED
    assert sum(compared == "refused" for compared, _ in outcomes) >= 1.6 * FORGED
    assert not [line for line in done.stdout.splitlines() if line.startswith("other")]


def forged(beton: Path, to: Path, change: Callable[[np.ndarray, np.ndarray], Any]) -> Path:
    """A copy of a beton with other tables, and all checksums of the tables made again."""
    path, stored = copy_beton(beton, to), read_own(beton)
    metadata, allocations = stored.metadata.copy(), stored.allocations.copy()
    change(metadata, allocations)
    write_tables(path, metadata, allocations, open_beton(beton))
    return path


def place_at(metadata: np.ndarray, allocations: np.ndarray, at: int) -> None:
    metadata["f0"]["data_ptr"][5] = allocations["ptr"][5] = at


LIES = {
    "lies outside bytes": [
        lambda m, a: place_at(m, a, 0),
        lambda m, a: place_at(m, a, (1 << 64) - 1),
        lambda m, a: place_at(m, a, 1 << 40),
        lambda m, a: a["size"].__setitem__(5, 1 << 63),
    ],
    "has no byte": [lambda m, a: a["size"].__setitem__(5, 0)],
    "neither JPEG nor raw": [lambda m, a: m["f0"]["mode"].__setitem__(5, 2)],
    "has no pixel": [lambda m, a: m["f0"]["height"].__setitem__(5, 0)],
    "does not name each row once": [
        lambda m, a: a["sample_id"].__setitem__(5, 4),
        lambda m, a: a["sample_id"].__setitem__(5, 1 << 63),
    ],
    "by the table of stored bytes": [lambda m, a: a["ptr"].__setitem__(5, a["ptr"][6])],
}


@pytest.mark.parametrize(
    ("message", "change"),
    [(words, lie) for words, lies in LIES.items() for lie in lies],
    ids=[f"{words}-{k}" for words, lies in LIES.items() for k in range(len(lies))],
)
def test_each_lie_of_a_table_is_named_when_the_beton_is_opened(
    beton: Path, tmp_path: Path, message: str, change: Callable[..., Any]
) -> None:
    path = forged(beton, tmp_path / "x.beton", change)
    with pytest.raises(DataError, match=message) as error:
        open_beton(path)
    assert str(path) in str(error.value)


def test_an_image_across_the_border_of_a_page_is_refused() -> None:
    image, sizes = np.zeros(3, IMAGE), np.full(3, 27, np.uint64)
    image["mode"], image["height"], image["width"] = RAW, 3, 3
    image["data_ptr"] = [0, (1 << 21) - 27, 1 << 21]
    check_images(image, sizes, Room(0, 1 << 22, 1 << 21))
    image["data_ptr"][1] += 1
    with pytest.raises(ValueError, match="the image of row 1 crosses the border of a page of 2097152 bytes"):
        check_images(image, sizes, Room(0, 1 << 22, 1 << 21))


def test_a_raw_row_of_more_pixels_than_the_file_has_bytes_is_refused(beton: Path, tmp_path: Path) -> None:
    def change(metadata: np.ndarray, allocations: np.ndarray) -> None:
        metadata["f0"]["mode"][5], metadata["f0"]["height"][5], metadata["f0"]["width"][5] = RAW, 4000, 4000

    with pytest.raises(DataError, match="the image of row 5 is raw and has another size than its pixels"):
        open_beton(forged(beton, tmp_path / "x.beton", change))


def test_a_jpeg_of_more_pixels_than_its_bytes_can_code_is_refused(beton: Path, tmp_path: Path) -> None:
    def change(metadata: np.ndarray, allocations: np.ndarray) -> None:
        metadata["f0"]["mode"][5], metadata["f0"]["height"][5], metadata["f0"]["width"][5] = JPG, 65500, 65500

    with pytest.raises(DataError, match="the image of row 5 is a JPEG of fewer bytes than its pixels need"):
        open_beton(forged(beton, tmp_path / "x.beton", change))


def test_a_jpeg_that_takes_gigabytes_to_decode_is_refused() -> None:
    image, sizes = np.zeros(2, IMAGE), np.full(2, 1 << 20, np.uint64)
    image["data_ptr"], image["mode"], image["height"] = [0, 1 << 20], JPG, 1 << 14
    image["width"] = [1 << 14, (1 << 14) + 1]  # 2^28 pixels, and a column more
    with pytest.raises(ValueError, match="the image of row 1 is a JPEG of more than 268435456 pixels"):
        check_images(image, sizes, Room(0, 1 << 22, 1 << 21))


@pytest.mark.parametrize("page_size", [0, 1, 3 << 20, (1 << 21) + 1, 1 << 20, (1 << 32) - 1])
def test_pages_of_an_impossible_size_are_refused(beton: Path, tmp_path: Path, page_size: int) -> None:
    path = copy_beton(beton, tmp_path / "x.beton")
    header = np.frombuffer(path.read_bytes()[: HEADER.itemsize], HEADER).copy()
    header["page_size"] = page_size
    with path.open("r+b") as file:
        file.write(header.tobytes())
    with pytest.raises(DataError, match=f"its pages have {page_size} bytes, which is no power of two"):
        open_beton(path)


def test_raw_sides_that_are_exchanged_are_noticed_by_the_hash_of_the_images(tmp_path: Path) -> None:
    rows = toy_rows(N, 0.5, 0, size=24)
    beton = tmp_path / "wide_train.beton"
    write_beton(
        beton, type(rows)(rows.label, rows.attribute, lambda i: rows.image(i)[:12], rows.names), TOY_SPEC, "train"
    )

    def change(metadata: np.ndarray, allocations: np.ndarray) -> None:
        metadata["f0"]["height"][5], metadata["f0"]["width"][5] = 24, 12

    path = forged(beton, tmp_path / "x.beton", change)
    with pytest.raises(DataError, match="the sizes or checksums of its images are not those that its sidecar names"):
        shown(path, os_cache=True, verify=True)


# --- readers that are given tables which nobody checked -------------------------------------------------------------


def read_image(data: bytes, mode: int, sides: tuple[int, int], offset: int = 0, size: int | None = None) -> np.ndarray:
    """Read one image whose tables say what the arguments say, from a file of these bytes alone."""
    columns = [
        np.array([value], dtype)
        for value, dtype in zip(
            (offset, len(data) if size is None else size, mode, *sides), ("u8", "u8", "u1", "i8", "i8"), strict=True
        )
    ]
    reader = ImageReader(Path(os.devnull), *columns, content=np.frombuffer(data, np.uint8), num_workers=1)
    return reader.read(np.array([0]), reader.whole_boxes([0]), (16, 16))


@pytest.mark.usefixtures("way")
def test_neither_way_of_decoding_reads_outside_of_the_bytes_of_a_row() -> None:
    data = bytes(range(48))
    assert read_image(data, RAW, (4, 4)).shape == (1, 16, 16, 3)
    for sides, offset, size in (
        ((4, 4), 1, 48),
        ((4, 4), 49, 48),
        ((4, 4), (1 << 64) - 1, 48),
        ((4, 4), 0, 49),
        ((4, 4), 0, (1 << 64) - 1),
        ((4000, 4000), 0, 48),
        ((4, 4), 0, 47),
        ((0, 4), 0, 0),
    ):
        with pytest.raises(DataError, match="the image of row 0 does not lie in the file as its tables say"):
            read_image(data, RAW, sides, offset, size)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("sides", [(32, 24), (24, 33), (48, 64), (12, 16), (6, 8), (3000, 4000)])
def test_a_jpeg_of_other_sides_than_the_tables_say_is_an_error_on_both_ways(sides: tuple[int, int]) -> None:
    data = encode_jpeg(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8), 90)
    assert read_image(data, JPG, (24, 32)).shape == (1, 16, 16, 3)
    assert frame_sides(np.frombuffer(data, np.uint8)) == (24, 32)
    with pytest.raises(DataError, match="the image of row 0 is damaged and cannot be decoded"):
        read_image(data, JPG, sides)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xc0\0\x11\x08", b"\xff" * 99]
)
def test_bytes_that_are_no_jpeg_are_an_error_on_both_ways(data: bytes) -> None:
    with pytest.raises(DataError, match="the image of row 0 is damaged and cannot be decoded"):
        read_image(data + b"....", JPG, (4, 4), size=len(data))


# --- sidecars -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entries",
    [
        {"spec": {**TOY_SPEC.to_dict(), "classes": "left"}},
        {"spec": {**TOY_SPEC.to_dict(), "classes": []}},
        {"spec": {**TOY_SPEC.to_dict(), "attributes": [1, 2]}},
        {"spec": {**TOY_SPEC.to_dict(), "mean": [0.5]}},
        {"spec": {**TOY_SPEC.to_dict(), "std": [0.25, 0.0, 0.25]}},
        {"spec": {**TOY_SPEC.to_dict(), "std": [0.25, float("nan"), 0.25]}},
        {"spec": {**TOY_SPEC.to_dict(), "aligned": [[0], [7]]}},
        {"spec": {**TOY_SPEC.to_dict(), "missing": [-1]}},
        {"spec": {**TOY_SPEC.to_dict(), "factors": [{"name": "x"}]}},
        {"spec": {**TOY_SPEC.to_dict(), "metric": 3}},
        {"file_size": float("inf")},
        {"image": 5},
        {"columns": "path"},
        {"content": []},
        {"dataset": None, "split": None, "skipped": "none"},
    ],
    ids=str,
)
def test_a_sidecar_of_odd_values_with_its_hash_made_again_is_one_sentence(
    beton: Path, tmp_path: Path, entries: dict[str, Any]
) -> None:
    path = copy_beton(beton, tmp_path / "x.beton")
    seal(path, **entries)
    with pytest.raises(DataError, match=r"x\.beton\.json\b.*: .*; .*write the beton again$") as error:
        open_beton(path)
    assert "\n" not in str(error.value)


def test_a_sidecar_of_a_hundred_thousand_brackets_is_one_sentence(beton: Path, tmp_path: Path) -> None:
    path = copy_beton(beton, tmp_path / "x.beton")
    sidecar_path(path).write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"x\.beton\.json nests lists or tables too deeply"):
        open_beton(path)


def test_a_pipe_in_place_of_a_beton_or_its_sidecar_does_not_hang(beton: Path, tmp_path: Path) -> None:
    path = copy_beton(beton, tmp_path / "x.beton")
    sidecar_path(path).unlink()
    os.mkfifo(sidecar_path(path))
    with pytest.raises(DataError, match="has no sidecar"):
        open_beton(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="is no regular file"):
        open_beton(path)


def test_an_honest_copy_is_shown_as_it_was(beton: Path, tmp_path: Path) -> None:
    path = forged(beton, tmp_path / "x.beton", lambda metadata, allocations: None)
    assert outcome(path, shown(beton, os_cache=True, verify=True), os_cache=False, verify=True) == "same"
