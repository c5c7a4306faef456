"""Views of a run: opened as the configuration says, and checked against its selection rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

from debeton.config import Config
from debeton.data.views.splits import ViewOptions, find_betons, open_views, with_normalisation
from debeton.data.views.view import View
from debeton.nets.models import architecture
from debeton.nets.transfer import source_normalisation
from debeton.system.errors import UsageError
from debeton.system.log import logger
from debeton.train.planting import plant

SPLITS = ("train", "val", "test", "target", "synthetic")


def prepare_views(config: Config) -> dict[str, View]:
    """Open the views that the configuration describes, with its normalisation and its trigger."""
    data, training = config.data, config.training
    given = {split: getattr(data, f"{split}_path") for split in SPLITS}
    paths = find_betons(data.dataset, Path(training.data_root), given)
    asked = {field.name: getattr(data, field.name) for field in fields(ViewOptions) if hasattr(data, field.name)}
    synthetic = {
        "synthetic_mode": config.synthetic.mode,
        "per_cell": config.synthetic.per_cell,
        "synthetic_share": config.synthetic.share,
    }
    views = plant(open_views(paths, ViewOptions(**asked, **synthetic)), config)
    if training.supercloud:
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
    """Raise UsageError for a selection rule that the validation split cannot serve; warn of its empty groups."""
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
    spec, counts = views["val"].spec, views["val"].counts_by_name()
    if rule == "minority" and not spec.aligned:
        raise UsageError(
            f"training.selection is 'minority', but {spec.name} does not say which attribute goes with each class; "
            "say it with --data.aligned 'class:attribute,...', or select by worst_group"
        )
    empty = [name for name, count in counts.items() if count == 0]
    if empty and rule == "worst_group":
        logger.warning(
            "warning: no validation row in %d groups (%s); the worst group is that of the others",
            len(empty),
            "; ".join(empty[:5]) + ("; ..." if len(empty) > 5 else ""),
        )
