"""A bit of a beton that flips on the disk is noticed: by training, by merging, and by `write-betons --verify`."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.faults.forged_tables import copy_beton, shown
from tests.toy import TOY_SPEC, toy_rows

from debeton.commands.write_betons import main
from debeton.data.beton.columns import write_columns
from debeton.data.beton.ffcv_format import HEADER, METADATA, METADATA_START
from debeton.data.beton.merge import merge_betons
from debeton.data.beton.reading import Beton, open_beton
from debeton.data.beton.sidecar import columns_path, sidecar_path
from debeton.data.beton.verify import verify_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.loader import pixels
from debeton.data.loader.loader import make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.raw.adopt import adopt_beton
from debeton.data.views.view import View
from debeton.system.errors import DataError

N = 60


@pytest.fixture(scope="module", params=["raw", "jpg"])
def beton(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param) / f"{request.param}_train.beton"
    write_beton(path, toy_rows(N, 0.5, 0, size=24), TOY_SPEC, "train", WriteOptions(mode=request.param))
    return path


@pytest.fixture
def copy(beton: Path, tmp_path: Path) -> Path:
    return copy_beton(beton, tmp_path / "a.beton")


def flip(path: Path, at: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << bit)]))


def flip_image(path: Path, row: int, at: int = 100, bit: int = 3) -> None:
    beton = open_beton(path)
    flip(path, int(beton.offsets[row]) + at, bit)


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("os_cache", [True, False])
def test_every_bit_that_flips_in_an_image_ends_the_epoch_with_its_row(copy: Path, *, os_cache: bool) -> None:
    rng = np.random.default_rng(1)
    sizes = open_beton(copy).sizes
    for row in rng.integers(0, N, 12).tolist():
        at, bit = int(rng.integers(0, int(sizes[row]))), int(rng.integers(0, 8))
        flip_image(copy, row, at, bit)
        with pytest.raises(DataError) as error:
            shown(copy, os_cache=os_cache, verify=True)
        flip_image(copy, row, at, bit)
        assert str(error.value) == (
            f"{copy}: the image of row {row} is damaged: the bytes of 0/{row} are not those that were written; copy or "
            f"write the beton again, and list all damage with: debeton write-betons --verify {copy}"
        )


@pytest.mark.usefixtures("way")
def test_an_image_is_compared_once_in_a_process_and_again_when_the_file_changed(copy: Path) -> None:
    beton = open_beton(copy)
    loader = make_loader(View.whole(beton).subset(np.arange(50)), 16, options=LoaderOptions(num_workers=1))
    assert beton.image_sums is not None
    assert not beton.image_sums.compared.any()
    list(loader)
    assert np.flatnonzero(~beton.image_sums.compared).tolist() == list(range(50, N))
    everything = make_loader(View.whole(beton), 16, options=LoaderOptions(num_workers=1))
    assert len(list(everything)) == 4  # the last batch holds images of both kinds
    assert beton.image_sums.compared.all()
    copy.touch()
    assert len(list(loader)) == 4
    beton.image_sums.compared[:] = False
    flip_image(copy, 3)
    with pytest.raises(DataError, match="its images are not those of the beton that was opened"):
        list(loader)
    assert not beton.image_sums.compared.any()


def test_without_loader_verify_no_checksum_is_read(copy: Path) -> None:
    columns_path(copy).unlink()
    beton = open_beton(copy)
    assert len(list(make_loader(View.whole(beton), 16, options=LoaderOptions(verify=False)))) == 4
    assert "image_sums" not in vars(beton)


def test_the_checksums_are_those_of_zlib_at_every_length(tmp_path: Path) -> None:
    if not pixels.AVAILABLE:
        pytest.skip(f"pixels.c is not compiled: {pixels.MISSING}")
    data = np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8)
    widths = [1, 2, 5, 6, 10, 11, 21, 22, 42, 43, 44, 85, 86, 200, 341, 999]  # 3 bytes each, around 16, 64 and 256
    for start in (0, 1, 2):
        for width in widths:
            part, one = data[start : start + 3 * width], np.ones(1, np.int64)
            stored = (np.array([start], "u8"), np.array([3 * width], "u8"), np.ones(1, "u1"), one, one * width)
            boxes, out = np.array([[0, 0, 1, width]]), np.empty((1, 1, width, 3), np.uint8)
            for wrong in (0, 1):
                status = pixels.write_images(
                    out,
                    pixels.BYTES,
                    (1, width),
                    stored,
                    boxes,
                    data.ctypes.data,
                    pixels.STILL,
                    np.ones((2, 3), np.float32),
                    room=len(data),
                    crcs=np.array([zlib.crc32(part) ^ wrong]),
                )
                assert status.tolist() == [pixels.ALTERED * wrong]


def test_a_damaged_image_is_not_merged_under_a_new_checksum(copy: Path, beton: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.beton"
    write_beton(other, toy_rows(4, 0.5, 1, size=24), TOY_SPEC, "train")
    flip_image(copy, 7)
    with pytest.raises(DataError, match=r"a\.beton: the image of row 7 is damaged: the bytes of 0/7"):
        merge_betons([copy, other], tmp_path / "both.beton", "train")
    assert not list(tmp_path.glob("both*"))
    merge_betons([beton, other], tmp_path / "both.beton", "train")
    assert verify_beton(tmp_path / "both.beton").is_whole


# --- write-betons --verify ------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *paths: Path) -> tuple[int, list[str]]:
    status = main(["--verify", *map(str, paths)])
    return status, capsys.readouterr().out.splitlines()


def test_verify_lists_every_damaged_row_with_its_name(copy: Path, beton: Path, capsys: Any) -> None:
    assert run(capsys, copy, beton) == (0, [f"{copy}: whole: {N} rows", f"{beton}: whole: {N} rows"])
    for row in (3, 41):
        flip_image(copy, row)
    assert run(capsys, copy, beton) == (
        1,
        [
            f"{copy}: the image of row 3 (0/3) is damaged",
            f"{copy}: the image of row 41 (0/41) is damaged",
            f"{copy}: 2 of {N} images are damaged; copy or write the beton again",
            f"{beton}: whole: {N} rows",
        ],
    )
    for row in range(5, 35):
        flip_image(copy, row)
    status, lines = run(capsys, copy)
    assert (status, len(lines), lines[-2]) == (1, 22, f"{copy}: and 12 more")


@pytest.mark.parametrize("part", ["beton", "sidecar", "columns"])
def test_a_bit_that_flips_in_any_of_the_three_files_is_noticed_or_changes_nothing(copy: Path, part: str) -> None:
    file = {"beton": copy, "sidecar": sidecar_path(copy), "columns": columns_path(copy)}[part]
    rng, before = np.random.default_rng(2), seen(open_beton(copy))
    tables = [*range(HEADER.itemsize), *range(METADATA_START, METADATA_START + N * METADATA.itemsize)]
    places = tables if part == "beton" else range(file.stat().st_size)
    noticed = 0
    for place in rng.choice(places, 40).tolist():
        bit = int(rng.integers(0, 8))
        flip(file, place, bit)
        found = verify_beton(copy)
        noticed += not found.is_whole
        if found.is_whole:
            assert before.items() <= seen(open_beton(copy)).items(), place
        assert all("\n" not in line for line in found.lines())
        flip(file, place, bit)
    assert noticed >= {"beton": 40, "sidecar": 25, "columns": 20}[part]


def seen(beton: Beton) -> dict[str, Any]:
    """All that a run sees of a beton."""
    said = {key: value for key, value in beton.sidecar.items() if key != "sidecar_hash"}
    columns = {name: beton.extra[name].tolist() for name in beton.extra}
    codes = [column.tolist() for column in beton.codes]
    return {**said, "seen columns": columns, "seen codes": codes, "seen content": beton.read_content()}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"left"', '"lefu"'),
        ("0.25", "0.35"),
        ('"top1"', '"top0"'),
        ('"split": "train"', '"split": "tqain"'),
        ('"dataset": "toy"', '"dataset": "tox"'),
        ('"sidecar_hash": "', '"sidecar_hash": "0'),
    ],
)
def test_what_a_sidecar_means_is_covered_by_its_hash(copy: Path, old: str, new: str) -> None:
    text = sidecar_path(copy).read_text()
    assert old in text
    sidecar_path(copy).write_text(text.replace(old, new, 1))
    with pytest.raises(DataError) as error:
        open_beton(copy)
    assert str(error.value) == (
        f"{sidecar_path(copy)} does not say what was written: its hash of itself differs, so it is damaged or was "
        "edited; copy it again, or write the beton again"
    )


def older(path: Path, *without: str) -> None:
    """Make a beton what an older version wrote: without checksums of its images and without these entries."""
    beton = open_beton(path)
    columns = {name: beton.extra[name].tolist() for name in beton.extra}
    write_columns(columns_path(path), columns, beton.sidecar["checksum"])
    sidecar = json.loads(sidecar_path(path).read_text())
    sidecar_path(path).write_text(json.dumps({key: value for key, value in sidecar.items() if key not in without}))


def test_a_beton_of_an_older_version_opens_and_verify_says_what_it_lacks(copy: Path, capsys: Any) -> None:
    older(copy, "sidecar_hash")
    assert len(shown(copy, os_cache=True, verify=True)[0]) == N
    status, lines = run(capsys, copy)
    assert status == 0
    assert lines == [
        f"{copy}: a.beton.json has no hash of itself, as an older version wrote it",
        f"{copy}: it has no checksum of each image; all of them together are those that its sidecar names",
        f"{copy}: whole: {N} rows",
    ]
    flip_image(copy, 3)
    status, lines = run(capsys, copy)
    assert (status, len(lines)) == (1, 2)
    assert "its images, together, are not those that its sidecar names" in lines[0]


def test_a_beton_without_any_checksum_of_its_images_is_not_called_whole(copy: Path, capsys: Any) -> None:
    older(copy, "sidecar_hash", "content")
    status, lines = run(capsys, copy)
    assert status == 1
    assert "its images cannot be compared, because nothing holds a checksum of them" in lines[0]
    assert len(shown(copy, os_cache=True, verify=True)[0]) == N


def test_an_adopted_beton_has_checksums_of_its_images(copy: Path, capsys: Any) -> None:
    sidecar_path(copy).unlink()
    columns_path(copy).unlink()
    adopt_beton(copy, label="label", split="train", name="toy")
    assert run(capsys, copy) == (0, [f"{copy}: whole: {N} rows"])
    flip_image(copy, 11)
    with pytest.raises(DataError, match=r"a\.beton: the image of row 11 is damaged"):
        shown(copy, os_cache=True, verify=True)
    status, lines = run(capsys, copy)
    assert (status, lines[0][-40:]) == (1, f"{copy}: the image of row 11 (a[11]) is damaged"[-40:])


def test_verify_takes_no_other_work(copy: Path) -> None:
    with pytest.raises(ValueError, match="--verify reads betons and writes nothing; leave --check out"):
        main(["--verify", str(copy), "--check"])
