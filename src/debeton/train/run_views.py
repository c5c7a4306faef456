"""Views of a run: opened as the configuration says, and checked against its selection rule."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from debeton.config import Config
from debeton.config.sections_data import Data
from debeton.data.spec import DatasetSpec, Ints, count_codes
from debeton.data.split_names import KNOWN
from debeton.data.views.splits import (
    ViewOptions,
    evaluated,
    find_betons,
    open_views,
    unused_betons,
    with_normalisation,
)
from debeton.data.views.view import View
from debeton.nets.models import architecture
from debeton.nets.transfer import source_normalisation
from debeton.system.errors import UsageError, first_names
from debeton.system.log import logger
from debeton.train.metrics import SELECTION_RULES
from debeton.train.planting import plant
from debeton.train.selection import NO_SELECTION, Selection, check_rows, selection_on, without_rows_anywhere


def beton_paths(data: Data) -> dict[str, str | None]:
    """Return the beton that section 'data' gives for each split; None: by the data set's name."""
    return {
        "train": data.train_path,
        "val": data.val_path,
        "test": data.test_path,
        "target": data.target_path,
        "synthetic": data.synthetic_path,
    }


def view_options(config: Config) -> ViewOptions:
    """Return the options of the views, from sections 'data' and 'synthetic'."""
    data, synthetic = config.data, config.synthetic
    return ViewOptions(
        label=data.label,
        attribute=data.attribute,
        aligned=data.aligned,
        group_by=data.group_by,
        custom_indices_path=data.custom_indices_path,
        known_attributes_only=data.known_attributes_only,
        val_fraction=data.val_fraction,
        folds=data.folds,
        fold=data.fold,
        mini_dataset=data.mini_dataset,
        bias_rate=data.bias_rate,
        bias_rule=data.bias_rule,
        min_conflicting=data.min_conflicting,
        majority_size=data.majority_size,
        target_size=data.target_size,
        balance=data.balance,
        known_share=config.groups.known,
        pseudo_groups=data.pseudo_groups,
        pseudo_column=data.pseudo_column,
        pseudo_kind=data.pseudo_kind,
        synthetic_mode=synthetic.mode,
        per_cell=synthetic.per_cell,
        synthetic_share=synthetic.share,
        seed=data.seed,
    )


def prepare_views(config: Config) -> dict[str, View]:
    """Open the views that the configuration describes, with its normalisation and its trigger."""
    data, training = config.data, config.training
    root = Path(training.data_root)
    paths = find_betons(data.dataset, root, beton_paths(data))
    unused = unused_betons(data.dataset, root, paths)
    if unused:
        logger.info(
            "note: this run does not use %s of %s, which %s no split by name (known: %s); rename the betons, or give "
            "one in a setting, such as --data.test_path",
            ", ".join(path.name for path in unused),
            root,
            "is" if len(unused) == 1 else "are",
            KNOWN,
        )
    views = plant(open_views(paths, view_options(config)), config)
    if training.order == "quasi_random":
        views["train"] = replace(views["train"], order="quasi_random")
    kind = config.model.normalisation
    if kind == "none":
        return with_normalisation(views, (0.0,) * 3, (1.0,) * 3)
    if kind == "dataset":
        return views
    published = architecture(config.model.arch)
    source = source_normalisation(config) or ((published.mean, published.std) if kind == "source" else None)
    return views if source is None else with_normalisation(views, *source)


def check_selection(config: Config, views: Mapping[str, View]) -> None:
    """Raise UsageError for a selection rule without the splits or the bias-aligned pairs that it needs."""
    rule = config.training.selection
    if config.training.oracle and "test" not in views:
        raise UsageError("training.oracle measures the test split after every epoch, and there is none; leave it out")
    if "val" not in views:
        if rule != "last":
            raise UsageError(
                f"training.selection is '{rule}', but there is no validation split; write one, hold some training rows "
                "out with --data.val_fraction 0.1, or keep the last epoch with --training.selection last"
            )
        return
    if config.groups.val == "inferred":
        return  # the finder decides: methods.group_choice
    spec = views["val"].spec
    if rule == "minority" and not spec.aligned:
        raise UsageError(f"training.selection is 'minority', but {no_pairs(views['val'])}, or select by worst_group")
    needs_groups = rule != NO_SELECTION and SELECTION_RULES[rule].over.endswith("groups")
    if needs_groups and config.groups.val == "none":
        raise UsageError(
            f"groups.val is 'none', and training.selection '{rule}' selects by groups of the validation rows; select "
            "by worst_class, mean_class, average or loss, or keep the last epoch with --training.selection last"
        )
    if needs_groups and not views["val"].knows_attribute.any():
        raise UsageError(
            f"training.selection is '{rule}', but the attribute of no row of 'val' ({views['val'].beton.path}) is "
            "known; select by worst_class, mean_class, average or loss, or keep the last epoch with "
            "--training.selection last"
        )


def no_pairs(view: View) -> str:
    """Return why a view has no bias-aligned pairs, and the setting that gives them, as a part of a message."""
    spec = view.spec
    if view.is_regrouped:
        return (
            f"none of the {len(spec.attributes)} values of pseudo-groups '{spec.attribute_name}' is said to be "
            "bias-conflicting; give a column of 0 (bias-aligned) and 1 (bias-conflicting) with --data.pseudo_column"
        )
    if spec.by_attribute:
        return (
            f"the groups of {spec.name} are by {spec.attribute_name} alone, where no row is bias-conflicting; group by "
            "--data.group_by label_attribute with --data.aligned 'class:attribute,...'"
        )
    return (
        f"{spec.name} does not say which attribute goes with each class; say it with --data.aligned "
        "'class:attribute,...'"
    )


def check_selection_rows(config: Config, views: Mapping[str, View]) -> Selection:
    """Return the rule that selects on the validation split.

    UsageError where a group or class of the rule has no row there, and has one in another split.
    """
    rule, empty_groups = config.training.selection, config.training.empty_groups
    if "val" not in views or rule == NO_SELECTION:
        return selection_on(None, NO_SELECTION)
    return check_rows(
        views["val"], rule, "training.selection", empty_groups=empty_groups, nowhere=groups_nowhere(views)
    )


def groups_nowhere(views: Mapping[str, View]) -> set[str]:
    """Return the names of the data set's groups and classes that have no row in any view of a run."""
    return without_rows_anywhere([view.true_groups or view for view in views.values()])


def groups_without_rows(views: Mapping[str, View]) -> dict[str, dict[str, int]]:
    """Return, for each measured split, the groups of the training rows of which it has no row.

    Each group has its number of training rows, by name. Splits that have all of them, or no known attribute, are left
    out.
    """
    spec, counts = _training_groups(views)
    absent = {}
    for split in evaluated(views):
        view = views[split]
        if view.spec.group_names == spec.group_names and view.knows_attribute.any():
            groups = np.flatnonzero((counts > 0) & (view.group_counts() == 0))
            absent[split] = {spec.group_names[g]: int(counts[g]) for g in groups}
    return {split: names for split, names in absent.items() if names}


def _training_groups(views: Mapping[str, View]) -> tuple[DatasetSpec, Ints]:
    """Return the data set's own groups and the number of training rows in each, int64 [G]."""
    train = views["train"].true_groups or views["train"]
    return train.spec, count_codes(train.group[views["train"].rows], train.spec.num_groups)


def warn_of_views(config: Config, views: Mapping[str, View]) -> None:
    """Warn of measured splits that lack groups, and of rows that group accuracies leave out."""
    spec, counts = _training_groups(views)
    for split, absent in groups_without_rows(views).items():
        level, kind = (logging.INFO, "note") if spec.by_attribute else (logging.WARNING, "warning")
        logger.log(
            level,
            "%s: '%s' has no row of %d of the %d groups of the training rows (%s); its worst-group and mean-group "
            "accuracy are over the other groups",
            kind,
            split,
            len(absent),
            (counts > 0).sum(),
            first_names([f"'{name}', {count} training rows" for name, count in absent.items()]),
        )
    if "val" in views and config.training.selection == "worst_group" and not spec.by_attribute:
        trained = dict(zip(spec.group_names, counts.tolist(), strict=True))
        empty = [name for name, n in views["val"].counts_by_name().items() if n == trained.get(name, 0) == 0]
        if empty:
            logger.warning(
                "warning: no training and no validation row in %d groups (%s); the worst group is that of the others",
                len(empty),
                first_names(empty),
            )
    for split in evaluated(views):
        unknown = int((~views[split].knows_attribute).sum())
        if unknown:
            logger.warning(
                "warning: the attribute of %d of %d rows of '%s' is not known; accuracies of groups, and of "
                "bias-aligned and bias-conflicting rows, leave these rows out",
                unknown,
                len(views[split]),
                split,
            )
