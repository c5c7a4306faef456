"""The groups that a balancing method balances, checks of them, and the weights that balance them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from debeton.config import section, setting
from debeton.config.checkers import Bool
from debeton.data.spec import Ints
from debeton.data.views.view import View
from debeton.system.errors import DataError, UsageError
from debeton.system.log import logger
from debeton.train.run import Run


@section("balance", "the groups that the balancing methods balance (resample, reweight, subg, groupdro, ...)")
@dataclass(frozen=True)
class BalanceSettings:
    """The settings of section 'balance'."""

    by_source: bool = setting(
        Bool(), "groups are (label, attribute, source) where real and synthetic rows are mixed", default=True
    )


SHOWN_COUNTS = 8


def check_attribute(view: View) -> None:
    """Raise UsageError where the attribute of a row is not known, or the data set has no attribute."""
    view.require_attributes("balancing groups")
    check_attribute_names(view)


def check_attribute_names(view: View) -> None:
    """Raise UsageError where the data set has no attribute."""
    if len(view.spec.attributes) > 1:
        return
    columns = sorted(set(view.spec.columns) - {view.spec.label_name})
    choice = (
        f"choose a column with --data.attribute ({', '.join(columns[:8])})"
        if columns
        else ("give pseudo-groups with --data.pseudo_groups FILE")
    )
    raise UsageError(
        f"this method needs attribute labels, and {view.spec.name} has none: view '{view.name}' of {view.beton.path} "
        f"has one attribute, '{view.spec.attributes[0]}'; {choice}, or take a method that needs none (erm, jtt, lff), "
        "or balances classes (resample_class, reweight_class, suby)"
    )


def check_every_group(view: View, on_empty: str) -> None:
    """Raise DataError with the names of the groups without a row; UsageError where there are no attributes.

    Groups by attribute alone need no row: the domains of a test split are new to training.

    on_empty: 'error', or 'ignore' to accept groups without rows.
    """
    check_attribute(view)
    if view.spec.by_attribute:
        return
    _check_counts(view, view.counts_by_name(), "groups", on_empty)


def check_every_class(view: View, on_empty: str) -> None:
    """Raise DataError with the names of the classes without a row.

    on_empty: 'error', or 'ignore' to accept classes without rows.
    """
    counts = class_counts(view)
    _check_counts(view, dict(zip(view.spec.classes, counts.tolist(), strict=True)), "classes", on_empty)


def _check_counts(view: View, counts: Mapping[str, int], kind: str, on_empty: str) -> None:
    """Raise DataError if a count is 0, unless on_empty is 'ignore'. kind: 'groups' or 'classes', for the message."""
    empty = [name for name, count in counts.items() if count == 0]
    if empty and on_empty == "error":
        shown = "; ".join(empty[:5]) + ("; ..." if len(empty) > 5 else "")
        others = sorted(n for n in counts.values() if n)
        known = (
            f"counts: {'; '.join(f'{name} {n}' for name, n in counts.items())}"
            if len(counts) <= SHOWN_COUNTS
            else f"the others have {others[0]} to {others[-1]}"
        )
        raise DataError(
            f"{len(empty)} of {len(counts)} {kind} of view '{view.name}' have no row ({shown}) and cannot be "
            f"balanced ({known}); choose another training split, or balance the others with "
            "--training.empty_groups ignore"
        )


def check_groups(run: Run) -> None:
    """Raise UsageError without attributes, and DataError for a group without rows unless empty groups are ignored."""
    check_every_group(run.views["train"], run.config.training.empty_groups)


def check_classes(run: Run) -> None:
    """Raise DataError for a class without rows, unless empty classes are ignored."""
    check_every_class(run.views["train"], run.config.training.empty_groups)


def view_by_group(run: Run) -> View:
    """Return the training view in the groups to balance. Raise DataError for an empty group unless these are ignored.

    Where the view holds real and synthetic rows and `balance.by_source` is on, groups are (label, attribute, source).
    This is as in the USB and ASB baselines of From Fake to Real (arXiv 2308.04553). Those of them without a row do not
    count as groups.
    """
    check_groups(run)
    view = run.views["train"]
    synthetic = view.beton.source[view.rows] == 1
    if run.config.section(BalanceSettings).by_source and synthetic.any() and not synthetic.all():
        view = view.split_by_source()
        logger.info(
            "real and synthetic rows are balanced as separate groups: %d groups with rows",
            len(view.counts_by_name()),
        )
    return view


def view_by_class(run: Run) -> View:
    """Return the training view. Raise DataError for an empty class unless these are ignored."""
    check_classes(run)
    return run.views["train"]


def class_counts(view: View) -> Ints:
    """Return the number of a view's rows of each class, int64 [C]."""
    return np.bincount(view.label[view.rows], minlength=view.spec.num_classes)


def weights_of_mean_one(weight: NDArray[np.float64], counts: Ints) -> NDArray[np.float64]:
    """Return weights times a constant, so that their mean over the rows is 1.

    Groups without rows have the weight 0.

    weight: float [G], above 0.
    counts: int64 [G], the rows of each group.
    """
    weight = np.where(counts > 0, weight, 0.0)
    return weight * (counts.sum() / (weight * counts).sum())


def balancing_weights(counts: Ints) -> NDArray[np.float64]:
    """Return the weights w_g = N / (G n_g) over the G groups that have rows, and 0 for the others.

    Their mean over the N rows is 1.

    counts: int64 [G] or [C], the rows n_g of each group or class.
    """
    present = counts > 0
    return np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 0.0)
