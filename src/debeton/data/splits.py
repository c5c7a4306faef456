"""A run's views: the betons of its splits, opened, checked against each other and cut to size."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from debeton.data.beton import open_beton
from debeton.data.spec import DatasetSpec
from debeton.data.view import View
from debeton.errors import DataError, UsageError


def find_betons(dataset: str, root: Path, given: Mapping[str, str]) -> dict[str, Path]:
    """The beton of each split that there is: the path given for it, or {root}/{dataset}_{split}.beton.

    Further tests are found as {root}/{dataset}_test_*.beton. Given relative paths count from root. A path that was
    given, and the training beton, must exist.
    """
    paths: dict[str, Path] = {}
    for split, path in given.items():
        found = root / path if path else root / f"{dataset}_{split}.beton"
        if not found.exists() and (path or split == "train"):
            raise FileNotFoundError(
                f"no beton for {dataset}/{split} at {found}\n"
                f"  write it with: python writers/write_betons.py --dataset {dataset} --raw DIR --out {found.parent}"
            )
        if found.exists():
            paths[split] = found
    prefix = f"{dataset}_"
    for extra in sorted(root.glob(f"{glob.escape(prefix)}test_*.beton")):
        paths[extra.stem.removeprefix(prefix)] = extra
    return paths


def open_views(paths: Mapping[str, Path], *, val_fraction: float, mini: float, seed: int) -> dict[str, View]:
    """Views 'train' and, where there are any, 'val', 'test', ...

    val_fraction: share of every training group that becomes 'val' where no validation beton is.
    mini: share of the training rows that is used, evenly spaced in file order; -1 or 1 for all.
    seed: of the held-out rows. DataError when splits name different classes or attributes.
    """
    views = {split: View.whole(open_beton(path), split) for split, path in paths.items()}
    train = views["train"]
    for split, view in views.items():
        _check_same_names(train.spec, view.spec, split, paths[split])
    if val_fraction > 0 and "val" not in views:
        train, views["val"] = train.hold_out(val_fraction, seed, "val")
    if mini not in (-1.0, 1.0):
        if not 0 < mini < 1:
            raise UsageError(f"data.mini_dataset is {mini}; expected a share between 0 and 1, or -1 for all rows")
        keep = max(1, round(mini * len(train)))
        train = train.subset(np.linspace(0, len(train) - 1, keep).round().astype(np.int64))
    return {**views, "train": train}


def _check_same_names(train: DatasetSpec, other: DatasetSpec, split: str, path: Path) -> None:
    for kind in ("classes", "attributes"):
        ours, theirs = getattr(train, kind), getattr(other, kind)
        if ours != theirs:
            raise DataError(
                f"{path}: the {kind} of '{split}' are {list(theirs)}, those of 'train' are {list(ours)}; "
                "write both betons from the same source"
            )


def with_normalisation(views: Mapping[str, View], mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, View]:
    """The same views, normalised by this mean and std of images in [0, 1]."""
    return {name: replace(view, spec=replace(view.spec, mean=mean, std=std)) for name, view in views.items()}
