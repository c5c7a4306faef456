"""What the balancing methods share: which groups there are to balance, and weights that balance them."""

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


@section("balance", "the groups that the balancing methods balance (resample, reweight, subg, groupdro)")
@dataclass(frozen=True)
class BalanceSettings:
    """The settings of section 'balance'."""

    by_source: bool = setting(
        Bool(), "groups are (label, attribute, source) where real and synthetic rows are mixed", default=True
    )


SHOWN_COUNTS = 8


def check_attribute(view: View) -> None:
    """UsageError where the view's set has no spurious attribute, so that its groups are its classes."""
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
    """DataError that names the groups without a row, unless on_empty is 'ignore'; UsageError without attributes."""
    check_attribute(view)
    _check(view, view.counts_by_name(), "groups", on_empty)


def check_every_class(view: View, on_empty: str) -> None:
    """DataError that names the classes without a row, unless on_empty is 'ignore'."""
    counts = np.bincount(view.label[view.rows], minlength=view.spec.num_classes)
    _check(view, dict(zip(view.spec.classes, counts.tolist(), strict=True)), "classes", on_empty)


def _check(view: View, counts: Mapping[str, int], kind: str, on_empty: str) -> None:
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
    """Raise DataError for a class without rows, unless empty ones are ignored."""
    check_every_class(run.views["train"], run.config.training.empty_groups)


def view_by_group(run: Run) -> View:
    """The training view in the groups that are to be balanced, none of them empty unless that is to be ignored.

    Where it holds real and synthetic rows and `balance.by_source` is on, these are (label, attribute, source), as in
    the USB and ASB baselines of From Fake to Real (arXiv 2308.04553); those without a row are no groups.
    """
    check_groups(run)
    view = run.views["train"]
    synthetic = view.beton.source[view.rows] == 1
    if run.config.section(BalanceSettings).by_source and synthetic.any() and not synthetic.all():
        view = view.split_by_source()
        logger.info(
            "real and synthetic rows are balanced as groups of their own: %d groups with rows",
            len(view.counts_by_name()),
        )
    return view


def view_by_class(run: Run) -> View:
    """The training view, no class of it empty unless that is to be ignored."""
    check_classes(run)
    return run.views["train"]


def balancing_weights(counts: Ints) -> NDArray[np.float64]:
    """w_g = N / (G n_g) over the G groups that have rows, 0 for the others: of mean 1 over the N rows.

    counts: int64, rows n_g by group or by class.
    """
    present = counts > 0
    return np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 0.0)
