"""The rows whose attribute is known, from which a group finder learns to tell the attribute of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.spec import count_codes
from debeton.data.views.view import View
from debeton.methods.parts.balance import check_attribute_names
from debeton.system.errors import DataError, UsageError, first_names
from debeton.system.log import logger
from debeton.train.remarks import GROUPED
from debeton.train.run import Run


@dataclass(frozen=True)
class KnownRows:
    """The rows of one split whose attribute is known.

    split: the view with all its rows.
    known: which of its rows they are, bool [M].
    """

    split: View
    known: NDArray[np.bool_]

    @property
    def view(self) -> View:
        """Return the rows themselves, as a view."""
        return self.split.subset(self.known)

    def kept(self, view: View) -> NDArray[np.bool_]:
        """Return which rows of a view keep the attribute that is known of them, bool [M].

        A finder does not look at the attributes of a split that it has not learnt from.
        """
        return self.known if view.name == self.split.name else np.zeros(len(view), bool)

    def describe(self) -> dict[str, Any]:
        """Return plain values for results.json: the split, and the number of rows, also by group."""
        view = self.view
        return {"split": view.name, "rows": len(view), "groups": {n: c for n, c in view.counts_by_name().items() if c}}


def known_rows(run: Run) -> KnownRows:
    """Return the training rows whose attribute is known; where there is none, the validation rows (as SSA does)."""
    train = run.views["train"]
    split = train if train.knows_attribute.any() else run.views["val"]
    return KnownRows(split, split.knows_attribute)


def check_known_rows(run: Run) -> None:
    """Check that a finder can learn the attribute from rows on which it is known.

    UsageError: the data set has no attributes, no row's attribute is known, or that of every training row is.
    DataError: no known row has one of the attributes, or all have the same.
    """
    train, name = run.views["train"], run.config.groups.finder
    check_attribute_names(train)
    if train.knows_attribute.all():
        raise UsageError(
            f"groups.from is '{name}', which tells the attribute of rows where it is not known, and it is known for "
            f"all {len(train):,} rows of '{train.name}'; hide it with --groups.known 0.05, or use it with "
            "--groups.from attribute"
        )
    if not train.knows_attribute.any():
        _check_validation_rows(run)
    view = known_rows(run).view
    counts = count_codes(view.attribute[view.rows], len(view.spec.attributes))
    absent = [value for value, count in zip(view.spec.attributes, counts, strict=True) if not count]
    # By domain, the attributes of other splits have no training row.
    is_optional = view.spec.by_attribute or run.config.training.empty_groups == "ignore"
    if (absent and not is_optional) or (counts > 0).sum() < 2:
        raise DataError(
            f"groups.from '{name}' learns from the {len(view):,} rows of '{view.name}' whose attribute is known, and "
            f"none of them is '{first_names(absent)}', so that no row would ever be called that; let the attribute of "
            "more rows be known (--groups.known, --data.seed), or do without with --training.empty_groups ignore, "
            "which needs two attributes at least"
        )


def _check_validation_rows(run: Run) -> None:
    """Raise UsageError where no validation row serves in place of training rows."""
    train, val, rule = run.views["train"], run.views.get("val"), run.config.groups.val
    start = (
        f"groups.from is '{run.config.groups.finder}', which learns from rows whose attribute is known, and that of no "
        f"row of '{train.name}' ({train.beton.path}) is"
    )
    remedy = "let some be known with --groups.known 0.05, or choose a finder that needs the label alone (jtt, eiil)"
    if val is None:
        raise UsageError(f"{start}; validation rows would serve, and there are none; {remedy}")
    if rule != "attribute":
        raise UsageError(
            f"{start}; validation rows would serve, and with groups.val '{rule}' their attributes do not count as "
            f"known; {remedy}, or use --groups.val attribute"
        )
    if not val.knows_attribute.any():
        raise UsageError(f"{start}, and of no row of 'val' ({val.beton.path}) either; {remedy}")


def announce_known_rows(run: Run, rows: KnownRows) -> None:
    """Log the rows that a finder learns from, and warn of groups without one.

    A use of the validation split is noted for the remarks on the results.
    """
    view, name = rows.view, run.config.groups.finder
    counts: Mapping[str, int] = view.counts_by_name()
    logger.info("%s learns from the %d rows of '%s' whose attribute is known", name, len(view), view.name)
    absent = [group for group, count in counts.items() if not count]
    if absent and not view.spec.by_attribute:
        logger.warning(
            "warning: no row whose attribute is known is in %d of %d groups (%s); %s tells rows of these groups by "
            "what it has learnt from other classes",
            len(absent),
            len(counts),
            first_names(absent),
            name,
        )
    if view.name == "val":
        run.val_uses.append(GROUPED)
