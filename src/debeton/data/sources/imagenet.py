"""ImageNet (ILSVRC 2012): 1,281,167 + 50,000 photos of 1,000 classes, or any subset of the classes.

Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge" (IJCV); for non-commercial research.

Layouts. RAW is the folder around `train` and `val`, a .zip of them, or the folder around Kaggle's
`ILSVRC/Data/CLS-LOC/`:
- `train/n01440764/*.JPEG` and `val/n01440764/*.JPEG`, class folders named by wnid.
- `val/ILSVRC2012_val_00000001.JPEG` as published, with the labels of one of two files: Kaggle's `LOC_val_solution.csv`
  in RAW, or the development kit `ILSVRC2012_devkit_t12/data/` with `ILSVRC2012_validation_ground_truth.txt` and
  `meta.mat`.
- Files named by wnid, `n01440764_18.JPEG` as the official training files are, in `train/` or in RAW itself.

The official validation split is the only labelled one that is not for training. Published accuracies are on it, so it
is written as test: the split that is reported must not choose the epoch.

Classes keep the sorted order of their wnids, which is the usual order of the 1,000. In a subset they are numbered anew.
`--classes` takes wnids, numbers and ranges ('151-268' are the dogs), or a .npy or .txt file of these. Numbers count the
classes of `LOC_synset_mapping.txt` or `imagenet_class_index.json` if RAW holds one of them, else the 1,000 folders.
The name of a class is the first of its names in one of these two files, else its wnid. Metric: accuracy.
"""

from __future__ import annotations

from pathlib import Path

from debeton.data.raw.image_files import ImageTree, MissingDataError
from debeton.data.raw.imagenet_classes import choose_classes, class_names, read_names
from debeton.data.raw.imagenet_folders import Files, class_rows, files_by_class, paths_in
from debeton.data.raw.layout import raw_folder, read_mat, unpack_hint
from debeton.data.raw.source import SOURCES, Dataset, Option, Request, register_source
from debeton.data.raw.tables import read_csv, read_fields
from debeton.data.spec import DatasetSpec, Rows
from debeton.system.errors import DataError

PLACES = ("", "imagenet", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
DEVKIT = "ILSVRC2012_devkit_t12/data"
NUM_CLASSES, TRAIN, VAL_PER_CLASS = 1000, 1_281_167, 50


@register_source(
    "imagenet",
    "ImageNet (ILSVRC 2012): photos of 1,000 classes, 1,281,167 + 50,000; or a subset of the classes",
    "register at image-net.org (ILSVRC 2012, 144 GB) or kaggle.com/c/imagenet-object-localization-challenge, and "
    "unpack into class folders: DIR/train/n01440764/*.JPEG and DIR/val/n01440764/*.JPEG; Kaggle's folders are read as "
    "they are",
    (
        Option(
            "classes", str, "", "classes to use: 'n02085620,n02085782', '151-268,281', a .npy or .txt file; default all"
        ),
    ),
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    raw = raw_folder(request, "imagenet")
    tree, train = _open(raw)
    places = (raw.parent if raw.is_file() else raw, tree.root)
    val = files_by_class(tree, "val") or _flat_val(tree, places)
    names = read_names(places)
    files = train or val
    wnids = choose_classes(request.options["classes"], list(names) or sorted(files), complete=bool(names))
    wnids = wnids or sorted(files)
    _check_there(wnids, files, tree.root)
    if not request.options["classes"] and (stray := sorted(set(val) - set(wnids))):
        raise DataError(f"imagenet: val of {tree.root} has the class {stray[0]}, which train lacks")
    splits = {
        split: class_rows(tree, by_wnid, wnids)
        for split, by_wnid in (("train", train), ("test", val))
        if any(map(by_wnid.get, wnids))
    }
    return Dataset(
        DatasetSpec("imagenet", class_names(wnids, names)), splits, _expected(splits, len(wnids), len(files))
    )


def _open(raw: Path) -> tuple[ImageTree, Files]:
    """Return the tree that holds the set, and its training files; none if only val is there."""
    roots = [raw] if raw.is_file() else [raw / place for place in PLACES]
    for root in roots:
        if root.suffix == ".zip" or root.is_dir():
            tree = ImageTree(root)
            train = files_by_class(tree, "train") or files_by_class(tree, "")
            if train or any(paths_in(tree, "val")):
                return tree, train
    source = SOURCES.get("imagenet")
    raise MissingDataError(
        f"imagenet: neither train/nXXXXXXXX/*.JPEG, val/ nor nXXXXXXXX_*.JPEG in {raw}"
        f"{unpack_hint(raw, source)}; {source.where}"
    )


def _flat_val(tree: ImageTree, places: tuple[Path, ...]) -> Files:
    """Return the published validation files by class; {} if there is no val. DataError if their labels are missing."""
    if not any(paths_in(tree, "val")):
        return {}
    files: Files = {}
    for place in places:
        solution, truth = place / "LOC_val_solution.csv", place / DEVKIT / "ILSVRC2012_validation_ground_truth.txt"
        if solution.is_file():
            records = read_csv(solution, ("ImageId", "PredictionString"))
            rows = sorted((record["ImageId"], record["PredictionString"].split()[0]) for record in records)
        elif truth.is_file():
            rows = _devkit_rows(truth)
        else:
            continue
        for image, wnid in rows:
            files.setdefault(wnid, []).append(f"val/{image}.JPEG")
        return files
    raise DataError(
        f"imagenet: {tree.root / 'val'} is not in class folders, and neither LOC_val_solution.csv nor {DEVKIT}/ with "
        f"the labels lies in {places[0]}; put one there"
    )


def _devkit_rows(truth: Path) -> list[tuple[str, str]]:
    """Return (image, wnid) by the development kit, whose numbers are not the usual order of the classes."""
    (synsets,) = read_mat(truth.parent / "meta.mat", "synsets")
    fields = synsets.dtype.names or ()
    if not {"ILSVRC2012_ID", "WNID"} <= set(fields):
        raise DataError(f"{truth.parent / 'meta.mat'}: synsets have the fields {', '.join(fields)}; expected WNID")
    wnid = {str(int(number)): str(name) for number, name in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)}
    rows = []
    for row, (number,) in enumerate(read_fields(truth, width=1), start=1):
        if number not in wnid:
            raise DataError(f"{truth}, row {row}: class {number} is not in meta.mat; take both from the same kit")
        rows.append((f"ILSVRC2012_val_{row:08}", wnid[number]))
    return rows


def _check_there(wnids: list[str], files: Files, root: Path) -> None:
    """Raise DataError if a class has no image."""
    absent = [wnid for wnid in wnids if wnid not in files]
    if absent:
        raise DataError(
            f"imagenet: {len(absent)} of {len(wnids)} classes have no image in {root}, the first is {absent[0]}; "
            f"{len(files)} classes are there"
        )


def _expected(splits: dict[str, Rows], num_chosen: int, num_there: int) -> dict[str, int]:
    """Return the published counts of splits in class folders.

    Files outside class folders may be any selection, so nothing is expected of them.
    """
    in_folders = {split for split, rows in splits.items() if split == "test" or rows.names[0].count("/") == 2}
    sizes = {"test": VAL_PER_CLASS * num_chosen}
    if num_chosen == num_there == NUM_CLASSES:
        sizes["train"] = TRAIN
    return {split: size for split, size in sizes.items() if split in in_folders}
