"""A beton is read through the file that was opened, and says when that file or its path changed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.toy import TOY_SPEC, toy_rows

from debeton.data.beton.content import PARTS, differing_parts
from debeton.data.beton.merge import merge_betons
from debeton.data.beton.opened import OpenedFile
from debeton.data.beton.reading import Beton, open_beton
from debeton.data.beton.sidecar import columns_path, sidecar_path
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.spec import Rows
from debeton.system.errors import DataError

TRIPLET = (lambda path: path, sidecar_path, columns_path)


def write(path: Path, rows: Rows | None = None, mode: str = "raw") -> Path:
    write_beton(path, rows or toy_rows(20, 0.5, 0), TOY_SPEC, "train", WriteOptions(mode=mode))
    return path


def changed(rows: Rows, part: str) -> Rows:
    """The same rows but for one part of the content."""
    label, attribute, image, names = rows.label.copy(), rows.attribute.copy(), rows.image, list(rows.names)
    columns = {"weight": np.arange(len(rows))}
    if part == "rows":
        names[3] = "another"
    elif part == "labels":
        label[3] = 1 - label[3]
    elif part == "attributes":
        attribute[3] = 1 - attribute[3]
    elif part == "columns":
        columns["weight"][3] = 99
    elif part == "images":
        image = lambda i: rows.image(i) ^ np.uint8(i == 3)  # noqa: E731
    return Rows(label, attribute, image, names, columns=columns)


# --- the content and its name ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_a_difference_in_one_part_is_named_by_that_part(tmp_path: Path, part: str) -> None:
    rows = toy_rows(20, 0.5, 0)
    sidecars = [
        write_beton(tmp_path / f"{name}.beton", changed(rows, name), TOY_SPEC, "train", WriteOptions(mode="raw"))
        for name in ("same", part)
    ]
    assert differing_parts(sidecars[0]["content"], sidecars[1]["content"]) == [part]


def test_the_same_rows_have_the_same_content_on_any_page_and_path(tmp_path: Path) -> None:
    first, again = (open_beton(write(tmp_path / name, mode="jpg")) for name in ("a.beton", "b.beton"))
    assert first.content == again.content == first.sidecar["content"] == first.read_content()
    assert set(first.content) == set(PARTS)


def test_a_merged_beton_names_its_content_as_a_written_one(tmp_path: Path) -> None:
    rows = toy_rows(20, 0.5, 0)
    halves = [
        Rows(
            rows.label[k : k + 10], rows.attribute[k : k + 10], lambda i, k=k: rows.image(k + i), rows.names[k : k + 10]
        )
        for k in (0, 10)
    ]
    paths = [write(tmp_path / f"{k}.beton", half) for k, half in enumerate(halves)]
    merged = merge_betons(paths, tmp_path / "merged.beton", "train")
    assert merged["content"] == open_beton(write(tmp_path / "whole.beton", rows)).content


def test_a_beton_without_hashes_in_its_sidecar_is_named_by_its_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton")
    named = open_beton(path).content
    sidecar = json.loads(sidecar_path(path).read_text())
    del sidecar["content"], sidecar["sidecar_hash"]
    sidecar_path(path).write_text(json.dumps(sidecar))
    old = open_beton(path)
    assert (old.has_content, old.content, old.has_content) == (False, named, True)


def test_a_beton_that_is_newer_than_its_sidecar_is_read_and_compared(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton")
    with path.open("r+b") as file:
        file.seek(int(open_beton(path).offsets[7]))
        file.write(b"\x01\x02\x03")
    edited = open_beton(path)
    with pytest.raises(DataError, match=r"a\.beton: the images are not those that its sidecar names"):
        edited.check_sidecar()
    assert differing_parts(edited.sidecar["content"], edited.content) == ["images"]


# --- changes while it is open ----------------------------------------------------------------------------------------


def copied_over(path: Path, other: Path) -> None:
    for part in TRIPLET:
        shutil.copyfile(part(other), part(path))


@pytest.mark.parametrize("mode", ["raw", "jpg"])
@pytest.mark.parametrize(
    ("rewrite", "words"),
    [
        (lambda path, mode: write(path, toy_rows(20, 0.5, 1), mode), "another file lies at .* now: its rows"),
        (lambda path, mode: write(path, changed(toy_rows(20, 0.5, 0), "images"), mode), "its columns and images are"),
        (lambda path, mode: copied_over(path, write(path.with_name("b.beton"), toy_rows(20, 0.5, 1), mode)), "changed"),
        (lambda path, mode: path.write_bytes(b"something else" * 1000000), "cannot be read as a beton"),
        (lambda path, mode: os.truncate(path, 2_100_000), r"was cut while it was open: it had \d+ bytes and has 2100"),
        (lambda path, mode: os.truncate(path, 9_000_000), "changed while it was open, and it cannot be read as a bet"),
    ],
)
def test_other_content_at_the_path_is_one_sentence(
    tmp_path: Path, mode: str, rewrite: Callable[..., object], words: str
) -> None:
    path = write(tmp_path / "a.beton", mode=mode)
    beton = open_beton(path)
    beton.check_unchanged()
    rewrite(path, mode)
    for _ in range(2):  # it stays an error
        with pytest.raises(DataError, match=words) as error:
            beton.check_unchanged()
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)


def test_a_write_in_place_is_noticed_though_size_and_time_are_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton")
    times = path.stat()
    beton = open_beton(path)
    with path.open("r+b") as file:
        file.seek(int(beton.offsets[7]))
        file.write(b"\x01\x02\x03")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DataError, match="changed while it was open: its images are not those"):
        beton.check_unchanged()


@pytest.mark.parametrize(
    "harmless",
    [
        lambda path: os.utime(path),
        lambda path: path.chmod(0o600),
        lambda path: os.link(path, path.with_name("link.beton")),
        lambda path: path.unlink(),
        lambda path: path.parent.rename(path.parent.with_name("moved")),
        lambda path: write(path),
        lambda path: path.write_bytes(path.read_bytes()),
        lambda path: copied_over(path, write(path.with_name("b.beton"))),
        lambda path: None,
    ],
)
def test_a_beton_that_was_touched_moved_or_written_anew_alike_stays_open(
    tmp_path: Path, harmless: Callable[[Path], object]
) -> None:
    (tmp_path / "data").mkdir()
    beton = open_beton(write(tmp_path / "data" / "a.beton"))
    assert len(beton.extra["path"]) == 20  # opens the columns
    content = beton.content
    harmless(beton.path)
    for _ in range(2):
        beton.check_unchanged()
    assert beton.hash_images() == content["images"]


def test_columns_of_another_beton_are_noticed(tmp_path: Path) -> None:
    rows = toy_rows(20, 0.5, 0)
    beton = open_beton(write(tmp_path / "a.beton", changed(rows, "")))
    assert beton.extra["weight"].tolist() == list(range(20))
    write(tmp_path / "b.beton", changed(rows, "columns"))  # the same tables
    shutil.copyfile(columns_path(tmp_path / "b.beton"), columns_path(beton.path))
    with pytest.raises(DataError, match="its columns are not those of the beton that was opened"):
        beton.check_unchanged()


def test_a_check_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beton = open_beton(write(tmp_path / "a.beton"))
    monkeypatch.setattr(os, "preadv", None)
    beton.check_unchanged()


# --- reading and finding ---------------------------------------------------------------------------------------------


def test_a_short_read_is_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.beton")
    expected = open_beton(path).read_content()
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, at: real(file, [memoryview(buffers[0])[:1000]], at))
    assert open_beton(path).read_content() == expected


def test_the_end_of_a_file_is_no_short_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(10))
    with pytest.raises(DataError, match="ends at byte 10"):
        OpenedFile(tmp_path / "a").fill(memoryview(bytearray(7)), 4)


@pytest.mark.parametrize("beside", ["target", "link", "middle"])
def test_a_beton_behind_links_is_found_with_its_sidecar(tmp_path: Path, beside: str) -> None:
    for name in ("data", "middle", "store"):
        (tmp_path / name).mkdir()
    target = write(tmp_path / "store" / "v2.beton")
    middle, link = tmp_path / "middle" / "m.beton", tmp_path / "data" / "toy_train.beton"
    middle.symlink_to("../store/v2.beton")
    link.symlink_to(middle)
    for part in TRIPLET[1:] if beside != "target" else ():
        part(target).rename(part({"link": link, "middle": middle}[beside]))
    beton = open_beton(link)
    assert beton.extra["path"].tolist() == [f"0/{i}" for i in range(20)]
    assert beton.has_content
    link.unlink()
    link.symlink_to(write(tmp_path / "store" / "v3.beton", toy_rows(20, 0.5, 1)))
    with pytest.raises(DataError, match="another file lies at"):
        beton.check_unchanged()


def test_a_link_to_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.beton").symlink_to("gone.beton")
    with pytest.raises(FileNotFoundError, match=r"a\.beton \(a link to gone\.beton, which does not exist\)"):
        open_beton(tmp_path / "a.beton")


def test_a_beton_is_sent_to_a_process_by_its_path_and_must_be_the_same_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton")
    sent = pickle.dumps(open_beton(path))
    assert len(sent) < 2000
    write(path)  # with the same content
    received: Beton = pickle.loads(sent)
    assert received.label.tolist() == open_beton(path).label.tolist()
    write(path, toy_rows(20, 0.5, 1))
    with pytest.raises(DataError, match=r"a\.beton is not the file that the sending process has open"):
        pickle.loads(sent)
