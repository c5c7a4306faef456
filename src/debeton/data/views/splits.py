"""Views of a run: the betons of its splits, opened, compared and cut to the rows asked for."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from debeton.data.beton.reading import open_beton
from debeton.data.beton.sidecar import read_sidecar
from debeton.data.spec import BY_CELL, DatasetSpec
from debeton.data.split_names import TEST_PREFIX, beton_name, is_known_split
from debeton.data.views.row_lists import pseudo_grouped, read_index_lists, select_rows
from debeton.data.views.subsets import balanced, biased, fold, mini, scale_split
from debeton.data.views.synthetic_modes import MODES, Amount, synthetic_view
from debeton.data.views.view import View
from debeton.system.errors import DataError, UsageError, first_names
from debeton.system.file_names import leads_out
from debeton.system.log import logger

Views = dict[str, View]


@dataclass(frozen=True)
class ViewOptions:
    """Options that choose the rows of a run and their labels. A step that is not asked for changes nothing.

    label, attribute, aligned, group_by: columns, bias-aligned pairs and kind of groups (`View.with_task`).
    custom_indices_path: file with the rows of each split.
    known_attributes_only: leave out the rows of 'train', 'val' and 'target' whose attribute is not known.
    val_fraction: share of every training group that becomes 'val' if there is no validation beton, in [0, 1).
    folds, fold: with folds, 'val' is this fold of the training rows instead.
    mini_dataset: share of the training rows; None for all.
    bias_rate: bias-aligned share of each class in train and val; None leaves it as it is.
    bias_rule: 'ffr' or 'scale'.
    min_conflicting: validation rows that each conflicting group keeps.
    majority_size, target_size: row counts of SCALE's split (`scale_split`).
    balance: 'none', 'class' or 'group'; balances the training rows.
    known_share: share of the real training rows whose attribute is known (`View.known_in_part`).
    pseudo_groups, pseudo_column, pseudo_kind: a CSV of pseudo-groups, its column, and the meaning of its values.
    synthetic_mode, per_cell, synthetic_share: how synthetic rows join (`data/views/synthetic_modes.py`).
    seed: seed of every draw.
    """

    label: str | None = None
    attribute: str | None = None
    aligned: str | None = None
    group_by: str | None = None
    custom_indices_path: str | None = None
    known_attributes_only: bool = False
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
    known_share: float = 1.0
    pseudo_groups: str | None = None
    pseudo_column: str = "ddb"
    pseudo_kind: str = "auto"
    synthetic_mode: str = "none"
    per_cell: int | None = None
    synthetic_share: float = 1.0
    seed: int = 0


def find_betons(dataset: str, root: Path, given: Mapping[str, str | None]) -> dict[str, Path]:
    """Return the path of each split's beton that exists.

    given: path by split, relative to `root`; None stands for {root}/{dataset}_{split}.beton.
    More test sets are {root}/{dataset}_test_*.beton. FileNotFoundError if a path that was given, or the training beton,
    does not exist.
    """
    paths: dict[str, Path] = {}
    prefix = _prefix(dataset, root)
    for split, path in given.items():
        beton = root / (f"{prefix}{split}.beton" if path is None else path)
        if not beton.exists() and (path is not None or split == "train"):
            raise FileNotFoundError(
                f"no beton for {dataset}/{split} at {beton}\n"
                f"  write it with: debeton write-betons --dataset {dataset} --raw DIR --out {beton.parent}\n"
                f"  or, if the images are your own: --dataset folder --name {dataset}"
            )
        if beton.exists():
            paths[split] = beton
    for other_test in sorted(root.glob(f"{glob.escape(prefix)}{TEST_PREFIX}*.beton")):
        paths[other_test.stem.removeprefix(Path(prefix).name)] = other_test
    return paths


def _prefix(dataset: str, root: Path) -> str:
    """Return the beginning of the names of a data set's betons below `root`, 'DATASET_'.

    It is that of the writer, `beton_name`. A name with '/' may also be a folder and a name, if betons are there.
    """
    if "/" in dataset and not leads_out(dataset) and any(root.glob(f"{glob.escape(dataset)}_*.beton")):
        return f"{dataset}_"
    return beton_name(dataset, "").removesuffix(".beton")


def unused_betons(dataset: str, root: Path, used: Mapping[str, Path]) -> list[Path]:
    """Return the betons {root}/{dataset}_NAME.beton that are no split of a run, because training knows no such split.

    Betons of another set whose name begins alike, as 'mnist_cifar' beside 'mnist', are not returned.

    used: the beton of each split, as `find_betons` returns them.
    """
    taken = {path.resolve() for path in used.values()}
    prefix = _prefix(dataset, root)
    found = sorted(root.glob(f"{glob.escape(prefix)}*.beton"))
    return [
        path
        for path in found
        if path.resolve() not in taken
        and not is_known_split(path.stem.removeprefix(Path(prefix).name))
        and _data_set_of(path, dataset) == dataset
    ]


def _data_set_of(path: Path, dataset: str) -> str:
    """Return the data set of a beton by its sidecar.

    Without one, a name that ends in a split is taken for that of another set.
    """
    try:
        return str(read_sidecar(path)["dataset"])
    except DataError:
        ends = path.stem.removeprefix(f"{dataset}_").rpartition("_")
        return f"{dataset}_{ends[0]}" if ends[0] and is_known_split(ends[2]) else dataset


def open_views(paths: Mapping[str, Path], options: ViewOptions = ViewOptions()) -> Views:
    """Open the views of a run and apply STEPS.

    Returns 'train' and, if there are any, 'first' (trained on before 'train'), 'val', 'target', 'synthetic', 'test' and
    'test_...'. DataError if the splits name different classes or attributes. Errors of the steps pass through.
    """
    views = {split: View.whole(open_beton(path), split) for split, path in paths.items()}
    for split, view in views.items():
        _check_same_names(views["train"].spec, view.spec, split, paths[split])
    task = (options.label, options.attribute, options.aligned, options.group_by)
    views = {split: view.with_task(*task) for split, view in views.items()}
    for view in views.values():
        _check_same_grouping(views["train"], view)
    for step in STEPS:
        views = step(views, options)
    return views


def _set_synthetic_apart(views: Views, options: ViewOptions) -> Views:
    """Remove the synthetic rows from 'train'; if a mode needs them, return them as the view 'synthetic'.

    They come from the training beton, or from a beton of their own.
    """
    train = views["train"]
    real = train.beton.source[train.rows] == 0
    if not real.any():
        raise UsageError(
            f"{train.beton.path} holds synthetic rows only; give it as data.synthetic_path, beside real training data"
        )
    separated = {split: view for split, view in views.items() if split != "synthetic"}
    if options.synthetic_mode != "none":
        separated["synthetic"] = synthetic_view(views.get("synthetic", train) if real.all() else train)
    return {**separated, "train": train if real.all() else train.subset(real)}


def _choose_rows(views: Views, options: ViewOptions) -> Views:
    """Cut each view to the rows of the user's index lists."""
    if options.custom_indices_path is None:
        return views
    path = Path(options.custom_indices_path)
    return select_rows(views, read_index_lists(path), path)


def _drop_unknown(views: Views, options: ViewOptions) -> Views:
    """Leave out the rows to train on and to select by whose attribute is not known. Test splits stay whole.

    Training rows in pseudo-groups are left out by these (`_group_anew`).
    """
    if not options.known_attributes_only:
        return views
    splits = ("train", "val", "target") if options.pseudo_groups is None else ("val", "target")
    chosen = {split: views[split] for split in splits if split in views}
    for split, view in chosen.items():
        if not view.knows_attribute.any():
            raise UsageError(
                f"data.known_attributes_only leaves no row of '{split}': none of its {len(view)} rows in "
                f"{view.beton.path} has a known attribute; leave the setting out, and use a method that needs no "
                "attribute (erm, jtt, lff, eiil, ...)"
            )
    return {**views, **{split: view.subset(view.knows_attribute) for split, view in chosen.items()}}


def _hold_out(views: Views, options: ViewOptions) -> Views:
    """Split 'val' off 'train': a fold, or a share of every group."""
    train = views["train"]
    if options.folds is not None:
        rest, val = fold(train, options.folds, options.fold, options.seed)
    elif options.val_fraction > 0 and "val" not in views:
        rest, val = train.hold_out(options.val_fraction, options.seed, "val")
    else:
        return views
    return {"train": rest, "val": val, **{name: view for name, view in views.items() if name not in ("train", "val")}}


def _shrink(views: Views, options: ViewOptions) -> Views:
    """Keep a share of the training rows. Warn of groups that lose all rows, as where the file alternates them."""
    if options.mini_dataset is None or options.mini_dataset == 1:
        return views
    whole, kept = views["train"], mini(views["train"], options.mini_dataset)
    before, after = whole.counts_by_name(), kept.counts_by_name()
    lost = [f"'{name}', {count} rows" for name, count in before.items() if count and not after.get(name)]
    if lost:
        logger.warning(
            "warning: data.mini_dataset %g takes evenly spaced rows of %s, and no row of %d groups (%s); take "
            "another share, or write the beton again with --shuffle-seed 0",
            options.mini_dataset,
            whole.beton.path,
            len(lost),
            first_names(lost),
        )
    return {**views, "train": kept}


def _bias(views: Views, options: ViewOptions) -> Views:
    """Set the bias rate of 'train' and 'val' by the rule 'ffr', or split 'train' by the rule 'scale'."""
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
    """Balance the training rows by class or by group."""
    if options.balance == "none":
        return views
    return {**views, "train": balanced(views["train"], options.balance, options.seed)}


def _add_synthetic(views: Views, options: ViewOptions) -> Views:
    """Combine real and synthetic rows by the synthetic mode, which counts them by label and attribute."""
    if options.synthetic_mode == "none":
        return views
    mode, group_by = MODES.get(options.synthetic_mode), views["train"].spec.group_by
    amount = Amount(options.per_cell, options.synthetic_share, options.seed)
    real, synthetic = (views[split].grouped_by(BY_CELL) for split in ("train", "synthetic"))
    combined = {"train": mode.train(real, synthetic, amount)}
    if mode.first is not None:
        combined["first"] = mode.first(real, synthetic, amount)
    combined = {name: view.grouped_by(group_by) for name, view in combined.items()}
    return {**views, **{name: replace(view, name=name) for name, view in combined.items()}}


def _forget_attributes(views: Views, options: ViewOptions) -> Views:
    """Keep the attributes of a share of the training rows, where the rows are not grouped by a file."""
    if options.known_share == 1 or options.pseudo_groups is not None:
        return views
    train = views["train"].known_in_part(options.known_share, options.seed)
    return {**views, "train": train.subset(train.knows_attribute) if options.known_attributes_only else train}


def _group_anew(views: Views, options: ViewOptions) -> Views:
    """Put the training rows into the pseudo-groups of a file. Other splits keep the true groups, to be measured in."""
    if options.pseudo_groups is None:
        return views
    path = Path(options.pseudo_groups)
    train = pseudo_grouped(views["train"], path, options.pseudo_column, options.pseudo_kind)
    return {**views, "train": train.subset(train.knows_attribute) if options.known_attributes_only else train}


# Applied one after another: choose rows, set the size of each group, add synthetic rows, group the rows.
STEPS: tuple[Callable[[Views, ViewOptions], Views], ...] = (
    _set_synthetic_apart,
    _choose_rows,
    _drop_unknown,
    _hold_out,
    _shrink,
    _bias,
    _balance,
    _add_synthetic,
    _forget_attributes,
    _group_anew,
)


def _check_same_names(train: DatasetSpec, other: DatasetSpec, split: str, path: Path) -> None:
    """Raise DataError unless a split has the classes and attributes of 'train'."""
    for kind in ("classes", "attributes"):
        expected, names = getattr(train, kind), getattr(other, kind)
        if names != expected:
            raise DataError(
                f"{path}: the {kind} of '{split}' are {list(names)}, those of 'train' are {list(expected)}; "
                "write both betons from the same source"
            )


def _check_same_grouping(train: View, other: View) -> None:
    """Raise UsageError unless a split has the kind of groups of 'train'."""
    if train.spec.group_by != other.spec.group_by:
        raise UsageError(
            f"{other.beton.path} groups the rows of '{other.name}' by {other.spec.group_by}, and those of 'train' are "
            f"grouped by {train.spec.group_by}; say which with --data.group_by, or write both betons from the same "
            "source"
        )


def evaluated(views: Mapping[str, View]) -> list[str]:
    """Return the names of the views that models are measured on, not those that they are trained on."""
    return [split for split in views if split == "val" or split.startswith("test")]


def with_normalisation(views: Mapping[str, View], mean: tuple[float, ...], std: tuple[float, ...]) -> Views:
    """Return the same views with this mean and std for their normalisation, of images in [0, 1]."""
    return {name: replace(view, spec=replace(view.spec, mean=mean, std=std)) for name, view in views.items()}
