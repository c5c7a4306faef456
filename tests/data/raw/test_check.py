"""The report of `--check` before anything is written."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from debeton.data.raw import shared_images as shared_images_module
from debeton.data.raw.check import check_set, check_split, count_differences
from debeton.data.raw.image_files import ImageTree, array_rows, file_rows
from debeton.data.raw.other_files import UNKNOWN_SUFFIX
from debeton.data.raw.shared_images import shared_images
from debeton.data.sources import SOURCES, Dataset
from debeton.data.spec import DatasetSpec

SPEC = DatasetSpec("birds", ("land", "water"), ("forest", "sea"), aligned=((0,), (1,)))


def photos(folder: Path, names: list[str]) -> ImageTree:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)
    return ImageTree(folder)


def test_a_complete_split_has_no_problem(tmp_path: Path) -> None:
    names = [f"x/{i}.jpg" for i in range(4)]
    rows = file_rows(photos(tmp_path, names), names, [0, 0, 1, 1], [0, 1, 1, 1])
    lines, problems = check_split("train", SPEC, rows, (1, 1, 0, 2), 1, False)
    assert problems == 0
    assert lines == [
        "birds/train: 4 rows",
        "  classes: land 2 · water 2",
        "  groups: land, forest 1 · land, sea 1 · water, sea 2",
        "  bias-aligned: 3 (75.00%)",
        "  all 4 images decode",
    ]


def test_missing_files_broken_images_and_wrong_counts_are_listed_separately(tmp_path: Path) -> None:
    names = [f"x/{i}.jpg" for i in range(6)]
    tree = photos(tmp_path, names)
    (tmp_path / "x/1.jpg").unlink()
    (tmp_path / "x/4.jpg").write_bytes(b"\xff\xd8 no photo")
    rows = file_rows(tree, names, [0, 0, 1, 1, 0, 1], [0, 1, 1, 1, 0, 1])
    lines, problems = check_split("train", SPEC, rows, (2, 3, 0, 3), 1, False)
    text = "\n".join(lines)
    assert problems == 4
    assert "    6 rows, its owners count 8\n    land, sea: 1 rows, expected 3" in text
    assert "  1 of 6 files are missing:\n    x/1.jpg" in text
    assert "  1 of 6 images cannot be decoded:\n    row 4: x/4.jpg cannot be decoded" in text


def test_a_missing_folder_is_counted_and_only_its_first_files_are_listed(tmp_path: Path) -> None:
    names = [f"gone/{i}.jpg" for i in range(50)]
    rows = file_rows(photos(tmp_path, ["x/0.jpg"]), names, [0] * 50)
    lines, problems = check_split("train", SPEC, rows, None, 1, False)
    assert problems == 50
    assert "  50 of 50 files are missing:" in lines
    assert lines[-1] == "    and 30 more"


def test_synthetic_rows_do_not_count_against_published_counts(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(4)]
    rows = file_rows(ImageTree(tmp_path), names, [0, 0, 1, 1])
    rows.__dict__["source"] = np.array([0, 0, 1, 1])
    assert count_differences(SPEC, rows, 2) == []
    assert count_differences(SPEC, rows, (2, 0, 0, 0)) == []


def folder_set(root: Path, names: list[str]) -> Dataset:
    """Return the data set of class folders, each image of its own colour."""
    for k, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (k, 2 * k, 3 * k)).save(root / name)
    source = SOURCES.get("folder")
    return source.load(source.request(root))


def test_check_names_what_is_left_out_and_counts_each_possible_mistake(tmp_path: Path) -> None:
    names = ["Train/a/1.png", "Train/b/1.png", "Train/2.png", "Train/a/3.gif", "holdout/a/4.png"]
    folder_set(tmp_path, names)
    (tmp_path / "Train/a/notes.txt").touch()
    source = SOURCES.get("folder")
    lines, problems = check_set(source.load(source.request(tmp_path)), 1)
    assert problems == 3  # the stray image, the GIF and the split
    assert lines == [
        f"folder: 'Train' in {tmp_path} is the split 'train'",
        "  'holdout' is no split that training looks for; known: train, val, test, target, synthetic and test_NAME",
        "  left out, which may be a mistake:",
        "    images that lie in no class folder: 1 (Train/2.png)",
        f"    {UNKNOWN_SUFFIX}: 1 (Train/a/3.gif)",
        "  left out:",
        "    files that are no images: 1 (Train/a/notes.txt)",
        "  no image is in two splits, by the bytes of the files",
    ]


def test_images_that_are_in_two_splits_are_named_and_those_of_two_tests_are_not(tmp_path: Path) -> None:
    names = [f"{split}/{c}/{i}.png" for split in ("train", "val", "test", "test_b") for c in "ab" for i in (1, 2)]
    folder_set(tmp_path, names)
    for copy in ("test/b/x.png", "test/b/y.png", "val/a/z.png", "test_b/a/z.png"):
        (tmp_path / copy).write_bytes((tmp_path / "train/a/1.png").read_bytes())
    (tmp_path / "test_b/a/w.png").write_bytes((tmp_path / "test/a/1.png").read_bytes())
    source = SOURCES.get("folder")
    assert shared_images(source.load(source.request(tmp_path)).splits, 1) == [
        "images that are in train and in val: 1 (train/a/1.png = val/a/z.png)",
        "images that are in train and in test: 1 (train/a/1.png = test/b/x.png)",
        "images that are in train and in test_b: 1 (train/a/1.png = test_b/a/z.png)",
        "images that are in val and in test: 1 (val/a/z.png = test/b/x.png)",
        "images that are in val and in test_b: 1 (val/a/z.png = test_b/a/z.png)",
    ]


def test_files_of_a_size_that_no_other_split_has_are_not_read(tmp_path: Path, monkeypatch) -> None:
    for name, size in (("train/a/1.png", 10), ("train/b/1.png", 20), ("test/a/1.png", 20), ("test/b/1.png", 30)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(bytes(size))
    read = []
    read_bytes = shared_images_module.read_bytes
    monkeypatch.setattr(
        shared_images_module, "read_bytes", lambda path: (read.append(path.parent.parent.name), read_bytes(path))[1]
    )
    source = SOURCES.get("folder")
    (line,) = shared_images(source.load(source.request(tmp_path)).splits, 1)
    assert line == "images that are in train and in test: 1 (train/b/1.png = test/a/1.png)"
    assert sorted(read) == ["test", "train"]


def test_arrays_and_members_of_a_zip_are_compared_too(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4), np.uint8)
    images[5] = images[1]
    splits = {"train": array_rows(images[:3], [0, 1, 0], "a"), "test": array_rows(images[3:], [0, 1, 0], "b")}
    assert shared_images(splits) == ["images that are in train and in test: 1 (a[1] = b[2])"]
    folder_set(tmp_path / "set", ["train/a/1.png", "train/b/1.png", "val/b/1.png"])
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("train/a/1.png", "train/b/1.png"):
            archive.write(tmp_path / "set" / name, name)
        archive.write(tmp_path / "set/train/a/1.png", "val/b/1.png")
    source = SOURCES.get("folder")
    packed = source.load(source.request(tmp_path / "set.zip")).splits
    assert shared_images(packed, 1) == ["images that are in train and in val: 1 (train/a/1.png = val/b/1.png)"]


def test_missing_files_are_no_shared_images(tmp_path: Path) -> None:
    splits = {split: file_rows(ImageTree(tmp_path), [f"{split}.jpg"], [0]) for split in ("train", "test")}
    assert shared_images(splits, 1) == []
