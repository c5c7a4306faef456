"""Selection of an epoch: the rule that selects on given rows, and the check that these rows serve it.

A rule is an accuracy over groups, classes or rows (`SELECTION_RULES`). Without a row of them it is undefined, and its
tie-break would select under its name. So the rows are counted first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from debeton.data.spec import count_codes
from debeton.data.views.view import View
from debeton.system.errors import UsageError, first_names
from debeton.train.metrics import SELECTION_RULES, TIE_BREAK

NO_SELECTION = "last"
WITHOUT_GROUPS = "average"  # of rows of which no group is known


@dataclass(frozen=True)
class Selection:
    """The rule that selects on the rows of a view.

    asked: the rule that was asked for, a key of SELECTION_RULES or 'last'.
    rule: the rule that selects: `asked`, or another one where no row serves it.
    view: name of the view; empty for 'last'.
    kind: 'groups', 'conflicting groups', 'classes' or 'rows', over which `asked` is defined.
    size: number of them.
    without_rows: names of those without a row.
    """

    asked: str
    rule: str
    view: str = ""
    kind: str = "rows"
    size: int = 0
    without_rows: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Return the rule as tables name it, with the rule that it stands for or the groups without rows."""
        if self.rule != self.asked:
            return f"{self.rule} ({self.asked} has no row in {self.view})"
        if self.without_rows:
            return f"{self.rule} (over {self.size - len(self.without_rows)} of {self.size} {self.kind})"
        return self.rule

    def to_json(self) -> dict[str, Any]:
        """Return the plain values, and the text of tables."""
        return {**asdict(self), "without_rows": list(self.without_rows), "text": self.text}


def selection_on(view: View | None, asked: str, *, at_least: int = 1) -> Selection:
    """Return the rule that selects on a view's rows when `asked` is asked for.

    view: the rows; None keeps the last epoch.
    asked: a key of SELECTION_RULES, or 'last'.
    at_least: number of rows below which a group or class counts as one without rows.
    """
    if view is None or asked == NO_SELECTION:
        return Selection(NO_SELECTION, NO_SELECTION)
    kind = SELECTION_RULES[asked].over
    counts = _row_counts(view, kind)
    lacking = tuple(name for name, count in counts.items() if count < at_least)
    rule = asked
    if kind != "rows" and len(lacking) == len(counts):
        rule = TIE_BREAK if any(n >= at_least for n in _row_counts(view, "groups").values()) else WITHOUT_GROUPS
    return Selection(asked, rule, view.name, kind, len(counts), lacking)


def check_rows(
    view: View, asked: str, setting: str, *, empty_groups: str, at_least: int = 1, nowhere: Collection[str] = ()
) -> Selection:
    """Return the rule that selects on a view's rows, where they serve it or the user insists.

    Raise UsageError where a group or class of the rule has no row. The accuracy over bias-conflicting rows needs one
    row of these groups, not one of each. So does one over groups by attribute alone: a validation split in domains that
    training never sees is their purpose.

    view, asked, at_least: as of `selection_on`.
    setting: key of the setting that asks for the rule, for the message.
    empty_groups: 'error', or 'ignore' where the user insists.
    nowhere: names of the groups and classes of which no split of the run has a row. They need none here.
    """
    selection = selection_on(view, asked, at_least=at_least)
    names, size = tuple(name for name in selection.without_rows if name not in nowhere), selection.size
    needs_one = selection.kind == "conflicting groups" or (selection.kind == "groups" and view.spec.by_attribute)
    is_served = selection.rule == asked and (not names or needs_one)
    if is_served or empty_groups == "ignore":
        return selection
    names = names or selection.without_rows  # no split has a row of any of them
    lacking = (
        f"{len(names)} of {size} {selection.kind}" if size else "no group of its data set is bias-conflicting, so 0"
    )
    rows = "row" if at_least == 1 else f"{at_least} rows"
    raise UsageError(
        f"{setting} is '{asked}', but {lacking} have {'no' if at_least == 1 else 'fewer than'} {rows} in view "
        f"'{view.name}' of {view.beton.path}"
        f"{' (' + first_names(names) + ')' if names else ''}; "
        f"rules with all their rows: {', '.join(_served_rules(view, at_least))}; or let the others decide with "
        "--training.empty_groups ignore, and tables will say so"
    )


def _served_rules(view: View, at_least: int) -> list[str]:
    """Return the rules that miss no row of a view."""
    selections = [selection_on(view, rule, at_least=at_least) for rule in SELECTION_RULES]
    return [one.asked for one in selections if one.rule == one.asked and not one.without_rows]


def without_rows_anywhere(views: Collection[View]) -> set[str]:
    """Return the names of the groups and classes of which none of the views has a row."""
    counts = [_row_counts(view, kind) for view in views for kind in ("groups", "classes")]
    return {name for one in counts for name in one} - {name for one in counts for name, count in one.items() if count}


def _row_counts(view: View, kind: str) -> Mapping[str, int]:
    """Return the number of rows by name of the groups, conflicting groups or classes. Rows outside groups are none."""
    spec = view.spec
    if kind == "rows":
        return {}
    if kind == "classes":
        label = view.label[view.rows]
        return dict(zip(spec.classes, np.bincount(label, minlength=spec.num_classes).tolist(), strict=True))
    counts = count_codes(view.group[view.rows], spec.num_groups)
    aligned = spec.aligned_groups()
    if kind == "conflicting groups":
        chosen = [] if aligned is None else [g for g in spec.existing_groups if not aligned[g]]
    else:
        chosen = spec.existing_groups
    return {spec.group_names[g]: int(counts[g]) for g in chosen}
