"""Files among the images of any set that are none of its rows are counted by reason."""

from __future__ import annotations

from pathlib import Path

from debeton.data.left_out import LeftOut
from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.raw.other_files import HIDDEN, NO_IMAGES, UNKNOWN_SUFFIX, files_beside_rows


def tree_of(root: Path, names: list[str]) -> ImageTree:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return ImageTree(root)


def test_files_beside_and_below_the_rows_are_counted_over_all_splits(tmp_path):
    rows = ["train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg"]
    others = ["train/a/2.jpg", "test/a/deep/3.jpg", "train/a/4.heic", "train/b/.5.jpg", "test/a/list.txt"]
    tree = tree_of(tmp_path, [*rows, *others, "train/c/6.jpg", "elsewhere/7.jpg"])
    splits = {"train": file_rows(tree, rows[:2], [0, 1]), "test": file_rows(tree, rows[2:], [0])}
    assert files_beside_rows(splits) == (
        LeftOut("images in folders in which no row lies", 1, ("test/a/deep/3.jpg",)),
        LeftOut("images that are in no split", 1, ("train/a/2.jpg",), fault=False),
        LeftOut("folders beside those of the rows", 1, ("train/c",), fault=False),
        LeftOut(UNKNOWN_SUFFIX, 1, ("train/a/4.heic",)),
        LeftOut(HIDDEN, 1, ("train/b/.5.jpg",), fault=False),
        LeftOut(NO_IMAGES, 1, ("test/a/list.txt",), fault=False),
    )


def test_beside_rows_in_the_raw_folder_itself_only_its_own_files_count(tmp_path):
    tree = tree_of(tmp_path, ["1.jpg", "2.jpg", "other_set/3.jpg"])
    (entry,) = files_beside_rows({"train": file_rows(tree, ["1.jpg"], [0])})
    assert (entry.count, entry.examples) == (1, ("2.jpg",))


def test_a_set_whose_folders_hold_its_rows_alone_leaves_nothing_out(tmp_path):
    tree = tree_of(tmp_path, ["train/a/1.jpg", "test/a/1.jpg", "readme.txt"])
    splits = {split: file_rows(tree, [f"{split}/a/1.jpg"], [0]) for split in ("train", "test")}
    assert files_beside_rows(splits) == ()
