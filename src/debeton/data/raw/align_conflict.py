"""Two layouts of biased sets in which code k of the attribute goes with class k.

Lee et al. 2021 (LDD), github.com/kakaoenterprise/Learning-Debiased-Disentangled, release images:
- `PERCENT/align/CLASS/*` and `PERCENT/conflict/CLASS/*`: the training rows for each share of bias-conflicting rows;
- `valid/*`, in PERCENT or beside it, and `test/*`; both may have class folders.

File names end in _TARGET_BIAS: the label and the attribute.

Nam et al. 2020 (LfF), github.com/alinlab/LfF, write arrays: `train/` and `valid/` with images.npy, uint8 [N, H, W, 3],
and attrs.npy, [N, 2], the label and the attribute. Its `valid` is made of the test images and is our test.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.raw.image_files import ImageTree, MissingDataError, array_rows, file_rows
from debeton.data.raw.layout import find_images
from debeton.data.spec import DatasetSpec, Rows
from debeton.system.array_files import map_npy
from debeton.system.errors import DataError

PERCENTS = ("0.5", "1", "2", "5")  # bias-conflicting shares of train that the owners release
NAME = re.compile(r"(?:.*_)?(\d+)_(\d+)")
ARRAY_SPLITS = {"train": "train", "test": "valid"}  # our splits, and LfF's folders


def read_align_conflict(spec: DatasetSpec, tree: ImageTree, folders: tuple[str, ...]) -> dict[str, Rows]:
    """Return train, val and test of the layout of LDD. DataError for a split without an image.

    folders: names of the folder with align/ and conflict/, e.g. ('0.5pct',). The first that holds images is read.
    """
    folder = next((folder for folder in folders if tree.files(f"{folder}/align/*/*")), folders[0])
    patterns = {
        "train": (f"{folder}/align/*/*", f"{folder}/conflict/*/*"),
        "val": (_present(tree, [f"{place}/{end}" for place in ("valid", f"{folder}/valid") for end in ("*", "*/*")]),),
        "test": (_present(tree, ["test/*", "test/*/*"]),),
    }
    return {split: _rows(spec, tree, find_images(tree, globs, spec.name)) for split, globs in patterns.items()}


def _present(tree: ImageTree, patterns: list[str]) -> str:
    """Return the first pattern that an image matches, or the first of all."""
    return next((pattern for pattern in patterns if tree.files(pattern)), patterns[0])


def _rows(spec: DatasetSpec, tree: ImageTree, files: Iterable[str]) -> Rows:
    names = list(files)
    codes = [_codes(spec, file, tree) for file in names]
    return file_rows(tree, names, [target for target, _ in codes], [bias for _, bias in codes])


def _codes(spec: DatasetSpec, file: str, tree: ImageTree) -> tuple[int, int]:
    """Return TARGET and BIAS of a file. DataError if its folders contradict its name."""
    path = PurePosixPath(file)
    match = NAME.fullmatch(path.stem)
    if match is None or int(match[1]) >= spec.num_classes or int(match[2]) >= len(spec.attributes):
        raise DataError(
            f"{spec.name}: {file} in {tree.root} is not called ID_TARGET_BIAS.png with a label of 0 to "
            f"{spec.num_classes - 1} and an attribute of 0 to {len(spec.attributes) - 1}"
        )
    target, bias = int(match[1]), int(match[2])
    kind, folder = path.parts[-3:-1] if len(path.parts) > 2 else ("", "")
    wrong_side = (kind == "conflict") != (target != bias)
    if kind in ("align", "conflict") and (wrong_side or folder != match[1]):
        raise DataError(
            f"{spec.name}: {file} in {tree.root} lies in {kind}/{folder}, which contradicts its name; unpack it again"
        )
    return target, bias


def read_array_splits(spec: DatasetSpec, folder: Path) -> dict[str, Rows]:
    """Return train and test of a folder as LfF's make_dataset.py writes it. Images are read when they are asked for."""
    return {split: _array_split(spec, folder / name, split) for split, name in ARRAY_SPLITS.items()}


def _array_split(spec: DatasetSpec, folder: Path, split: str) -> Rows:
    images, codes = (_load_array(folder / name) for name in ("images.npy", "attrs.npy"))
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise DataError(f"{folder}/images.npy is {images.dtype} {images.shape}, expected uint8 [N, H, W, 3]")
    if codes.ndim != 2 or codes.shape[1] != 2 or codes.dtype.kind not in "iu":
        raise DataError(f"{folder}/attrs.npy is {codes.dtype} {codes.shape}, expected whole numbers [N, 2]")
    label, attribute = codes.astype(np.int64).T
    spec.group(label, attribute)  # raises for a code out of range
    return replace(array_rows(images, label, f"{split}-images"), attribute=attribute)


def _load_array(path: Path) -> NDArray[Any]:
    try:
        return np.asarray(map_npy(path))
    except FileNotFoundError:
        raise MissingDataError(f"there is no {path}; make_dataset.py of LfF writes it") from None
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} is not a whole .npy file ({error}); make or fetch it again") from None
