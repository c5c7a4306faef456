"""Views of a run: opened as the configuration says, and checked against its selection rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from debeton.config import Config
from debeton.config.sections_data import Data
from debeton.data.split_names import KNOWN
from debeton.data.views.splits import ViewOptions, find_betons, open_views, unused_betons, with_normalisation
from debeton.data.views.view import View
from debeton.nets.models import architecture
from debeton.nets.transfer import source_normalisation
from debeton.system.errors import UsageError
from debeton.system.log import logger
from debeton.train.planting import plant
from debeton.train.selection import NO_SELECTION, Selection, check_rows, selection_on


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
        custom_indices_path=data.custom_indices_path,
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
        pseudo_groups=data.pseudo_groups,
        pseudo_column=data.pseudo_column,
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
    spec = views["val"].spec
    if rule == "minority" and not spec.aligned:
        raise UsageError(
            f"training.selection is 'minority', but {spec.name} does not say which attribute goes with each class; "
            "say it with --data.aligned 'class:attribute,...', or select by worst_group"
        )


def check_selection_rows(config: Config, views: Mapping[str, View]) -> Selection:
    """Return the rule that selects on the validation split. UsageError where a group or class of it has no row."""
    training = config.training
    if "val" not in views or training.selection == NO_SELECTION:
        return selection_on(None, NO_SELECTION)
    return check_rows(views["val"], training.selection, "training.selection", empty_groups=training.empty_groups)
