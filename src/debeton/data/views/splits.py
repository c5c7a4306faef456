"""A run's views: the betons of its splits, opened, checked against each other and cut to size."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from debeton.data.beton.reading import open_beton
from debeton.data.spec import DatasetSpec
from debeton.data.views.row_lists import pseudo_grouped, read_index_lists, select_rows
from debeton.data.views.subsets import balanced, biased, fold, mini, scale_split
from debeton.data.views.synthetic import MODES, Amount, synthetic_view
from debeton.data.views.view import View
from debeton.system.errors import DataError, UsageError

Views = dict[str, View]


@dataclass(frozen=True)
class ViewOptions:
    """Which rows a run uses, and under which labels. Steps that are not asked for change nothing.

    label, attribute, aligned: columns and pairing (`View.with_task`). custom_indices_path: rows of each split.
    val_fraction: share of every training group that becomes 'val' where there is no validation beton.
    folds, fold: 'val' is this fold of the training rows instead. mini_dataset: share of training rows; None for all.
    bias_rate: bias-aligned share of each class in train and val; None leaves them. bias_rule: 'ffr' or 'scale'.
    min_conflicting: validation rows that each conflicting group keeps. majority_size, target_size: of SCALE's split.
    balance: 'none', 'class' or 'group', of the training rows. pseudo_groups, pseudo_column: a CSV of groups.
    synthetic_mode, per_cell, synthetic_share: how synthetic rows join (`data/synthetic.py`). seed: of every draw.
    """

    label: str | None = None
    attribute: str | None = None
    aligned: str | None = None
    custom_indices_path: str | None = None
    val_fraction: float = 0.0
    folds: int | None = None
    fold: int = 0
    mini_dataset: float | None = None
    bias_rate: float | None = None
    bias_rule: str = "ffr"
    min_conflicting: int = 10
    majority_size: int = 10000
    target_size: int = 1000
    balance: str = "none"
    pseudo_groups: str | None = None
    pseudo_column: str = "ddb"
    synthetic_mode: str = "none"
    per_cell: int | None = None
    synthetic_share: float = 1.0
    seed: int = 0


def find_betons(dataset: str, root: Path, given: Mapping[str, str | None]) -> dict[str, Path]:
    """The beton of each split that there is: the path given for it, or {root}/{dataset}_{split}.beton.

    Further tests are found as {root}/{dataset}_test_*.beton. Given relative paths count from root. A path that was
    given, and the training beton, must exist.
    """
    paths: dict[str, Path] = {}
    for split, path in given.items():
        found = root / (f"{dataset}_{split}.beton" if path is None else path)
        if not found.exists() and (path is not None or split == "train"):
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


def open_views(paths: Mapping[str, Path], options: ViewOptions = ViewOptions()) -> Views:
    """Views 'train' and, where there are any, 'first' (what is trained on before), 'val', 'target', 'synthetic',
    'test', 'test_...'.

    DataError when splits name different classes or attributes; the other errors are those of the steps.
    """
    views = {split: View.whole(open_beton(path), split) for split, path in paths.items()}
    for split, view in views.items():
        _check_same_names(views["train"].spec, view.spec, split, paths[split])
    views = {split: view.with_task(options.label, options.attribute, options.aligned) for split, view in views.items()}
    for step in STEPS:
        views = step(views, options)
    return views


def _set_synthetic_apart(views: Views, options: ViewOptions) -> Views:
    """'train' without its synthetic rows; these, or those of a beton of their own, as 'synthetic' where asked for."""
    train = views["train"]
    real = train.beton.source[train.rows] == 0
    if not real.any():
        raise UsageError(
            f"{train.beton.path} holds synthetic rows only; give it as data.synthetic_path, beside real training data"
        )
    apart = {split: view for split, view in views.items() if split != "synthetic"}
    if options.synthetic_mode != "none":
        apart["synthetic"] = synthetic_view(views.get("synthetic", train) if real.all() else train)
    return {**apart, "train": train if real.all() else train.subset(real)}


def _choose_rows(views: Views, options: ViewOptions) -> Views:
    if options.custom_indices_path is None:
        return views
    path = Path(options.custom_indices_path)
    return select_rows(views, read_index_lists(path), path)


def _hold_out(views: Views, options: ViewOptions) -> Views:
    train = views["train"]
    if options.folds is not None:
        rest, val = fold(train, options.folds, options.fold, options.seed)
    elif options.val_fraction > 0 and "val" not in views:
        rest, val = train.hold_out(options.val_fraction, options.seed, "val")
    else:
        return views
    return {"train": rest, "val": val, **{name: view for name, view in views.items() if name not in ("train", "val")}}


def _shrink(views: Views, options: ViewOptions) -> Views:
    if options.mini_dataset is None or options.mini_dataset == 1:
        return views
    return {**views, "train": mini(views["train"], options.mini_dataset)}


def _bias(views: Views, options: ViewOptions) -> Views:
    if options.bias_rate is None:
        return views
    if options.bias_rule == "ffr":
        changed = {"train": biased(views["train"], options.bias_rate, options.seed)}
        if "val" in views:
            changed["val"] = biased(views["val"], options.bias_rate, options.seed, options.min_conflicting)
        return {**views, **changed}
    train, target = scale_split(
        views["train"], options.bias_rate, options.majority_size, options.target_size, options.seed
    )
    others = {
        split: balanced(view, "group", options.seed)
        for split, view in views.items()
        if split not in ("train", "synthetic", "target")
    }
    return {**views, "train": train, "target": target, **others}


def _balance(views: Views, options: ViewOptions) -> Views:
    if options.balance == "none":
        return views
    return {**views, "train": balanced(views["train"], options.balance, options.seed)}


def _add_synthetic(views: Views, options: ViewOptions) -> Views:
    if options.synthetic_mode == "none":
        return views
    mode = MODES.get(options.synthetic_mode)
    amount = Amount(options.per_cell, options.synthetic_share, options.seed)
    made = {"train": mode.train(views["train"], views["synthetic"], amount)}
    if mode.first is not None:
        made["first"] = mode.first(views["train"], views["synthetic"], amount)
    return {**views, **{name: replace(view, name=name) for name, view in made.items()}}


def _group_anew(views: Views, options: ViewOptions) -> Views:
    if options.pseudo_groups is None:
        return views
    return {**views, "train": pseudo_grouped(views["train"], Path(options.pseudo_groups), options.pseudo_column)}


# In this order: which rows there are, how many of each group, what joins them, how they are grouped.
STEPS: tuple[Callable[[Views, ViewOptions], Views], ...] = (
    _set_synthetic_apart,
    _choose_rows,
    _hold_out,
    _shrink,
    _bias,
    _balance,
    _add_synthetic,
    _group_anew,
)


def _check_same_names(train: DatasetSpec, other: DatasetSpec, split: str, path: Path) -> None:
    for kind in ("classes", "attributes"):
        ours, theirs = getattr(train, kind), getattr(other, kind)
        if ours != theirs:
            raise DataError(
                f"{path}: the {kind} of '{split}' are {list(theirs)}, those of 'train' are {list(ours)}; "
                "write both betons from the same source"
            )


def evaluated(views: Mapping[str, View]) -> list[str]:
    """Names of the views that models are measured on: not those they are trained on."""
    return [split for split in views if split == "val" or split.startswith("test")]


def with_normalisation(views: Mapping[str, View], mean: tuple[float, ...], std: tuple[float, ...]) -> Views:
    """The same views, normalised by this mean and std of images in [0, 1]."""
    return {name: replace(view, spec=replace(view.spec, mean=mean, std=std)) for name, view in views.items()}
