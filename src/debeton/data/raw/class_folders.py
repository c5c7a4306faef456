"""Class folders as torchvision's ImageFolder reads them: a class is a folder, its images lie at any depth below it.

What belongs to a set, the suffixes and the order of classes and rows are those of `ImageFolder(RAW/SPLIT)`. It differs
in three points: hidden files are left out, a class without an image is reported and not an error, and a link to a
folder that it lies in is not followed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from debeton.data.left_out import LeftOut, left_out
from debeton.data.raw.image_files import ImageTree, Listing, is_hidden
from debeton.data.raw.other_files import other_files, visible_images
from debeton.data.split_names import is_known_split, is_split_word, is_train_name, name_splits
from debeton.system.errors import DataError

STRAYS = "images that lie in no class folder"
EMPTY_SPLITS = "folders of splits without an image"
EMPTY = "class folders without an image"
OTHER_CLASSES = "images in folders that are no split and hold other classes than train"


@dataclass(frozen=True)
class ClassFolders:
    """The images of class folders.

    files: by split, paths in the tree, class after class in sorted order, and within a class folder by folder.
    labels: the class of each file, by split.
    left_out: everything else in the tree.
    notes: sentences on names of splits, and on folders that could be meant as attributes.
    """

    files: dict[str, list[str]]
    labels: dict[str, list[str]]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


def read_class_folders(tree: ImageTree, classes: Sequence[str] = ()) -> ClassFolders:
    """Return the images of `SPLIT/CLASS/` if one folder is called train, else of `CLASS/`, which are all train.

    classes: the names of the classes, if the user gave them. Folders of exactly these names are classes, even if one of
        them is called 'train'.
    DataError for folders that can be read in more than one way, or that hold no image for training.
    """
    listing = tree.listing()
    images = visible_images(listing)
    tops = [path for path in listing.folders if "/" not in path and not is_hidden(path)]
    notes: list[str] = []
    if set(tops) == set(classes) or not any(map(is_train_name, tops)):
        _check_no_splits(tree, tops, classes)
        parts = {"train": ""}
    else:
        _check_train(tree, images, tops)
        split_of, notes = name_splits([top for top in tops if _has_classes(images, top)], str(tree.root))
        parts = {split: f"{name}/" for name, split in split_of.items()}
    found = {split: _images_by_class(images, start) for split, start in parts.items()}
    unfit = [] if classes else _unfit_splits(found)
    kept = {split: paths for split, paths in found.items() if split not in unfit}
    files = {split: [path for path, _ in pairs] for split, pairs in kept.items()}
    labels = {split: [name for _, name in pairs] for split, pairs in kept.items()}
    _check_depth(tree, kept["train"], parts["train"], classes)
    others = [path for split in unfit for path, _ in found[split]]
    used = {path for paths in files.values() for path in paths} | set(others)
    left = (
        *left_out(STRAYS, [path for path in images if path not in used]),
        *left_out(OTHER_CLASSES, others),
        *left_out(
            EMPTY_SPLITS,
            [top for top in tops if is_known_split(top) and not _has_any(images, top) and any(parts.values())],
        ),
        *left_out(EMPTY, _empty_classes(listing, used, [parts[split] for split in kept])),
        *other_files(listing),
    )
    return ClassFolders(files, labels, left, (*notes, *_note_on_attributes(kept["train"], parts["train"])))


def _has_classes(images: Sequence[str], top: str) -> bool:
    return any(path.startswith(f"{top}/") and path.count("/") >= 2 for path in images)


def _has_any(images: Sequence[str], top: str) -> bool:
    return any(path.startswith(f"{top}/") for path in images)


def _images_by_class(images: Sequence[str], start: str) -> list[tuple[str, str]]:
    """Return (path, class) of the images below the class folders in `start`, in ImageFolder's order."""
    below = [path for path in images if path.startswith(start) and "/" in path[len(start) :]]
    pairs = [(path, path[len(start) :].split("/")[0]) for path in below]
    return sorted(pairs, key=lambda pair: pair[1])  # is stable: the images come folder by folder


def _unfit_splits(found: dict[str, list[tuple[str, str]]]) -> list[str]:
    """Return the folders that are called like no split and hold classes that train lacks."""
    known = {name for _, name in found["train"]}
    return [
        split
        for split, pairs in found.items()
        if not is_known_split(split) and not {name for _, name in pairs} <= known
    ]


def _empty_classes(listing: Listing, used: Collection[str], starts: Sequence[str]) -> list[str]:
    with_images = {path[: path.index("/", len(start))] for start in starts for path in used if path.startswith(start)}
    return [
        path
        for path in listing.folders
        for start in starts
        if path.startswith(start) and "/" not in path[len(start) :] and not is_hidden(path) and path not in with_images
    ]


def _check_no_splits(tree: ImageTree, tops: Sequence[str], classes: Sequence[str]) -> None:
    splits = [top for top in tops if is_split_word(top)]
    if splits and set(tops) != set(classes):
        raise DataError(
            f"folder: {tree.root} holds the folder{'s' * (len(splits) > 1)} {' and '.join(splits)}, which name splits, "
            "and none for training; add train/CLASS/*, or, if they are classes, list all classes with --classes"
        )


def _check_train(tree: ImageTree, images: Sequence[str], tops: Sequence[str]) -> None:
    """Raise DataError unless each folder of a split that is there holds images in class folders."""
    for top in tops:
        if _has_classes(images, top) or not (is_train_name(top) or is_split_word(top)):
            continue
        where = f"{tree.root}/{top}"
        if _has_any(images, top):
            raise DataError(
                f"folder: {where} holds images and no class folder; expected {top}/CLASS/*.jpg. If '{top}' is itself "
                "a class, list all classes with --classes; if a table has the labels, name it with --csv"
            )
        if is_train_name(top):
            raise DataError(f"folder: no image under {where}/CLASS/; expected {top}/CLASS/*.jpg")
        raise DataError(f"folder: split {top} is empty: no image under {where}/CLASS/")


def _check_depth(tree: ImageTree, pairs: Sequence[tuple[str, str]], start: str, classes: Sequence[str]) -> None:
    """Raise DataError if all of train is one class whose images lie in several folders: those are the classes."""
    names = {name for _, name in pairs}
    if len(names) != 1 or classes:
        return
    (name,) = names
    below = sorted({path[len(start) :].split("/")[1] for path, _ in pairs if path[len(start) :].count("/") > 1})
    if len(below) > 1:
        raise DataError(
            f"folder: {tree.root}/{start}{name} is the only class folder, and its images lie in {len(below)} folders "
            f"({_first(below)}). If these are the classes, move them one level up or name the folder around "
            f"them with --raw; if there is one class, give it as --classes {name}"
        )


def _note_on_attributes(pairs: Sequence[tuple[str, str]], start: str) -> list[str]:
    """Return a sentence if folders of one name lie below several classes, as in CLASS/ATTRIBUTE/*, else []."""
    classes_of: dict[str, set[str]] = {}
    for path, name in pairs:
        levels = path[len(start) :].split("/")
        if len(levels) > 2:
            classes_of.setdefault(levels[1], set()).add(name)
    shared = sorted(folder for folder, names in classes_of.items() if len(names) > 1)
    if not shared:
        return []
    return [
        f"folders of one name ({_first(shared)}) lie below several classes; their images are rows of the class, as "
        "ImageFolder reads them, and no attribute: a metadata.csv with the column attribute gives attributes"
    ]


def _first(names: Sequence[str]) -> str:
    return ", ".join([*names[:4], "..."] if len(names) > 4 else names)
