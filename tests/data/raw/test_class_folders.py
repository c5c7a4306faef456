"""Class folders are read as ImageFolder reads them, and everything else in them is counted and named."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from debeton.data.beton.images import to_rgb
from debeton.data.raw.class_folders import EMPTY, EMPTY_SPLITS, OTHER_CLASSES, STRAYS, ClassFolders, read_class_folders
from debeton.data.raw.image_files import ImageTree
from debeton.data.raw.other_files import HIDDEN, LOOPS, NO_IMAGES, UNKNOWN_SUFFIX
from debeton.data.sources import SOURCES
from debeton.system.errors import DataError


def write(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def counted(found: ClassFolders) -> dict[str, tuple[int, tuple[str, ...], bool]]:
    return {entry.reason: (entry.count, entry.examples, entry.fault) for entry in found.left_out}


NAMES = ["a.jpg", "b.JPEG", "c.Png", "d.ppm", "e.bmp", "f.pgm", "g.tif", "h.TIFF", "i.webp", "j.gif", "k.jp2", "l.txt"]


def test_rows_classes_and_their_sequence_are_those_of_imagefolder(tmp_path):
    files = [f"{label}/{name}" for label in ("dog", "cat-2", "cat", "Ape") for name in NAMES]
    files += ["cat/z/1.png", "cat/z/y/x/2.png", "cat/m 1/3.jpg", "cat/m/3.jpg", "dog/a.png/4.png"]
    write(tmp_path / "train", files)
    write(tmp_path / "elsewhere", ["5.jpg"])
    (tmp_path / "train/dog/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(tmp_path / ".elsewhere")
    (tmp_path / "train/dog/link").unlink()
    (tmp_path / "train/dog/link").symlink_to(tmp_path / ".elsewhere")
    rows = SOURCES.get("folder").load(SOURCES.get("folder").request(tmp_path)).splits["train"]
    peer = ImageFolder(tmp_path / "train")
    assert [str(tmp_path / name) for name in rows.names] == [path for path, _ in peer.samples]
    assert rows.label.tolist() == peer.targets
    assert len(rows) == 4 * 9 + 6


def test_every_file_that_is_left_out_is_counted_under_its_reason(tmp_path):
    write(
        tmp_path,
        [
            *(f"train/{name}" for name in ("cat/1.jpg", "dog/1.jpg", "s.jpg", "cat/1.gif", "cat/2.avif", "cat/raw")),
            *(f"train/{name}" for name in ("cat/.2.jpg", ".cache/3.jpg", "dog/notes.txt", "fish/readme.md")),
            "root.png",
            "unlabelled/all/1.jpg",
            "annotations/boxes.json",
        ],
    )
    (tmp_path / "train/bird").mkdir()
    (tmp_path / "test_new").mkdir()
    (tmp_path / "train/dog/up").symlink_to(tmp_path / "train")
    found = read_class_folders(ImageTree(tmp_path))
    assert found.files == {"train": ["train/cat/1.jpg", "train/dog/1.jpg"]}
    assert counted(found) == {
        STRAYS: (2, ("root.png", "train/s.jpg"), True),
        OTHER_CLASSES: (1, ("unlabelled/all/1.jpg",), True),
        EMPTY_SPLITS: (1, ("test_new",), True),
        EMPTY: (2, ("train/bird", "train/fish"), True),
        UNKNOWN_SUFFIX: (3, ("train/cat/1.gif", "train/cat/2.avif", "train/cat/raw"), True),
        LOOPS: (1, ("train/dog/up",), True),
        HIDDEN: (2, ("train/cat/.2.jpg", "train/.cache/"), False),
        NO_IMAGES: (3, ("annotations/boxes.json", "train/dog/notes.txt", "train/fish/readme.md"), False),
    }


def test_more_files_than_are_named_are_counted(tmp_path):
    write(tmp_path, ["cat/1.jpg", "dog/1.jpg", *(f"cat/{i}.gif" for i in range(9))])
    (entry,) = read_class_folders(ImageTree(tmp_path)).left_out
    assert entry.count == 9
    assert str(entry).endswith(": 9 (cat/0.gif, cat/1.gif, cat/2.gif, cat/3.gif, cat/4.gif and 4 more)")


def test_a_zip_is_read_like_the_folder_that_it_holds(tmp_path):
    names = ["Train/cat/x/1.jpg", "Train/dog/1.jpg", "Train/dog/2.gif", "valid/cat/.1.jpg", "valid/dog/2.png", "3.jpg"]
    write(tmp_path / "folder", names)
    (tmp_path / "folder/Train/emu").mkdir()
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in names:
            archive.write(tmp_path / "folder" / name, name)
        archive.writestr("Train/emu/", "")
    packed, unpacked = (read_class_folders(ImageTree(tmp_path / name)) for name in ("set.zip", "folder"))
    assert (
        packed.files
        == unpacked.files
        == {"train": ["Train/cat/x/1.jpg", "Train/dog/1.jpg"], "val": ["valid/dog/2.png"]}
    )
    assert packed.left_out == unpacked.left_out
    assert len(packed.left_out) == 4


def test_splits_of_other_words_are_mapped_and_unknown_ones_keep_their_name(tmp_path):
    names = ("Train", "validation", "id_val", "Test", "id_test", "val_out_of_domain", "extra")
    found = read_class_folders(ImageTree(write(tmp_path, [f"{name}/{c}/1.jpg" for name in names for c in "ab"])))
    assert {split: paths[0].split("/")[0] for split, paths in found.files.items()} == {
        "train": "Train",
        "val": "validation",
        "test_val_id": "id_val",
        "test": "Test",
        "test_id": "id_test",
        "test_val_out_of_domain": "val_out_of_domain",
        "extra": "extra",
    }
    assert len(found.notes) == 6


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["val/a/1.jpg", "test/a/1.jpg"], "holds the folders test and val, which name splits, and none for training"),
        (["train/1.jpg", "car/1.jpg"], "train holds images and no class folder.* list all classes with --classes"),
        (["train/a/1.jpg", "train/b/1.jpg", "val/1.jpg"], "val holds images and no class folder"),
        (["images/a/1.jpg", "images/b/1.jpg"], r"images is the only class folder, .* lie in 2 folders \(a, b\)"),
        (["train/all/a/1.jpg", "train/all/b/1.jpg"], "train/all is the only class folder"),
        (["train/a/1.jpg", "Train/b/1.jpg"], "'Train' and 'train' are both the split 'train'"),
    ],
)
def test_folders_that_can_be_read_in_two_ways_are_explained(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        read_class_folders(ImageTree(write(tmp_path, files)))


def test_given_classes_decide_that_train_is_a_class(tmp_path):
    tree = ImageTree(write(tmp_path, ["train/1.jpg", "car/1.jpg", "test/1.jpg"]))
    assert read_class_folders(tree, ("train", "car", "test")).labels == {"train": ["car", "test", "train"]}


def test_folders_of_one_name_below_several_classes_are_no_attributes_and_this_is_said(tmp_path):
    names = [f"train/{label}/{place}/1.jpg" for label in ("cat", "dog") for place in ("in", "out")]
    found = read_class_folders(ImageTree(write(tmp_path, [*names, "train/dog/only/1.jpg"])))
    assert found.labels["train"] == ["cat", "cat", "dog", "dog", "dog"]
    (note,) = found.notes
    assert note.startswith(
        "folders of one name (in, out) lie below several classes; their images are rows of the class"
    )
    assert "metadata.csv" in note


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    write(tmp_path, ["train/a/1.jpg", "train/b/1.jpg"])
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"train/b cannot be listed \(Permission denied\)"):
        ImageTree(tmp_path).listing()


def test_portable_pixmaps_are_decoded(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.ppm")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "a.pgm")
    np.testing.assert_array_equal(to_rgb(tmp_path / "a.ppm"), pixels)
    np.testing.assert_array_equal(to_rgb(tmp_path / "a.pgm")[..., 1], pixels[..., 0])
